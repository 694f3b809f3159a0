package commands

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

const patience = time.Minute

// newPlant is a workshop with read models that follow the log.
func newPlant(t testing.TB) *workshop {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	database := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), database))
	var views *readmodels.Views
	s := newSystem(t, func(h *Handler) {
		h.Clock = time.Now
		var err error
		views, err = readmodels.Open(t.Context(), database, readmodels.Options{Logger: quiet})
		require.NoError(t, err)
		t.Cleanup(views.Close)
		h.Views = views
	})
	runner, err := projections.New(t.Context(), projections.Runner{Store: s.Store, DatabaseURL: database, Views: views, Logger: quiet})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.ErrorIs(t, <-done, context.Canceled)
		runner.Close()
	})
	w := newWorkshop(t, s)
	w.applied(t)
	return w
}

// applied waits until the read models have applied everything.
func (w *workshop) applied(t testing.TB) {
	t.Helper()
	head, err := w.Store.Head(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, w.Views.WaitFor(ctx, head, "runs"))
}

var carpenter = Worker{ID: "w1", Queues: []string{"default"}}

// lease waits for one task.
func (w *workshop) lease(t *testing.T) Task {
	t.Helper()
	var tasks []Task
	require.Eventually(t, func() bool {
		var err error
		tasks, err = w.LeaseTasks(w.dev, carpenter, 1, time.Second)
		require.NoError(t, err)
		return len(tasks) > 0
	}, patience, time.Millisecond)
	require.Len(t, tasks, 1)
	return tasks[0]
}

const threeSteps = `{"nodes":[{"id":"a","type":"tool","tool":"builtin:echo"},{"id":"b","type":"agent","prompt":"Say ${outputs.a.n}"},{"id":"c","type":"tool","tool":"builtin:echo"}],
	"edges":[{"from":"a","to":"b"},{"from":"b","to":"c"}]}`

// A run of three steps costs five appends: one to start it, one to lease its
// first step, and one for each result.
func TestTasksAreHandedOver(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	w.workflow = w.newWorkflow(t, threeSteps)
	before := w.appends(t)
	id := w.start(t)
	task := w.lease(t)
	require.Equal(t, []any{id, "a", "tool", 1, int64(1), `{}`}, []any{task.RunID, task.Step, task.Type, task.Attempt, task.Token, string(task.Input)})
	require.Empty(t, task.Tools)

	next, err := w.CompleteTask(w.dev, task, json.RawMessage(`{"n":7}`), 1)
	require.NoError(t, err)
	require.Len(t, next, 1)
	b := next[0]
	require.Equal(t, []any{"b", "Say 7", `{"a":{"n":7}}`, int64(2)}, []any{b.Step, b.NodeSpec.Prompt, string(b.Input), b.Token})
	require.Equal(t, "Ann", b.Agent.Spec.Name)
	require.Contains(t, b.Tools, w.tool)
	require.Equal(t, id, b.Run.ID)
	again, err := w.CompleteTask(w.dev, task, json.RawMessage(`{"n":7}`), 1)
	require.NoError(t, err)
	require.Empty(t, again, "a repeated result leases nothing")

	next, err = w.CompleteTask(w.dev, b, json.RawMessage(`"B"`), 1)
	require.NoError(t, err)
	require.Len(t, next, 1)
	none, err := w.CompleteTask(w.dev, next[0], json.RawMessage(`"C"`), 1)
	require.NoError(t, err)
	require.Empty(t, none)
	require.Equal(t, run.StatusSucceeded, w.state(t, id).Status())
	require.Equal(t, 5, w.appends(t)-before)
}

// A worker that waits gets what becomes ready in the same process at once: the
// run is started and its first step leased by one append.
func TestWaitingWorkerIsWoken(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	require.Eventually(t, func() bool { // it may be looking around at the very moment
		got := make(chan []Task, 1)
		go func() {
			tasks, err := w.LeaseTasks(w.dev, carpenter, 5, patience)
			if err != nil {
				t.Error(err)
			}
			got <- tasks
		}()
		require.Eventually(t, w.somebodyIdles, patience, time.Millisecond)
		before := w.appends(t)
		id := w.start(t)
		tasks := <-got
		require.Len(t, tasks, 1)
		require.Equal(t, id, tasks[0].RunID)
		return w.appends(t)-before == 1
	}, patience, time.Millisecond)

	nothing, err := w.LeaseTasks(w.dev, carpenter, 5, 0)
	require.NoError(t, err)
	require.Empty(t, nothing)
	other, err := w.LeaseTasks(w.dev, Worker{ID: "w2", Queues: []string{"gpu"}}, 5, 0)
	require.NoError(t, err)
	require.Empty(t, other)
}

func (w *workshop) somebodyIdles() bool {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	for s := range w.desk.waiting {
		return s.idle
	}
	return false
}

// What was leased to a worker that has gone meanwhile is ready again.
func TestWorkerThatLeavesGivesBack(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	for range 20 {
		ctx, leave := context.WithCancel(w.dev)
		left := make(chan []Task, 1)
		go func() {
			tasks, _ := w.LeaseTasks(ctx, carpenter, 1, patience)
			left <- tasks
		}()
		id, started := "", make(chan struct{})
		go func() { defer close(started); id = w.start(t) }()
		leave()
		<-started
		got := <-left
		if len(got) == 0 {
			require.Eventually(t, func() bool { s, _ := w.state(t, id).Step("agent"); return s.Status == run.StepReady }, patience, time.Millisecond)
			got = []Task{w.lease(t)}
		}
		require.Equal(t, id, got[0].RunID)
		_, err := w.CompleteTask(w.dev, got[0], json.RawMessage(`1`), 0)
		require.NoError(t, err)
	}
}

