package run_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

const agentAndLimit = `{"nodes":[{"id":"a","type":"agent"}],"settings":{"maxCostNanos":100}}`

func model(seq int) run.Call { return run.Call{Seq: seq, Kind: "model", Name: "gpt"} }

func paid(n domain.Nanos) run.CallResult {
	return run.CallResult{Response: raw(`{"text":"hi"}`), Usage: domain.Usage{Input: 3, Output: 2}, CostNanos: n}
}

func TestCallIsRecordedBeforeAndAfter(t *testing.T) {
	t.Parallel()
	h := begin(t, agentAndLimit).lease(0, "a")
	start := run.StartCall{Held: h.held("a"), Call: model(1)}
	want := model(1)
	want.Key = "r1/a/1"
	h.when(time.Second, start).Then(run.StepCallStarted{Step: "a", Attempt: 1, Call: want, At: at(time.Second)})
	h.when(time.Second, run.FinishCall{Held: h.held("a"), Seq: 1, Result: paid(10)}).ThenError(domain.Conflict, "CALL_NOT_STARTED")
	h.do(time.Second, start).when(time.Second, start).Then()

	finish := run.FinishCall{Held: h.held("a"), Seq: 1, Result: paid(10)}
	h.when(2*time.Second, finish).Then(run.StepCallFinished{Step: "a", Attempt: 1, Seq: 1, Kind: "model", Name: "gpt", Result: paid(10), At: at(2 * time.Second)})
	h.do(2*time.Second, finish).when(2*time.Second, finish).Then()
	h.when(2*time.Second, start).ThenError(domain.Conflict, "CALL_FINISHED")
	s := step(h, "a")
	require.Equal(t, domain.Nanos(10), s.Cost)
	require.Equal(t, domain.Nanos(10), h.state().Cost())
	require.Equal(t, domain.Usage{Input: 3, Output: 2}, h.state().Usage())
	require.Equal(t, `{"text":"hi"}`, string(s.Calls[0].Result.Response))
}

// What is finished stays finished for the next attempt; what is open is made
// again under the same key.
func TestNextAttemptRepeatsNothingPaid(t *testing.T) {
	t.Parallel()
	h := begin(t, agentAndLimit).lease(0, "a")
	h.do(0, run.StartCall{Held: h.held("a"), Call: model(1)}).do(0, run.FinishCall{Held: h.held("a"), Seq: 1, Result: paid(10)})
	second := model(2)
	second.Key = "own-key"
	h.do(0, run.StartCall{Held: h.held("a"), Call: second}).do(time.Minute, run.Advance{RunID: "r1", Expr: words{}}).lease(5*time.Minute, "a")
	s := step(h, "a")
	require.Equal(t, 2, s.Attempt)
	require.Len(t, s.Calls, 2)
	require.NotNil(t, s.Calls[0].Result)
	require.Nil(t, s.Calls[1].Result)
	h.when(5*time.Minute, run.StartCall{Held: h.held("a"), Call: model(1)}).ThenError(domain.Conflict, "CALL_FINISHED")
	h.when(5*time.Minute, run.StartCall{Held: h.held("a"), Call: model(2)}).Then(run.StepCallStarted{Step: "a", Attempt: 2, Call: second, At: at(5 * time.Minute)})
}

func TestCostLimit(t *testing.T) {
	t.Parallel()
	h := begin(t, agentAndLimit).lease(0, "a")
	h.do(0, run.StartCall{Held: h.held("a"), Call: model(1)}).do(0, run.StartCall{Held: h.held("a"), Call: model(2)})
	over := (&history{t: t, events: h.events}).do(time.Second, run.FinishCall{Held: h.held("a"), Seq: 1, Result: paid(101)})
	require.Equal(t, []string{"StepCallFinished", "Failed"}, over.names(len(h.events)))
	require.Equal(t, run.Failure{Code: "COST_LIMIT", Message: "The run reached its cost limit of 0.000000 USD."}, *over.state().StatusReason())

	h.do(time.Second, run.FinishCall{Held: h.held("a"), Seq: 1, Result: paid(100)})
	require.False(t, h.state().Ended(), "exactly at the limit is not over it")
	h.do(time.Second, run.StartCall{Held: h.held("a"), Call: run.Call{Seq: 3, Kind: "tool", Name: "t"}})
	h.when(time.Second, run.StartCall{Held: h.held("a"), Call: model(4)}).Then(
		run.Failed{Reason: run.Failure{Code: "COST_LIMIT", Message: "The run reached its cost limit of 0.000000 USD."}, Step: "a", At: at(time.Second)})
}

