package run_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
)

var t0 = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// words evaluates the few expressions of these tests: "true", "false", "boom",
// "<step>=<json>" and, in templates, "${input}" and "${<step>}".
type words struct{}

func (words) Condition(src string, v run.Vars) (bool, error) {
	switch src {
	case "true", "false":
		return src == "true", nil
	case "busy":
		return v.Error != nil && v.Error.Code == "BUSY" && v.Attempt < 3, nil
	}
	step, want, ok := strings.Cut(src, "=")
	if !ok {
		return false, errors.New("no such word")
	}
	got, ok := v.Output(step)
	if !ok {
		return false, errors.New("no such output: " + step)
	}
	return string(got) == want, nil
}

func (words) Template(raw json.RawMessage, v run.Vars) (json.RawMessage, error) {
	text := string(raw)
	text = strings.ReplaceAll(text, `"${input}"`, string(v.Input))
	text = strings.ReplaceAll(text, `${run}`, v.Run.ID)
	for _, step := range v.Outputs() {
		got, _ := v.Output(step)
		text = strings.ReplaceAll(text, `"${`+step+`}"`, string(got))
	}
	if strings.Contains(text, "${") {
		return nil, errors.New("no such output")
	}
	return json.RawMessage(text), nil
}

func definition(t testing.TB, src string) workflow.Definition {
	t.Helper()
	var def workflow.Definition
	require.NoError(t, json.Unmarshal([]byte(src), &def))
	return workflow.Normalize(def, workflow.Spec{MaxRetries: 2})
}

func queue(t testing.TB, src string) run.Queue {
	t.Helper()
	return run.Queue{
		RunID: "r1", ProjectID: "p1", WorkflowID: "w1", WorkflowVersion: 1, AgentID: "a1", Env: "dev", Trigger: "manual", TriggeredBy: "u1",
		Input: json.RawMessage(`{"x":1}`), Plan: run.Plan{Definition: definition(t, src), Tools: tools()}, Expr: words{},
	}
}

func tools() map[string]run.ToolPlan {
	plan := func(config string) run.ToolPlan {
		return run.ToolPlan{Version: 1, Spec: tool.Spec{Name: "t", Kind: "http", Config: json.RawMessage(config)}}
	}
	return map[string]run.ToolPlan{
		"get":  plan(`{"url":"https://h/x","method":"get"}`),
		"post": plan(`{"url":"https://h/x"}`),
		"safe": plan(`{"url":"https://h/x","method":"POST","idempotent":true}`),
		"fn":   plan(`{"builtin":"echo"}`),
	}
}

// history is a run built step by step, each command at a time.
type history struct {
	t      testing.TB
	events []domain.Event
}

func begin(t testing.TB, src string) *history {
	t.Helper()
	h := &history{t: t}
	return h.do(0, queue(t, src))
}

func (h *history) do(after time.Duration, c domaintest.Decider[run.Run]) *history {
	h.t.Helper()
	events, err := c.Decide(h.state(), at(after))
	require.NoError(h.t, err)
	h.events = append(h.events, events...)
	return h
}

func (h *history) lease(after time.Duration, step string) *history {
	h.t.Helper()
	s, ok := h.state().Step(step)
	require.True(h.t, ok)
	return h.do(after, run.Lease{RunID: "r1", Worker: "w", Tickets: []run.Ticket{{Step: step, Attempt: s.Attempt}}})
}

func (h *history) complete(after time.Duration, step, output string) *history {
	h.t.Helper()
	return h.lease(after, step).do(after, run.Complete{Held: h.held(step), Output: json.RawMessage(output), Expr: words{}})
}

func (h *history) fail(after time.Duration, step, code string) *history {
	h.t.Helper()
	return h.lease(after, step).do(after, run.Fail{Held: h.held(step), Failure: run.Failure{Code: code}, Retryable: true, Expr: words{}})
}

func (h *history) state() run.Run { return run.Fold(h.events) }

func (h *history) held(step string) run.Held {
	s, _ := h.state().Step(step)
	return run.Held{RunID: "r1", Step: step, Attempt: s.Attempt, Token: s.Token}
}

func (h *history) when(after time.Duration, c domaintest.Decider[run.Run]) domaintest.Outcome {
	h.t.Helper()
	return domaintest.Given[run.Run](h.t, h.events...).When(c, at(after))
}

