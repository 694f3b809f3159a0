package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/llm"
)

func noop(id string) workflow.Node {
	return workflow.Node{ID: id, Type: workflow.NodeTool, Tool: "builtin:noop"}
}

// Parallel branches and what follows them are handed over with each
// completion.
func TestRunOfManySteps(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	plan := run.Plan{Definition: workflow.Definition{
		Nodes: []workflow.Node{noop("a"), noop("b1"), noop("b2"), noop("b3"), {ID: "c", Type: workflow.NodeTool, Tool: "builtin:echo"}},
		Edges: []workflow.Edge{{From: "a", To: "b1"}, {From: "a", To: "b2"}, {From: "a", To: "b3"}, {From: "b1", To: "c"}, {From: "b2", To: "c"}, {From: "b3", To: "c"}},
	}}
	registry := prometheus.NewPedanticRegistry()
	startWorker(t, Config{Tasks: b, Slots: 4, Registerer: registry})
	for n := range 20 {
		b.queue(fmt.Sprintf("r%d", n), plan, `{}`)
	}
	for n := range 20 {
		r := b.ended(fmt.Sprintf("r%d", n))
		require.Equal(t, run.StatusSucceeded, r.Status())
		require.JSONEq(t, `{"b1":{},"b2":{},"b3":{}}`, string(r.Output()))
	}
	require.Eventually(t, func() bool {
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "sparkops_worker_tasks_total" && len(f.Metric) == 1 {
				return f.Metric[0].GetCounter().GetValue() == 100
			}
		}
		return false
	}, 30*time.Second, 10*time.Millisecond)
}

func TestToolNodes(t *testing.T) {
	t.Parallel()
	ok, down, refusing := countHits(t, 200), countHits(t, 503), countHits(t, 404)
	tests := []struct {
		name, ref, input string
		tools            map[string]run.ToolPlan
		output, code     string
		calls, attempts  int
	}{
		{name: "builtin", ref: "builtin:add", input: `{"a":1,"b":2}`, output: `{"result":3}`, attempts: 1},
		{name: "registered builtin", ref: "t", input: `{"a":1}`, tools: map[string]run.ToolPlan{"t": toolPlan("echo", map[string]any{"builtin": "echo"})}, output: `{"a":1}`, attempts: 1},
		{name: "arguments", ref: "builtin:add", input: `{"a":1}`, code: "TOOL_ARGUMENTS_INVALID", attempts: 1},
		{name: "unknown builtin", ref: "builtin:shell", input: `{}`, code: "TOOL_UNKNOWN", attempts: 1},
		{name: "not configured", ref: "t", input: `{}`, tools: map[string]run.ToolPlan{"t": toolPlan("t", nil)}, code: "TOOL_NOT_CONFIGURED", attempts: 1},
		{name: "fails for good", ref: "builtin:fail", input: `{"code":"OWN","retryable":false}`, code: "OWN", attempts: 1},
		{name: "fails, then not", ref: "builtin:fail", input: `{"untilAttempt":3}`, output: `{"attempt":3}`, attempts: 3},
		{name: "fails too often", ref: "builtin:fail", input: `{}`, code: "TOOL_FAILED", attempts: 5},
		{name: "http", ref: "t", input: `{"a":1}`, tools: map[string]run.ToolPlan{"t": toolPlan("ok", map[string]any{"url": ok.url})}, output: `{"done":true}`, calls: 1, attempts: 1},
		{name: "http down", ref: "t", input: `{"a":1}`, tools: map[string]run.ToolPlan{"t": toolPlan("down", map[string]any{"url": down.url})}, code: "TOOL_HTTP_503", calls: 5, attempts: 5},
		{name: "http refusing", ref: "t", input: `{"a":1}`, tools: map[string]run.ToolPlan{"t": toolPlan("no", map[string]any{"url": refusing.url})}, code: "TOOL_HTTP_404", calls: 1, attempts: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t)
			plan := toolRun(tt.ref, tt.tools)
			plan.Definition.Nodes[0].OnExhausted = "fail"
			plan.Definition.Nodes[0].Retry = &workflow.Retry{MaxAttempts: 5, Jitter: "none"}
			b.queue("r", plan, tt.input)
			startWorker(t, Config{Tasks: b})
			for attempt := 1; attempt < tt.attempts; attempt++ {
				b.await("r", fmt.Sprintf("after attempt %d", attempt), func(r run.Run) bool {
					s, _ := r.Step("step")
					return s.Status == run.StepReady && s.Attempt == attempt+1
				})
				b.pass(time.Minute)
			}
			r := b.ended("r")
			s, _ := r.Step("step")
			require.Equal(t, tt.attempts, s.Attempt)
			require.Len(t, s.Calls, tt.calls)
			if tt.name == "http down" {
				require.Equal(t, map[string]int{"r/step/tool-1": 5}, down.seen(), "one key for all attempts")
			}
			if tt.code != "" {
				require.Equal(t, tt.code, r.StatusReason().Code)
				for _, c := range s.Calls {
					require.Equal(t, tt.code, c.Result.Failure.Code)
				}
				return
			}
			require.Equal(t, run.StatusSucceeded, r.Status())
			require.JSONEq(t, tt.output, string(r.Output()))
		})
	}
}

