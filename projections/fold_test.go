package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// Where a batch is cut must not show in the tables: one event per transaction,
// all in one, and random cuts make the same rows.
func TestRunsFoldDoesNotDependOnBatches(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), database))
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 7))
		history := randomHistory(rng, 12)
		want := tablesAfter(t, database, history, func() int { return 1 })
		require.NotEmpty(t, want["runs"])
		require.NotEmpty(t, want["run_steps"])
		require.NotEmpty(t, want["workflow_counters"])
		for name, cut := range map[string]func() int{
			"all at once": func() int { return len(history) },
			"random cuts": func() int { return 1 + rng.IntN(9) },
			"larger cuts": func() int { return 1 + rng.IntN(60) },
		} {
			got := tablesAfter(t, database, history, cut)
			for table := range want {
				require.Equal(t, only(want[table], got[table]), only(got[table], want[table]), "seed %d, %s, %s", seed, name, table)
			}
		}
	}
}

// only returns the rows of a that are not in b.
func only(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(row string) bool { return slices.Contains(b, row) })
}

// tablesAfter applies a history in batches of the given sizes to new tables and
// returns what is in them.
func tablesAfter(t *testing.T, database string, history []eventstore.Recorded, cut func() int) map[string][]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `drop schema if exists fold cascade; create schema fold; set search_path = fold; `+ddl("runs"))
	require.NoError(t, err)
	applier := newRunsFold()
	for len(history) > 0 {
		batch := &pgx.Batch{}
		n := min(cut(), len(history))
		for _, r := range history[:n] {
			require.NoError(t, applier.Apply(batch, r))
		}
		applier.Flush(batch)
		require.NoError(t, conn.SendBatch(t.Context(), batch).Close())
		history = history[n:]
	}
	tables := map[string][]string{}
	for _, table := range []string{"runs", "run_steps", "workflow_counters", "dead_projects"} {
		found, err := conn.Query(t.Context(), `select to_jsonb(t)::text collate "C" from `+table+` t order by 1`)
		require.NoError(t, err)
		tables[table], err = pgx.CollectRows(found, pgx.RowTo[string])
		require.NoError(t, err)
	}
	return tables
}

// history makes random run histories as the run's decider would, interleaved.
type history struct {
	rng    *rand.Rand
	now    time.Time
	events []eventstore.Recorded
}