// names returns the stored names of the events after the first n.
func (h *history) names(n int) []string {
	var names []string
	for _, e := range h.events[n:] {
		names = append(names, strings.TrimPrefix(e.EventType(), "Run"))
	}
	return names
}

func raw(text string) json.RawMessage { return json.RawMessage(text) }

const oneTool = `{"nodes":[{"id":"a","type":"tool","tool":"fn"}]}`

func TestQueueOfAnEmptyDefinition(t *testing.T) {
	t.Parallel()
	c := queue(t, `{}`)
	plan := c.Plan
	domaintest.Given[run.Run](t).When(c, t0).Then(
		run.Queued{
			RunID: "r1", ProjectID: "p1", WorkflowID: "w1", WorkflowVersion: 1, AgentID: "a1", Env: "dev", Trigger: "manual", TriggeredBy: "u1",
			Input: raw(`{"x":1}`), Plan: plan, At: t0, Deadline: at(time.Hour),
		},
		run.StepScheduled{
			Step: "agent", Node: "agent", Idx: 1, Type: "agent", Name: "prompt", Attempt: 1, Queue: "default", Input: raw(`{"x":1}`),
			At: t0, NotBefore: t0, StartBy: at(time.Hour),
		},
	)
}

func TestQueueRefuses(t *testing.T) {
	t.Parallel()
	begin(t, oneTool).when(0, queue(t, oneTool)).ThenError(domain.Conflict, "RUN_EXISTS")
	c := queue(t, oneTool)
	c.Env, c.Trigger, c.Input, c.Config = "test", "cron", raw(`{`), raw(`[`)
	domaintest.Given[run.Run](t).When(c, t0).ThenInvalid("env", "trigger", "inputData", "config")
	c = queue(t, oneTool)
	c.Input = raw(`"` + strings.Repeat("x", run.MaxPayload) + `"`)
	domaintest.Given[run.Run](t).When(c, t0).ThenInvalid("inputData")
	c = queue(t, oneTool)
	c.Plan.Tools["big"] = run.ToolPlan{AuthSealed: strings.Repeat("x", 700<<10)}
	domaintest.Given[run.Run](t).When(c, t0).ThenError(domain.TooLarge, "RUN_TOO_LARGE")
}

// A decision and a wait at the start are decided by the append that makes the
// run, and the branch not taken is skipped.
func TestQueueDecidesAtOnce(t *testing.T) {
	t.Parallel()
	h := begin(t, `{"nodes":[
		{"id":"d","type":"decision"},{"id":"a","type":"tool","tool":"fn"},{"id":"b","type":"tool","tool":"fn"},{"id":"c","type":"tool","tool":"fn"},{"id":"w","type":"wait","duration":"5m"}],
		"edges":[{"from":"d","to":"c"},{"from":"d","to":"a","when":"false"},{"from":"d","to":"b","when":"true"},{"from":"a","to":"w"}]}`)
	require.Equal(t, []domain.Event{
		run.StepSucceeded{Step: "d", Node: "d", Idx: 1, Type: "decision", Name: "d", Attempt: 1, Output: raw(`{"branch":"b"}`), Branch: []string{"b"}, At: t0},
		run.StepSkipped{Step: "c", Node: "c", Idx: 2, Type: "tool", Name: "c", Reason: "No branch that the run took leads here.", At: t0},
		run.StepSkipped{Step: "a", Node: "a", Idx: 3, Type: "tool", Name: "a", Reason: "No branch that the run took leads here.", At: t0},
		run.StepScheduled{Step: "b", Node: "b", Idx: 4, Type: "tool", Name: "b", Attempt: 1, Queue: "default", Input: raw(`{"x":1}`), At: t0, NotBefore: t0, StartBy: at(time.Hour)},
		run.StepSkipped{Step: "w", Node: "w", Idx: 5, Type: "wait", Name: "w", Reason: "No branch that the run took leads here.", At: t0},
	}, h.events[1:])
}

func TestExpressionFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ src, code string }{
		"condition":        {`{"nodes":[{"id":"d","type":"decision"},{"id":"a","type":"tool","tool":"fn"}],"edges":[{"from":"d","to":"a","when":"boom"}]}`, "EXPRESSION_FAILED"},
		"no branch":        {`{"nodes":[{"id":"d","type":"decision"},{"id":"a","type":"tool","tool":"fn"}],"edges":[{"from":"d","to":"a","when":"false"}]}`, "NO_BRANCH"},
		"input":            {`{"nodes":[{"id":"a","type":"tool","tool":"fn","input":{"k":"${gone}"}}]}`, "EXPRESSION_FAILED"},
		"prompt":           {`{"nodes":[{"id":"a","type":"agent","prompt":"do ${gone}"}]}`, "EXPRESSION_FAILED"},
		"parallel branch":  {`{"nodes":[{"id":"a","type":"tool","tool":"fn"},{"id":"d","type":"decision"},{"id":"b","type":"tool","tool":"fn"}],"edges":[{"from":"d","to":"b","when":"a=1"}]}`, "EXPRESSION_FAILED"},
		"too many steps":   {`{"nodes":[{"id":"a","type":"tool","tool":"fn"},{"id":"b","type":"tool","tool":"fn"}],"settings":{"maxSteps":1}}`, "STEP_LIMIT"},
		"continue on none": {`{"nodes":[{"id":"d","type":"decision","onExhausted":"continue"},{"id":"a","type":"tool","tool":"fn"}],"edges":[{"from":"d","to":"a","when":"boom"}]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := begin(t, c.src).state()
			require.True(t, r.Ended())
			if c.code == "" {
				require.Equal(t, run.StatusSucceeded, r.Status())
				return
			}
			require.Equal(t, run.StatusFailed, r.Status())
			require.Equal(t, c.code, r.StatusReason().Code)
		})
	}
}

func TestDataFlow(t *testing.T) {
	t.Parallel()
	h := begin(t, `{"nodes":[
		{"id":"a","type":"tool","tool":"fn"},{"id":"d","type":"decision"},{"id":"w","type":"wait","duration":"1m"},
		{"id":"b","type":"agent","prompt":"Run ${run}"},{"id":"c","type":"tool","tool":"fn","input":{"all":"${input}","a":"${a}"}},{"id":"e","type":"wait","duration":"1m"}],
		"edges":[{"from":"a","to":"d"},{"from":"d","to":"w","when":"a=7"},{"from":"w","to":"b"},{"from":"b","to":"c"},{"from":"c","to":"e"}]}`).
		complete(0, "a", `7`)
	require.Equal(t, "waiting", h.state().Phase())
	h.do(time.Minute, run.Advance{RunID: "r1", Expr: words{}})
	b, _ := h.state().Step("b")
	require.Equal(t, `{"a":7}`, string(b.Input), "decisions and waits hand on what flows into them")
	require.Equal(t, "Run r1", h.state().Node(b).Prompt)
	h.complete(time.Minute, "b", `"B"`)
	c, _ := h.state().Step("c")
	require.Equal(t, `{"all":{"x":1},"a":7}`, string(c.Input))
	h.complete(time.Minute, "c", `"C"`).do(2*time.Minute, run.Advance{RunID: "r1", Expr: words{}})
	require.Equal(t, run.StatusSucceeded, h.state().Status())
	require.Equal(t, `"C"`, string(h.state().Output()))
}

func TestLargePayloadsAreNamedNotCopied(t *testing.T) {
	t.Parallel()
	big := `"` + strings.Repeat("x", 100<<10) + `"`
	q := queue(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn"},{"id":"b","type":"tool","tool":"fn"},{"id":"c","type":"tool","tool":"fn"},{"id":"d","type":"tool","tool":"fn"}],
		"edges":[{"from":"a","to":"b"},{"from":"a","to":"c"},{"from":"a","to":"d"}]}`)
	q.Input = raw(big)
	h := (&history{t: t}).do(0, q)
	a, _ := h.state().Step("a")
	require.Equal(t, []string{run.InputOfRun}, a.InputFrom)
	require.Nil(t, a.Input)
	require.Equal(t, big, string(h.state().StepInput(a)))
	h.complete(0, "a", big)
	b, _ := h.state().Step("b")
	require.Equal(t, []string{"a"}, b.InputFrom)
	require.Equal(t, `{"a":`+big+`}`, string(h.state().StepInput(b)))
	h.complete(0, "b", big).complete(0, "c", big).complete(0, "d", big)
	require.Equal(t, run.StatusSucceeded, h.state().Status())
	require.Equal(t, `{"b":`+big+`,"c":`+big+`,"d":`+big+`}`, string(h.state().Output()))
	for _, e := range h.events {
		stored, err := json.Marshal(e)
		require.NoError(t, err)
		require.Less(t, len(stored), 300<<10, e.EventType())
	}
}

