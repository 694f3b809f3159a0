// Package tool carries out tool calls: HTTP requests, through the guard of
// package egress, and a few builtin functions.
//
// What a tool does is decided by its configuration, not by its kind, which is
// free text of the user: "url" makes an HTTP tool, "builtin" a builtin one. A
// node may also name a builtin directly, "builtin:<name>".
package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
)

// Tool is one callable thing. It is safe for concurrent use.
type Tool interface {
	// Call makes one call. Its error is an *Error, or the context's error when
	// the caller gave up before anything was sent.
	Call(ctx context.Context, c Call) (json.RawMessage, error)

	// Effect reports whether a call does something outside the worker: its
	// intent is recorded first.
	Effect() bool

	// Parameters is the JSON Schema of the arguments, nil where any object will do.
	Parameters() json.RawMessage
}

// Call is one call of a tool.
type Call struct {
	Key       string          // idempotency key, the same when the call is repeated
	Arguments json.RawMessage // a JSON value; nil is an empty object
	Attempt   int             // of the step, from 1
}

// Error says why a call failed.
type Error struct {
	Code       string // stable: TOOL_HTTP_<status>, TOOL_UNREACHABLE, ...
	Message    string // fit for users
	Details    json.RawMessage
	Retryable  bool
	RetryAfter time.Duration

	// Unknown says that the call may have taken effect although it failed.
	// It is set only where repeating the call would do harm then.
	Unknown bool
	Cause   error // logged, never shown
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// BuiltinPrefix starts the name of a builtin tool in a node.
const BuiltinPrefix = "builtin:"

// Resolve returns what a plan calls by the name: a tool of the plan by its id,
// or a builtin one. The error is an *Error that says why there is none.
func (s *Set) Resolve(name string, tools map[string]run.ToolPlan) (Tool, error) {
	if builtin, ok := strings.CutPrefix(name, BuiltinPrefix); ok {
		return s.builtin(builtin, nil)
	}
	plan, ok := tools[name]
	if !ok {
		return nil, &Error{Code: "TOOL_UNKNOWN", Message: "The tool is not part of the run's plan."}
	}
	return s.Tool(name, plan)
}

// Tool returns the tool a plan describes. The error is an *Error that says
// what is missing.
func (s *Set) Tool(id string, plan run.ToolPlan) (Tool, error) {
	if plan.Spec.Status == "inactive" {
		return nil, &Error{Code: "TOOL_INACTIVE", Message: fmt.Sprintf("The tool %q is switched off.", plan.Spec.Name)}
	}
	var c Config
	if len(plan.Spec.Config) > 0 {
		if err := json.Unmarshal(plan.Spec.Config, &c); err != nil {
			return nil, &Error{Code: "TOOL_CONFIG_INVALID", Message: fmt.Sprintf("The configuration of the tool %q cannot be read: %v.", plan.Spec.Name, err)}
		}
	}
	var t Tool
	var err error
	switch {
	case c.URL != "":
		t, err = s.http(id, plan, c)
	case c.Builtin != "":
		t, err = s.builtin(strings.TrimPrefix(c.Builtin, BuiltinPrefix), c.Parameters)
	default:
		err = &Error{Code: "TOOL_NOT_CONFIGURED", Message: fmt.Sprintf("The tool %q has nothing to call: its configuration needs a url or the name of a builtin.", plan.Spec.Name)}
	}
	if err != nil {
		return nil, err
	}
	if plan.Spec.RateLimitPerMin != nil && *plan.Spec.RateLimitPerMin > 0 {
		t = limited{Tool: t, bucket: s.bucket(id, *plan.Spec.RateLimitPerMin)}
	}
	return t, nil
}

// Config is what the worker reads of a tool's configuration; other keys are
// the user's own.
type Config struct {
	Builtin string `json:"builtin"`

	URL     string            `json:"url"`
	Method  string            `json:"method"` // POST where absent
	Headers map[string]string `json:"headers"`
	Query   map[string]any    `json:"query"`
	Body    json.RawMessage   `json:"body"` // template; absent: the arguments

	// Response picks a part of a JSON answer: a JSON pointer ("/data/0") or a
	// path ("data.0").
	Response string `json:"response"`

	Timeout    Duration `json:"timeout"` // 30s where absent, at most 5m
	Idempotent *bool    `json:"idempotent"`

	Parameters json.RawMessage `json:"parameters"` // JSON Schema of the arguments
}

// Duration is read from a string such as "30s" or from a number of seconds;
// anything else is an error.
type Duration time.Duration

// UnmarshalJSON reads both forms.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var read workflow.Duration
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	if read == workflow.Unreadable {
		return errors.New("a duration is a string such as \"30s\" or a number of seconds")
	}
	*d = Duration(read)
	return nil
}
