package run

import (
	"encoding/json"

	"github.com/sparkops/control-plane/domain/workflow"
)

// Evaluator evaluates the expressions of a definition. It is pure: the same
// source and variables always give the same answer. Its errors are sentences
// for users.
type Evaluator interface {
	// Condition evaluates a CEL expression that yields a boolean.
	Condition(src string, vars Vars) (bool, error)
	// Template replaces every "${ CEL }" in the strings of a JSON value: a
	// string that is nothing else by the value of the expression, otherwise
	// by its text.
	Template(raw json.RawMessage, vars Vars) (json.RawMessage, error)
}

// Vars are the variables of an expression. Outputs are looked up only when the
// expression asks for them.
type Vars struct {
	Input   json.RawMessage                           // the run's input
	Output  func(step string) (json.RawMessage, bool) // outputs.<step>; false where there is none
	Outputs func() []string                           // the steps that have one
	Run     Facts
	Error   *Failure // in retry.when
	Attempt int      // in retry.when
}

// Facts are what expressions and workers know of the run itself.
type Facts struct {
	ID              string          `json:"id"`
	ProjectID       string          `json:"projectId"`
	WorkflowID      string          `json:"workflowId"`
	WorkflowVersion int             `json:"workflowVersion"`
	AgentID         string          `json:"agentId"`
	Env             string          `json:"env"`
	Trigger         string          `json:"trigger"`
	Retries         int             `json:"retries"`
	Config          json.RawMessage `json:"config,omitempty"`
}

// vars returns the variables as they are seen from a node: the outputs are
// those of the steps before it, so that branches which happen to run at the
// same time never change an answer.
func (r Run) vars(node int) Vars {
	var before []bool // made when it is first asked for
	visible := func(name string) (*Step, bool) {
		i, ok := r.find(name)
		if !ok || i >= len(r.graph().Nodes) {
			return nil, false
		}
		if before == nil {
			before = r.graph().Ancestors(node)
		}
		s := r.steps.get(i)
		return s, before[i] && s != nil && s.hasOutput()
	}
	return Vars{
		Input: r.queued().Input,
		Run:   r.Facts(),
		Output: func(name string) (json.RawMessage, bool) {
			s, ok := visible(name)
			if !ok {
				return nil, false
			}
			return nullWhenEmpty(s.Output), true
		},
		Outputs: func() []string {
			var names []string
			for _, n := range r.graph().Nodes {
				if _, ok := visible(n.ID); ok {
					names = append(names, n.ID)
				}
			}
			return names
		},
	}
}

func nullWhenEmpty(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

// sources returns the steps whose outputs flow into a node, in the order of
// its edges: those of its live incoming edges, where decisions and waits stand
// for what flows into them.
func (r Run) sources(node int) []int {
	var found []int
	seen := make([]bool, len(r.graph().Nodes))
	var collect func(int)
	collect = func(at int) {
		for _, e := range r.graph().In[at] {
			from := r.graph().Edges[e].From
			if seen[from] || r.edge(e) != edgeLive {
				continue
			}
			seen[from] = true
			if isTransparent(r.graph().Nodes[from].Type) {
				collect(from)
			} else {
				found = append(found, from)
			}
		}
	}
	collect(node)
	return found
}

// isTransparent says that data flows through a node of this type unchanged.
func isTransparent(nodeType string) bool {
	return nodeType == workflow.NodeDecision || nodeType == workflow.NodeWait
}
