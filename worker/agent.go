package worker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/llm"
	"github.com/sparkops/control-plane/worker/tool"
)

var errMismatch = errors.New("the recorded calls are not those of this step")

// loop is one attempt of an agent step: model call, tool calls, and again,
// until the model answers without asking for a tool.
type loop struct {
	w        *Worker
	r        *running
	j        *journal
	spec     agentSpec
	provider llm.Provider
	box      toolbox
	limits   workflow.AgentLimits

	messages []llm.Message
	told     int // messages recorded with earlier model calls

	models    int // calls, failed ones too: they number the keys
	turns     int
	toolCalls int
	tokens    int64
	cost      domain.Nanos
	errors    int            // in a row
	same      map[string]int // calls by tool and arguments
}

func (w *Worker) agentNode(r *running) outcome {
	t := r.task
	if t.Agent == nil {
		return failed("AGENT_MISSING", "The step has no agent; name one in the node or in the run.")
	}
	spec := readAgent(t.Agent)
	if err := tool.CheckSchema(spec.OutputSchema); err != nil {
		return failed("AGENT_CONFIG_INVALID", "The outputSchema of the agent's metadata is not a valid JSON Schema.")
	}
	l := &loop{
		w: w, r: r, j: w.journal(r), spec: spec, provider: w.Models.For(spec.Provider),
		box: w.toolbox(t, spec.Tools), limits: limits(t.NodeSpec.Limits), same: map[string]int{},
	}
	if spec.PromptSummary != "" {
		l.messages = append(l.messages, llm.Message{Role: llm.System, Content: spec.PromptSummary})
	}
	l.messages = append(l.messages, llm.Message{Role: llm.User, Content: instruction(t)})
	for {
		if out, ended := l.turn(); ended {
			return out
		}
	}
}

// limits fills in the defaults of the bounds that have one.
func limits(l *workflow.AgentLimits) workflow.AgentLimits {
	var out workflow.AgentLimits
	if l != nil {
		out = *l
	}
	out.MaxTurns = cmp.Or(max(out.MaxTurns, 0), 50)
	out.MaxToolCalls = cmp.Or(max(out.MaxToolCalls, 0), 50)
	out.MaxIdenticalCalls = cmp.Or(max(out.MaxIdenticalCalls, 0), 3)
	out.MaxConsecutiveErrors = cmp.Or(max(out.MaxConsecutiveErrors, 0), 5)
	return out
}

// instruction is the user message: the node's prompt and the step's input.
func instruction(t Task) string {
	input := string(bytes.TrimSpace(t.Input))
	var text string
	var compact bytes.Buffer
	switch {
	case input == "null" || input == "{}":
		input = ""
	case json.Unmarshal(t.Input, &text) == nil:
		input = text
	case json.Compact(&compact, t.Input) == nil:
		input = compact.String()
	}
	switch prompt := strings.TrimSpace(t.NodeSpec.Prompt); {
	case prompt == "" && input == "":
		return "Begin."
	case prompt == "":
		return input
	case input == "":
		return prompt
	default:
		return prompt + "\n\nInput:\n" + input
	}
}

// turn makes one model call and the tool calls it asks for.
func (l *loop) turn() (outcome, bool) {
	if out, reached := l.beforeModel(); reached {
		return out, true
	}
	response, out, ended := l.askModel()
	if ended || response == nil {
		return out, ended
	}
	l.turns++
	l.messages = append(l.messages, response.Message)
	if response.FinishReason == llm.FinishFilter {
		return failed("MODEL_CONTENT_FILTERED", "The model provider withheld the answer."), true
	}
	if len(response.Message.ToolCalls) == 0 {
		return l.answer(*response)
	}
	for _, c := range response.Message.ToolCalls {
		if out, ended := l.useTool(c); ended {
			return out, true
		}
	}
	return outcome{}, false
}

func (l *loop) beforeModel() (outcome, bool) {
	switch {
	case l.turns >= l.limits.MaxTurns:
		return failed("AGENT_TURN_LIMIT", fmt.Sprintf("The agent made %d model calls without coming to an answer.", l.turns)), true
	case l.limits.MaxTokens > 0 && l.tokens >= l.limits.MaxTokens:
		return failed("AGENT_TOKEN_LIMIT", fmt.Sprintf("The agent used %d tokens; its limit is %d.", l.tokens, l.limits.MaxTokens)), true
	case l.limits.MaxCostNanos > 0 && int64(l.cost) >= l.limits.MaxCostNanos:
		return failed("AGENT_COST_LIMIT", fmt.Sprintf("The agent's model calls cost %.6f USD; its limit is %.6f USD.", l.cost.USD(), domain.Nanos(l.limits.MaxCostNanos).USD())), true
	case l.errors >= l.limits.MaxConsecutiveErrors:
		return failed("AGENT_ERRORS", fmt.Sprintf("%d calls in a row failed.", l.errors)), true
	default:
		return outcome{}, false
	}
}

