package eventstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/domain"
)

func TestCauses(t *testing.T) {
	t.Parallel()
	wrapped := func(code codes.Code, message string) error {
		return fmt.Errorf("could not construct append operation. Reason: %w", status.Error(code, message))
	}
	for _, c := range []struct {
		err    error
		want   cause
		broken bool
	}{
		{wrapped(codes.Unavailable, "connection error: desc = \"transport: Error while dialing: dial tcp: connection refused\""), refused, true},
		{wrapped(codes.Unavailable, "error reading from server: EOF"), lost, true},
		{wrapped(codes.Unavailable, "Server not ready"), lost, true},
		{wrapped(codes.DeadlineExceeded, "x"), lost, false},
		{wrapped(codes.Canceled, "x"), lost, false},
		{wrapped(codes.Aborted, "Operation timed out: x"), lost, false},
		{wrapped(codes.ResourceExhausted, "The disk of the event store is almost full"), full, false},
		{wrapped(codes.ResourceExhausted, "trying to send message larger than max (2 vs. 1)"), oversized, false},
		{wrapped(codes.ResourceExhausted, "slow down"), refused, false},
		{wrapped(codes.InvalidArgument, "Maximum Append Size of 1048576 Exceeded."), oversized, false},
		{wrapped(codes.InvalidArgument, "Trying to read from an invalid position."), other, false},
		{wrapped(codes.PermissionDenied, "Access Denied"), other, false},
		{fmt.Errorf("could not send append request. Reason: %w", io.EOF), refused, true},
		{context.DeadlineExceeded, lost, false},
		{&notSentError{context.DeadlineExceeded}, refused, false},
		{&panicError{value: "send on closed channel"}, lost, true},
		{fmt.Errorf("x: %w", errStalled), lost, true},
		{errClosed, refused, false},
		{errors.New("anything"), other, false},
	} {
		require.Equal(t, c.want, causeOf(c.err), c.err)
		require.Equal(t, c.broken, brokenConnection(c.err), c.err)
	}
}

func TestErrorsAreTranslated(t *testing.T) {
	t.Parallel()
	var foreign *esdb.Error
	err := readFailure("read x", fmt.Errorf("x: %w", status.Error(codes.PermissionDenied, "Access Denied")))
	require.Empty(t, domain.KindOf(err))
	require.ErrorContains(t, err, "Access Denied")
	require.False(t, errors.As(err, &foreign))
	require.Equal(t, codes.Unknown, status.Code(err), "nobody can tell it came from gRPC")
	err = unavailable(fmt.Errorf("x: %w", context.DeadlineExceeded))
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, opaque(&panicError{value: "unreachable code", stack: []byte("stack")}), "unreachable code\nstack")
}

func TestActualRevision(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Revision{
		"wrong expected version: expecting '3' but got '12'":        12,
		"wrong expected version: expecting 'no_stream' but got '0'": 0,
		"wrong expected version: expecting '0' but got 'no_stream'": NoStream,
		"something else": NoStream,
	} {
		require.Equal(t, want, actualRevision(errors.New(text)))
	}
}
