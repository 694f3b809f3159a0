package commands

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/readmodels/vault"
)

// system is a handler on an event store of its own. It has no read models:
// what needs them is tested where they are.
type system struct {
	*Handler
	node    *embedded.Node
	url     string // of the event store
	clock   *clock
	metrics *prometheus.Registry
}

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newSystem(t testing.TB, change ...func(*Handler)) *system {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	node, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	s := &system{node: node, url: node.ConnectionString(), clock: &clock{now: time.Now()}, metrics: prometheus.NewRegistry()}
	s.Handler = handlerOn(t, node.ConnectionString(), s.metrics, func(h *Handler) {
		h.Clock = s.clock.Now
		for _, c := range change {
			c(h)
		}
	})
	return s
}

// handlerOn opens one more node of the control plane on an event store.
func handlerOn(t testing.TB, url string, metrics prometheus.Registerer, change func(*Handler)) *Handler {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	store, err := eventstore.Open(eventstore.Config{URL: url, CallTimeout: 30 * time.Second, Logger: quiet, Registerer: metrics}, catalog.Registry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	engine, err := expr.New()
	require.NoError(t, err)
	keys, err := vault.DirStore(t.TempDir())
	require.NoError(t, err)
	sealed, err := vault.New(keys, []byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	h := Handler{Store: store, Vault: sealed, Expr: engine, Logger: quiet, Registerer: metrics, Secrets: Secrets{
		JWT: []byte("jwt secret of the tests, long enough"), APIKey: []byte("pepper of the tests"), Master: []byte("master of the tests"),
	}}
	change(&h)
	handler, err := New(h)
	require.NoError(t, err)
	return handler
}

// reads and appends tell how often the event store was asked, and how often it
// stored something.
func (s *system) reads(t testing.TB) int {
	return s.count(t, "sparkops_eventstore_client_reads_total", "")
}

func (s *system) appends(t testing.TB) int {
	return s.count(t, "sparkops_eventstore_client_appends_total", "stored")
}

func (s *system) count(t testing.TB, name, outcome string) int {
	t.Helper()
	families, err := s.metrics.Gather()
	require.NoError(t, err)
	sum := 0.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != name {
				break
			}
			for _, label := range m.GetLabel() {
				if label.GetName() == "outcome" && (outcome == "" || outcome == label.GetValue()) {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return int(sum)
}

// history returns the events of a stream.
func (s *system) history(t testing.TB, stream string) []eventstore.Recorded {
	t.Helper()
	var events []eventstore.Recorded
	_, err := s.Store.Read(t.Context(), stream, 0, func(r eventstore.Recorded) error {
		events = append(events, r)
		return nil
	})
	require.NoError(t, err)
	return events
}

func as(ctx context.Context, role domain.Role) context.Context {
	return WithActor(ctx, domain.Actor{Kind: domain.ActorUser, ID: "tester", Role: role})
}

func requireFailure(t *testing.T, err error, kind domain.Kind, code string) {
	t.Helper()
	var failure *domain.Error
	require.Truef(t, errors.As(err, &failure), "got %v, want %s %s", err, kind, code)
	require.Equal(t, kind, failure.Kind, "%v", err)
	require.Equal(t, code, failure.Code, "%v", err)
}

func ptr[T any](v T) *T { return &v }
