//go:build !race

package eventstore_test

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// The library follows a follower's hint to a leader that does not serve, fails
// to discover another node, and leaves the callers it has waiting for ever.
// Nobody hangs, and nobody stays behind in it. (The only way to free those is
// to close a channel they are sending on, which the race detector reports.)
func TestClientDies(t *testing.T) {
	port, err := uselessLeader()
	require.NoError(t, err)
	leaderHangs.Store(false)
	follower := &oddServer{}
	follower.append = func(stream streams.Streams_AppendServer) error {
		drainAppend(stream)
		if !follower.mute.Load() {
			return stream.SendAndClose(appendSuccess(0))
		}
		stream.SetTrailer(metadata.Pairs("exception", "not-leader", "leader-endpoint-host", "127.0.0.1", "leader-endpoint-port", port))
		return status.Error(codes.NotFound, "Leader info available")
	}
	c := follower.serve(t, 500*time.Millisecond)
	c.add(t, c.stream(), eventstore.NoStream, "a")
	follower.mute.Store(true)
	concurrently(t, 8, func(int) {
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_, err := c.Append(ctx, c.stream(), eventstore.NoStream, command(), note("a")...)
			require.Contains(t, []domain.Kind{domain.Unavailable, domain.OutcomeUnknown}, domain.KindOf(err))
			require.NoError(t, ctx.Err())
			cancel()
		}
	})
	follower.mute.Store(false)
	require.Eventually(t, func() bool {
		_, err := c.Append(t.Context(), c.stream(), eventstore.NoStream, command(), note("a")...)
		return err == nil
	}, patience, 10*time.Millisecond)
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool {
		stacks := make([]byte, 16<<20)
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("getConnectionHandle"))
	}, patience, 50*time.Millisecond, "callers are left in the library")
}
