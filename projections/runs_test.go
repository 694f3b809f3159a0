package projections_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/readmodels"
)

// queued is a run of one agent step, scheduled with it.
func queued(id string, seconds float64, edit ...func(*run.Queued)) []domain.Event {
	q := run.Queued{
		RunID: id, ProjectID: "p1", WorkflowID: "w1", WorkflowVersion: 2, AgentID: "a1", Env: "dev", Trigger: "manual", TriggeredBy: "u1",
		Region: "us-east-1", Input: json.RawMessage(`{"q":1}`), At: at(seconds), Deadline: at(seconds + 3600),
	}
	for _, e := range edit {
		e(&q)
	}
	return []domain.Event{q, run.StepScheduled{
		Step: "n1", Node: "n1", Idx: 1, Type: workflow.NodeAgent, Name: "Think", Attempt: 1, Queue: "default", InputFrom: []string{run.InputOfRun},
		At: at(seconds), NotBefore: at(seconds), StartBy: at(seconds + 600),
	}}
}

func (p plane) run(t testing.TB, id string) readmodels.Run {
	t.Helper()
	found, err := p.views.Run(t.Context(), everything, id)
	require.NoError(t, err)
	return found
}

func TestLifeOfARun(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	p.append(t, "workflow-w1", at(0), workflow.Created{WorkflowID: "w1", ProjectID: "p1", Spec: workflow.Spec{Name: "W"}})
	p.append(t, "agent-a1", at(0), agent.Created{AgentID: "a1", ProjectID: "p1"})
	p.waitFor(t, p.append(t, "run-r1", at(1), queued("r1", 1)...))
	require.JSONEq(t, `{"id":"r1","projectId":"p1","workflowId":"w1","workflowVersion":2,"agentId":"a1","env":"dev","trigger":"manual","triggeredBy":"u1",
		"region":"us-east-1","status":"queued","phase":"queued","statusReason":null,"errorMessage":null,"queuedAt":"2026-03-04T05:06:08Z",
		"startedAt":"2026-03-04T05:06:08Z","endedAt":null,"durationMs":null,"deadline":"2026-03-04T06:06:08Z","updatedAt":"2026-03-04T05:06:08Z",
		"tokensPrompt":0,"tokensCompletion":0,"usage":{"input":0,"cacheRead":0,"cacheWrite":0,"output":0,"reasoning":0},"usdCost":0,"costNanos":0,
		"retries":0,"retryOf":null,"hasHumanInLoop":false,"metadata":{},"input":{"q":1}}`, asJSON(t, p.run(t, "r1")))
	steps, err := p.views.Steps(ctx, everything, "r1", at(5), false)
	require.NoError(t, err)
	require.Empty(t, steps)
	require.NotNil(t, steps)
	steps, err = p.views.Steps(ctx, everything, "r1", at(5), true)
	require.NoError(t, err)
	require.Equal(t, "queued", steps[0].Status)

	// A worker takes it, calls a model, fails once, and hands over to a branch
	// that waits while the other one is carried out.
	p.append(t, "run-r1", at(3), run.Started{At: at(3)},
		run.StepStarted{Step: "n1", Attempt: 1, Token: 1, Worker: "wk", At: at(3), LeaseUntil: at(33), CloseBy: at(603)},
		run.StepCallStarted{Step: "n1", Attempt: 1, Call: run.Call{Seq: 1, Kind: "model", Name: "m"}, At: at(3)},
		run.StepCallFinished{Step: "n1", Attempt: 1, Seq: 1, Kind: "model", Name: "m", At: at(4), Result: run.CallResult{
			Provider: "simulated", Usage: domain.Usage{Input: 10, CacheRead: 1, CacheWrite: 2, Output: 5, Reasoning: 3}, CostNanos: 1_250_000}},
		run.StepFailed{Step: "n1", Node: "n1", Idx: 1, Type: "agent", Name: "Think", Attempt: 1, Failure: run.Failure{Code: "E", Message: "oops"}, Retryable: true, At: at(5)},
		run.StepScheduled{Step: "n1", Node: "n1", Idx: 1, Type: "agent", Name: "Think", Attempt: 2, Queue: "default", At: at(5), NotBefore: at(7), StartBy: at(607)})
	p.waitFor(t, p.append(t, "run-r1", at(7), run.StepStarted{Step: "n1", Attempt: 2, Token: 2, Worker: "wk", At: at(7), LeaseUntil: at(37), CloseBy: at(607)}))
	r := p.run(t, "r1")
	require.Equal(t, []any{"running", "running", at(3), int64(13), int64(8), 0.00125, "simulated"},
		[]any{r.Status, r.Phase, r.StartedAt, r.TokensPrompt, r.TokensCompletion, r.USDCost, r.Metadata.Provider})
	steps, err = p.views.Steps(ctx, everything, "r1", at(9.5), false)
	require.NoError(t, err)
	require.JSONEq(t, `[{"id":"r1:n1","runId":"r1","step":"n1","node":"n1","idx":1,"type":"prompt","nodeType":"agent","name":"Think","status":"running","success":true,
		"attempt":2,"startedAt":"2026-03-04T05:06:10Z","endedAt":null,"durationMs":6500,"errorMessage":"oops","errorCode":"E","worker":"wk",
		"request":{"q":1},"tokensPrompt":13,"tokensCompletion":8,"costNanos":1250000,"usdCost":0.00125}]`, asJSON(t, steps))

	p.waitFor(t, p.append(t, "run-r1", at(10),
		run.StepSucceeded{Step: "n1", Node: "n1", Idx: 1, Type: "agent", Name: "Think", Attempt: 2, Output: json.RawMessage(`{"a":1}`), At: at(10)},
		run.StepSucceeded{Step: "d", Node: "d", Idx: 2, Type: "decision", Name: "Which", Attempt: 1, Branch: []string{"w"}, At: at(10)},
		run.StepSkipped{Step: "x", Node: "x", Idx: 3, Type: "tool", Name: "Not this", Reason: "no branch", At: at(10)},
		run.StepWaiting{Step: "w", Node: "w", Idx: 4, Name: "Wait", At: at(10), Until: at(70)}))
	r = p.run(t, "r1")
	require.Equal(t, []any{"running", "waiting"}, []any{r.Status, r.Phase})

	p.waitFor(t, p.append(t, "run-r1", at(70),
		run.StepSucceeded{Step: "w", Node: "w", Idx: 4, Type: "wait", Name: "Wait", Attempt: 1, At: at(70)},
		run.Succeeded{OutputFrom: []string{"w", "n1"}, At: at(70)}))
	r = p.run(t, "r1")
	require.Equal(t, []any{"succeeded", "succeeded", at(70), int64(67000), `{"w":null,"n1":{"a":1}}`},
		[]any{r.Status, r.Phase, *r.EndedAt, *r.DurationMs, string(r.Output)})
	require.Nil(t, r.StatusReason)
	steps, err = p.views.Steps(ctx, everything, "r1", at(999), false)
	require.NoError(t, err)
	var summary []string
	for _, s := range steps {
		summary = append(summary, fmt.Sprintf("%d %s %s %s %t %d %t", s.Idx, s.Step, s.Type, s.Status, s.Success, s.DurationMs, s.ErrorMessage == nil))
	}
	require.Equal(t, []string{"1 n1 prompt succeeded true 7000 true", "2 d decision succeeded true 0 true", "3 x tool skipped true 0 true", "4 w wait succeeded true 60000 true"}, summary)

	stats, err := p.views.WorkflowAnalytics(ctx, everything, "w1")
	require.NoError(t, err)
	require.JSONEq(t, `{"avgDurationMs":67000,"successRate":1,"totalRuns":1,"succeededRuns":1,"failedRuns":0,"cancelledRuns":0,"lastRunAt":"2026-03-04T05:06:08Z"}`, asJSON(t, stats))
	metrics, err := p.views.AgentMetrics(ctx, everything, "a1")
	require.NoError(t, err)
	require.JSONEq(t, `{"totalRuns":1,"activeRuns":0,"succeededRuns":1,"failedRuns":0,"avgDurationMs":67000,"costNanos":1250000}`, asJSON(t, metrics))
	_, err = p.views.AgentMetrics(ctx, readmodels.Visible{}, "a1")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	_, err = p.views.Steps(ctx, readmodels.Visible{Projects: []string{"p2"}}, "r1", at(0), false)
	require.Equal(t, domain.NotFound, domain.KindOf(err))
}