func TestOutputTooLargeFailsTheStep(t *testing.T) {
	t.Parallel()
	h := begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn","onExhausted":"fail"}]}`).
		complete(0, "a", `"`+strings.Repeat("x", run.MaxPayload)+`"`)
	require.Equal(t, run.StatusFailed, h.state().Status())
	require.Equal(t, "OUTPUT_TOO_LARGE", h.state().StatusReason().Code)
}

func TestJoins(t *testing.T) {
	t.Parallel()
	src := func(join string) string {
		return `{"nodes":[{"id":"a","type":"tool","tool":"fn"},{"id":"b","type":"tool","tool":"fn"},{"id":"d","type":"decision"},{"id":"x","type":"tool","tool":"fn"},{"id":"y","type":"tool","tool":"fn"},
		{"id":"j","type":"tool","tool":"fn",` + join + `}],
		"edges":[{"from":"d","to":"x","when":"false"},{"from":"d","to":"y"},{"from":"a","to":"j"},{"from":"b","to":"j"},{"from":"x","to":"j"}]}`
	}
	status := func(h *history) run.StepStatus { s, _ := h.state().Step("j"); return s.Status }

	all := begin(t, src(`"join":"all"`)).complete(0, "a", `1`)
	require.Empty(t, status(all))
	all.complete(0, "b", `2`)
	require.Equal(t, run.StepReady, status(all), "the dead branch x does not count")
	j, _ := all.state().Step("j")
	require.Equal(t, `{"a":1,"b":2}`, string(j.Input))

	anyOne := begin(t, src(`"join":"any"`)).complete(0, "b", `2`)
	require.Equal(t, run.StepReady, status(anyOne))
	j, _ = anyOne.state().Step("j")
	require.Equal(t, `{"b":2}`, string(j.Input))
	anyOne.complete(0, "a", `1`).complete(0, "j", `3`)
	require.Equal(t, 1, strings.Count(strings.Join(anyOne.names(0), " "), "StepSkipped"))

	two := begin(t, src(`"join":"n","joinN":2`)).complete(0, "a", `1`)
	require.Empty(t, status(two))
	two.complete(0, "b", `2`)
	require.Equal(t, run.StepReady, status(two))

	three := begin(t, src(`"join":"n","joinN":3`))
	require.Equal(t, run.StepSkip, status(three), "only two branches can still come")
}

