package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// benchRuns is how many runs of three steps the log of the benchmark holds.
const benchRuns = 10_000

// BenchmarkRebuild measures a rebuild of the runs projection from the log as a
// ratio to the same SQL sent by raw pgx batches, everything else on the same
// machine at the same time.
func BenchmarkRebuild(b *testing.B) {
	node, err := embedded.Open(b.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer node.Close()
	store, err := eventstore.Open(eventstore.Config{URL: node.ConnectionString(), Logger: slog.New(slog.DiscardHandler)}, catalog.Registry())
	require.NoError(b, err)
	defer store.Close()
	database := pgtest.Database(b)
	require.NoError(b, readmodels.Migrate(b.Context(), database))
	r, err := New(b.Context(), Runner{Store: store, DatabaseURL: database, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer r.Close()
	total := fillLog(b, store)

	p, err := byName(r.Projections, "runs")
	require.NoError(b, err)
	raw := rawBatches(b, r, p)
	var rebuilding, sending time.Duration
	for b.Loop() {
		began := time.Now()
		require.NoError(b, r.Rebuild(b.Context(), "runs", nil))
		rebuilding += time.Since(began)
		sending += sendRaw(b, r, p, raw)
	}
	rebuilt := float64(total*b.N) / rebuilding.Seconds()
	sent := float64(total*b.N) / sending.Seconds()
	b.ReportMetric(rebuilt, "rebuild-ev/s")
	b.ReportMetric(sent, "raw-ev/s")
	b.ReportMetric(rebuilt/sent, "ratio")
	b.ReportMetric(0, "ns/op")
}

// fillLog appends runs of three steps as the decider would and returns the
// number of events.
func fillLog(b testing.TB, store *eventstore.Store) (total int) {
	b.Helper()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for i := range benchRuns {
		id := uuid.Must(uuid.NewV7()).String()
		at = at.Add(time.Millisecond)
		events := []domain.Event{run.Queued{
			RunID: id, ProjectID: "p1", WorkflowID: fmt.Sprint("w", i%10), WorkflowVersion: 1, AgentID: "a1", Env: "dev", Trigger: "manual",
			TriggeredBy: "u1", Region: "us-east-1", Input: json.RawMessage(`{"question":"What is the answer?"}`), At: at, Deadline: at.Add(time.Hour),
		}}
		for n := 1; n <= 3; n++ {
			step := fmt.Sprint("n", n)
			events = append(events, run.StepScheduled{Step: step, Node: step, Idx: n, Type: "agent", Name: step, Attempt: 1, Queue: "default", At: at, NotBefore: at, StartBy: at.Add(time.Hour)})
			if n == 1 {
				events = append(events, run.Started{At: at})
			}
			events = append(events,
				run.StepStarted{Step: step, Attempt: 1, Token: int64(n), Worker: "w", At: at, LeaseUntil: at.Add(30 * time.Second), CloseBy: at.Add(time.Minute)},
				run.StepSucceeded{Step: step, Node: step, Idx: n, Type: "agent", Name: step, Attempt: 1, Output: json.RawMessage(`{"answer":42}`), At: at})
		}
		events = append(events, run.Succeeded{At: at})
		total += len(events)
		meta := eventstore.Metadata{CommandID: uuid.NewString(), At: at}
		_, err := store.Append(b.Context(), "run-"+id, eventstore.NoStream, meta, events...)
		require.NoError(b, err)
	}
	return total
}

// rawBatches is the SQL of a rebuild, made beforehand.
func rawBatches(b *testing.B, r *Runner, p Projection) (batches [][]*pgx.QueuedQuery) {
	b.Helper()
	applier, batch, n := p.New(), &pgx.Batch{}, 0
	cut := func() {
		applier.Flush(batch)
		batches = append(batches, batch.QueuedQueries)
		batch, n = &pgx.Batch{}, 0
	}
	require.NoError(b, r.Store.ReadAll(b.Context(), 0, 0, p.Categories, func(e eventstore.Recorded) error {
		if n++; n > maxBatch {
			cut()
			n = 1
		}
		return applier.Apply(batch, e)
	}))
	cut()
	return batches
}

// sendRaw sends it to new tables and returns how long that took.
func sendRaw(b *testing.B, r *Runner, p Projection, batches [][]*pgx.QueuedQuery) time.Duration {
	b.Helper()
	begun, err := r.builds.create(b.Context(), p, scratch, "raw")
	require.NoError(b, err)
	conn, err := r.connect(b.Context(), begun.schema)
	require.NoError(b, err)
	defer conn.Close(context.Background())
	began := time.Now()
	for _, queries := range batches {
		batch := &pgx.Batch{}
		for _, q := range queries {
			batch.Queue(q.SQL, q.Arguments...)
		}
		require.NoError(b, conn.SendBatch(b.Context(), batch).Close())
	}
	took := time.Since(began)
	require.NoError(b, r.builds.drop(b.Context(), begun.schema))
	return took
}
