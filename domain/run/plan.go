package run

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
)

// Plan is everything a run is carried out by, pinned when it was made: later
// edits of workflow, agents or tools do not change it. Defaults are filled in.
type Plan struct {
	Definition workflow.Definition  `json:"definition"`       // normalised, never empty
	Agents     map[string]AgentPlan `json:"agents,omitempty"` // by agent id
	Tools      map[string]ToolPlan  `json:"tools,omitempty"`  // by tool id
}

// AgentPlan is a pinned agent version.
type AgentPlan struct {
	Version int        `json:"version"`
	Spec    agent.Spec `json:"spec"`
}

// ToolPlan is a pinned tool version. Credentials stay sealed.
type ToolPlan struct {
	Version    int       `json:"version"`
	Spec       tool.Spec `json:"spec"`
	AuthSealed string    `json:"authSealed,omitempty"`
}

// Failure says why a step or a run failed.
type Failure struct {
	Code    string          `json:"code"` // stable, UPPER_SNAKE, e.g. TOOL_HTTP_503, TIMEOUT, LEASE_EXPIRED
	Message string          `json:"message"`
	Details json.RawMessage `json:"details,omitempty"`
}

const maxMessage = 4 << 10

// bounded returns the failure as it is stored: with a code, a message of
// bounded length, and details that are JSON. A failure is never refused for
// its form, because it must not be lost.
func (f Failure) bounded(code string) Failure {
	if f.Code == "" || len(f.Code) > 64 {
		f.Code = code
	}
	if len(f.Message) > maxMessage {
		f.Message = strings.ToValidUTF8(f.Message[:maxMessage], "") + "…"
	}
	if checkPayload("details", f.Details, MaxDetails) != nil {
		f.Details = nil
	}
	return f
}

// Call is one external effect inside a step: a model call or a tool call of an
// agent loop, or the call of a tool node.
type Call struct {
	Seq  int    `json:"seq"`            // from 1, in the step, across attempts
	Kind string `json:"kind"`           // model, tool
	Name string `json:"name"`           // model name, tool name
	Tool string `json:"tool,omitempty"` // tool call: tool id, or "builtin:<name>"

	// Key is sent with the call as its idempotency key; it stays the same
	// when an attempt whose outcome is unknown repeats the call.
	Key     string          `json:"key"`
	Request json.RawMessage `json:"request,omitempty"` // what was asked, without secrets
	Unsafe  bool            `json:"unsafe,omitempty"`  // must not be repeated when its outcome is unknown; set by StartCall
}

// CallResult is how a call ended.
type CallResult struct {
	Response    json.RawMessage `json:"response,omitempty"`
	Failure     *Failure        `json:"failure,omitempty"`
	Provider    string          `json:"provider,omitempty"` // model call
	Usage       domain.Usage    `json:"usage,omitzero"`     // model call
	CostNanos   domain.Nanos    `json:"costNanos,omitempty"`
	RateVersion string          `json:"rateVersion,omitempty"` // price list the cost was computed by
	Duration    time.Duration   `json:"durationNs,omitempty"`
}