// An answer that a gateway lost leaves the outcome unknown where repeating the
// call would do harm: the run waits for an operator.
func TestUnknownOutcomePauses(t *testing.T) {
	t.Parallel()
	lost := countHits(t, 504)
	for _, agentStep := range []bool{false, true} {
		b := newBoard(t)
		tools := map[string]run.ToolPlan{"pay": toolPlan("pay", map[string]any{"url": lost.url})}
		plan := toolRun("pay", tools)
		if agentStep {
			plan = agentRun(workflow.Node{}, agentPlan("pay"), tools)
		}
		b.queue("r", plan, `{"simulate":{"toolCalls":[{"name":"pay"}]}}`)
		startWorker(t, Config{Tasks: b})
		r := b.await("r", "paused", run.Run.Paused)
		require.Equal(t, run.CodeOutcomeUnknown, r.StatusReason().Code)
	}
}

// signalled is a provider that says when it is called, and answers when told.
type signalled struct {
	called chan string
	answer chan struct{}
}

func newSignalled() *signalled {
	return &signalled{called: make(chan string, 100), answer: make(chan struct{})}
}

func (p *signalled) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	p.called <- r.Key
	select {
	case <-ctx.Done():
		return llm.Response{}, ctx.Err()
	case <-p.answer:
		return llm.Simulated{}.Complete(ctx, r)
	}
}

func (p *signalled) await(t *testing.T) string {
	t.Helper()
	select {
	case key := <-p.called:
		return key
	case <-time.After(60 * time.Second):
		require.FailNow(t, "the model was not called")
		return ""
	}
}

// A drain lets a model call finish, records it, and gives the step back before
// the next; another worker goes on from there.
func TestDrainAtACallBoundary(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	first := newSignalled()
	b.queue("r", agentRun(workflow.Node{}, agentPlan("builtin:noop"), nil), `{"simulate":{"turns":[{"toolCalls":[{"name":"noop"}]},{"text":"done"}]}}`)
	w := startWorker(t, Config{Tasks: b, ID: "first", Models: llm.Models{Simulated: first}})
	require.Equal(t, "r/step/model-1", first.await(t))
	w.stop()
	<-w.draining
	close(first.answer)
	w.end(t)
	s, _ := b.run("r").Step("step")
	require.Equal(t, run.StepReady, s.Status)
	require.Equal(t, 1, s.Attempt, "a step given back does not count as an attempt")
	require.Len(t, s.Calls, 1)
	require.NotNil(t, s.Calls[0].Result, "the paid call is recorded")

	second := &recording{}
	startWorker(t, Config{Tasks: b, ID: "second", Models: llm.Models{Simulated: second}})
	require.Equal(t, run.StatusSucceeded, b.ended("r").Status())
	require.Equal(t, []string{"r/step/model-2"}, second.called())
}

