package embedded

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// fault is an error as clients see it: a gRPC status plus the trailers by which they tell kinds apart.
type fault struct {
	code     codes.Code
	message  string
	trailers []string // key, value, ...
}

func (f *fault) Error() string { return f.message }

// GRPCStatus lets grpc send the right status.
func (f *fault) GRPCStatus() *status.Status { return status.New(f.code, f.message) }

func invalidArgument(message string) error {
	return &fault{code: codes.InvalidArgument, message: message}
}

// handlerFailure is what EventStoreDB answers to requests its handlers choke on.
func handlerFailure() error {
	return &fault{code: codes.Unknown, message: "Exception was thrown by handler."}
}

func shuttingDown() error {
	return &fault{code: codes.Unavailable, message: "Server is shutting down", trailers: []string{"grpc-retry-pushback-ms", "-1"}}
}

func accessDenied() error {
	return &fault{code: codes.PermissionDenied, message: "Access Denied", trailers: []string{"exception", "access-denied"}}
}

func streamDeleted(stream string) error {
	return &fault{
		code: codes.FailedPrecondition, message: fmt.Sprintf("Event stream '%s' is deleted.", stream),
		trailers: []string{"exception", "stream-deleted", "stream-name", trailerText(stream)},
	}
}

func wrongExpectedVersion(stream string, expected, actual int64) error {
	return &fault{
		code: codes.FailedPrecondition,
		message: fmt.Sprintf("Append failed due to WrongExpectedVersion. Stream: %s, Expected version: %d, Actual version: %d",
			stream, expected, actual),
		trailers: []string{
			"exception", "wrong-expected-version", "stream-name", trailerText(stream),
			"expected-version", strconv.FormatInt(expected, 10), "actual-version", strconv.FormatInt(actual, 10),
		},
	}
}

func appendTooLarge() error {
	return &fault{
		code: codes.InvalidArgument, message: fmt.Sprintf("Maximum Append Size of %d Exceeded.", maxAppendSize),
		trailers: []string{
			"exception", "maximum-append-size-exceeded", "maximum-append-size", strconv.Itoa(maxAppendSize),
		},
	}
}

func invalidTransaction() error {
	return &fault{
		code: codes.InvalidArgument, message: "The append has too many events to be written at once.",
		trailers: []string{"exception", "invalid-transaction"},
	}
}

func missingMetadata() error {
	required := metadataType + "," + metadataContentType
	return &fault{
		code: codes.InvalidArgument, message: "Required Metadata Property '" + required + "' is missing",
		trailers: []string{
			"exception", "missing-required-metadata-property", "required-metadata-properties", required,
		},
	}
}

// asFault turns errors of the log into what a client may know.
func asFault(err error) error {
	var known *fault
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.Is(err, errShutdown), errors.Is(err, errFailed):
		return shuttingDown()
	case errors.Is(err, errDiskFull):
		return &fault{code: codes.ResourceExhausted, message: "The disk of the event store is almost full: appends are refused until space is freed"}
	case errors.Is(err, errWrongPosition):
		return invalidArgument("Trying to read from an invalid position.")
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{code: codes.DeadlineExceeded, message: "Operation timed out"}
	case errors.Is(err, context.Canceled):
		return &fault{code: codes.Canceled, message: "Call was cancelled"}
	}
	if _, ok := status.FromError(err); ok {
		return err // of the call itself: its client is gone
	}
	return &fault{code: codes.Internal, message: "Internal error"}
}

// finishStream attaches the trailers of an error to a streaming call and returns the error to end it with.
func (s *service) finishStream(stream grpc.ServerStream, err error) error {
	if err == nil {
		return nil
	}
	s.logUnexpected(err)
	err = asFault(err)
	if f, ok := err.(*fault); ok && len(f.trailers) > 0 {
		stream.SetTrailer(metadata.Pairs(f.trailers...))
	}
	return err
}

// finishUnary does the same for a unary call.
func (s *service) finishUnary(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	s.logUnexpected(err)
	err = asFault(err)
	if f, ok := err.(*fault); ok && len(f.trailers) > 0 {
		if err := grpc.SetTrailer(ctx, metadata.Pairs(f.trailers...)); err != nil {
			s.logger.Warn("set trailers", "error", err)
		}
	}
	return err
}

func (s *service) logUnexpected(err error) {
	if f, ok := asFault(err).(*fault); ok && f.code == codes.Internal {
		s.logger.Error("event store request failed", "error", err)
	}
}

// trailerText percent-encodes what a trailer cannot carry.
func trailerText(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if c := s[i]; c > 0x20 && c < 0x7f && c != '%' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
