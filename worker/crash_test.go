package worker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/llm"
)

const crashScript = `{"simulate":{"turns":[
	{"toolCalls":[{"name":"counter","arguments":{"name":"n"}},{"name":"add","arguments":{"a":1,"b":2}}],"usage":{"input":100,"output":10}},
	{"toolCalls":[{"name":"counter","arguments":{"name":"n","by":10}}],"usage":{"input":200,"output":20}},
	{"json":{"answer":42},"usage":{"input":300,"output":30}}]}}`

// A worker that dies at any of its reports, just before it arrives or just
// after, leaves a run that the next worker finishes with the same result; no
// call that has a recorded result is made again, and the one under way is
// repeated under its key.
func TestWorkerDiesAtEveryReport(t *testing.T) {
	t.Parallel()
	const reports = 13 // 6 calls, started and finished, and the completion
	for at := 1; at <= reports; at++ {
		for _, applied := range []bool{false, true} {
			t.Run(fmt.Sprintf("report %d, applied %v", at, applied), func(t *testing.T) {
				t.Parallel()
				dieAt(t, at, applied)
			})
		}
	}
}

func dieAt(t *testing.T, at int, applied bool) {
	b := newBoard(t)
	provider := &recording{}
	tools := localTools(t)
	plans := map[string]run.ToolPlan{"counter": toolPlan("counter", map[string]any{"builtin": "counter"}), "add": toolPlan("add", map[string]any{"builtin": "add"})}
	b.queue("r", agentRun(workflow.Node{}, agentPlan("counter", "add"), plans), crashScript)
	b.dieAt, b.applied = at, applied

	startWorker(t, Config{Tasks: b, ID: "first", Tools: tools, Models: llm.Models{Simulated: provider}})
	b.await("r", "at the crash or over", func(run.Run) bool { return b.isDead("first") })
	before := b.finished("r")
	calledBefore := provider.called()
	startWorker(t, Config{Tasks: b, ID: "second", Tools: tools, Models: llm.Models{Simulated: provider}})
	if !b.run("r").Ended() {
		b.pass(31 * time.Second) // the lease ends
		b.pass(time.Minute)      // so does the pause before the next attempt
	}
	r := b.ended("r")
	require.Equal(t, run.StatusSucceeded, r.Status())
	require.JSONEq(t, `{"answer":42}`, string(r.Output()))
	require.Equal(t, int64(11), tools.Count("n"), "each effect once")
	require.Equal(t, int64(660), r.Usage().Prompt()+r.Usage().Completion(), "each paid call once in the books")

	calls := provider.called()
	for n, want := range []string{"r/step/model-1", "r/step/model-2", "r/step/model-3"} {
		times := count(calls, want)
		require.Contains(t, []int{1, 2}, times, want)
		recorded := slices.ContainsFunc(before, func(f run.StepCallFinished) bool { return f.Kind == run.CallModel && modelNumber(before, f) == n+1 })
		if recorded {
			require.Equal(t, count(calledBefore, want), times, "a recorded call is not repeated")
		}
	}
	require.LessOrEqual(t, len(calls), 4, "at most the call under way was repeated")
	require.Len(t, b.finished("r"), 6)
	s, _ := r.Step("step")
	for _, c := range s.Calls {
		require.NotNil(t, c.Result)
	}
}

func (b *board) isDead(worker string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead[worker]
}

func modelNumber(all []run.StepCallFinished, f run.StepCallFinished) int {
	n := 0
	for _, other := range all {
		if other.Kind == run.CallModel && other.Seq <= f.Seq {
			n++
		}
	}
	return n
}

func count(list []string, of string) int {
	n := 0
	for _, s := range list {
		if s == of {
			n++
		}
	}
	return n
}