// Calls that do not end are given up when the drain runs out of patience, and
// made again under their key.
func TestDrainGivesUpLongCalls(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	stuck := newSignalled()
	b.queue("r", agentRun(workflow.Node{}, agentPlan(), nil), `{"simulate":{"text":"done"}}`)
	b.queue("s", toolRun("builtin:sleep", nil), `{"duration":"1h"}`)
	w := startWorker(t, Config{Tasks: b, ID: "first", Models: llm.Models{Simulated: stuck}, Drain: 3 * time.Second})
	stuck.await(t)
	b.await("s", "running", func(r run.Run) bool { s, _ := r.Step("step"); return s.Status == run.StepRunning })
	w.end(t)
	for _, id := range []string{"r", "s"} {
		s, _ := b.run(id).Step("step")
		require.Equal(t, run.StepReady, s.Status, id)
	}
	second := &recording{}
	startWorker(t, Config{Tasks: b, ID: "second", Models: llm.Models{Simulated: second}})
	require.Equal(t, run.StatusSucceeded, b.ended("r").Status())
	require.Equal(t, []string{"r/step/model-1"}, second.called())
}

// A heartbeat that is refused, and Cancel, end the work at once.
func TestWorkEndsWithTheRun(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"heartbeat", "signal"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t)
			stuck := newSignalled()
			ended := make(chan struct{})
			b.queue("r", agentRun(workflow.Node{}, agentPlan(), nil), `{}`)
			interval := 5 * time.Millisecond
			if by == "signal" {
				interval = time.Hour
			}
			w := startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: watched{stuck, ended}}, Heartbeat: interval})
			stuck.await(t)
			require.NoError(t, b.do(run.Cancel{RunID: "r", Reason: "enough", By: "u"}))
			if by == "signal" {
				w.Cancel("another")
				w.Cancel("r")
			}
			select {
			case <-ended:
			case <-time.After(60 * time.Second):
				require.FailNow(t, "the call goes on")
			}
			require.Equal(t, run.StatusCancelled, b.run("r").Status())
			require.Eventually(t, func() bool { return w.active.Load() == 0 }, 30*time.Second, time.Millisecond)
		})
	}
}

// watched tells when a call has ended.
type watched struct {
	*signalled
	ended chan struct{}
}

func (p watched) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	defer close(p.ended)
	return p.signalled.Complete(ctx, r)
}

// A long call is kept alive, and what the heartbeats said stays with the step.
func TestHeartbeatsKeepTheLease(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	stuck := newSignalled()
	b.queue("r", agentRun(workflow.Node{}, agentPlan(), nil), `{"simulate":{"text":"done"}}`)
	startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: stuck}, Heartbeat: 5 * time.Millisecond})
	stuck.await(t)
	for range 5 {
		b.pass(15 * time.Second) // beyond a third of the lease: a heartbeat moves it
		now := b.clock()
		b.await("r", "kept alive", func(r run.Run) bool { s, _ := r.Step("step"); return s.LeaseUntil.After(now.Add(20 * time.Second)) })
	}
	close(stuck.answer)
	require.Equal(t, run.StatusSucceeded, b.ended("r").Status())
	s, _ := b.run("r").Step("step")
	require.Equal(t, 1, s.Attempt)
	require.JSONEq(t, `{"turn":1,"toolCalls":0}`, string(s.Details))
}

// An attempt that is out of time is given up by the worker itself.
func TestAttemptOutOfTime(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	plan := toolRun("builtin:sleep", nil)
	plan.Definition.Nodes[0].Timeouts = &workflow.Timeouts{StartToClose: workflow.Duration(30 * time.Millisecond)}
	plan.Definition.Nodes[0].Retry = &workflow.Retry{MaxAttempts: 1}
	plan.Definition.Nodes[0].OnExhausted = "fail"
	b.queue("r", plan, `{"duration":"1h"}`)
	startWorker(t, Config{Tasks: b})
	r := b.ended("r")
	require.Equal(t, run.CodeTimeout, r.StatusReason().Code)
}

