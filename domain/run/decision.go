package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

// The sizes one run is held to, so that no append is larger than the store
// takes.
const (
	MaxPayload = 256 << 10 // of an input, an output, and a call's request and response
	MaxDetails = 32 << 10  // of a heartbeat

	maxInline   = 64 << 10  // larger inputs are named by where they come from
	maxDecision = 640 << 10 // of all payloads of one append
)

// InputOfRun stands in StepScheduled.InputFrom for the run's own input.
const InputOfRun = "$input"

var inputOfRun = []string{InputOfRun}

// The codes of failures the control plane itself records.
const (
	CodeExpression      = "EXPRESSION_FAILED"
	CodeNoBranch        = "NO_BRANCH"
	CodeStepLimit       = "STEP_LIMIT"
	CodeCostLimit       = "COST_LIMIT"
	CodeInputTooLarge   = "INPUT_TOO_LARGE"
	CodeOutputTooLarge  = "OUTPUT_TOO_LARGE"
	CodeOutcomeUnknown  = "OUTCOME_UNKNOWN"
	CodeLeaseExpired    = "LEASE_EXPIRED"
	CodeHeartbeat       = "HEARTBEAT_TIMEOUT"
	CodeTimeout         = "TIMEOUT"
	CodeScheduleToClose = "SCHEDULE_TO_CLOSE_TIMEOUT"
	CodeScheduleToStart = "SCHEDULE_TO_START_TIMEOUT"
	CodePausedByUser    = "PAUSED_BY_USER"
)

// decision collects the events of one command. Each is folded at once, so that
// what follows is decided on the state it leads to.
type decision struct {
	run    Run
	now    time.Time
	expr   Evaluator
	events []domain.Event
	size   int // of the payloads so far
}

func decide(r Run, now time.Time, expr Evaluator) *decision {
	return &decision{run: r, now: now, expr: expr}
}

func (d *decision) emit(e domain.Event) {
	d.events = append(d.events, e)
	d.run = d.run.Evolve(e)
}

// goesOn reports whether steps may still be scheduled.
func (d *decision) goesOn() bool { return d.run.pause == nil && !d.run.Ended() }

// sweep enters or skips every node that has become due, wherever it is.
func (d *decision) sweep() {
	for _, i := range d.run.graph().Order {
		if !d.goesOn() {
			return
		}
		if d.run.steps.get(i) == nil {
			d.visit(i)
		}
	}
}

// follow does what sweep does, for the nodes behind some that have just ended.
func (d *decision) follow(ended ...int) {
	g := d.run.graph()
	for len(ended) > 0 {
		at := ended[0]
		ended = ended[1:]
		for _, e := range g.Out[at] {
			if !d.goesOn() {
				return
			}
			to := g.Edges[e].To
			if d.run.steps.get(to) == nil && d.visit(to) {
				ended = append(ended, to)
			}
		}
	}
}

// finish ends the run when nothing is left to do in it.
func (d *decision) finish() {
	if !d.goesOn() || len(d.run.open) > 0 {
		return
	}
	output, from := d.result()
	d.emit(Succeeded{Output: output, OutputFrom: from, At: d.now})
}

// visit enters or skips a node when its incoming edges allow it, and reports
// whether its step has ended by that.
func (d *decision) visit(i int) (ended bool) {
	ready, dead := d.join(i)
	switch {
	case ready:
		return d.enter(i)
	case dead:
		n := d.run.graph().Nodes[i]
		d.emit(StepSkipped{
			Step: n.ID, Node: n.ID, Idx: d.run.idx + 1, Type: n.Type, Name: n.Name,
			Reason: "No branch that the run took leads here.", At: d.now,
		})
		return true
	default:
		return false
	}
}