// An http tool that must not be repeated waits for an operator when the worker
// died between the intent and the result; one that may be repeated is.
func TestWorkerDiesAroundAnHTTPTool(t *testing.T) {
	t.Parallel()
	for _, agentStep := range []bool{false, true} {
		for _, safe := range []bool{false, true} {
			t.Run(fmt.Sprintf("agent %v, safe %v", agentStep, safe), func(t *testing.T) {
				t.Parallel()
				server := countHits(t, 200)
				b := newBoard(t)
				tools := map[string]run.ToolPlan{"pay": toolPlan("pay", map[string]any{"url": server.url, "idempotent": safe})}
				plan := toolRun("pay", tools)
				b.dieAt = 2 // the completion
				if agentStep {
					plan = agentRun(workflow.Node{}, agentPlan("pay"), tools)
					b.dieAt = 4 // the result of the call
				}
				b.queue("r", plan, `{"simulate":{"turns":[{"toolCalls":[{"name":"pay"}]},{"text":"paid"}]}}`)
				startWorker(t, Config{Tasks: b, ID: "first"})
				b.await("r", "at the crash", func(run.Run) bool { return b.isDead("first") })
				startWorker(t, Config{Tasks: b, ID: "second"})
				b.pass(31 * time.Second)
				const key = "r/step/tool-1"
				if !safe {
					r := b.await("r", "paused", run.Run.Paused)
					require.Equal(t, run.CodeOutcomeUnknown, r.StatusReason().Code)
					require.Equal(t, map[string]int{key: 1}, server.seen())
					require.NoError(t, b.do(run.Resume{RunID: "r", By: "operator", Expr: b.expr}))
				} else {
					b.pass(time.Minute)
				}
				r := b.ended("r")
				require.Equal(t, run.StatusSucceeded, r.Status())
				require.Equal(t, map[string]int{key: 2}, server.seen(), "repeated under the same key")
			})
		}
	}
}

// A step whose recorded calls are not the ones its plan leads to stops instead
// of answering one call with the result of another.
func TestRecordOfAnotherStep(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.queue("r", agentRun(workflow.Node{OnExhausted: "fail"}, agentPlan(), nil), `{"simulate":{"text":"x"}}`)
	b.mu.Lock()
	_, events, err := b.commit(run.Lease{RunID: "r", Worker: "w", Tickets: []run.Ticket{{Step: "step", Attempt: 1}}})
	task := leased(b.runs["r"], events)[0]
	b.mu.Unlock()
	require.NoError(t, err)
	for name, record := range map[string]run.CallRecord{
		"another model": {Call: run.Call{Seq: 1, Kind: run.CallModel, Name: "other"}, Result: &run.CallResult{}},
		"a tool":        {Call: run.Call{Seq: 1, Kind: run.CallTool, Name: "gpt-4o"}},
		"unreadable":    {Call: run.Call{Seq: 1, Kind: run.CallModel, Name: "gpt-4o"}, Result: &run.CallResult{Response: []byte(`"?"`)}},
	} {
		provider := &recording{}
		w, err := New(Config{Tasks: b, Models: llm.Models{Simulated: provider}, Tools: localTools(t), Clock: b.clock})
		require.NoError(t, err)
		w.base = t.Context()
		task.Calls = []run.CallRecord{record}
		r := w.start(task)
		out := w.execute(r)
		w.finish(r)
		require.Equal(t, "REPLAY_MISMATCH", out.failure.Code, name)
		require.False(t, out.retryable)
		require.Empty(t, provider.called())
	}
}

// A call that must not be repeated, given up before anything was sent, is
// recorded as not made: nobody has to be asked whether it took effect.
func TestCallNotMade(t *testing.T) {
	t.Parallel()
	server := countHits(t, 200)
	b := newBoard(t)
	pay := toolPlan("pay", map[string]any{"url": server.url})
	limit := 13
	pay.Spec.RateLimitPerMin = &limit
	plan := toolRun("pay", map[string]run.ToolPlan{"pay": pay})
	for n := range limit {
		b.queue(fmt.Sprintf("r%d", n), plan, `{}`)
	}
	w := startWorker(t, Config{Tasks: b, ID: "first", Drain: 1500 * time.Millisecond})
	for n := range limit {
		b.ended(fmt.Sprintf("r%d", n))
	}
	b.queue("last", plan, `{}`) // has to wait four seconds for its turn
	b.await("last", "at its call", func(r run.Run) bool { s, _ := r.Step("step"); return len(s.Calls) == 1 })
	w.end(t)
	r := b.run("last")
	s, _ := r.Step("step")
	require.False(t, r.Paused())
	require.Equal(t, run.StepReady, s.Status)
	require.Equal(t, "CALL_NOT_MADE", s.Calls[0].Result.Failure.Code)
	require.Zero(t, server.seen()["last/step/tool-1"])
	startWorker(t, Config{Tasks: b, ID: "second"})
	require.Equal(t, run.StatusSucceeded, b.ended("last").Status())
	require.Equal(t, 1, server.seen()["last/step/tool-1"])
}
