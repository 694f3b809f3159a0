package embedded_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// patience bounds every wait in the tests; reaching it means something hangs.
const patience = 2 * time.Minute

// openNode starts a node that is closed when the test ends.
func openNode(tb testing.TB, o embedded.Options) *embedded.Node {
	tb.Helper()
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Logger == nil {
		o.Logger = discard()
	}
	node, err := embedded.Open(tb.Context(), o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, node.Close()) })
	return node
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// connect returns an official client of the node.
func connect(tb testing.TB, node *embedded.Node) *esdb.Client {
	tb.Helper()
	config, err := esdb.ParseConnectionString(node.ConnectionString())
	require.NoError(tb, err)
	config.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

func testContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 123456700, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