// askModel makes or replays one model call. A nil response without an end is
// a failed call of an earlier attempt: the next one takes its place.
func (l *loop) askModel() (*llm.Response, outcome, bool) {
	l.models++
	intent := run.Call{Kind: run.CallModel, Name: clip(cmp.Or(l.spec.Model, "default"), 255), Key: callKey(l.r.task, run.CallModel, l.models), Request: l.request()}
	result, replayed, err := l.j.replay(intent)
	if err != nil {
		return nil, failed("REPLAY_MISMATCH", "The recorded calls of the step do not fit its plan."), true
	}
	if !replayed {
		var out outcome
		if result, out, err = l.callModel(intent); err != nil {
			return nil, l.r.failure(err), true
		}
		if result.Failure != nil && out.failure != nil {
			return nil, out, true
		}
	}
	l.told = len(l.messages)
	l.tokens += result.Usage.Prompt() + result.Usage.Completion()
	l.cost = l.cost.Add(result.CostNanos)
	if result.Failure != nil {
		return nil, outcome{}, false
	}
	var response llm.Response
	if err := json.Unmarshal(result.Response, &response); err != nil {
		return nil, failed("REPLAY_MISMATCH", "The recorded answer of the model cannot be read."), true
	}
	return &response, outcome{}, false
}

// callModel makes one model call and records it. A failure of the model ends
// the attempt: whether and when it is tried again is the step's retry policy.
func (l *loop) callModel(intent run.Call) (run.CallResult, outcome, error) {
	seq, key, err := l.j.begin(intent)
	if err != nil {
		return run.CallResult{}, outcome{}, err
	}
	l.progress()
	temperature := l.spec.Temperature
	request := llm.Request{
		Model: l.spec.Model, Messages: l.messages, Tools: l.box.offered, Temperature: &temperature, Schema: l.spec.OutputSchema, Key: key,
	}
	if l.limits.MaxTokens > 0 {
		request.MaxTokens = l.limits.MaxTokens - l.tokens
	}
	started := l.w.Clock()
	var response llm.Response
	_, err = l.w.timed(run.CallModel, func() (_ json.RawMessage, err error) {
		response, err = l.provider.Complete(l.r.ctx, request)
		return nil, err
	})
	duration := l.w.Clock().Sub(started)
	if err != nil {
		var e *llm.Error
		if !errors.As(err, &e) {
			return run.CallResult{}, outcome{}, err // given up: the call stays open and is made again
		}
		failure := &run.Failure{Code: e.Code, Message: e.Message}
		result := run.CallResult{Failure: failure, Duration: duration}
		return result, outcome{failure: failure, retryable: e.Retryable, retryAfter: e.RetryAfter, cause: e.Cause}, l.j.finish(seq, result)
	}
	result := run.CallResult{Provider: response.Provider, Usage: response.Usage, Duration: duration}
	result.CostNanos, result.RateVersion = l.price(response, started)
	if result.Response, err = json.Marshal(response); err != nil {
		return run.CallResult{}, outcome{}, err
	}
	l.w.metrics.spent(result.Usage, result.CostNanos)
	var out outcome
	if len(result.Response) > run.MaxPayload {
		result.Response = nil
		out = failed("MODEL_RESPONSE_TOO_LARGE", fmt.Sprintf("The model's answer is larger than %d KiB.", run.MaxPayload>>10))
		result.Failure = out.failure
	}
	return result, out, l.j.finish(seq, result)
}

// answer ends the loop with the model's last message.
func (l *loop) answer(response llm.Response) (outcome, bool) {
	text := response.Message.Content
	object, isObject := jsonObject(text)
	if schema := l.spec.OutputSchema; len(schema) > 0 {
		if response.FinishReason == llm.FinishLength {
			return failed("MODEL_ANSWER_CUT", "The model's answer was cut off by a token limit."), true
		}
		value := json.RawMessage(unfence(text))
		var invalid *tool.Error
		if err := tool.CheckArguments(schema, value); errors.As(err, &invalid) {
			l.errors++
			l.messages = append(l.messages, llm.Message{Role: llm.User, Content: "Answer again, with JSON of the schema asked for. " + strings.Replace(invalid.Message, "The arguments do not fit the tool's parameters", "Wrong was", 1)})
			return outcome{}, false
		}
		if !isObject {
			wrapped, _ := json.Marshal(map[string]json.RawMessage{"value": value}) // valid JSON, as just checked
			return outcome{output: wrapped}, true
		}
	}
	if isObject {
		return outcome{output: object}, true
	}
	wrapped, _ := json.Marshal(map[string]string{"text": text}) // a string cannot fail
	return outcome{output: wrapped}, true
}

func jsonObject(text string) (json.RawMessage, bool) {
	var object map[string]json.RawMessage
	raw := []byte(unfence(text))
	if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &object) != nil {
		return nil, false
	}
	return raw, true
}

// unfence takes an answer out of the code block many models wrap JSON in.
func unfence(text string) string {
	text = strings.TrimSpace(text)
	inner, ok := strings.CutPrefix(text, "```")
	if !ok {
		return text
	}
	inner, ok = strings.CutSuffix(inner, "```")
	if !ok || strings.Contains(inner, "```") {
		return text
	}
	return strings.TrimSpace(strings.TrimPrefix(inner, "json"))
}

// progress tells what the next heartbeat reports.
func (l *loop) progress() {
	raw := json.RawMessage(fmt.Sprintf(`{"turn":%d,"toolCalls":%d}`, l.turns+1, l.toolCalls))
	l.r.details.Store(&raw)
}
