package eventstore_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
)

// restartable is a node on disk that can be stopped and started at its address.
type restartable struct {
	options embedded.Options
	node    *embedded.Node
}

func newRestartable(t testing.TB) *restartable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	r := &restartable{options: embedded.Options{Addr: address, Dir: t.TempDir(), MinFreeBytes: 1, Logger: quiet}}
	r.start(t)
	t.Cleanup(func() { r.stop(t) })
	return r
}

func (r *restartable) start(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool {
		node, err := embedded.Open(context.Background(), r.options)
		r.node = node
		return err == nil
	}, patience, 50*time.Millisecond)
}

func (r *restartable) stop(t testing.TB) {
	t.Helper()
	require.NoError(t, r.node.Close())
}

// Every event arrives once and in order, whatever happens to the server, and
// also those written while the subscription that began at the end was away.
func TestRestartDuringSubscribe(t *testing.T) {
	t.Parallel()
	r := newRestartable(t)
	c := contract{Store: openStore(t, r.node.ConnectionString(), testRegistry()), category: "test"}
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "before")
	late := follow(t, c.Store, fromEnd, c.category)
	late.await(t, func() bool { return late.caughtUp > 0 })
	early := follow(t, c.Store, fromStart, c.category)
	want := []string{"before"}
	for round := range 3 {
		for i := range 20 {
			text := fmt.Sprint(round, "/", i)
			want = append(want, text)
			c.add(t, stream, eventstore.Revision(len(want)-2), text)
		}
		r.stop(t)
		r.start(t)
		// Written before the followers may have noticed.
		want = append(want, fmt.Sprint(round))
		require.Eventually(t, func() bool {
			meta := eventstore.Metadata{CommandID: fmt.Sprint("after", round)}
			_, err := c.Append(t.Context(), stream, eventstore.Revision(len(want)-2), meta, note(fmt.Sprint(round))...)
			return err == nil
		}, patience, 10*time.Millisecond)
	}
	early.want(t, want...)
	late.want(t, want[1:]...)
}

// A broken network instead of a broken server, at any moment.
func TestCutsDuringSubscribe(t *testing.T) {
	t.Parallel()
	node := openNode(t, nodeOptions())
	p := newProxy(t, node.Addr())
	c := behind(t, p, 5*time.Second)
	direct := contract{Store: openStore(t, node.ConnectionString(), testRegistry()), category: c.category}
	f := follow(t, c.Store, fromStart, c.category)
	stream := direct.stream()
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprint(i))
		direct.add(t, stream, eventstore.Revision(i)-1, want[i])
		if i%20 == 10 {
			p.cut()
		}
	}
	f.want(t, want...)
	require.Greater(t, p.connections(), 1)
}