// A paid call that was under way when the run ended still counts; nothing else
// is taken.
func TestCallThatOutlivesTheRun(t *testing.T) {
	t.Parallel()
	h := begin(t, agentAndLimit).lease(0, "a")
	held := h.held("a")
	h.do(0, run.StartCall{Held: held, Call: model(1)}).do(time.Second, run.Cancel{RunID: "r1", By: "u1"})
	finish := run.FinishCall{Held: held, Seq: 1, Result: paid(500)}
	h.do(2*time.Second, finish)
	require.Equal(t, domain.Nanos(500), h.state().Cost())
	require.Equal(t, run.StatusCancelled, h.state().Status())
	h.when(2*time.Second, finish).Then()
	h.when(2*time.Second, run.StartCall{Held: held, Call: model(2)}).ThenError(domain.Conflict, "RUN_ENDED")
	stale := held
	stale.Token = 9
	h.when(2*time.Second, run.FinishCall{Held: stale, Seq: 1}).ThenError(domain.Conflict, "RUN_ENDED")
}

func TestRepeatSafe(t *testing.T) {
	t.Parallel()
	got := map[string]bool{}
	for name, p := range tools() {
		got[name] = p.RepeatSafe()
	}
	require.Equal(t, map[string]bool{"get": true, "post": false, "safe": true, "fn": true}, got)
	require.True(t, run.ToolPlan{}.RepeatSafe())
	broken := run.ToolPlan{}
	broken.Spec.Config = raw(`{"url":7}`)
	require.False(t, broken.RepeatSafe())
}

