package run

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

var noStart = &Queued{}

func (r Run) queued() *Queued {
	if r.start == nil {
		return noStart
	}
	return r.start
}

func (r Run) graph() *workflow.Graph {
	if r.nodes == nil {
		return emptyGraph
	}
	return r.nodes
}

// find returns the position of a step: its node's, or further on.
func (r Run) find(name string) (int, bool) {
	if i, ok := r.graph().Index(name); ok {
		return i, true
	}
	for i := len(r.graph().Nodes); i < r.steps.size; i++ {
		if s := r.steps.get(i); s != nil && s.Step == name {
			return i, true
		}
	}
	return 0, false
}

// node returns the definition a step is an instance of.
func (r Run) node(s *Step) workflow.Node {
	if i, ok := r.graph().Index(s.Node); ok {
		return r.graph().Nodes[i]
	}
	return workflow.Node{ID: s.Node, Type: s.Type, Name: s.Name}
}

type edgeState int

const (
	edgePending edgeState = iota // its source has not ended
	edgeLive
	edgeDead
)

// edge says whether the run goes along an edge.
func (r Run) edge(e int) edgeState {
	link := r.graph().Edges[e]
	s := r.steps.get(link.From)
	switch {
	case s == nil:
		return edgePending
	case s.Status == StepSkip:
		return edgeDead
	case s.Status == StepFail && s.Continued && s.Type == workflow.NodeDecision:
		return edgeDead
	case s.Status == StepFail && s.Continued:
		return edgeLive
	case s.Status != StepDone:
		return edgePending
	case s.Type == workflow.NodeDecision && !slices.Contains(s.Branch, r.graph().Nodes[link.To].ID):
		return edgeDead
	default:
		return edgeLive
	}
}

// Exists reports whether the stream holds a run at all.
func (r Run) Exists() bool { return r.start != nil }

// Ended reports whether the run is over.
func (r Run) Ended() bool { return !r.endedAt.IsZero() }

// Paused reports whether the run waits for somebody to resume it.
func (r Run) Paused() bool { return r.pause != nil }

// Hidden reports whether the run was taken out of lists.
func (r Run) Hidden() bool { return r.hidden }

// ID returns the run's id, "" of the empty stream.
func (r Run) ID() string { return r.queued().RunID }

// ProjectID returns the project the run belongs to.
func (r Run) ProjectID() string { return r.queued().ProjectID }

// Queued returns what the run was started with.
func (r Run) Queued() Queued { return *r.queued() }

// Plan returns what the run is carried out by.
func (r Run) Plan() Plan { return r.queued().Plan }

// Facts returns what expressions and workers know of the run.
func (r Run) Facts() Facts {
	q := r.queued()
	return Facts{
		ID: q.RunID, ProjectID: q.ProjectID, WorkflowID: q.WorkflowID, WorkflowVersion: q.WorkflowVersion,
		AgentID: q.AgentID, Env: q.Env, Trigger: q.Trigger, Retries: q.Retries, Config: q.Config,
	}
}

// Status returns one of the six states every client knows.
func (r Run) Status() Status {
	if r.status == "" {
		return StatusQueued
	}
	return r.status
}

// Phase is the precise state: the status, or paused, or waiting when nothing
// but the time is waited for.
func (r Run) Phase() string {
	if r.Ended() {
		return string(r.status)
	}
	if r.pause != nil {
		return "paused"
	}
	waits := 0
	for _, i := range r.open {
		if r.steps.get(int(i)).Status == StepWait {
			waits++
		}
	}
	if waits > 0 && waits == len(r.open) {
		return "waiting"
	}
	return string(r.Status())
}

// StatusReason returns why the run failed, was cancelled or is paused; nil
// where there is nothing to explain.
func (r Run) StatusReason() *Failure {
	if r.reason.Code == "" {
		return nil
	}
	reason := r.reason
	return &reason
}

// FailedStep returns the step that failed or paused the run, "" where none did.
func (r Run) FailedStep() string { return r.failedStep }

// QueuedAt, StartedAt, EndedAt and Deadline return the times of the run; those
// that have not come are zero. The deadline stands still while it is paused.
func (r Run) QueuedAt() time.Time  { return r.queued().At }
func (r Run) StartedAt() time.Time { return r.startedAt }
func (r Run) EndedAt() time.Time   { return r.endedAt }
func (r Run) Deadline() time.Time  { return r.deadline }

// Usage and Cost are the sums over all finished calls.
func (r Run) Usage() domain.Usage { return r.usage }
func (r Run) Cost() domain.Nanos  { return r.cost }

// Output returns the run's result, nil where it has none.
func (r Run) Output() json.RawMessage {
	if len(r.outputFrom) > 0 {
		return r.gather(r.outputFrom)
	}
	return r.output
}

// Steps returns every step there is so far, ordered by number.
func (r Run) Steps() []Step {
	steps := make([]Step, 0, r.steps.size)
	for _, s := range r.steps.all {
		steps = append(steps, *s)
	}
	slices.SortFunc(steps, func(a, b Step) int { return a.Idx - b.Idx })
	return steps
}

// Step returns one step; false where it does not exist (yet).
func (r Run) Step(name string) (Step, bool) {
	if i, ok := r.find(name); ok {
		if s := r.steps.get(i); s != nil {
			return *s, true
		}
	}
	return Step{}, false
}

// Node returns the definition of a step's node, with the instruction of an
// agent filled in as it was when the step was scheduled.
func (r Run) Node(s Step) workflow.Node {
	n := r.node(&s)
	if s.Prompt != "" {
		n.Prompt = s.Prompt
	}
	return n
}

// StepInput returns the input of a step, put together where the event only
// names the steps it is made of.
func (r Run) StepInput(s Step) json.RawMessage {
	if slices.Equal(s.InputFrom, inputOfRun) {
		return r.queued().Input
	}
	if len(s.InputFrom) > 0 {
		return r.gather(s.InputFrom)
	}
	return s.Input
}

// gather makes an object of the outputs of steps, by step.
func (r Run) gather(steps []string) json.RawMessage {
	out := []byte{'{'}
	for n, name := range steps {
		if n > 0 {
			out = append(out, ',')
		}
		key, _ := json.Marshal(name) // a string cannot fail
		out = append(append(out, key...), ':')
		s, _ := r.Step(name)
		out = append(out, nullWhenEmpty(s.Output)...)
	}
	return append(out, '}')
}