// join looks at the incoming edges of a node: is it due, or will it never be?
func (d *decision) join(i int) (ready, dead bool) {
	g := d.run.graph()
	live, pending := 0, 0
	for _, e := range g.In[i] {
		switch d.run.edge(e) {
		case edgeLive:
			live++
		case edgePending:
			pending++
		}
	}
	n := g.Nodes[i]
	switch {
	case len(g.In[i]) == 0:
		return true, false
	case n.Join == workflow.JoinAny:
		return live > 0, live+pending == 0
	case n.Join == workflow.JoinN:
		return live >= n.JoinN, live+pending < n.JoinN
	default:
		return live > 0 && pending == 0, live+pending == 0
	}
}

// enter begins the step of a node and reports whether it has ended already.
func (d *decision) enter(i int) (ended bool) {
	n := d.run.graph().Nodes[i]
	if limit := d.run.Plan().Definition.Settings.MaxSteps; limit > 0 && d.run.taken >= limit {
		d.emit(Failed{Reason: Failure{Code: CodeStepLimit, Message: fmt.Sprintf("The run reached its limit of %d steps.", limit)}, Step: n.ID, At: d.now})
		return false
	}
	switch n.Type {
	case workflow.NodeDecision:
		return d.branch(i, n)
	case workflow.NodeWait:
		if d.run.startedAt.IsZero() {
			d.emit(Started{At: d.now})
		}
		d.emit(StepWaiting{Step: n.ID, Node: n.ID, Idx: d.run.idx + 1, Name: n.Name, At: d.now, Until: d.now.Add(n.Duration.Std())})
		return false
	default:
		return d.schedule(i, n)
	}
}

// branch takes the first edge of a decision whose condition is true, else the
// default one.
func (d *decision) branch(i int, n workflow.Node) (ended bool) {
	g, fallback, chosen := d.run.graph(), -1, -1
	vars := d.run.vars(i)
	for _, e := range g.Out[i] {
		if g.Edges[e].When == "" {
			fallback = g.Edges[e].To
			continue
		}
		yes, err := d.expr.Condition(g.Edges[e].When, vars)
		if err != nil {
			return d.refuse(n, Failure{Code: CodeExpression, Message: sentence("The condition of an edge could not be evaluated", err)})
		}
		if yes {
			chosen = g.Edges[e].To
			break
		}
	}
	if chosen < 0 {
		chosen = fallback
	}
	if chosen < 0 {
		return d.refuse(n, Failure{Code: CodeNoBranch, Message: "No condition of the decision is true and it has no default edge."})
	}
	to := g.Nodes[chosen].ID
	output, _ := json.Marshal(map[string]string{"branch": to}) // strings cannot fail
	d.emit(StepSucceeded{
		Step: n.ID, Node: n.ID, Idx: d.run.idx + 1, Type: n.Type, Name: n.Name, Attempt: 1,
		Output: output, Branch: []string{to}, At: d.now,
	})
	return true
}

// schedule makes the first attempt of a step ready for a worker.
func (d *decision) schedule(i int, n workflow.Node) (ended bool) {
	input, from, err := d.input(i, n)
	if err != nil {
		return d.refuse(n, Failure{Code: CodeExpression, Message: sentence("The input could not be made", err)})
	}
	prompt, err := d.prompt(i, n)
	if err != nil {
		return d.refuse(n, Failure{Code: CodeExpression, Message: sentence("The prompt could not be made", err)})
	}
	if size := len(input) + len(prompt); size > MaxPayload || d.size+size > maxDecision {
		return d.refuse(n, Failure{Code: CodeInputTooLarge, Message: fmt.Sprintf("The input is larger than %d KiB, alone or together with those of the steps that start with it.", MaxPayload>>10)})
	}
	d.size += len(input) + len(prompt)
	t := timeouts(n)
	d.emit(StepScheduled{
		Step: n.ID, Node: n.ID, Idx: d.run.idx + 1, Type: n.Type, Name: n.Name, Attempt: 1, Queue: n.Queue, Priority: n.Priority,
		Input: input, InputFrom: from, Prompt: prompt,
		At: d.now, NotBefore: d.now, StartBy: startBy(t, d.now, d.now),
	})
	return false
}

