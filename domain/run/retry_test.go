package run_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

// retrying is one tool step with a policy of exact delays.
func retrying(rest string) string {
	return `{"nodes":[{"id":"a","type":"tool","tool":"fn",` + rest + `}]}`
}

const exact = `"retry":{"maxAttempts":4,"initialInterval":"1s","backoff":3,"maxInterval":"5s","jitter":"none","maxElapsed":"1m","nonRetryable":["FATAL"]}`

func TestRetryDelays(t *testing.T) {
	t.Parallel()
	h := begin(t, retrying(exact)).lease(0, "a")
	busy := run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "BUSY", Message: "m"}, Retryable: true, Expr: words{}}
	h.when(time.Second, busy).Then(
		run.StepFailed{Step: "a", Node: "a", Idx: 1, Type: "tool", Name: "a", Attempt: 1, Failure: busy.Failure, Retryable: true, At: at(time.Second)},
		run.StepScheduled{Step: "a", Node: "a", Idx: 1, Type: "tool", Name: "a", Attempt: 2, Queue: "default", At: at(time.Second), NotBefore: at(2 * time.Second), StartBy: at(time.Hour + 2*time.Second)},
	)
	notBefore := func() time.Duration { s, _ := h.state().Step("a"); return s.NotBefore.Sub(t0) }
	h.do(time.Second, busy)
	h.lease(1500*time.Millisecond, "a")
	require.Equal(t, run.StepReady, step(h, "a").Status, "not before its time")
	h.fail(2*time.Second, "a", "BUSY")
	require.Equal(t, 5*time.Second, notBefore(), "1s * 3")
	h.fail(5*time.Second, "a", "BUSY")
	require.Equal(t, 10*time.Second, notBefore(), "1s * 9, at most 5s")
	require.Equal(t, 4, step(h, "a").Attempt)
	h.fail(10*time.Second, "a", "BUSY")
	require.Equal(t, []string{"StepFailed", "Paused"}, h.names(len(h.events)-2))
}

func step(h *history, name string) run.Step { s, _ := h.state().Step(name); return s }

func TestRetryIsExhausted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rest  string
		fail  run.Fail
		after time.Duration
	}{
		"not retryable":            {exact, run.Fail{Failure: run.Failure{Code: "BUSY"}}, 0},
		"code listed":              {exact, run.Fail{Failure: run.Failure{Code: "FATAL"}, Retryable: true}, 0},
		"elapsed":                  {exact, run.Fail{Failure: run.Failure{Code: "BUSY"}, Retryable: true}, time.Minute},
		"retryAfter beyond budget": {exact, run.Fail{Failure: run.Failure{Code: "BUSY"}, Retryable: true, RetryAfter: 2 * time.Minute}, 0},
		"when is false":            {`"retry":{"when":"busy"}`, run.Fail{Failure: run.Failure{Code: "OTHER"}, Retryable: true}, 0},
		"schedule to close":        {exact + `,"timeouts":{"scheduleToClose":"3s"}`, run.Fail{Failure: run.Failure{Code: "BUSY"}, Retryable: true}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for policy, last := range map[string][]string{
				"pause":    {"StepStarted", "StepFailed", "Paused"},
				"fail":     {"StepStarted", "StepFailed", "Failed"},
				"continue": {"StepStarted", "StepFailed", "Succeeded"},
			} {
				h := begin(t, retrying(c.rest+`,"onExhausted":"`+policy+`"`)).lease(0, "a")
				f := c.fail
				f.Held, f.Expr = h.held("a"), words{}
				h.do(c.after, f)
				require.Equal(t, last, h.names(len(h.events)-3), policy)
			}
		})
	}
}

func TestRetryWhenThatCannotBeEvaluated(t *testing.T) {
	t.Parallel()
	h := begin(t, retrying(`"retry":{"when":"boom"},"onExhausted":"fail"`)).fail(0, "a", "BUSY")
	require.Equal(t, "EXPRESSION_FAILED", h.state().StatusReason().Code)
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	h := begin(t, retrying(exact)).lease(0, "a")
	h.do(0, run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "BUSY"}, Retryable: true, RetryAfter: 20 * time.Second, Expr: words{}})
	require.Equal(t, at(20*time.Second), step(h, "a").NotBefore)
}