func randomHistory(rng *rand.Rand, runs int) []eventstore.Recorded {
	h := &history{rng: rng, now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	streams := make([]*life, runs)
	for i := range streams {
		streams[i] = &life{h: h, id: fmt.Sprintf("run%02d", i), steps: map[string]*stepLife{}}
	}
	for open := runs; open > 0; {
		l := streams[rng.IntN(runs)]
		if l.over() {
			continue
		}
		l.next()
		if l.over() {
			open--
		}
	}
	return h.events
}

// life is one run under way.
type life struct {
	h        *history
	id       string
	revision int
	begun    bool
	started  bool
	paused   bool
	ended    bool
	hidden   bool
	steps    map[string]*stepLife
	token    int64
}

type stepLife struct {
	state   string
	attempt int
	held    bool
	calls   int
}

func (l *life) over() bool { return l.hidden || l.ended && l.h.rng.IntN(3) > 0 }

func (l *life) emit(e domain.Event) {
	h := l.h
	h.now = h.now.Add(time.Duration(1+h.rng.IntN(5000)) * time.Millisecond)
	h.events = append(h.events, eventstore.Recorded{
		Stream: "run-" + l.id, Category: "run", StreamID: l.id, Type: e.EventType(), Revision: eventstore.Revision(l.revision),
		Position: uint64(len(h.events)+1) * 10, Time: h.now, Event: e,
	})
	l.revision++
}

// soon is a later time, another one each time.
func (l *life) soon() time.Time {
	return l.h.now.Add(time.Duration(1+l.h.rng.IntN(100000)) * time.Millisecond)
}

func (l *life) next() {
	rng := l.h.rng
	switch {
	case !l.begun:
		l.begun = true
		q := run.Queued{
			RunID: l.id, ProjectID: "p", WorkflowID: fmt.Sprintf("w%d", rng.IntN(3)), WorkflowVersion: 1 + rng.IntN(3), Env: "dev",
			Trigger: "manual", TriggeredBy: "u", Region: "r", Input: json.RawMessage(`{"a":1}`), At: l.h.now, Deadline: l.soon(),
		}
		l.emit(q)
		l.schedule(fmt.Sprintf("s%d", rng.IntN(4)))
	case l.ended:
		if rng.IntN(2) == 0 {
			l.emit(run.StepCallFinished{Step: "s0", Seq: 9, Result: run.CallResult{Usage: domain.Usage{Input: 3}, CostNanos: 5}, At: l.h.now})
			return
		}
		l.hidden = true
		l.emit(run.Hidden{At: l.h.now})
	case rng.IntN(25) == 0:
		l.end()
	case !l.paused && rng.IntN(15) == 0:
		l.paused = true
		l.emit(run.Paused{Reason: run.Failure{Code: "X", Message: "x"}, At: l.h.now})
		for _, s := range l.steps {
			s.held = s.held || s.state == "ready"
		}
	case l.paused && rng.IntN(3) == 0:
		l.resume()
	default:
		l.step(fmt.Sprintf("s%d", rng.IntN(4)))
	}
}

func (l *life) schedule(name string) {
	s := l.steps[name]
	if s == nil {
		s = &stepLife{}
		l.steps[name] = s
	}
	s.state, s.held = "ready", false
	s.attempt++
	e := run.StepScheduled{
		Step: name, Node: name, Idx: int(name[1] - '0'), Type: "agent", Name: "Step", Attempt: s.attempt, Queue: "default",
		Priority: l.h.rng.IntN(3), At: l.h.now, NotBefore: l.soon(), StartBy: l.soon(),
	}
	if s.attempt == 1 && l.h.rng.IntN(2) == 0 {
		e.Input = json.RawMessage(`{"in":true}`)
	} else if s.attempt == 1 {
		e.InputFrom = []string{run.InputOfRun}
	}
	l.emit(e)
}

func (l *life) resume() {
	l.paused = false
	e := run.Resumed{By: "u", At: l.h.now}
	if l.h.rng.IntN(2) == 0 {
		e.Deadline = l.soon()
	}
	l.emit(e)
	for _, name := range []string{"s0", "s1", "s2", "s3"} {
		if s := l.steps[name]; s != nil && s.held {
			s.attempt--
			l.schedule(name)
		}
	}
}

func (l *life) end() {
	l.ended = true
	at := l.h.now
	switch l.h.rng.IntN(4) {
	case 0:
		l.emit(run.Succeeded{Output: json.RawMessage(`{"out":1}`), At: at})
	case 1:
		l.emit(run.Failed{Reason: run.Failure{Code: "F", Message: "failed\x00here"}, At: at})
	case 2:
		l.emit(run.Cancelled{Reason: "enough", By: "u", At: at})
	default:
		l.emit(run.TimedOut{At: at})
	}
}

func (l *life) step(name string) {
	rng, s := l.h.rng, l.steps[name]
	switch {
	case s == nil && !l.paused:
		l.steps[name] = &stepLife{}
		switch s = l.steps[name]; rng.IntN(4) {
		case 0:
			s.state = "over"
			l.emit(run.StepSucceeded{Step: name, Node: name, Idx: 1, Type: "decision", Name: name, Attempt: 1, Branch: []string{"b"}, At: l.h.now})
		case 1:
			s.state = "over"
			l.emit(run.StepSkipped{Step: name, Node: name, Idx: 2, Type: "tool", Name: name, Reason: "none", At: l.h.now})
		case 2:
			s.state = "waiting"
			l.emit(run.StepWaiting{Step: name, Node: name, Idx: 3, Name: name, At: l.h.now, Until: l.soon()})
		default:
			l.schedule(name)
		}
	case s == nil || s.state == "over":
	case s.state == "waiting":
		s.state = "over"
		l.emit(run.StepSucceeded{Step: name, Node: name, Idx: 3, Type: "wait", Name: name, Attempt: 1, At: l.h.now})
	case s.state == "ready" && !s.held:
		if !l.started {
			l.started = true
			l.emit(run.Started{At: l.h.now})
		}
		s.state = "running"
		l.token++
		l.emit(run.StepStarted{Step: name, Attempt: s.attempt, Token: l.token, Worker: "w", At: l.h.now, LeaseUntil: l.soon(), CloseBy: l.soon()})
	case s.state == "running":
		l.work(name, s)
	}
}

func (l *life) work(name string, s *stepLife) {
	switch l.h.rng.IntN(6) {
	case 0:
		l.emit(run.StepLeaseExtended{Step: name, Token: l.token, LeaseUntil: l.soon()})
	case 1:
		s.state, s.held = "ready", l.paused
		l.emit(run.StepLeaseReleased{Step: name, Token: l.token, At: l.h.now, StartBy: l.soon()})
	case 2:
		s.calls++
		l.emit(run.StepCallStarted{Step: name, Attempt: s.attempt, Call: run.Call{Seq: s.calls, Kind: "model", Name: "m"}, At: l.h.now})
		l.emit(run.StepCallFinished{
			Step: name, Attempt: s.attempt, Seq: s.calls, Kind: "model", Name: "m", At: l.h.now,
			Result: run.CallResult{Provider: "simulated", Usage: domain.Usage{Input: 10, CacheRead: 1, CacheWrite: 2, Output: 5, Reasoning: 3}, CostNanos: 77},
		})
	case 3:
		l.emit(run.StepFailed{Step: name, Node: name, Idx: 1, Type: "agent", Name: "Step", Attempt: s.attempt, Failure: run.Failure{Code: "E", Message: "e"}, Retryable: true, At: l.h.now})
		if l.paused {
			s.state, s.held = "failed", true
			s.attempt++ // resuming schedules the next one
			return
		}
		l.schedule(name)
	default:
		s.state = "over"
		l.emit(run.StepSucceeded{Step: name, Node: name, Idx: 1, Type: "agent", Name: "Step", Attempt: s.attempt, Output: json.RawMessage(`"done"`), At: l.h.now})
	}
}