// input makes the input of a step: what the node says, else the run's input at
// the start and the outputs of the steps before it further on. Large ones are
// named by where they come from.
func (d *decision) input(i int, n workflow.Node) (input json.RawMessage, from []string, err error) {
	if len(n.Input) > 0 {
		if !bytes.Contains(n.Input, []byte("${")) {
			return n.Input, nil, nil
		}
		input, err = d.expr.Template(n.Input, d.run.vars(i))
		return input, nil, err
	}
	from = inputOfRun
	size := len(d.run.queued().Input)
	if sources := d.run.sources(i); len(sources) > 0 {
		from, size = nil, 0
		for _, s := range sources {
			step := d.run.steps.get(s)
			from = append(from, step.Step)
			size += len(step.Output) + len(step.Step) + 8
		}
	}
	switch {
	case size > maxInline || d.size+size > maxDecision:
		return nil, from, nil
	case slices.Equal(from, inputOfRun):
		return d.run.queued().Input, nil, nil
	default:
		return d.run.gather(from), nil, nil
	}
}

func (d *decision) prompt(i int, n workflow.Node) (string, error) {
	if n.Type != workflow.NodeAgent || !bytes.Contains([]byte(n.Prompt), []byte("${")) {
		return "", nil
	}
	raw, err := json.Marshal(n.Prompt)
	if err != nil {
		return "", err
	}
	raw, err = d.expr.Template(raw, d.run.vars(i))
	if err != nil {
		return "", err
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return string(raw), nil // a value that is no text: its JSON
	}
	return text, nil
}

// refuse ends a step that could not begin. Repeating it would fail the same
// way, so it never pauses the run.
func (d *decision) refuse(n workflow.Node, failure Failure) (ended bool) {
	goOn := n.OnExhausted == workflow.OnExhaustedContinue
	d.emit(StepFailed{
		Step: n.ID, Node: n.ID, Idx: d.run.idx + 1, Type: n.Type, Name: n.Name, Attempt: 1,
		Failure: failure, Final: true, Continued: goOn, At: d.now,
	})
	if !goOn {
		d.emit(Failed{Reason: failure, Step: n.ID, At: d.now})
	}
	return goOn
}

// result makes the run's output: that of the only step nothing follows, or an
// object of them, by step.
func (d *decision) result() (output json.RawMessage, from []string) {
	g, size := d.run.graph(), 0
	var seen []int
	for i, n := range g.Nodes {
		s := d.run.steps.get(i)
		if len(g.Out[i]) > 0 || s == nil || !s.hasOutput() {
			continue
		}
		last := []int{i}
		if isTransparent(n.Type) {
			last = d.run.sources(i)
		}
		for _, at := range last {
			if !slices.Contains(seen, at) {
				seen = append(seen, at)
				step := d.run.steps.get(at)
				from = append(from, step.Step)
				size += len(step.Output)
			}
		}
	}
	switch {
	case len(from) == 0:
		return nil, nil
	case len(from) == 1:
		return nullWhenEmpty(d.run.steps.get(seen[0]).Output), nil
	case size > MaxPayload || d.size+size > maxDecision:
		return nil, from
	default:
		return d.run.gather(from), nil
	}
}

// timeouts returns the bounds of a node's steps.
func timeouts(n workflow.Node) workflow.Timeouts {
	if n.Timeouts == nil {
		return workflow.Timeouts{}
	}
	return *n.Timeouts
}

// startBy returns when an attempt that is ready from a time on must have found
// a worker; since is when the first attempt was scheduled.
func startBy(t workflow.Timeouts, ready, since time.Time) time.Time {
	by := ready.Add(t.ScheduleToStart.Std())
	if t.ScheduleToClose > 0 {
		by = earlier(by, since.Add(t.ScheduleToClose.Std()))
	}
	return by
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// sentence joins what was tried and why it failed, bounded.
func sentence(what string, err error) string {
	text := what + ": " + err.Error()
	if len(text) > 500 {
		text = text[:497] + "…"
	}
	return text
}