func TestEndsOfRuns(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	started := func(id string) []domain.Event {
		return append(queued(id, 0), run.Started{At: at(1)}, run.StepStarted{Step: "n1", Attempt: 1, Token: 1, Worker: "wk", At: at(1), LeaseUntil: at(31), CloseBy: at(600)})
	}
	p.append(t, "workflow-w1", at(0), workflow.Created{WorkflowID: "w1", ProjectID: "p1"})
	p.append(t, "run-f", at(5), append(started("f"), run.Failed{Reason: run.Failure{Code: "BAD", Message: "It broke.\x00"}, Step: "n1", At: at(5)})...)
	p.append(t, "run-c", at(5), append(started("c"), run.Cancelled{Reason: "Enough.", By: "u1", At: at(5)})...)
	p.append(t, "run-t", at(5), append(started("t"), run.TimedOut{At: at(5)})...)
	p.append(t, "run-p", at(5), append(started("p"), run.Paused{Reason: run.Failure{Code: "EXHAUSTED", Message: "Look."}, Step: "n1", At: at(5)})...)
	p.append(t, "run-q", at(5), append(queued("q", 2, func(q *run.Queued) { q.RetryOf, q.Retries, q.AgentID, q.ProjectID = "f", 1, "", "p2" }), run.Paused{At: at(3)}, run.Resumed{At: at(4)})...)
	last := p.append(t, "run-s", at(5), append(started("s"), run.Succeeded{At: at(3)})...)
	p.waitFor(t, last, "runs", "workflows")

	for id, want := range map[string]string{
		"f": `{"s":"failed","p":"failed","r":{"code":"BAD","message":"It broke.` + "\uFFFD" + `"},"e":"It broke.` + "\uFFFD" + `"}`,
		"c": `{"s":"cancelled","p":"cancelled","r":{"code":"CANCELLED","message":"Enough."},"e":null}`,
		"t": `{"s":"timeout","p":"timeout","r":{"code":"RUN_TIMEOUT","message":"The run took longer than its maximum duration."},"e":"The run took longer than its maximum duration."}`,
		"p": `{"s":"running","p":"paused","r":{"code":"EXHAUSTED","message":"Look."},"e":"Look."}`,
		"q": `{"s":"queued","p":"queued","r":null,"e":null}`,
	} {
		r := p.run(t, id)
		require.JSONEq(t, want, asJSON(t, map[string]any{"s": r.Status, "p": r.Phase, "r": r.StatusReason, "e": r.ErrorMessage}), id)
	}
	steps, err := p.views.Steps(ctx, everything, "c", at(99), false)
	require.NoError(t, err)
	require.Equal(t, []any{"cancelled", false, int64(4000), at(5)}, []any{steps[0].Status, steps[0].Success, steps[0].DurationMs, *steps[0].EndedAt})
	q := p.run(t, "q")
	require.Nil(t, q.AgentID)
	require.Equal(t, []any{"f", 1}, []any{*q.RetryOf, q.Retries})

	stats, err := p.views.WorkflowAnalytics(ctx, everything, "w1")
	require.NoError(t, err)
	require.JSONEq(t, `{"avgDurationMs":2000,"successRate":0.3333333333333333,"totalRuns":6,"succeededRuns":1,"failedRuns":2,"cancelledRuns":1,"lastRunAt":"2026-03-04T05:06:09Z"}`, asJSON(t, stats))

	list := func(visible readmodels.Visible, f readmodels.RunFilter) string {
		found, err := p.views.Runs(ctx, visible, f, readmodels.Page{})
		require.NoError(t, err)
		require.Equal(t, len(found.Items), found.Total)
		ids := ""
		for _, r := range found.Items {
			require.Nil(t, r.Input, "payloads stay out of lists")
			ids += r.ID
		}
		return ids
	}
	require.Equal(t, "qtspfc", list(everything, readmodels.RunFilter{}), "by start, then id, newest first")
	require.Equal(t, "tspfc", list(readmodels.Visible{Projects: []string{"p1"}}, readmodels.RunFilter{}))
	require.Equal(t, "q", list(everything, readmodels.RunFilter{Status: "pending", ProjectID: "p2", RetryOf: "f"}))
	require.Equal(t, "s", list(everything, readmodels.RunFilter{Status: "completed", AgentID: "a1", WorkflowID: "w1", Env: "dev", Trigger: "manual", TriggeredBy: "u1"}))
	require.Equal(t, "p", list(everything, readmodels.RunFilter{Status: "running"}))
	require.Empty(t, list(everything, readmodels.RunFilter{Status: "nonsense"}))

	active, err := p.views.ActiveRunsOf(ctx, readmodels.RunsOf{WorkflowID: "w1"})
	require.NoError(t, err)
	require.Equal(t, []string{"p", "q"}, active)
	active, err = p.views.ActiveRunsOf(ctx, readmodels.RunsOf{AgentID: "a1"})
	require.NoError(t, err)
	require.Equal(t, []string{"p"}, active)
	active, err = p.views.ActiveRunsOf(ctx, readmodels.RunsOf{})
	require.NoError(t, err)
	require.Empty(t, active)

	p.append(t, "run-f", at(6), run.Hidden{At: at(6)})
	p.append(t, "run-late", at(6), queued("late", 6, func(q *run.Queued) { q.ProjectID = "p2" })...)
	p.append(t, "project-p2", at(7), project.Deleted{})
	p.waitFor(t, p.append(t, "run-later", at(8), queued("later", 8, func(q *run.Queued) { q.ProjectID = "p2" })...))
	require.Equal(t, "tspc", list(everything, readmodels.RunFilter{}))
	for _, id := range []string{"f", "q", "late", "later"} {
		_, err = p.views.Run(ctx, everything, id)
		require.Equal(t, domain.NotFound, domain.KindOf(err), id)
	}
	active, err = p.views.ActiveRunsOf(ctx, readmodels.RunsOf{ProjectID: "p2"})
	require.NoError(t, err)
	require.Equal(t, []string{"late", "later", "q"}, active, "those of a deleted project still have to be cancelled")
}