type panicking struct{}

func (panicking) Complete(context.Context, llm.Request) (llm.Response, error) { panic("boom") }

func TestPanicIsAFailure(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	plan := agentRun(workflow.Node{Retry: &workflow.Retry{MaxAttempts: 1}, OnExhausted: "fail"}, agentPlan(), nil)
	b.queue("r", plan, `{}`)
	b.queue("s", toolRun("builtin:noop", nil), `{}`)
	startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: panicking{}}})
	require.Equal(t, "WORKER_PANIC", b.ended("r").StatusReason().Code)
	require.Equal(t, run.StatusSucceeded, b.ended("s").Status(), "the worker lives on")
}

// Reports wait for a control plane that cannot take them.
func TestReportsAreRepeated(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.unavailable = 4
	b.queue("r", toolRun("builtin:noop", nil), `{}`)
	startWorker(t, Config{Tasks: b})
	require.Equal(t, run.StatusSucceeded, b.ended("r").Status())
}

func TestNodesOfOtherKinds(t *testing.T) {
	t.Parallel()
	w, err := New(Config{Tasks: newBoard(t), Models: llm.Models{Simulated: llm.Simulated{}}, Tools: localTools(t)})
	require.NoError(t, err)
	out := w.execute(&running{task: Task{Type: "human"}, ctx: t.Context()})
	require.Equal(t, "NODE_UNSUPPORTED", out.failure.Code)
	_, err = New(Config{})
	require.Error(t, err)
}

// The whole of an agent step against the OpenAI format over real HTTP.
func TestAgentOverHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(&llm.Server{APIKey: "k"})
	t.Cleanup(server.Close)
	b := newBoard(t)
	b.queue("r", agentRun(workflow.Node{}, agentPlan("builtin:add"), nil), `{"simulate":{"turns":[
		{"toolCalls":[{"name":"add","arguments":{"a":1,"b":2}}],"usage":{"input":10,"cacheRead":2,"output":3}},
		{"json":{"sum":3},"usage":{"input":20,"output":4,"reasoning":1}}],"faults":[{"call":2,"status":500}]}}`)
	startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: llm.Simulated{}, OpenAI: &llm.OpenAI{BaseURL: server.URL + "/v1", APIKey: "k", Client: http.DefaultClient}}})
	b.await("r", "after the fault", func(r run.Run) bool {
		s, _ := r.Step("step")
		return s.Status == run.StepReady && s.Attempt == 2
	})
	b.pass(time.Minute)
	r := b.ended("r")
	require.Equal(t, run.StatusSucceeded, r.Status())
	require.JSONEq(t, `{"sum":3}`, string(r.Output()))
	require.Equal(t, domain.Usage{Input: 30, CacheRead: 2, Output: 7, Reasoning: 1}, r.Usage())
	s, _ := r.Step("step")
	require.Equal(t, "openai", s.Calls[0].Result.Provider)
}

func TestWorkIsCheap(t *testing.T) { // alone: it counts allocations
	b := newBoard(t)
	w, err := New(Config{Tasks: b, Models: llm.Models{Simulated: llm.Simulated{}}, Tools: localTools(t)})
	require.NoError(t, err)
	w.base = t.Context()
	task := Task{Type: workflow.NodeTool, NodeSpec: workflow.Node{Tool: "builtin:noop"}, Input: json.RawMessage(`{}`), CloseBy: time.Now().Add(time.Hour)}
	allocations := testing.AllocsPerRun(100, func() {
		r := w.start(task)
		out := w.execute(r)
		w.finish(r)
		if out.failure != nil {
			panic(out.failure.Code)
		}
	})
	require.Less(t, allocations, 60.0)
}
