package llm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Script tells the simulated provider what to do. It travels in the
// conversation itself, as the value of the key "simulate" of a JSON object
// anywhere in a system or user message, so a run's input or a node's prompt can
// hold it. The last one found counts.
//
// Turns are played in order: the answer to a conversation with n assistant
// messages is turn n+1, and the last turn repeats. Text, JSON, ToolCalls,
// FinishReason and Usage beside Turns are a shorthand for a single turn.
type Script struct {
	Turns []Turn `json:"turns,omitempty"`
	Turn         // shorthand

	// Faults make calls fail. They are counted by model call of the step (see
	// Request.Key), so a call that failed and was tried again is a new one.
	Faults []Fault `json:"faults,omitempty"`
}

// Turn is one answer.
type Turn struct {
	Text         string           `json:"text,omitempty"`
	JSON         json.RawMessage  `json:"json,omitempty"` // answered as text, in place of Text
	ToolCalls    []ScriptToolCall `json:"toolCalls,omitempty"`
	FinishReason string           `json:"finishReason,omitempty"`
	Latency      scriptDuration   `json:"latency,omitempty"`
	Usage        *domain.Usage    `json:"usage,omitempty"` // absent: from the length of the texts
}

// ScriptToolCall is a tool call of a turn. Arguments is a JSON object, or a
// string that is sent as it is, for arguments that do not parse.
type ScriptToolCall struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
}

// Fault makes the calls from Call on fail, Times of them (1 where absent).
type Fault struct {
	Call       int            `json:"call"` // from 1
	Times      int            `json:"times,omitempty"`
	Status     int            `json:"status,omitempty"` // HTTP status, 500 where absent
	Code       string         `json:"code,omitempty"`   // of the error object
	Message    string         `json:"message,omitempty"`
	RetryAfter scriptDuration `json:"retryAfter,omitempty"`

	// Kind is "" or "status" for an error answer, "timeout" for no answer at
	// all, "disconnect" for a broken connection, "malformed" for an answer
	// that does not parse.
	Kind string `json:"kind,omitempty"`
}

// scriptDuration is "200ms" or a number of seconds, at most ten minutes.
type scriptDuration time.Duration

// UnmarshalJSON reads both forms.
func (d *scriptDuration) UnmarshalJSON(data []byte) error {
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		*d = scriptDuration(min(seconds, 600) * float64(time.Second))
	} else {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		parsed, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration", text)
		}
		*d = scriptDuration(parsed)
	}
	*d = min(max(*d, 0), scriptDuration(10*time.Minute))
	return nil
}

// findScript returns the last script of the conversation, nil where there is
// none. A script that does not parse is an error: playing something else would
// make a test pass by accident.
func findScript(messages []Message) (*Script, error) {
	for i := len(messages) - 1; i >= 0; i-- {
		m := messages[i]
		if m.Role != System && m.Role != User || !strings.Contains(m.Content, `"simulate"`) {
			continue
		}
		raw := directive(m.Content)
		if raw == nil {
			continue
		}
		var s Script
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return nil, &Error{Code: "MODEL_HTTP_400", Status: 400, Message: "The simulate directive cannot be read: " + err.Error()}
		}
		if len(s.Turns) == 0 {
			s.Turns = []Turn{s.Turn}
		} else {
			for i := range s.Turns { // latency beside turns holds for each
				if s.Turns[i].Latency == 0 {
					s.Turns[i].Latency = s.Latency
				}
			}
		}
		return &s, nil
	}
	return nil, nil
}

// directive returns the value of "simulate" of the first JSON object in the
// text that has it, at its top or nested. The number of tries is bounded, so
// that hostile text costs little.
func directive(text string) json.RawMessage {
	for tries := 0; tries < 64; tries++ {
		open := strings.IndexByte(text, '{')
		if open < 0 {
			return nil
		}
		text = text[open:]
		d := json.NewDecoder(strings.NewReader(text))
		var object map[string]json.RawMessage
		if d.Decode(&object) != nil {
			text = text[1:]
			continue
		}
		if found := nestedDirective(object, 0); found != nil {
			return found
		}
		text = text[d.InputOffset():]
	}
	return nil
}

func nestedDirective(object map[string]json.RawMessage, depth int) json.RawMessage {
	if found, ok := object["simulate"]; ok {
		return found
	}
	if depth == 3 {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(object)) { // the same one every time
		raw := object[key]
		if !bytes.Contains(raw, []byte(`"simulate"`)) {
			continue
		}
		var inner map[string]json.RawMessage
		if json.Unmarshal(raw, &inner) != nil {
			continue
		}
		if found := nestedDirective(inner, depth+1); found != nil {
			return found
		}
	}
	return nil
}

func (s *Script) turn(n int) Turn { return s.Turns[min(n, len(s.Turns))-1] }

func (s *Script) fault(call int) *Fault {
	for i, f := range s.Faults {
		if call >= f.Call && call < f.Call+max(1, f.Times) {
			return &s.Faults[i]
		}
	}
	return nil
}

// err is what a client sees of the fault.
func (f *Fault) err() *Error {
	switch f.Kind {
	case "timeout":
		return &Error{Code: "MODEL_TIMEOUT", Message: "The model provider did not answer in time.", Retryable: true}
	case "disconnect":
		return &Error{Code: "MODEL_UNREACHABLE", Message: "The model provider could not be reached or broke the connection.", Retryable: true}
	case "malformed":
		return &Error{Code: "MODEL_BAD_RESPONSE", Message: "The model provider's answer is not valid JSON.", Status: 200, Retryable: true}
	}
	return nil
}
