package worker

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/llm"
)

func TestAgentAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, simulate, output string }{
		{"object", `{"json":{"city":"Bonn"}}`, `{"city":"Bonn"}`},
		{"fenced object", "{\"text\":\"```json\\n{\\\"a\\\":1}\\n```\"}", `{"a":1}`},
		{"text", `{"text":"It is Bonn."}`, `{"text":"It is Bonn."}`},
		{"list", `{"json":[1,2]}`, `{"text":"[1,2]"}`},
		{"two blocks", "{\"text\":\"```\\n{}\\n``` and ```\\n{}\\n```\"}", "{\"text\":\"```\\n{}\\n``` and ```\\n{}\\n```\"}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t)
			b.queue("r", agentRun(workflow.Node{}, agentPlan(), nil), `{"simulate":`+tt.simulate+`}`)
			startWorker(t, Config{Tasks: b})
			r := b.ended("r")
			require.Equal(t, run.StatusSucceeded, r.Status())
			require.JSONEq(t, tt.output, string(r.Output()))
		})
	}
}

// One model call after another, with tools, recorded with usage and cost.
func TestAgentUsesTools(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	provider := &recording{}
	description := "adds two numbers"
	add := toolPlan("Add numbers", map[string]any{"builtin": "add"})
	add.Spec.Description = &description
	tools := map[string]run.ToolPlan{"t-add": add, "t-empty": toolPlan("nothing", nil)}
	plan := agentRun(workflow.Node{Prompt: "Add the numbers."}, agentPlan("t-add", "t-empty", "builtin:echo"), tools)
	b.queue("r", plan, `{"simulate":{"turns":[
		{"toolCalls":[{"name":"Add_numbers","arguments":{"a":1,"b":2}},{"name":"echo","arguments":{"x":1}}],"usage":{"input":1000,"output":10}},
		{"text":"three","usage":{"input":10,"cacheRead":1000,"output":5,"reasoning":5}}]}}`)
	startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: provider}})
	r := b.ended("r")
	require.Equal(t, run.StatusSucceeded, r.Status())
	require.JSONEq(t, `{"text":"three"}`, string(r.Output()))
	require.Equal(t, domain.Usage{Input: 1010, CacheRead: 1000, Output: 15, Reasoning: 5}, r.Usage())
	require.Equal(t, domain.Nanos(1010*2500+1000*1250+20*10_000), r.Cost())

	s, _ := r.Step("step")
	require.Len(t, s.Calls, 4)
	var kinds []string
	for _, c := range s.Calls {
		kinds = append(kinds, fmt.Sprintf("%d %s %s %s %s", c.Seq, c.Kind, c.Name, c.Tool, c.Key))
	}
	require.Equal(t, []string{
		"1 model gpt-4o  r/step/model-1", "2 tool Add numbers t-add r/step/tool-1", "3 tool echo builtin:echo r/step/tool-2", "4 model gpt-4o  r/step/model-2",
	}, kinds)
	require.Equal(t, "simulated", s.Calls[0].Result.Provider)
	require.Equal(t, "genai-prices@0.1.8:openai/gpt-4o", s.Calls[0].Result.RateVersion)
	require.JSONEq(t, `{"result":3}`, string(s.Calls[1].Result.Response))

	require.Len(t, provider.asks, 2)
	first, second := provider.asks[0], provider.asks[1]
	require.Equal(t, []llm.Tool{
		{Name: "Add_numbers", Description: description, Parameters: first.Tools[0].Parameters}, {Name: "echo"},
	}, first.Tools, "a tool that cannot be called is not offered")
	require.InDelta(t, 7, *first.Temperature, 0, "as the agent has it")
	require.Equal(t, llm.Message{Role: llm.System, Content: "You help."}, first.Messages[0])
	require.Contains(t, first.Messages[1].Content, "Add the numbers.\n\nInput:\n{\"simulate\"")
	require.Equal(t, []llm.Message{
		{Role: llm.ToolRole, ToolCallID: "call_1_1", Content: `{"result":3}`}, {Role: llm.ToolRole, ToolCallID: "call_1_2", Content: `{"x":1}`},
	}, second.Messages[3:])
}