func TestCompleteFoldsWhatFollows(t *testing.T) {
	t.Parallel()
	h := begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn"},{"id":"b","type":"tool","tool":"fn"},{"id":"c","type":"tool","tool":"fn","queue":"gpu"}],
		"edges":[{"from":"a","to":"b"},{"from":"a","to":"c"}]}`).lease(0, "a")
	h.when(time.Second, run.Complete{Held: h.held("a"), Output: raw(`1`), Take: 5, Queues: []string{"default"}, Expr: words{}}).Then(
		run.StepSucceeded{Step: "a", Node: "a", Idx: 1, Type: "tool", Name: "a", Attempt: 1, Output: raw(`1`), At: at(time.Second)},
		run.StepScheduled{Step: "b", Node: "b", Idx: 2, Type: "tool", Name: "b", Attempt: 1, Queue: "default", Input: raw(`{"a":1}`), At: at(time.Second), NotBefore: at(time.Second), StartBy: at(time.Hour + time.Second)},
		run.StepScheduled{Step: "c", Node: "c", Idx: 3, Type: "tool", Name: "c", Attempt: 1, Queue: "gpu", Input: raw(`{"a":1}`), At: at(time.Second), NotBefore: at(time.Second), StartBy: at(time.Hour + time.Second)},
		run.StepStarted{Step: "b", Attempt: 1, Token: 2, Worker: "w", At: at(time.Second), LeaseUntil: at(31 * time.Second), CloseBy: at(10*time.Minute + time.Second)},
	)
	h.complete(time.Second, "a", `1`).complete(time.Second, "b", `2`)
	h.lease(time.Second, "c").when(2*time.Second, run.Complete{Held: h.held("c"), Output: raw(`3`), Take: 1, Expr: words{}}).Then(
		run.StepSucceeded{Step: "c", Node: "c", Idx: 3, Type: "tool", Name: "c", Attempt: 1, Output: raw(`3`), At: at(2 * time.Second)},
		run.Succeeded{Output: raw(`{"b":2,"c":3}`), At: at(2 * time.Second)},
	)
}

func TestStaleAndRepeatedCommands(t *testing.T) {
	t.Parallel()
	h := begin(t, oneTool).lease(0, "a")
	old := h.held("a")
	h.do(31*time.Second, run.Advance{RunID: "r1", Expr: words{}}).lease(40*time.Second, "a")
	for name, c := range map[string]domaintest.Decider[run.Run]{
		"complete": run.Complete{Held: old, Output: raw(`1`), Expr: words{}},
		"fail":     run.Fail{Held: old, Failure: run.Failure{Code: "X"}, Expr: words{}},
		"extend":   run.ExtendLease{Held: old},
		"release":  run.ReleaseLease{Held: old, Expr: words{}},
		"start":    run.StartCall{Held: old, Call: run.Call{Seq: 1, Kind: "tool", Name: "t"}},
		"finish":   run.FinishCall{Held: old, Seq: 1},
	} {
		t.Run("stale "+name, func(t *testing.T) {
			t.Parallel()
			domaintest.Given[run.Run](t, h.events...).When(c, at(41*time.Second)).ThenError(domain.Conflict, "LEASE_LOST")
		})
	}
	done := run.Complete{Held: h.held("a"), Output: raw(`1`), Expr: words{}}
	ended := (&history{t: t, events: h.events}).do(41*time.Second, done)
	ended.when(42*time.Second, done).Then()
	ended.when(42*time.Second, run.Fail{Held: done.Held, Expr: words{}}).ThenError(domain.Conflict, "RUN_ENDED")
	ended.when(42*time.Second, run.ExtendLease{Held: done.Held}).ThenError(domain.Conflict, "RUN_ENDED")

	failed := run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "BUSY"}, Retryable: true, Expr: words{}}
	again := (&history{t: t, events: h.events}).do(41*time.Second, failed)
	again.when(42*time.Second, failed).Then()
	again.when(42*time.Second, run.Complete{Held: done.Held, Output: raw(`1`), Expr: words{}}).ThenError(domain.Conflict, "LEASE_LOST")

	nobody := domaintest.Given[run.Run](t)
	for _, c := range []domaintest.Decider[run.Run]{done, failed, run.Lease{RunID: "r1"}, run.Advance{RunID: "r1"}, run.Cancel{RunID: "r1"}, run.Pause{RunID: "r1"}, run.Resume{RunID: "r1"}, run.Hide{RunID: "r1"}} {
		nobody.When(c, t0).ThenError(domain.NotFound, "NOT_FOUND")
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	h := begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"fn","timeouts":{"heartbeat":"12s","startToClose":"20s","scheduleToClose":"90s"}},{"id":"b","type":"tool","tool":"fn"}]}`)
	both := run.Lease{RunID: "r1", Worker: "w", Tickets: []run.Ticket{{Step: "a", Attempt: 1}, {Step: "b", Attempt: 1}, {Step: "b", Attempt: 2}, {Step: "z", Attempt: 1}}}
	h.when(80*time.Second, both).Then(
		run.Started{At: at(80 * time.Second)},
		run.StepStarted{Step: "a", Attempt: 1, Token: 1, Worker: "w", At: at(80 * time.Second), LeaseUntil: at(92 * time.Second), CloseBy: at(90 * time.Second)},
		run.StepStarted{Step: "b", Attempt: 1, Token: 2, Worker: "w", At: at(80 * time.Second), LeaseUntil: at(110 * time.Second), CloseBy: at(680 * time.Second)},
	)
	h.do(80*time.Second, both).when(80*time.Second, both).Then()
	h.when(89*time.Second, run.ReleaseLease{Held: h.held("b"), Expr: words{}}).Then(
		run.StepLeaseReleased{Step: "b", Token: 2, At: at(89 * time.Second), StartBy: at(time.Hour + 89*time.Second)})
	released := run.ReleaseLease{Held: h.held("b"), Expr: words{}}
	h.do(89*time.Second, released).when(89*time.Second, released).Then()
	h.when(89*time.Second, run.Lease{RunID: "r1", Worker: "v", Tickets: []run.Ticket{{Step: "b", Attempt: 1}}}).Then(
		run.StepStarted{Step: "b", Attempt: 1, Token: 3, Worker: "v", At: at(89 * time.Second), LeaseUntil: at(119 * time.Second), CloseBy: at(689 * time.Second)})
	h.when(time.Hour, both).Then() // the run is out of time: nothing is begun
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	h := begin(t, oneTool).lease(0, "a")
	beat := run.ExtendLease{Held: h.held("a"), Details: raw(`{"page":3}`)}
	h.when(9*time.Second, beat).Then()
	h.when(10*time.Second, beat).Then(run.StepLeaseExtended{Step: "a", Token: 1, LeaseUntil: at(40 * time.Second), Details: raw(`{"page":3}`)})
	h.do(10*time.Second, beat).do(45*time.Second, run.Advance{RunID: "r1", Expr: words{}})
	s, _ := h.state().Step("a")
	require.Equal(t, 2, s.Attempt)
	require.Equal(t, `{"page":3}`, string(s.Details), "details survive to the next attempt")
	h = begin(t, oneTool).lease(0, "a")
	h.when(time.Second, run.ExtendLease{Held: h.held("a"), Details: raw(`{`)}).ThenInvalid("details")
	h.when(time.Second, run.ExtendLease{Held: h.held("a"), Details: raw(`"` + strings.Repeat("x", 40<<10) + `"`)}).ThenError(domain.TooLarge, "PAYLOAD_TOO_LARGE")
}

