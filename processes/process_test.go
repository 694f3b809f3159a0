package processes

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

func TestRunsOn(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		event domain.Event
		want  []Command
	}{
		"project":        {project.Deleted{}, []Command{CancelRuns{Of: readmodels.RunsOf{ProjectID: "x"}, Reason: "The project was deleted.", Position: 7}}},
		"workflow":       {workflow.Deleted{}, []Command{CancelRuns{Of: readmodels.RunsOf{WorkflowID: "x"}, Reason: "The workflow was deleted.", Position: 7}}},
		"agent":          {agent.Deleted{}, []Command{CancelRuns{Of: readmodels.RunsOf{AgentID: "x"}, Reason: "The agent was deleted.", Position: 7}}},
		"another change": {project.Updated{}, nil},
	}
	for name, tt := range tests {
		require.Equal(t, tt.want, Runs().On(eventstore.Recorded{StreamID: "x", Position: 7, Event: tt.event}), name)
	}
}

// Every event there is can be given to every process.
func TestProcessesTakeEveryEvent(t *testing.T) {
	t.Parallel()
	registry := catalog.Registry()
	for _, p := range All() {
		require.NotEmpty(t, p.Name)
		require.NotEmpty(t, p.Categories)
		for _, name := range registry.Names() {
			event, err := registry.Decode(name, []byte(`{}`))
			require.NoError(t, err, name)
			p.On(eventstore.Recorded{StreamID: "x", Type: name, Event: event})
		}
	}
}

func TestCommandIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, process := range []string{"runs", "other"} {
		for _, event := range []string{"e1", "e2"} {
			for n := range 2 {
				id := CommandID(process, event, n)
				require.Equal(t, id, CommandID(process, event, n))
				require.False(t, seen[id])
				seen[id] = true
			}
		}
	}
	require.Equal(t, "60e47601-9980-5221-8ab5-a485933516df", CommandID("runs", "e1", 0), "ids are for ever")
}

// step is a command that fails as it is told, then succeeds.
type step struct {
	errs  []error
	calls *[]call
}

type call struct {
	id    string
	actor domain.Actor
}

func (s step) Do(ctx context.Context, _ *commands.Handler) error {
	n := len(*s.calls)
	*s.calls = append(*s.calls, call{commands.CommandIDFrom(ctx), commands.ActorFrom(ctx)})
	if n < len(s.errs) {
		if s.errs[n] == nil {
			panic("boom")
		}
		return s.errs[n]
	}
	return nil
}

func newService(t *testing.T) *Service {
	t.Helper()
	m, err := newMetrics(nil)
	require.NoError(t, err)
	return &Service{Logger: slog.New(slog.DiscardHandler), metrics: m}
}

func TestCarryOut(t *testing.T) {
	t.Parallel()
	down := domain.Fail(domain.Unavailable, "DOWN", "down")
	raced := domain.Fail(domain.Conflict, "CONCURRENT_UPDATE", "raced")
	tests := []struct {
		name   string
		errs   []error
		want   verdict
		calls  int
		parked int
	}{
		{"at once", nil, done, 1, 0},
		{"after outages", []error{down, raced, context.DeadlineExceeded}, done, 4, 0},
		{"not due: conflict", []error{domain.Fail(domain.Conflict, "RUN_ENDED", "over")}, notDue, 1, 0},
		{"not due: gone", []error{down, domain.Missing()}, notDue, 2, 0},
		{"invalid", []error{domain.Fail(domain.Invalid, "BAD", "bad")}, parked, 1, 1},
		{"internal", []error{errors.New("bug")}, parked, 1, 1},
		{"panic", []error{nil}, parked, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var calls []call
			p := Process{Name: "p", On: func(eventstore.Recorded) []Command { return []Command{step{tt.errs, &calls}} }}
			parkings := 0
			got, err := newService(t).carryOut(t.Context(), p, eventstore.Recorded{ID: "e1"}, func(_ context.Context, cause error) error {
				require.Error(t, cause)
				if parkings++; parkings == 1 && tt.parked > 0 {
					return down
				}
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
			require.Len(t, calls, tt.calls)
			for _, c := range calls {
				require.Equal(t, call{CommandID("p", "e1", 0), domain.Process("process.p")}, c, "the same command every time")
			}
			if tt.parked > 0 {
				require.Equal(t, 2, parkings, "parking waits for the store too")
			}
		})
	}
}

func TestCarryOutEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var calls []call
	down := domain.Fail(domain.Unavailable, "DOWN", "down")
	endless := make([]error, 1000)
	for i := range endless {
		endless[i] = down
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	p := Process{Name: "p", On: func(eventstore.Recorded) []Command { return []Command{step{endless, &calls}} }}
	_, err := newService(t).carryOut(ctx, p, eventstore.Recorded{ID: "e1"}, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NotEmpty(t, calls)
}

func TestFreshTimers(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	a1 := readmodels.Timer{RunID: "a", Step: "1", Kind: readmodels.TimerLease, DueAt: at}
	a2 := readmodels.Timer{RunID: "a", Step: "2", Kind: readmodels.TimerWait, DueAt: at}
	b := readmodels.Timer{RunID: "b", Kind: readmodels.TimerDeadline, DueAt: at}
	tm := &timers{asked: map[readmodels.Timer]time.Time{b: time.Now().Add(time.Hour)}}
	require.Equal(t, [][]readmodels.Timer{{a1, a2}}, tm.fresh([]readmodels.Timer{a1, b, a2}))
	moved := b
	moved.DueAt = at.Add(time.Second)
	require.Equal(t, [][]readmodels.Timer{{moved}}, tm.fresh([]readmodels.Timer{b, moved}), "a timer that moved is another one")
	tm.asked[b] = time.Now().Add(-time.Second)
	tm.forget()
	require.Empty(t, tm.asked)
}