func TestAgentIsToldOfFailures(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	provider := &recording{}
	tools := map[string]run.ToolPlan{
		"add": toolPlan("add", map[string]any{"builtin": "add"}), "fail": toolPlan("fail", map[string]any{"builtin": "fail"}), "empty": toolPlan("empty", nil),
	}
	b.queue("r", agentRun(workflow.Node{}, agentPlan("add", "fail", "empty"), tools), `{"simulate":{"turns":[
		{"toolCalls":[{"name":"nobody"},{"name":"empty"},{"name":"add","arguments":{"a":1}},{"name":"add","arguments":"{"}]},
		{"toolCalls":[{"name":"add","arguments":{"a":1,"b":1}},{"name":"fail","arguments":{"code":"OWN","message":"No."}}]},
		{"text":"done"}]}}`)
	startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: provider}})
	r := b.ended("r")
	require.Equal(t, run.StatusSucceeded, r.Status())
	last := provider.asks[2].Messages
	var told []string
	for _, m := range last {
		if m.Role == llm.ToolRole {
			told = append(told, m.Content)
		}
	}
	require.Equal(t, []string{
		`{"error":{"code":"TOOL_UNKNOWN","message":"There is no tool of this name."}}`,
		`{"error":{"code":"TOOL_NOT_CONFIGURED","message":"The tool \"empty\" has nothing to call: its configuration needs a url or the name of a builtin."}}`,
		`{"error":{"code":"TOOL_ARGUMENTS_INVALID","message":"The arguments do not fit the tool's parameters: at '/': missing property 'b'."}}`,
		`{"error":{"code":"TOOL_ARGUMENTS_INVALID","message":"The arguments are not valid JSON."}}`,
		`{"result":2}`,
		`{"error":{"code":"OWN","message":"No."}}`,
	}, told)
	s, _ := r.Step("step")
	require.Len(t, s.Calls, 5, "what was not called is not recorded")
}

func TestAgentLimits(t *testing.T) {
	t.Parallel()
	const again = `{"simulate":{"turns":[{"toolCalls":[{"name":"noop"}],"usage":{"input":1000,"output":100}}]}}`
	const failing = `{"simulate":{"turns":[{"toolCalls":[{"name":"fail"}]}]}}`
	const busy = `{"simulate":{"turns":[{"toolCalls":[{"name":"echo","arguments":{"n":1}},{"name":"echo","arguments":{"n":2}},{"name":"echo","arguments":{"n":3}}]}]}}`
	tests := []struct {
		name, input, code string
		limits            *workflow.AgentLimits
		calls             int
	}{
		{"turns", again, "AGENT_TURN_LIMIT", &workflow.AgentLimits{MaxTurns: 2, MaxIdenticalCalls: 100}, 4},
		{"tool calls", busy, "AGENT_TOOL_CALL_LIMIT", &workflow.AgentLimits{MaxToolCalls: 5, MaxIdenticalCalls: 100}, 7},
		{"tokens", again, "AGENT_TOKEN_LIMIT", &workflow.AgentLimits{MaxTokens: 1100, MaxIdenticalCalls: 100}, 2},
		{"cost", again, "AGENT_COST_LIMIT", &workflow.AgentLimits{MaxCostNanos: 7_000_000, MaxIdenticalCalls: 100}, 4},
		{"identical calls", again, "AGENT_LOOP_DETECTED", nil, 7},
		{"errors in a row", failing, "AGENT_ERRORS", &workflow.AgentLimits{MaxConsecutiveErrors: 2}, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t)
			plan := agentRun(workflow.Node{Limits: tt.limits, OnExhausted: "fail"}, agentPlan("builtin:noop", "builtin:fail", "builtin:echo"), nil)
			b.queue("r", plan, tt.input)
			startWorker(t, Config{Tasks: b})
			r := b.ended("r")
			require.Equal(t, run.StatusFailed, r.Status())
			require.Equal(t, tt.code, r.StatusReason().Code)
			s, _ := r.Step("step")
			require.Len(t, s.Calls, tt.calls)
			require.Equal(t, 1, s.Attempt, "a limit is not tried again")
		})
	}
}

