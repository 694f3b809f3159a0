package commands

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/eventstore"
)

// wire is a connection to the event store that can lose answers: while losing,
// every connection ends as soon as the store has written something more,
// before the client hears of it.
type wire struct {
	system *system
	losing atomic.Bool
	since  atomic.Uint64 // position
	lost   atomic.Int64  // connections
	wait   sync.WaitGroup
}

func newWire(t *testing.T, s *system) (w *wire, address string) {
	t.Helper()
	w = &wire{system: s}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		w.wait.Wait()
	})
	w.wait.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.wait.Go(func() { w.carry(client) })
		}
	})
	return w, listener.Addr().String()
}

func (w *wire) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.system.node.Addr())
	if err != nil {
		return
	}
	defer server.Close()
	w.wait.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if w.losing.Load() && w.system.node.LastPosition() > w.since.Load() {
			w.lost.Add(1)
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// lose breaks every connection once something is stored, until the handler
// has learned that it cannot know.
func (w *wire) lose(t *testing.T, h *Handler) (found func()) {
	t.Helper()
	before := w.lost.Load()
	w.since.Store(w.system.node.LastPosition())
	w.losing.Store(true)
	retries, known := retriesOf(t, h), make(chan struct{})
	go func() {
		defer close(known)
		look := time.NewTicker(5 * time.Millisecond)
		defer look.Stop()
		for retriesOf(t, h) == retries {
			select {
			case <-look.C:
			case <-t.Context().Done():
				return
			}
		}
		w.losing.Store(false)
	}()
	return func() {
		t.Helper()
		<-known
		require.Positive(t, w.lost.Load()-before)
	}
}

func retriesOf(t *testing.T, h *Handler) float64 {
	var m dto.Metric
	assert.NoError(t, h.metrics.retries.Write(&m))
	return m.GetCounter().GetValue()
}

func TestAnAppendWhoseOutcomeIsLostIsRepeatedUnderItsID(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	w, address := newWire(t, s)
	store, err := eventstore.Open(eventstore.Config{
		URL: "esdb://" + address + "?tls=false", CallTimeout: time.Second, Logger: slog.New(slog.DiscardHandler),
	}, catalog.Registry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	h := handlerOn(t, s.url, nil, func(h *Handler) { h.Store = store })
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err = Execute(ctx, h, create(id))
	require.NoError(t, err)

	for i, ctx := range []context.Context{ctx, WithExpected(WithCommandID(ctx, uuid.NewString()), 1)} {
		found := w.lose(t, h)
		name := fmt.Sprintf("Name %d", i)
		receipt, err := Execute(ctx, h, rename(id, name))
		require.NoError(t, err)
		found()
		require.Equal(t, eventstore.Revision(i+1), receipt.Revision)
		require.False(t, receipt.Unchanged, "it was this very call")
		require.Equal(t, []domain.Event{project.Updated{Spec: project.Spec{Name: name, Status: "active"}}}, receipt.Events)
		require.Len(t, s.history(t, "project-"+id), i+2)
	}
}