func TestJitterIsFullAndDetermined(t *testing.T) {
	t.Parallel()
	delays := map[time.Duration]bool{}
	for _, id := range []string{"r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"} {
		q := queue(t, retrying(`"retry":{"initialInterval":"10s"}`))
		q.RunID = id
		events, err := q.Decide(run.Run{}, t0)
		require.NoError(t, err)
		started, err := run.Lease{RunID: id, Worker: "w", Tickets: []run.Ticket{{Step: "a", Attempt: 1}}}.Decide(run.Fold(events), t0)
		require.NoError(t, err)
		r := run.Fold(append(events, started...))
		failed, err := run.Fail{Held: run.Held{RunID: id, Step: "a", Token: 1}, Retryable: true, Expr: words{}}.Decide(r, t0)
		require.NoError(t, err)
		delay := failed[1].(run.StepScheduled).NotBefore.Sub(t0)
		require.GreaterOrEqual(t, delay, time.Duration(0))
		require.Less(t, delay, 10*time.Second)
		delays[delay] = true
	}
	require.Greater(t, len(delays), 6)
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	advance := run.Advance{RunID: "r1", Expr: words{}}
	failure := func(h *history) string { return step(h, "a").Failure.Code }

	h := begin(t, oneTool)
	h.when(59*time.Minute, advance).Then()
	h = begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn","timeouts":{"scheduleToStart":"30s"}}]}`)
	h.when(29*time.Second, advance).Then()
	wake, ok := h.state().NextWake()
	require.True(t, ok)
	require.Equal(t, at(30*time.Second), wake)
	h.do(30*time.Second, advance)
	require.Equal(t, "SCHEDULE_TO_START_TIMEOUT", failure(h))
	require.True(t, h.state().Paused())
	_, ok = h.state().NextWake()
	require.False(t, ok, "only a person can change it")

	h = begin(t, oneTool).lease(0, "a").do(30*time.Second, advance)
	require.Equal(t, "LEASE_EXPIRED", failure(h))
	require.Equal(t, 2, step(h, "a").Attempt)

	h = begin(t, retrying(`"timeouts":{"heartbeat":"5s"}`)).lease(0, "a")
	h.when(4*time.Second, advance).Then()
	h.do(5*time.Second, advance)
	require.Equal(t, "HEARTBEAT_TIMEOUT", failure(h))

	h = begin(t, retrying(`"timeouts":{"startToClose":"20s"}`)).lease(0, "a").do(20*time.Second, advance)
	require.Equal(t, "TIMEOUT", failure(h))

	h = begin(t, retrying(`"timeouts":{"scheduleToClose":"20s"},"onExhausted":"fail"`)).lease(5*time.Second, "a").do(20*time.Second, advance)
	require.Equal(t, "SCHEDULE_TO_CLOSE_TIMEOUT", failure(h))
	require.Equal(t, run.StatusFailed, h.state().Status())

	h = begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn"}],"settings":{"maxDuration":"10s"}}`).lease(0, "a")
	h.when(10*time.Second, advance).Then(run.TimedOut{At: at(10 * time.Second)})
	h.do(10*time.Second, advance)
	require.Equal(t, run.StatusTimeout, h.state().Status())
	require.Equal(t, "RUN_TIMEOUT", h.state().StatusReason().Code)
	h.when(11*time.Second, advance).Then()
}