func TestControl(t *testing.T) {
	t.Parallel()
	h := begin(t, oneTool)
	h.when(time.Second, run.Cancel{RunID: "r1", Reason: "enough", By: "u1"}).Then(run.Cancelled{Reason: "enough", By: "u1", At: at(time.Second)})
	h.when(time.Second, run.Hide{RunID: "r1"}).ThenError(domain.Conflict, "RUN_ACTIVE")
	h.when(time.Second, run.Resume{RunID: "r1", By: "u1", Expr: words{}}).Then()

	cancelled := begin(t, oneTool).lease(0, "a").do(time.Second, run.Cancel{RunID: "r1", Reason: "enough", By: "u1"})
	cancelled.when(2*time.Second, run.Cancel{RunID: "r1"}).Then()
	cancelled.when(2*time.Second, run.Complete{Held: cancelled.held("a"), Output: raw(`1`), Expr: words{}}).ThenError(domain.Conflict, "RUN_ENDED")
	cancelled.when(2*time.Second, run.Resume{RunID: "r1"}).ThenError(domain.Conflict, "RUN_ENDED")
	cancelled.when(2*time.Second, run.Pause{RunID: "r1"}).ThenError(domain.Conflict, "RUN_ENDED")
	cancelled.when(2*time.Hour, run.Advance{RunID: "r1", Expr: words{}}).Then()
	cancelled.when(2*time.Second, run.Lease{RunID: "r1", Tickets: []run.Ticket{{Step: "a", Attempt: 1}}}).Then()
	s, _ := cancelled.state().Step("a")
	require.Equal(t, run.StepCancelled, s.Status)
	require.Equal(t, at(time.Second), s.EndedAt)
	hidden := cancelled.do(3*time.Second, run.Hide{RunID: "r1"})
	require.True(t, hidden.state().Hidden())
	hidden.when(4*time.Second, run.Hide{RunID: "r1"}).Then()

	done := begin(t, oneTool).complete(0, "a", `1`)
	done.when(time.Second, run.Cancel{RunID: "r1"}).ThenError(domain.Conflict, "RUN_ENDED")
}

func TestFoldAnswersEverythingAView(t *testing.T) {
	t.Parallel()
	h := begin(t, oneTool)
	require.Equal(t, run.StatusQueued, h.state().Status())
	require.Equal(t, "queued", h.state().Phase())
	h.complete(time.Second, "a", `{"ok":true}`)
	r := h.state()
	require.Equal(t, run.StatusSucceeded, r.Status())
	require.Equal(t, "succeeded", r.Phase())
	require.Equal(t, []time.Time{t0, at(time.Second), at(time.Second)}, []time.Time{r.QueuedAt(), r.StartedAt(), r.EndedAt()})
	require.Nil(t, r.StatusReason())
	steps := r.Steps()
	require.Len(t, steps, 1)
	require.Equal(t, 1, steps[0].Idx)
	require.Equal(t, run.StepDone, steps[0].Status)
	require.Equal(t, run.Facts{ID: "r1", ProjectID: "p1", WorkflowID: "w1", WorkflowVersion: 1, AgentID: "a1", Env: "dev", Trigger: "manual"}, r.Facts())
	require.Equal(t, run.StatusQueued, run.Run{}.Status())
	require.Empty(t, run.Run{}.Steps())
}
