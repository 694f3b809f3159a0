package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/worker/llm"
	"github.com/sparkops/control-plane/worker/tool"
)

// agentSpec is an agent's definition with what its metadata says to the
// worker: "outputSchema", a JSON Schema of the final answer.
type agentSpec struct {
	agent.Spec
	OutputSchema json.RawMessage
}

func readAgent(plan *run.AgentPlan) agentSpec {
	s := agentSpec{Spec: plan.Spec}
	var metadata struct {
		OutputSchema json.RawMessage `json:"outputSchema"`
	}
	if len(plan.Spec.Metadata) > 0 && json.Unmarshal(plan.Spec.Metadata, &metadata) == nil && bytes.HasPrefix(bytes.TrimSpace(metadata.OutputSchema), []byte("{")) {
		s.OutputSchema = metadata.OutputSchema
	}
	return s
}

// toolbox is what an agent may call, by the names its model knows.
type toolbox struct {
	offered []llm.Tool
	byName  map[string]boxed
}

type boxed struct {
	id   string
	name string
	tool tool.Tool // nil: err says why it cannot be called
	err  error
}

func (w *Worker) toolbox(t Task, ids []string) toolbox {
	box := toolbox{byName: map[string]boxed{}}
	for _, id := range ids {
		called, err := w.Tools.Resolve(id, t.Tools)
		plan, planned := t.Tools[id]
		title, description := strings.TrimPrefix(id, tool.BuiltinPrefix), ""
		if planned {
			title = plan.Spec.Name
			if plan.Spec.Description != nil {
				description = *plan.Spec.Description
			}
		}
		name := box.free(functionName(title))
		box.byName[name] = boxed{id: id, name: clip(title, 255), tool: called, err: err}
		if err == nil { // what cannot be called is not offered
			box.offered = append(box.offered, llm.Tool{Name: name, Description: description, Parameters: called.Parameters()})
		}
	}
	return box
}

// functionName makes a name of the form providers accept.
func functionName(title string) string {
	name := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
			return c
		default:
			return '_'
		}
	}, title)
	if name = clip(name, 60); name == "" {
		return "tool"
	}
	return name
}

func (b toolbox) free(name string) string {
	free := name
	for n := 2; ; n++ {
		if _, taken := b.byName[free]; !taken {
			return free
		}
		free = fmt.Sprintf("%s_%d", name, n)
	}
}

// find returns what a model means by a name; tools are also found by their
// own name and id.
func (b toolbox) find(name string) (boxed, bool) {
	if found, ok := b.byName[name]; ok {
		return found, true
	}
	if found, ok := b.byName[functionName(strings.TrimPrefix(name, tool.BuiltinPrefix))]; ok {
		return found, true
	}
	for _, found := range b.byName {
		if found.id == name {
			return found, true
		}
	}
	return boxed{}, false
}

// shownAtMost is how much of a tool's result a model is shown.
const shownAtMost = 64 << 10

// useTool carries out one tool call of the model, or replays it, and adds the
// result to the conversation. Failures are told to the model, which may try
// something else; only limits and unknown outcomes end the step.
func (l *loop) useTool(c llm.ToolCall) (outcome, bool) {
	if l.toolCalls++; l.toolCalls > l.limits.MaxToolCalls {
		return failed("AGENT_TOOL_CALL_LIMIT", fmt.Sprintf("The agent asked for more than %d tool calls.", l.limits.MaxToolCalls)), true
	}
	arguments := json.RawMessage(strings.TrimSpace(c.Arguments))
	if len(arguments) == 0 {
		arguments = json.RawMessage(`{}`)
	}
	id := c.Name + "\x00" + canonical(arguments)
	if l.same[id]++; l.same[id] > l.limits.MaxIdenticalCalls {
		return failed("AGENT_LOOP_DETECTED", fmt.Sprintf("The agent called the tool %q more than %d times with the same arguments.", clip(c.Name, 100), l.limits.MaxIdenticalCalls)), true
	}
	found, ok := l.box.find(c.Name)
	var refused *tool.Error
	switch {
	case !ok:
		refused = &tool.Error{Code: "TOOL_UNKNOWN", Message: "There is no tool of this name."}
	case found.err != nil:
		errors.As(found.err, &refused)
	default:
		errors.As(tool.CheckArguments(found.tool.Parameters(), arguments), &refused)
	}
	if refused != nil { // nothing was called, so nothing is recorded
		l.tellFailure(c, run.Failure{Code: refused.Code, Message: refused.Message})
		return outcome{}, false
	}
	result, err := l.callTool(found, arguments)
	if err != nil {
		return l.r.failure(err), true
	}
	if result.Failure != nil {
		l.tellFailure(c, *result.Failure)
		return outcome{}, false
	}
	l.errors = 0
	l.tell(c, string(result.Response))
	return outcome{}, false
}

