package eventstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/domain"
)

// cause classifies an error of the library by what it means for the call.
type cause int

const (
	other     cause = iota // refused for a reason that repeating does not change
	refused                // not carried out, the server or the way to it is not ready
	lost                   // carried out or not: the answer never came
	conflict               // wrong expected revision
	deleted                // the stream is tombstoned
	missing                // the stream does not exist
	full                   // the disk of the server is full
	oversized              // larger than the server takes
)

// notSentError is any reason not to have a connection.
type notSentError struct{ cause error }

func (e *notSentError) Error() string { return e.cause.Error() }
func (e *notSentError) Unwrap() error { return e.cause }

// unconnected reports whether there was no connection, after trying as often
// as the URL says: no reason to begin again at once.
func unconnected(err error) bool {
	var unsent *notSentError
	return errors.As(err, &unsent)
}

// causeOf does what esdb.FromError should: it looks through wrapped errors.
func causeOf(err error) cause {
	if c, known := libraryCause(err); known {
		return c
	}
	message := strings.ToLower(err.Error())
	switch status.Code(err) {
	case codes.Unavailable:
		// The connection was not even made. Any other way to be unavailable may
		// hide an answer.
		if strings.Contains(message, "error while dialing") {
			return refused
		}
		return lost
	case codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return lost
	case codes.ResourceExhausted:
		switch {
		case strings.Contains(message, "disk") || strings.Contains(message, "space") || strings.Contains(message, "storage"):
			return full
		case strings.Contains(message, "larger than max"):
			return oversized
		}
		return refused
	case codes.InvalidArgument:
		if strings.Contains(message, "maximum append") {
			return oversized
		}
	}
	return other
}

// libraryCause knows the errors that carry no gRPC status.
func libraryCause(err error) (cause, bool) {
	var panicked *panicError
	var known *esdb.Error
	switch {
	case unconnected(err):
		return refused, true
	case errors.As(err, &panicked), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errStalled):
		return lost, true
	case errors.Is(err, errClosed):
		return refused, true
	case errors.Is(err, io.EOF):
		// Sending ended early and the library hides the status. The server acts
		// only on complete requests.
		return refused, true
	case !errors.As(err, &known):
		return other, false
	}
	if deadClient(known) {
		return refused, true
	}
	switch known.Code() {
	case esdb.ErrorCodeWrongExpectedVersion:
		return conflict, true
	case esdb.ErrorCodeStreamDeleted:
		return deleted, true
	case esdb.ErrorCodeResourceNotFound:
		return missing, true
	case esdb.ErrorCodeNotLeader:
		return refused, true
	}
	return other, false
}

// deadClient reports whether a client of the library will never work again: it
// was closed, or failed to discover a node by itself, which only happens after
// a follower named a leader that is gone.
func deadClient(err *esdb.Error) bool {
	return err.Code() == esdb.ErrorCodeConnectionClosed || strings.Contains(err.Error(), "maximum discovery attempt count reached")
}

func namesLeader(err error) bool {
	var known *esdb.Error
	return errors.As(err, &known) && known.Code() == esdb.ErrorCodeNotLeader
}

// brokenConnection reports whether the connection a call failed on is to be
// replaced. A follower's hint to its leader is the library's own business.
func brokenConnection(err error) bool {
	var panicked *panicError
	var known *esdb.Error
	switch {
	case errors.As(err, &panicked), errors.Is(err, errStalled), errors.Is(err, io.EOF):
		return true
	case errors.As(err, &known) && deadClient(known):
		return true
	}
	return status.Code(err) == codes.Unavailable
}

// unavailable is what a caller learns of a call that did not happen.
func unavailable(err error) error {
	failure := domain.Fail(domain.Unavailable, "EVENT_STORE_UNAVAILABLE", "The event store does not answer; try again.")
	failure.Cause = opaque(err)
	return failure
}

// readFailure translates the error of a read for our callers.
func readFailure(what string, err error) error {
	switch causeOf(err) {
	case refused, lost:
		return unavailable(err)
	case deleted:
		failure := domain.Fail(domain.NotFound, "STREAM_DELETED", "This was deleted for good.")
		failure.Cause = opaque(err)
		return failure
	default:
		return fmt.Errorf("%s: %w", what, opaque(err))
	}
}

// opaque keeps the text of a foreign error and ends its chain, so that nobody
// outside comes to depend on the library's types. Whether a context ended
// stays visible.
func opaque(err error) error {
	var panicked *panicError
	switch {
	case errors.As(err, &panicked):
		return fmt.Errorf("%s\n%s", panicked.Error(), panicked.stack)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errClosed):
		return err
	}
	return errors.New(err.Error())
}

func slogLevel(level string) slog.Level {
	// Everything the library has to say is told again, in our words, by those
	// who make the calls.
	if level == esdb.LogError || level == esdb.LogWarn {
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}