func TestAgentOutputSchema(t *testing.T) {
	t.Parallel()
	schema := `{"outputSchema":{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}}`
	tests := []struct{ name, input, output, code string }{
		{"fits", `{"simulate":{"json":{"n":1}}}`, `{"n":1}`, ""},
		{"fits at the second try", `{"simulate":{"turns":[{"text":"one"},{"json":{"n":"1"}},{"json":{"n":1}}]}}`, `{"n":1}`, ""},
		{"never fits", `{"simulate":{"text":"one"}}`, "", "AGENT_ERRORS"},
		{"cut off", `{"simulate":{"text":"{\"n\"","finishReason":"length"}}`, "", "MODEL_ANSWER_CUT"},
		{"unscripted", `{"question":"how many?"}`, `{"n":1}`, ""},
		{"withheld", `{"simulate":{"text":"","finishReason":"content_filter"}}`, "", "MODEL_CONTENT_FILTERED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t)
			a := agentPlan()
			a.Spec.Metadata = json.RawMessage(schema)
			b.queue("r", agentRun(workflow.Node{OnExhausted: "fail"}, a, nil), tt.input)
			startWorker(t, Config{Tasks: b})
			r := b.ended("r")
			if tt.code != "" {
				require.Equal(t, tt.code, r.StatusReason().Code)
				return
			}
			require.Equal(t, run.StatusSucceeded, r.Status())
			require.JSONEq(t, tt.output, string(r.Output()))
		})
	}
}

// A model that fails is tried again by the step's retry policy, and the failed
// calls stay on record.
func TestAgentModelFaults(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	provider := &recording{}
	b.queue("r", agentRun(workflow.Node{}, agentPlan("builtin:noop"), nil), `{"simulate":{"turns":[{"toolCalls":[{"name":"noop"}]},{"text":"done"}],
		"faults":[{"call":2,"status":429,"retryAfter":"20s"},{"call":3,"kind":"timeout"}]}}`)
	startWorker(t, Config{Tasks: b, Models: llm.Models{Simulated: provider}})
	waiting := func(attempt int) func(run.Run) bool {
		return func(r run.Run) bool {
			s, _ := r.Step("step")
			return s.Status == run.StepReady && s.Attempt == attempt
		}
	}
	r := b.await("r", "waiting for attempt 2", waiting(2))
	s, _ := r.Step("step")
	require.Equal(t, "MODEL_HTTP_429", s.Failure.Code)
	require.Equal(t, b.clock().Add(20*time.Second), s.NotBefore, "the provider's Retry-After is honoured")
	b.pass(20 * time.Second)
	b.await("r", "waiting for attempt 3", waiting(3))
	b.pass(10 * time.Second)
	r = b.ended("r")
	require.Equal(t, run.StatusSucceeded, r.Status())
	require.Equal(t, []string{"r/step/model-1", "r/step/model-2", "r/step/model-3", "r/step/model-4"}, provider.called())
	s, _ = r.Step("step")
	var ends []string
	for _, c := range s.Calls {
		end := c.Kind + " ok"
		if c.Result.Failure != nil {
			end = c.Kind + " " + c.Result.Failure.Code
		}
		ends = append(ends, end)
	}
	require.Equal(t, []string{"model ok", "tool ok", "model MODEL_HTTP_429", "model MODEL_TIMEOUT", "model ok"}, ends)
}

func TestAgentFailuresThatAreFinal(t *testing.T) {
	t.Parallel()
	without := agentRun(workflow.Node{OnExhausted: "fail"}, agentPlan(), nil)
	without.Agents = nil
	broken := agentPlan()
	broken.Spec.Metadata = json.RawMessage(`{"outputSchema":{"type":5}}`)
	tests := map[string]struct {
		plan        run.Plan
		input, code string
	}{
		"credentials":   {agentRun(workflow.Node{OnExhausted: "fail"}, agentPlan(), nil), `{"simulate":{"faults":[{"call":1,"status":401}]}}`, "MODEL_HTTP_401"},
		"no agent":      {without, `{}`, "AGENT_MISSING"},
		"broken schema": {agentRun(workflow.Node{OnExhausted: "fail"}, broken, nil), `{}`, "AGENT_CONFIG_INVALID"},
		"directive":     {agentRun(workflow.Node{OnExhausted: "fail"}, agentPlan(), nil), `{"simulate":{"typo":1}}`, "MODEL_HTTP_400"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t)
			b.queue("r", tt.plan, tt.input)
			startWorker(t, Config{Tasks: b})
			r := b.ended("r")
			require.Equal(t, run.StatusFailed, r.Status())
			require.Equal(t, tt.code, r.StatusReason().Code)
		})
	}
}

func TestInstruction(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ prompt, input, want string }{
		{"", `"Just do it."`, "Just do it."}, {"", `{"a": 1}`, `{"a":1}`}, {"P", `{}`, "P"}, {"P", `null`, "P"}, {"", ``, "Begin."},
		{" P ", `[1, 2]`, "P\n\nInput:\n[1,2]"},
	} {
		got := instruction(Task{Input: json.RawMessage(tt.input), NodeSpec: workflow.Node{Prompt: tt.prompt}})
		require.Equal(t, tt.want, got)
	}
}
