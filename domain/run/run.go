package run

import (
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

// Run is the fold of one run's stream. It is a value that never changes: Evolve
// returns a new one. Its zero value is the empty stream.
type Run struct {
	start  *Queued         // nil in the empty stream
	nodes  *workflow.Graph // of the plan
	steps  vector          // by node, then those that came later
	open   []int32         // the steps that keep the run from ending, by their position
	extra  int             // steps that are no node's
	status Status
	pause  *Paused // while it is paused
	hidden bool

	token int64 // the newest fencing token
	idx   int   // the newest step number
	taken int   // steps scheduled, decided or waited for: bounded by maxSteps

	startedAt, endedAt, deadline time.Time
	reason                       Failure // of the end, or of the pause
	failedStep                   string
	output                       []byte
	outputFrom                   []string
	usage                        domain.Usage
	cost                         domain.Nanos
	endTokens                    []int64 // the leases the end cut short
}

// Status is the state of a run as it is shown: one of six.
type Status string

// The states of a run. A paused one is running.
const (
	StatusQueued    Status = "queued"
	StatusRunning   Status = "running"
	StatusSucceeded Status = "succeeded"
	StatusFailed    Status = "failed"
	StatusCancelled Status = "cancelled"
	StatusTimeout   Status = "timeout"
)

var emptyGraph = workflow.NewGraph(workflow.Definition{})

// Fold returns the run after the given events.
func Fold(events []domain.Event) Run {
	var r Run
	for _, e := range events {
		r = r.Evolve(e)
	}
	return r
}

// Evolve returns the run after one more event of its stream.
func (r Run) Evolve(event domain.Event) Run {
	switch e := event.(type) {
	case Queued:
		r.start, r.status, r.deadline = &e, StatusQueued, e.Deadline
		r.nodes = workflow.NewGraph(e.Plan.Definition)
		return r
	case Started:
		r.startedAt, r.status = e.At, StatusRunning
		return r
	case StepScheduled, StepStarted, StepLeaseExtended, StepLeaseReleased, StepWaiting, StepSucceeded, StepFailed, StepSkipped:
		return r.evolveStep(event)
	case StepCallStarted, StepCallFinished:
		return r.evolveCall(event)
	case Paused:
		r.pause, r.reason, r.failedStep = &e, e.Reason, e.Step
		return r.holdReady()
	case Resumed:
		return r.resumed(e)
	case Succeeded:
		r.output, r.outputFrom = e.Output, e.OutputFrom
		return r.ended(StatusSucceeded, Failure{}, "", e.At)
	case Failed:
		return r.ended(StatusFailed, e.Reason, e.Step, e.At)
	case Cancelled:
		return r.ended(StatusCancelled, Failure{Code: "CANCELLED", Message: e.Reason}, "", e.At)
	case TimedOut:
		return r.ended(StatusTimeout, Failure{Code: "RUN_TIMEOUT", Message: "The run took longer than its maximum duration."}, "", e.At)
	case Hidden:
		r.hidden = true
		return r
	default:
		panic("run: Evolve does not know " + event.EventType())
	}
}

func (r Run) evolveStep(event domain.Event) Run {
	switch e := event.(type) {
	case StepScheduled:
		return r.change(e.Step, func(s *Step) { s.scheduled(e) }).count(e.Idx)
	case StepStarted:
		r.token = max(r.token, e.Token)
		return r.change(e.Step, func(s *Step) {
			s.Status, s.Attempt, s.Token, s.Worker = StepRunning, e.Attempt, e.Token, e.Worker
			s.LeasedAt, s.LeaseUntil, s.CloseBy = e.At, e.LeaseUntil, e.CloseBy
			if s.StartedAt.IsZero() {
				s.StartedAt = e.At
			}
		})
	case StepLeaseExtended:
		return r.change(e.Step, func(s *Step) {
			s.LeaseUntil = e.LeaseUntil
			if len(e.Details) > 0 {
				s.Details = e.Details
			}
		})
	case StepLeaseReleased:
		paused := r.pause != nil
		return r.change(e.Step, func(s *Step) {
			s.Status, s.NotBefore, s.StartBy, s.held = StepReady, e.At, e.StartBy, paused
		})
	case StepWaiting:
		return r.change(e.Step, func(s *Step) {
			s.Status, s.Node, s.Idx, s.Type, s.Name = StepWait, e.Node, e.Idx, workflow.NodeWait, e.Name
			s.ScheduledAt, s.StartedAt, s.Until = e.At, e.At, e.Until
		}).count(e.Idx)
	case StepSucceeded:
		return r.change(e.Step, func(s *Step) {
			s.Status, s.Node, s.Idx, s.Type, s.Name, s.Attempt = StepDone, e.Node, e.Idx, e.Type, e.Name, e.Attempt
			s.Output, s.Branch, s.held = e.Output, e.Branch, false
			s.end(e.At)
		}).count(e.Idx)
	case StepFailed:
		paused := r.pause != nil
		return r.change(e.Step, func(s *Step) { s.failed(e, paused) }).count(e.Idx)
	case StepSkipped:
		r = r.change(e.Step, func(s *Step) {
			s.Status, s.Node, s.Idx, s.Type, s.Name = StepSkip, e.Node, e.Idx, e.Type, e.Name
			s.end(e.At)
		})
		r.idx = max(r.idx, e.Idx)
	}
	return r
}

func (r Run) evolveCall(event domain.Event) Run {
	switch e := event.(type) {
	case StepCallStarted:
		return r.change(e.Step, func(s *Step) {
			s.Calls = s.withCall(s.call(e.Call.Seq), &CallRecord{Call: e.Call, Attempt: e.Attempt, StartedAt: e.At})
		})
	case StepCallFinished:
		r.cost = r.cost.Add(e.Result.CostNanos)
		r.usage = r.usage.Add(e.Result.Usage)
		return r.change(e.Step, func(s *Step) {
			at := s.call(e.Seq)
			record := CallRecord{Call: Call{Seq: e.Seq, Kind: e.Kind, Name: e.Name}, Attempt: e.Attempt, StartedAt: e.At}
			if at >= 0 {
				record = *s.Calls[at]
			}
			record.FinishedAt, record.Result = e.At, &e.Result
			s.Calls = s.withCall(at, &record)
			s.Cost = s.Cost.Add(e.Result.CostNanos)
			s.Usage = s.Usage.Add(e.Result.Usage)
		})
	}
	return r
}

func (s *Step) scheduled(e StepScheduled) {
	if s.ScheduledAt.IsZero() {
		s.Node, s.Idx, s.Type, s.Name = e.Node, e.Idx, e.Type, e.Name
		s.Input, s.InputFrom, s.Prompt, s.ScheduledAt = e.Input, e.InputFrom, e.Prompt, e.At
	}
	if s.since.IsZero() {
		s.since = e.At
	}
	s.Status, s.Attempt, s.Queue, s.Priority = StepReady, e.Attempt, e.Queue, e.Priority
	s.NotBefore, s.StartBy = e.NotBefore, e.StartBy
	s.held, s.again = false, false
	s.EndedAt = time.Time{}
}

func (s *Step) failed(e StepFailed, paused bool) {
	failure := e.Failure
	s.Status, s.Node, s.Idx, s.Type, s.Name, s.Attempt = StepFail, e.Node, e.Idx, e.Type, e.Name, e.Attempt
	s.Failure, s.Continued, s.failedToken = &failure, e.Continued, s.Token
	s.held = paused && !e.Continued
	s.again = s.held
	s.end(e.At)
}

func (s *Step) end(at time.Time) {
	if s.ScheduledAt.IsZero() {
		s.ScheduledAt = at
	}
	if s.StartedAt.IsZero() {
		s.StartedAt = at
	}
	s.EndedAt = at
}

// change returns the run with one step replaced by a changed copy.
func (r Run) change(name string, edit func(*Step)) Run {
	i, known := r.find(name)
	if !known {
		i = len(r.graph().Nodes) + r.extra
		r.extra++
	}
	next, wasOpen := Step{Step: name, Node: name}, false
	if old := r.steps.get(i); old != nil {
		next, wasOpen = *old, old.isOpen()
	}
	edit(&next)
	r.steps = r.steps.with(i, &next)
	if isOpen := next.isOpen(); isOpen != wasOpen {
		r.open = withOpen(r.open, int32(i), isOpen)
	}
	return r
}

// count takes note of a step number: a new one means one step more.
func (r Run) count(idx int) Run {
	if idx > r.idx {
		r.idx = idx
		r.taken++
	}
	return r
}

func withOpen(open []int32, i int32, add bool) []int32 {
	if add {
		return append(slices.Clip(open), i)
	}
	next := make([]int32, 0, len(open))
	for _, o := range open {
		if o != i {
			next = append(next, o)
		}
	}
	return next
}

// holdReady marks what a pause withdraws: the ready steps, and the failed one
// it was caused by.
func (r Run) holdReady() Run {
	names := make([]string, 0, len(r.open)+1)
	for _, i := range r.open {
		if s := r.steps.get(int(i)); s.Status == StepReady {
			names = append(names, s.Step)
		}
	}
	for _, name := range names {
		r = r.change(name, func(s *Step) { s.held = true })
	}
	if _, ok := r.find(r.pause.Step); ok {
		r = r.change(r.pause.Step, func(s *Step) { s.held, s.again = true, true })
	}
	return r
}

// resumed counts the retries of held steps anew. They stay held until the
// StepScheduled that follows in the same append.
func (r Run) resumed(e Resumed) Run {
	r.pause, r.reason, r.failedStep = nil, Failure{}, ""
	if !e.Deadline.IsZero() {
		r.deadline = e.Deadline
	}
	for _, i := range slices.Clone(r.open) {
		s := r.steps.get(int(i))
		if !s.held {
			continue
		}
		r = r.change(s.Step, func(s *Step) {
			s.since = time.Time{}
			if s.Status == StepFail {
				s.base = s.Attempt
			}
		})
	}
	return r
}

// ended closes the run and what was still open in it.
func (r Run) ended(status Status, reason Failure, step string, at time.Time) Run {
	r.status, r.reason, r.failedStep, r.endedAt, r.pause = status, reason, step, at, nil
	for _, i := range slices.Clone(r.open) {
		s := r.steps.get(int(i))
		if s.Status == StepRunning {
			r.endTokens = append(slices.Clip(r.endTokens), s.Token)
		}
		r = r.change(s.Step, func(s *Step) {
			s.held = false
			if s.Status != StepFail {
				s.Status, s.EndedAt = StepCancelled, at
			}
		})
	}
	return r
}