func TestCallsAndHeartbeats(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	id := w.start(t)
	task := w.lease(t)
	until, err := w.HeartbeatTask(w.dev, task, nil)
	require.NoError(t, err)
	require.Equal(t, task.LeaseUntil, until, "too early to cost an event")
	require.NoError(t, w.StartCall(w.dev, task, run.Call{Seq: 1, Kind: "model", Name: "gpt"}))
	require.NoError(t, w.FinishCall(w.dev, task, 1, run.CallResult{CostNanos: 5}))
	require.NoError(t, w.StartCall(w.dev, task, run.Call{Seq: 2, Kind: "model", Name: "gpt"}))
	requireFailure(t, w.StartCall(w.dev, task, run.Call{Seq: 1, Kind: "model", Name: "gpt"}), domain.Conflict, "CALL_FINISHED")
	require.NoError(t, w.ReleaseTask(w.dev, task))

	second := w.lease(t)
	require.Equal(t, []any{1, int64(2)}, []any{second.Attempt, second.Token})
	require.Len(t, second.Calls, 2)
	require.Equal(t, domain.Nanos(5), second.Calls[0].Result.CostNanos)
	require.Nil(t, second.Calls[1].Result)
	require.Equal(t, run.CallKey(id, "agent", 2), second.Calls[1].Key)
	_, err = w.CompleteTask(w.dev, task, json.RawMessage(`1`), 1)
	requireFailure(t, err, domain.Conflict, "LEASE_LOST")

	_, err = w.CancelRun(w.dev, id, "enough")
	require.NoError(t, err)
	_, err = w.HeartbeatTask(w.dev, second, nil)
	requireFailure(t, err, domain.Conflict, "RUN_ENDED")
	requireFailure(t, w.FailTask(w.dev, second, run.Failure{Code: "X"}, true, 0), domain.Conflict, "RUN_ENDED")
}

func TestCostLimitTellsTheWorker(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	w.workflow = w.newWorkflow(t, `{"settings":{"maxCostNanos":10},"nodes":[{"id":"a","type":"agent"}]}`)
	id := w.start(t)
	task := w.lease(t)
	require.NoError(t, w.StartCall(w.dev, task, run.Call{Seq: 1, Kind: "model", Name: "gpt"}))
	requireFailure(t, w.FinishCall(w.dev, task, 1, run.CallResult{CostNanos: 11}), domain.Conflict, "RUN_ENDED")
	require.Equal(t, "COST_LIMIT", w.state(t, id).StatusReason().Code)
	require.Equal(t, domain.Nanos(11), w.state(t, id).Cost())
}

func TestFailedTaskIsRetried(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	w.workflow = w.newWorkflow(t, `{"nodes":[{"id":"a","type":"tool","tool":"builtin:echo","retry":{"initialInterval":"1ms"}}]}`)
	w.start(t)
	require.NoError(t, w.FailTask(w.dev, w.lease(t), run.Failure{Code: "BUSY", Message: "busy"}, true, 0))
	require.Equal(t, 2, w.lease(t).Attempt)
}

// Whoever asks at the same time, each task is leased once, and strangers get
// none of it.
func TestConcurrentWorkersShareTheWork(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	const runs, workers = 40, 6
	started := map[string]bool{}
	for range runs {
		started[w.start(t)] = true
	}
	w.applied(t)
	stranger, err := w.LeaseTasks(as(t.Context(), domain.Developer), Worker{ID: "stranger", Queues: []string{"default"}}, 3, 0)
	require.NoError(t, err)
	require.Empty(t, stranger)

	var mu sync.Mutex
	leased := map[string]int{}
	ctx, cancel := context.WithTimeout(w.dev, patience)
	defer cancel()
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			me := Worker{ID: string(rune('a' + i)), Queues: []string{"default"}}
			for ctx.Err() == nil {
				tasks, err := w.LeaseTasks(ctx, me, 4, 100*time.Millisecond)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, task := range tasks {
					leased[task.RunID]++
				}
				done := len(leased) == runs
				mu.Unlock()
				if done {
					return
				}
			}
		})
	}
	all.Wait()
	require.Len(t, leased, runs)
	for id, n := range leased {
		require.True(t, started[id])
		require.Equal(t, 1, n)
	}
}

func TestCancelRunsOf(t *testing.T) {
	t.Parallel()
	w := newPlant(t)
	mine := []string{w.start(t), w.start(t)}
	flow := w.workflow
	w.workflow = w.newWorkflow(t, `{}`)
	other := w.start(t)
	receipt, err := w.DeleteWorkflow(as(t.Context(), domain.Admin), flow)
	require.NoError(t, err)
	ctx := WithActor(t.Context(), domain.Process("process.runs"))
	n, err := w.CancelRunsOf(ctx, readmodels.RunsOf{WorkflowID: flow}, "The workflow was deleted.", receipt.Position)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	for _, id := range mine {
		require.Equal(t, run.StatusCancelled, w.state(t, id).Status())
		require.Equal(t, "The workflow was deleted.", w.state(t, id).StatusReason().Message)
	}
	require.Equal(t, run.StatusQueued, w.state(t, other).Status())
}
