package projections_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// patience bounds every wait: the machine may be busy.
const patience = 20 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// plane is an event store and a database, with views on it.
type plane struct {
	store    *eventstore.Store
	database string
	views    *readmodels.Views
}

func newPlane(t testing.TB) plane {
	t.Helper()
	database := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), database))
	return plane{store: newStore(t), database: database, views: newViews(t, database)}
}

func newStore(t testing.TB) *eventstore.Store {
	t.Helper()
	node, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	store, err := eventstore.Open(eventstore.Config{URL: node.ConnectionString(), Logger: quiet, CallTimeout: patience}, catalog.Registry())
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func newViews(t testing.TB, database string) *readmodels.Views {
	t.Helper()
	views, err := readmodels.Open(t.Context(), database, readmodels.Options{
		Vault: func(_ context.Context, subject, sealed string) (string, error) {
			return "open:" + subject + ":" + sealed, nil
		},
		Logger: quiet,
	})
	require.NoError(t, err)
	t.Cleanup(views.Close)
	return views
}

// runner returns a node's runner; start runs it until the test ends or stop.
func (p plane) runner(t testing.TB, r projections.Runner) *projections.Runner {
	t.Helper()
	r.Store, r.DatabaseURL = p.store, p.database
	if r.Logger == nil {
		r.Logger = quiet
	}
	made, err := projections.New(t.Context(), r)
	require.NoError(t, err)
	t.Cleanup(made.Close)
	return made
}

func start(t testing.TB, r *projections.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
		}
	}
	t.Cleanup(stop)
	return stop
}

// append appends events to a stream, whatever is in it, and returns the
// position of the last.
func (p plane) append(t testing.TB, stream string, at time.Time, events ...domain.Event) uint64 {
	t.Helper()
	revision, err := p.store.Read(t.Context(), stream, 0, func(eventstore.Recorded) error { return nil })
	require.NoError(t, err)
	meta := eventstore.Metadata{CommandID: uuid.NewString(), At: at, Actor: eventstore.ActorRef{Kind: domain.ActorProcess, ID: "test"}}
	appended, err := p.store.Append(t.Context(), stream, revision, meta, events...)
	require.NoError(t, err)
	return appended.Position
}

// waitFor waits until all projections have applied a position.
func (p plane) waitFor(t testing.TB, position uint64, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if len(names) == 0 {
		for name := range readmodels.Versions {
			names = append(names, name)
		}
	}
	if err := p.views.WaitFor(ctx, position, names...); err != nil {
		builds, _ := p.views.Builds(context.Background())
		for _, b := range builds {
			t.Logf("%s: %s at %d, led %v by %q, error %s", b.Schema, b.State, b.Position, b.Led, b.Owner, or(b.Error, "none"))
		}
		require.NoError(t, err)
	}
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// samples returns the golden sample of every stored event, by name.
func samples(t testing.TB) map[string]domain.Event {
	t.Helper()
	registry, events := catalog.Registry(), map[string]domain.Event{}
	files, err := filepath.Glob("../domain/catalog/testdata/events/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		event, err := registry.Decode(name, json.RawMessage(data))
		require.NoError(t, err)
		events[name] = event
	}
	return events
}

// at returns a time a number of seconds into the tests' day.
func at(seconds float64) time.Time {
	return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}