func TestTasksAndTimers(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	ready := func(step string, idx int, seconds float64, priority int, queue string) run.StepScheduled {
		return run.StepScheduled{Step: step, Node: step, Idx: idx, Type: "tool", Name: step, Attempt: 1, Queue: queue, Priority: priority,
			At: at(0), NotBefore: at(seconds), StartBy: at(seconds + 100)}
	}
	p.append(t, "run-r1", at(0), queued("r1", 0)[0], ready("a", 1, 0, 0, "q1"), ready("b", 2, 1, 5, "q1"), ready("c", 3, 50, 9, "q1"), ready("d", 4, 0, 0, "q2"),
		run.StepWaiting{Step: "w", Node: "w", Idx: 5, Name: "w", At: at(0), Until: at(20)})
	p.waitFor(t, p.append(t, "run-r1", at(1), run.StepStarted{Step: "d", Attempt: 1, Token: 1, Worker: "x", At: at(1), LeaseUntil: at(31), CloseBy: at(25)}), "runs")

	timers := func(now float64) (all []string) {
		found, err := p.views.DueTimers(ctx, at(now), 10)
		require.NoError(t, err)
		for _, due := range found {
			all = append(all, fmt.Sprintf("%s%s %s %v", due.RunID, due.Step, due.Kind, due.DueAt.Sub(at(0)).Seconds()))
		}
		return all
	}
	require.Empty(t, timers(19))
	require.Equal(t, []string{"r1w wait 20", "r1d close 25", "r1a start 100", "r1b start 101", "r1c start 150", "r1 deadline 3600"}, timers(4000))
	next, ok, err := p.views.NextTimer(ctx)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, at(20), next)

	// The highest priority first, none too early, none twice.
	first, err := p.views.ClaimReadyTasks(ctx, "x", []string{"q1", "q2"}, at(2), 1)
	require.NoError(t, err)
	require.Equal(t, []readmodels.TaskRef{{RunID: "r1", ProjectID: "p1", Step: "b", Node: "b", Type: "tool", Queue: "q1", Priority: 5, Attempt: 1, NotBefore: at(1), Position: first[0].Position}}, first)
	second, err := p.views.ClaimReadyTasks(ctx, "y", []string{"q1", "q2"}, at(2), 10)
	require.NoError(t, err)
	require.Len(t, second, 1)
	require.Equal(t, "a", second[0].Step)
	none, err := p.views.ClaimReadyTasks(ctx, "z", []string{"q1", "q2"}, at(2), 10)
	require.NoError(t, err)
	require.Empty(t, none)
	require.NoError(t, p.views.ReleaseClaims(ctx, first))
	again, err := p.views.ClaimReadyTasks(ctx, "z", []string{"q1"}, at(2), 10)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.NoError(t, p.views.PurgeClaims(ctx))

	// What a claimed task became ready again by is claimed at once.
	p.append(t, "run-r1", at(3), run.StepStarted{Step: "a", Attempt: 1, Token: 2, Worker: "y", At: at(3), LeaseUntil: at(33), CloseBy: at(600)},
		run.StepLeaseExtended{Step: "a", Token: 2, LeaseUntil: at(43)}, run.StepLeaseExtended{Step: "d", Token: 1, LeaseUntil: at(24)})
	p.waitFor(t, p.append(t, "run-r1", at(4), run.StepLeaseReleased{Step: "a", Token: 2, At: at(4), StartBy: at(104)}), "runs")
	again, err = p.views.ClaimReadyTasks(ctx, "z", []string{"q1"}, at(4), 10)
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.Equal(t, "a", again[0].Step)
	require.Contains(t, timers(4000), "r1d lease 24")
	require.Contains(t, timers(4000), "r1a start 104")
	tasks, err := p.views.TasksOf(ctx, "r1")
	require.NoError(t, err)
	require.Len(t, tasks, 3)
	ofRun, err := p.views.TimersOf(ctx, "r1")
	require.NoError(t, err)
	require.Len(t, ofRun, 6)
	depths, err := p.views.QueueDepths(ctx)
	require.NoError(t, err)
	require.Equal(t, []any{"q1", int64(3), int64(0), "q2", int64(0), int64(1)},
		[]any{depths[0].Queue, depths[0].Ready, depths[0].Leased, depths[1].Queue, depths[1].Ready, depths[1].Leased})

	// A pause withdraws what is ready and stops those clocks; what runs goes on.
	p.waitFor(t, p.append(t, "run-r1", at(5), run.Paused{Reason: run.Failure{Code: "X", Message: "x"}, At: at(5)}), "runs")
	require.Equal(t, []string{"r1w wait 20", "r1d lease 24"}, timers(4000))
	p.waitFor(t, p.append(t, "run-r1", at(6), run.StepLeaseReleased{Step: "d", Token: 1, At: at(6), StartBy: at(106)}), "runs")
	require.Equal(t, []string{"r1w wait 20"}, timers(4000))
	tasks, err = p.views.TasksOf(ctx, "r1")
	require.NoError(t, err)
	require.Empty(t, tasks)
	p.waitFor(t, p.append(t, "run-r1", at(9), run.Resumed{By: "u", At: at(9), Deadline: at(3604)}, ready("a", 1, 9, 0, "q1")), "runs")
	require.Equal(t, []string{"r1w wait 20", "r1a start 109", "r1 deadline 3604"}, timers(4000))

	p.waitFor(t, p.append(t, "run-r1", at(10), run.Cancelled{At: at(10)}), "runs")
	require.Empty(t, timers(4000))
	_, ok, err = p.views.NextTimer(ctx)
	require.NoError(t, err)
	require.False(t, ok)
	none, err = p.views.ClaimReadyTasks(ctx, "z", []string{"q1", "q2"}, at(200), 10)
	require.NoError(t, err)
	require.Empty(t, none)
}

