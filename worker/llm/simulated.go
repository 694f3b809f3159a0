package llm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SimulatedName is the Provider of responses of the simulated provider, and
// the name by which an agent asks for it.
const SimulatedName = "simulated"

// Simulated answers without a network. The answer depends on nothing but the
// request: the script in it (see Script), or a fixed summary of its last user
// message. It keeps no state, so the same request always has the same answer,
// on any node and after any restart.
type Simulated struct{}

// Complete makes one call. It waits for the script's latency, or until ctx
// ends.
func (Simulated) Complete(ctx context.Context, r Request) (Response, error) {
	answer, fault, err := simulate(r)
	if err != nil {
		return Response{}, err
	}
	if err := wait(ctx, answer.latency); err != nil {
		return Response{}, err
	}
	if fault == nil {
		return answer.Response, nil
	}
	if e := fault.err(); e != nil {
		return Response{}, e
	}
	// The same path as over HTTP, so that both classify alike.
	status, header, body := fault.answer()
	return Response{}, (&OpenAI{}).statusError(&http.Response{StatusCode: status, Header: header}, body)
}

type simulation struct {
	Response
	latency time.Duration
}

func simulate(r Request) (simulation, *Fault, error) {
	script, err := findScript(r.Messages)
	if err != nil {
		return simulation{}, nil, err
	}
	turn := 1
	for _, m := range r.Messages {
		if m.Role == Assistant {
			turn++
		}
	}
	s := simulation{Response: Response{Provider: SimulatedName, Model: r.Model, FinishReason: FinishStop, Message: Message{Role: Assistant}}}
	if script == nil {
		s.Message.Content = defaultAnswer(r)
		s.Usage = estimateUsage(r.Messages, r.Tools, s.Message)
		return s, nil, nil
	}
	t := script.turn(turn)
	s.latency = time.Duration(t.Latency)
	if f := script.fault(callNumber(r.Key, turn)); f != nil {
		return s, f, nil
	}
	s.Message.Content = t.Text
	if len(t.JSON) > 0 {
		s.Message.Content = compact(t.JSON)
	}
	for i, c := range t.ToolCalls {
		s.Message.ToolCalls = append(s.Message.ToolCalls, ToolCall{ID: fmt.Sprintf("call_%d_%d", turn, i+1), Name: c.Name, Arguments: c.text()})
	}
	if len(t.ToolCalls) > 0 {
		s.FinishReason = FinishToolCalls
	} else if s.Message.Content == "" {
		s.Message.Content = defaultAnswer(r)
	}
	s.FinishReason = cmp.Or(t.FinishReason, s.FinishReason)
	s.Usage = estimateUsage(r.Messages, r.Tools, s.Message)
	if t.Usage != nil {
		s.Usage = *t.Usage
	}
	return s, nil, nil
}

func (c ScriptToolCall) text() string {
	var text string
	switch {
	case len(c.Arguments) == 0:
		return "{}"
	case json.Unmarshal(c.Arguments, &text) == nil:
		return text
	default:
		return compact(c.Arguments)
	}
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

var keyNumber = regexp.MustCompile(`/model-([1-9]\d{0,8})$`)

func callNumber(key string, turn int) int {
	if m := keyNumber.FindStringSubmatch(key); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return turn
}

// defaultAnswer is an answer of the schema asked for, or a sentence about the
// last user message and the tool results since.
func defaultAnswer(r Request) string {
	if len(r.Schema) > 0 {
		return string(example(r.Schema, 0))
	}
	var ask string
	results := 0
	for _, m := range r.Messages {
		switch m.Role {
		case User:
			ask, results = m.Content, 0
		case ToolRole:
			results++
		}
	}
	ask = strings.Join(strings.Fields(ask), " ")
	const most = 200
	if len(ask) > most {
		ask = strings.ToValidUTF8(ask[:most], "") + "…"
	}
	switch {
	case ask == "":
		return "Simulated answer: there was nothing to do."
	case results > 0:
		return fmt.Sprintf("Simulated answer after %d tool results to: %s", results, ask)
	default:
		return "Simulated answer to: " + ask
	}
}

// example returns the smallest value that fits a JSON Schema made of types,
// required properties, enums and constants. Anything else becomes null.
func example(schema json.RawMessage, depth int) json.RawMessage {
	var s struct {
		Type       json.RawMessage            `json:"type"`
		Const      json.RawMessage            `json:"const"`
		Enum       []json.RawMessage          `json:"enum"`
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
		Minimum    *json.Number               `json:"minimum"`
	}
	null := json.RawMessage("null")
	if json.Unmarshal(schema, &s) != nil || depth == 16 {
		return null
	}
	if s.Const != nil {
		return s.Const
	}
	if len(s.Enum) > 0 {
		return s.Enum[0]
	}
	var types []string
	var one string
	if json.Unmarshal(s.Type, &one) == nil {
		types = []string{one}
	} else if json.Unmarshal(s.Type, &types) != nil && len(s.Properties) > 0 {
		types = []string{"object"}
	}
	switch {
	case slices.Contains(types, "object"):
		object := map[string]json.RawMessage{}
		for _, name := range s.Required {
			object[name] = example(s.Properties[name], depth+1)
		}
		data, err := json.Marshal(object)
		if err != nil {
			return null
		}
		return data
	case slices.Contains(types, "string"):
		return json.RawMessage(`"simulated"`)
	case slices.Contains(types, "integer"), slices.Contains(types, "number"):
		if s.Minimum != nil {
			return json.RawMessage(s.Minimum.String())
		}
		return json.RawMessage("1")
	case slices.Contains(types, "boolean"):
		return json.RawMessage("true")
	case slices.Contains(types, "array"):
		return json.RawMessage("[]")
	default:
		return null
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
