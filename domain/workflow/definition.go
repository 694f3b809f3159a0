package workflow

import "encoding/json"

// Definition is the graph of a workflow version: nodes, edges, settings. The
// empty definition stands for one agent node carried out by the run's agent on
// the run's input.
type Definition struct {
	Nodes    []Node   `json:"nodes,omitempty"`
	Edges    []Edge   `json:"edges,omitempty"`
	Settings Settings `json:"settings,omitzero"`
}

// The node types.
const (
	NodeAgent    = "agent"    // durable agent loop
	NodeTool     = "tool"     // one call of a registered or builtin tool
	NodeDecision = "decision" // first outgoing edge whose condition is true, else the default edge
	NodeWait     = "wait"     // durable timer
)

// Node is one step of the graph.
type Node struct {
	ID   string `json:"id"`             // unique in the definition, [A-Za-z0-9_-]{1,64}
	Type string `json:"type"`           // see the node types
	Name string `json:"name,omitempty"` // shown to users; the id where absent

	Agent  string `json:"agent,omitempty"`  // agent node: agent id; absent: the run's agent
	Prompt string `json:"prompt,omitempty"` // agent node: instruction, a template (see Input)
	Tool   string `json:"tool,omitempty"`   // tool node: tool id, or "builtin:<name>"

	// Input is the node's input object. A string of the form "${ CEL }" is
	// replaced by the value of the expression, "text ${ CEL } text" by the
	// text; variables are input, outputs.<node>, run. Absent: an agent or tool
	// node gets the run's input where it is a start node, else an object of
	// the outputs of the nodes before it.
	Input json.RawMessage `json:"input,omitempty"`

	Duration Duration `json:"duration,omitempty"` // wait node

	Join     string `json:"join,omitempty"`     // all (default), any, n
	JoinN    int    `json:"joinN,omitempty"`    // with join n
	Queue    string `json:"queue,omitempty"`    // workers that carry it out; "default" where absent
	Priority int    `json:"priority,omitempty"` // higher first, 0 where absent

	Retry       *Retry       `json:"retry,omitempty"`
	Timeouts    *Timeouts    `json:"timeouts,omitempty"`
	OnExhausted string       `json:"onExhausted,omitempty"` // pause, fail, continue; see DefaultOnExhausted
	Limits      *AgentLimits `json:"limits,omitempty"`      // agent node
}

// Edge leads from one node to another. When is a CEL condition; it is allowed
// on edges that leave a decision node only. There, an edge without When is the
// default edge; at most one.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	When string `json:"when,omitempty"`
}

// Retry says when and how often a failed attempt is repeated.
type Retry struct {
	MaxAttempts     int      `json:"maxAttempts,omitempty"`     // 5, at least 1
	InitialInterval Duration `json:"initialInterval,omitempty"` // 1s
	Backoff         float64  `json:"backoff,omitempty"`         // 2.0
	MaxInterval     Duration `json:"maxInterval,omitempty"`     // 60s
	Jitter          string   `json:"jitter,omitempty"`          // full (default), none
	MaxElapsed      Duration `json:"maxElapsed,omitempty"`      // 1h since the first attempt was scheduled
	NonRetryable    []string `json:"nonRetryable,omitempty"`    // error codes never repeated
	When            string   `json:"when,omitempty"`            // CEL over error {code, message} and attempt; false: not repeated
}

// Timeouts bound one step. A zero value means the default.
type Timeouts struct {
	ScheduleToStart Duration `json:"scheduleToStart,omitempty"` // 1h: waiting for a worker, per attempt
	StartToClose    Duration `json:"startToClose,omitempty"`    // 10m: one attempt
	ScheduleToClose Duration `json:"scheduleToClose,omitempty"` // none: all attempts together
	Heartbeat       Duration `json:"heartbeat,omitempty"`       // 60s: without a heartbeat for so long, or for the 30s of a lease, the attempt fails
}

// AgentLimits bound the loop of one agent step.
type AgentLimits struct {
	MaxTurns             int   `json:"maxTurns,omitempty"`             // 50 model calls
	MaxToolCalls         int   `json:"maxToolCalls,omitempty"`         // 50
	MaxTokens            int64 `json:"maxTokens,omitempty"`            // none
	MaxCostNanos         int64 `json:"maxCostNanos,omitempty"`         // none
	MaxIdenticalCalls    int   `json:"maxIdenticalCalls,omitempty"`    // 3 times the same tool with the same arguments
	MaxConsecutiveErrors int   `json:"maxConsecutiveErrors,omitempty"` // 5
}

// Settings bound the whole run. A zero value means the default.
type Settings struct {
	MaxDuration  Duration `json:"maxDuration,omitempty"`  // the workflow's timeoutSeconds, else 1h
	MaxSteps     int      `json:"maxSteps,omitempty"`     // 1000
	MaxCostNanos int64    `json:"maxCostNanos,omitempty"` // none
	Priority     int      `json:"priority,omitempty"`     // 0
}