// A call that may have taken effect is never repeated without a person.
func TestUnknownOutcomeWaitsForAnOperator(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(h *history){
		"lost worker": func(h *history) { h.do(time.Minute, run.Advance{RunID: "r1", Expr: words{}}) },
		"failed": func(h *history) {
			h.do(time.Minute, run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "CONNECTION_LOST"}, Retryable: true, Expr: words{}})
		},
		"released": func(h *history) { h.do(time.Minute, run.ReleaseLease{Held: h.held("a"), Expr: words{}}) },
		"said so": func(h *history) {
			h.do(time.Minute, run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "OUTCOME_UNKNOWN"}, Retryable: true, Expr: words{}})
		},
		"timed out": func(h *history) { h.do(11*time.Minute, run.Advance{RunID: "r1", Expr: words{}}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"post","onExhausted":"fail"}]}`).lease(0, "a")
			call := run.Call{Seq: 1, Kind: "tool", Name: "t", Key: "k"}
			h.do(0, run.StartCall{Held: h.held("a"), Call: call})
			require.True(t, step(h, "a").Calls[0].Unsafe)
			before := len(h.events)
			lose(h)
			require.Equal(t, []string{"StepFailed", "Paused"}, h.names(before))
			require.Equal(t, "OUTCOME_UNKNOWN", h.state().StatusReason().Code)

			h.do(time.Hour, run.Resume{RunID: "r1", By: "u1", Expr: words{}}).lease(time.Hour, "a")
			approved := (&history{t: t, events: h.events}).do(time.Hour, run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "BUSY"}, Retryable: true, Expr: words{}})
			require.False(t, approved.state().Paused(), "the operator's word holds until the call is made again")
			h.when(time.Hour, run.StartCall{Held: h.held("a"), Call: run.Call{Seq: 1, Kind: "tool", Name: "t"}}).Then(
				run.StepCallStarted{Step: "a", Attempt: 2, Call: step(h, "a").Calls[0].Call, At: at(time.Hour)})
			h.do(time.Hour, run.StartCall{Held: h.held("a"), Call: call})
			h.do(2*time.Hour, run.Advance{RunID: "r1", Expr: words{}})
			require.True(t, h.state().Paused() || h.state().Ended(), "and the second time again")
		})
	}
}

func TestKnownOutcomeIsRetried(t *testing.T) {
	t.Parallel()
	for _, toolID := range []string{"get", "safe", "fn", "post"} {
		h := begin(t, `{"nodes":[{"id":"a","type":"tool","tool":"`+toolID+`"}]}`).lease(0, "a")
		h.do(0, run.StartCall{Held: h.held("a"), Call: run.Call{Seq: 1, Kind: "tool", Name: "t"}})
		if toolID == "post" {
			h.do(0, run.FinishCall{Held: h.held("a"), Seq: 1, Result: run.CallResult{Failure: &run.Failure{Code: "TOOL_HTTP_503"}}})
		}
		h.do(time.Second, run.Fail{Held: h.held("a"), Failure: run.Failure{Code: "TOOL_HTTP_503"}, Retryable: true, Expr: words{}})
		require.Equal(t, 2, step(h, "a").Attempt, toolID)
	}
}

// In an agent's loop the tool is found by its id or its name.
func TestAgentCallsAnUnsafeTool(t *testing.T) {
	t.Parallel()
	for _, call := range []run.Call{{Seq: 1, Kind: "tool", Name: "x", Tool: "post"}, {Seq: 1, Kind: "tool", Name: "t"}, {Seq: 1, Kind: "tool", Name: "x", Unsafe: true}} {
		h := begin(t, agentAndLimit).lease(0, "a")
		h.do(0, run.StartCall{Held: h.held("a"), Call: call}).do(time.Minute, run.Advance{RunID: "r1", Expr: words{}})
		require.Equal(t, "paused", h.state().Phase())
	}
	h := begin(t, agentAndLimit).lease(0, "a")
	h.do(0, run.StartCall{Held: h.held("a"), Call: run.Call{Seq: 1, Kind: "tool", Name: "t", Tool: "get"}}).do(time.Minute, run.Advance{RunID: "r1", Expr: words{}})
	require.Equal(t, "running", h.state().Phase())
}

func TestCallsAreChecked(t *testing.T) {
	t.Parallel()
	h := begin(t, agentAndLimit).lease(0, "a")
	h.when(0, run.StartCall{Held: h.held("a"), Call: run.Call{Key: strings.Repeat("k", 300)}}).ThenInvalid("seq", "kind", "name", "key")
	big := model(1)
	big.Request = raw(`"` + strings.Repeat("x", run.MaxPayload) + `"`)
	h.when(0, run.StartCall{Held: h.held("a"), Call: big}).ThenError(domain.TooLarge, "PAYLOAD_TOO_LARGE")
	h.do(0, run.StartCall{Held: h.held("a"), Call: model(1)})
	h.when(0, run.FinishCall{Held: h.held("a"), Seq: 1, Result: run.CallResult{CostNanos: -1}}).ThenInvalid("usage")
	h.when(0, run.FinishCall{Held: h.held("a"), Seq: 1, Result: run.CallResult{Response: raw(`{`)}}).ThenInvalid("response")
}

// A failure is recorded whatever a worker says of it.
func TestFailuresAreBounded(t *testing.T) {
	t.Parallel()
	h := begin(t, retrying(`"onExhausted":"fail"`)).lease(0, "a")
	h.do(0, run.StartCall{Held: h.held("a"), Call: run.Call{Seq: 1, Kind: "tool", Name: "t"}})
	wild := run.Failure{Code: strings.Repeat("X", 100), Message: strings.Repeat("é", 4<<10), Details: raw(`{`)}
	h.do(0, run.FinishCall{Held: h.held("a"), Seq: 1, Result: run.CallResult{Failure: &wild}})
	h.do(0, run.Fail{Held: h.held("a"), Failure: wild, Expr: words{}})
	want := run.Failure{Code: "STEP_FAILED", Message: strings.Repeat("é", 2<<10) + "…"}
	require.Equal(t, want, *h.state().StatusReason())
	want.Code = "CALL_FAILED"
	require.Equal(t, want, *step(h, "a").Calls[0].Result.Failure)
	long := strings.Repeat("x", 5<<10)
	begin(t, oneTool).when(0, run.Cancel{RunID: "r1", Reason: long}).ThenInvalid("reason")
	begin(t, oneTool).when(0, run.Pause{RunID: "r1", Reason: long}).ThenInvalid("reason")
}