// Many workers at once never get the same task.
func TestClaimsAreExclusive(t *testing.T) {
	t.Parallel()
	p := running(t)
	var last uint64
	for i := range 60 {
		id := fmt.Sprintf("r%02d", i)
		last = p.append(t, "run-"+id, at(0), queued(id, 0)...)
	}
	p.waitFor(t, last, "runs")
	var mu sync.Mutex
	claimed := map[string]int{}
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for empty := 0; empty < 3; {
				tasks, err := p.views.ClaimReadyTasks(context.Background(), fmt.Sprint(w), []string{"default"}, at(1), 3)
				if !noError(t, err) {
					return
				}
				if len(tasks) == 0 {
					empty++
				}
				mu.Lock()
				for _, task := range tasks {
					claimed[task.RunID]++
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	require.Len(t, claimed, 60)
	for id, n := range claimed {
		require.Equal(t, 1, n, id)
	}
}

func TestWaitTasks(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	p.waitFor(t, p.append(t, "run-r0", time.Now(), queued("r0", 0, func(q *run.Queued) {})[0]), "runs")
	require.NoError(t, p.views.WaitTasks(ctx, []string{"default"}, 10*time.Millisecond), "after the wait")

	waiting := make(chan error, 1)
	go func() { waiting <- p.views.WaitTasks(ctx, []string{"other", "default"}, patience) }()
	began := time.Now()
	p.append(t, "run-r1", time.Now(), queued("r1", 0)...)
	require.NoError(t, <-waiting)
	require.Less(t, time.Since(began), patience)
	require.NoError(t, p.views.WaitTasks(ctx, []string{"default"}, patience), "one is ready")

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, p.views.WaitTasks(cancelled, []string{"empty"}, patience), context.Canceled)
	// A task of the future wakes when its time has come.
	soon := time.Now().Add(50 * time.Millisecond).Truncate(time.Microsecond)
	p.waitFor(t, p.append(t, "run-r2", time.Now(), queued("r2", 0)[0],
		run.StepScheduled{Step: "s", Node: "s", Idx: 1, Type: "tool", Name: "s", Attempt: 1, Queue: "later", At: soon, NotBefore: soon, StartBy: soon.Add(time.Hour)}), "runs")
	for {
		require.NoError(t, p.views.WaitTasks(ctx, []string{"later"}, patience))
		now := time.Now()
		tasks, err := p.views.ClaimReadyTasks(ctx, "w", []string{"later"}, now, 1)
		require.NoError(t, err)
		if len(tasks) == 1 {
			require.False(t, now.Before(soon))
			break
		}
		require.Less(t, time.Since(soon), patience)
	}
}

// Every way of paging yields the list a model yields, each item once.
func TestPaging(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	rng := rand.New(rand.NewPCG(3, 4))
	type entry struct {
		id      string
		at      time.Time
		project string
	}
	var model []entry
	var last uint64
	for i := range 37 {
		e := entry{fmt.Sprintf("r%02d", i), at(float64(rng.IntN(8))), fmt.Sprintf("p%d", rng.IntN(2))}
		model = append(model, e)
		last = p.append(t, "run-"+e.id, e.at, queued(e.id, e.at.Sub(at(0)).Seconds(), func(q *run.Queued) { q.ProjectID = e.project })...)
	}
	slices.SortFunc(model, func(a, b entry) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.id, a.id)) })
	p.waitFor(t, last, "runs")
	for _, visible := range []readmodels.Visible{everything, {Projects: []string{"p0"}}, {Projects: []string{"p1", "p0"}}} {
		var want []string
		for _, e := range model {
			if visible.All || slices.Contains(visible.Projects, e.project) {
				want = append(want, e.id)
			}
		}
		for _, size := range []int{1, 5, 36, 37, 100, 1000} {
			var byPage, byCursor []string
			page := readmodels.Page{Size: size}
			for {
				found, err := p.views.Runs(ctx, visible, readmodels.RunFilter{}, page)
				require.NoError(t, err)
				require.Equal(t, len(want), found.Total)
				for _, r := range found.Items {
					byCursor = append(byCursor, r.ID)
				}
				if page.Cursor = found.Next; found.Next == "" {
					break
				}
			}
			for number := 1; ; number++ {
				found, err := p.views.Runs(ctx, visible, readmodels.RunFilter{}, readmodels.Page{Page: number, Size: size})
				require.NoError(t, err)
				require.Equal(t, len(want), found.Total)
				if len(found.Items) == 0 {
					break
				}
				for _, r := range found.Items {
					byPage = append(byPage, r.ID)
				}
			}
			require.Equal(t, want, byCursor)
			require.Equal(t, want, byPage)
		}
	}
	_, err := p.views.Runs(ctx, everything, readmodels.RunFilter{}, readmodels.Page{Cursor: "nonsense"})
	require.Equal(t, domain.Invalid, domain.KindOf(err))
}