// While a run is paused nothing is scheduled or handed out, what workers hold
// goes on, and its clock stands still.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	h := begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn","retry":{"maxAttempts":1}},{"id":"b","type":"tool","tool":"fn"},{"id":"c","type":"tool","tool":"fn"},{"id":"e","type":"tool","tool":"fn"},{"id":"w","type":"wait","duration":"1m"},{"id":"z","type":"tool","tool":"fn"}],
		"edges":[{"from":"b","to":"c"},{"from":"w","to":"z"}],"settings":{"maxDuration":"10m"}}`).
		lease(0, "b").fail(0, "a", "BUSY")
	require.Equal(t, []string{"StepFailed", "Paused"}, h.names(len(h.events)-2))
	require.Equal(t, run.StatusRunning, h.state().Status())
	require.Equal(t, "paused", h.state().Phase())
	require.Equal(t, "BUSY", h.state().StatusReason().Code)

	before := len(h.events)
	h.lease(time.Second, "e").do(time.Second, run.Complete{Held: h.held("b"), Output: raw(`1`), Take: 1, Expr: words{}})
	h.do(time.Minute, run.Advance{RunID: "r1", Expr: words{}})
	h.do(2*time.Hour, run.Advance{RunID: "r1", Expr: words{}})
	require.Equal(t, []string{"StepSucceeded", "StepSucceeded"}, h.names(before), "results are recorded, nothing is begun, the deadline waits")

	h.when(2*time.Hour, run.Resume{RunID: "r1", By: "u1", Expr: words{}}).Then(
		run.Resumed{By: "u1", At: at(2 * time.Hour), Deadline: at(2*time.Hour + 10*time.Minute)},
		scheduled("a", 1, 2, 2*time.Hour), scheduled("e", 3, 1, 2*time.Hour),
		withInput(scheduled("c", 5, 1, 2*time.Hour), `{"b":1}`), withInput(scheduled("z", 6, 1, 2*time.Hour), `{"x":1}`),
	)
	h.do(2*time.Hour, run.Resume{RunID: "r1", By: "u1", Expr: words{}})
	require.Equal(t, "running", h.state().Phase())
	require.Nil(t, h.state().StatusReason())
	h.fail(2*time.Hour, "a", "BUSY")
	require.True(t, h.state().Paused(), "its one attempt is used up again")
	require.Equal(t, 2, step(h, "a").Attempt)
}

func TestResumeCountsRetriesAnew(t *testing.T) {
	t.Parallel()
	h := begin(t, retrying(`"retry":{"maxAttempts":2,"maxElapsed":"1m","jitter":"none"}`)).fail(0, "a", "BUSY").fail(time.Second, "a", "BUSY")
	require.True(t, h.state().Paused())
	h.do(time.Hour, run.Resume{RunID: "r1", Expr: words{}}).fail(time.Hour, "a", "BUSY")
	require.False(t, h.state().Paused())
	require.Equal(t, 4, step(h, "a").Attempt)
	h.fail(time.Hour+time.Minute, "a", "BUSY")
	require.True(t, h.state().Paused())
}

func scheduled(name string, idx, attempt int, after time.Duration) run.StepScheduled {
	return run.StepScheduled{
		Step: name, Node: name, Idx: idx, Type: "tool", Name: name, Attempt: attempt, Queue: "default",
		At: at(after), NotBefore: at(after), StartBy: at(after + time.Hour),
	}
}

func withInput(s run.StepScheduled, input string) run.StepScheduled {
	s.Input = json.RawMessage(input)
	return s
}

func TestPauseOnRequest(t *testing.T) {
	t.Parallel()
	h := begin(t, oneTool).lease(0, "a")
	h.when(time.Second, run.Pause{RunID: "r1", By: "u1"}).Then(
		run.Paused{Reason: run.Failure{Code: "PAUSED_BY_USER", Message: "The run was paused by a user."}, At: at(time.Second)})
	h.do(time.Second, run.Pause{RunID: "r1", By: "u1"})
	h.when(time.Second, run.Pause{RunID: "r1"}).Then()
	h.when(time.Second, run.Cancel{RunID: "r1", By: "u1"}).Then(run.Cancelled{By: "u1", At: at(time.Second)})

	failed := &history{t: t, events: h.events}
	failed.do(2*time.Second, run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "BUSY"}, Retryable: true, Expr: words{}})
	require.Equal(t, []string{"StepFailed"}, failed.names(len(h.events)), "the retry waits for the run")
	failed.do(time.Minute, run.Resume{RunID: "r1", Expr: words{}})
	require.Equal(t, []string{"StepFailed", "Resumed", "StepScheduled"}, failed.names(len(h.events)))
	require.Equal(t, 2, step(failed, "a").Attempt)

	released := &history{t: t, events: h.events}
	released.do(2*time.Second, run.ReleaseLease{Held: h.held("a"), Expr: words{}}).lease(3*time.Second, "a")
	require.Equal(t, run.StepReady, step(released, "a").Status)
	released.do(time.Minute, run.Resume{RunID: "r1", Expr: words{}}).complete(time.Minute, "a", `1`)
	require.Equal(t, run.StatusSucceeded, released.state().Status())
	require.Equal(t, 1, step(released, "a").Attempt, "a released attempt does not count")

	finished := &history{t: t, events: h.events}
	finished.do(2*time.Second, run.Complete{Held: h.held("a"), Output: raw(`1`), Expr: words{}})
	require.True(t, finished.state().Paused(), "the run ends when it is resumed")
	finished.do(time.Minute, run.Resume{RunID: "r1", Expr: words{}})
	require.Equal(t, []string{"StepSucceeded", "Resumed", "Succeeded"}, finished.names(len(h.events)))
}

func TestWhy(t *testing.T) {
	t.Parallel()
	one := func(h *history, after time.Duration) run.Reason {
		reasons := h.state().Why(at(after))
		require.Len(t, reasons, 1)
		return reasons[0]
	}
	h := begin(t, retrying(exact))
	require.Equal(t, "Step a waits for a worker of queue default since 2026-03-04T05:06:07Z.", one(h, time.Second).Message)
	h.lease(time.Second, "a")
	require.Equal(t, "Step a is carried out by worker w since 2026-03-04T05:06:08Z (attempt 1); its lease lasts until 2026-03-04T05:06:38Z.", one(h, time.Second).Message)
	h.fail(2*time.Second, "a", "BUSY")
	require.Equal(t, "Step a failed with BUSY; attempt 2 starts at 2026-03-04T05:06:10Z.", one(h, 2*time.Second).Message)
	require.Equal(t, "WORKER", one(h, 4*time.Second).Code)
	h.do(4*time.Second, run.Pause{RunID: "r1", Reason: "maintenance."})
	require.Equal(t, "The run is paused since 2026-03-04T05:06:11Z because of PAUSED_BY_USER: maintenance. Resume or cancel it.", one(h, 5*time.Second).Message)
	h.do(5*time.Second, run.Cancel{RunID: "r1", Reason: "enough"})
	require.Equal(t, "The run is over since 2026-03-04T05:06:12Z: cancelled, because of CANCELLED: enough", one(h, 6*time.Second).Message)
	w := begin(t, `{"nodes":[{"id":"w","type":"wait","duration":"90s"}]}`)
	require.Equal(t, "Step w waits until 2026-03-04T05:07:37Z.", one(w, 0).Message)
	require.Equal(t, "The run is over since 2026-03-04T05:07:37Z: succeeded.", one(w.do(90*time.Second, run.Advance{RunID: "r1", Expr: words{}}), 90*time.Second).Message)
	require.Empty(t, run.Run{}.Why(t0))
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	r := begin(t, oneTool).state()
	require.Equal(t, domain.Need{Permission: "runs:write", Project: "p1"}, run.Cancel{RunID: "r1"}.Needs(r))
	require.Equal(t, domain.Need{Permission: "tasks:work", Project: "p1"}, run.Complete{}.Needs(r))
	require.Equal(t, domain.Need{Permission: "runs:write", Project: domain.Nowhere}, run.Hide{}.Needs(run.Run{}))
	require.Equal(t, domain.Need{Permission: "runs:write", Project: "p1"}, queue(t, oneTool).Needs(run.Run{}))
	require.Equal(t, "run-r1", run.Held{RunID: "r1"}.Stream())
}