// callTool makes or replays one call. Its error is that of a call without a
// known result.
func (l *loop) callTool(found boxed, arguments json.RawMessage) (run.CallResult, error) {
	intent := run.Call{Kind: run.CallTool, Name: found.name, Tool: found.id, Key: callKey(l.r.task, run.CallTool, l.toolCalls), Request: arguments}
	result, replayed, err := l.j.replay(intent)
	if err != nil {
		return result, &tool.Error{Code: "REPLAY_MISMATCH", Message: "The recorded calls of the step do not fit its plan.", Cause: err}
	}
	if replayed {
		return result, nil
	}
	seq, key, err := l.j.begin(intent)
	if err != nil {
		return result, err
	}
	started := l.w.Clock()
	response, err := l.w.timed(run.CallTool, func() (json.RawMessage, error) {
		return found.tool.Call(l.r.ctx, tool.Call{Key: key, Arguments: arguments, Attempt: l.r.task.Attempt})
	})
	result = run.CallResult{Response: response, Duration: l.w.Clock().Sub(started)}
	if err != nil {
		failure := known(l.r.task, found.id, err)
		if failure == nil {
			return result, err
		}
		l.w.Logger.InfoContext(l.r.ctx, "tool call failed", "run", l.r.task.RunID, "step", l.r.task.Step, "code", failure.Code, "error", err)
		result = run.CallResult{Failure: failure, Duration: result.Duration}
	} else if len(response) > run.MaxPayload {
		result = run.CallResult{Failure: &run.Failure{Code: "RESPONSE_TOO_LARGE", Message: "The tool's answer is too large."}, Duration: result.Duration}
	}
	return result, l.j.finish(seq, result)
}

func (l *loop) tellFailure(c llm.ToolCall, f run.Failure) {
	l.errors++
	text, _ := json.Marshal(map[string]run.Failure{"error": f}) // details are valid JSON
	l.tell(c, string(text))
}

func (l *loop) tell(c llm.ToolCall, text string) {
	if len(text) > shownAtMost {
		text = clip(text, shownAtMost) + fmt.Sprintf("\n[cut off; %d bytes in all]", len(text))
	}
	l.messages = append(l.messages, llm.Message{Role: llm.ToolRole, ToolCallID: c.ID, Content: text})
}

// canonical writes JSON so that equal values are equal texts.
func canonical(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return string(raw)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(text)
}

// request is what is recorded of a model call: the messages since the last
// one, for the whole conversation would grow with its square.
func (l *loop) request() json.RawMessage {
	names := make([]string, 0, len(l.box.offered))
	for _, t := range l.box.offered {
		names = append(names, t.Name)
	}
	raw, err := json.Marshal(struct {
		Messages    []llm.Message `json:"messages"`
		Earlier     int           `json:"earlier,omitempty"`
		Tools       []string      `json:"tools,omitempty"`
		Temperature float64       `json:"temperature"`
	}{l.messages[l.told:], l.told, names, llm.Temperature(l.spec.Temperature)})
	if err != nil {
		return nil
	}
	return raw
}

// price asks for the agent's own provider and model, then for the names the
// provider answered with.
func (l *loop) price(r llm.Response, at time.Time) (domain.Nanos, string) {
	if cost, version, known := llm.Price(l.spec.Provider, l.spec.Model, at, r.Usage); known {
		return cost, version
	}
	cost, version, _ := llm.Price(l.spec.Provider, r.Model, at, r.Usage)
	return cost, version
}
