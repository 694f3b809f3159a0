package projections

import (
	"cmp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
)

// runsFold folds the events of a batch into one row per run and step, because a
// short run is often over within one batch: its dozen events then cost one
// inserted row each for the run and its steps. What the tables held before is
// not known here; a patch says what to change about it, and nothing it says
// depends on where the batch was cut.
type runsFold struct {
	runs  map[string]*runPatch
	steps map[stepKey]*stepPatch

	runOrder  []*runPatch
	stepOrder []*stepPatch
}

type stepKey struct{ run, step string }

// runPatch is what a batch does to one run; nil leaves a column as it is.
type runPatch struct {
	id       string
	queued   *run.Queued // the run begins in this batch
	revision int64
	updated  time.Time

	status    *string
	paused    *bool
	wasPaused bool // at some moment of the batch
	reason    *run.Failure
	unreason  bool // the reason is gone
	started   *time.Time
	ended     *time.Time
	deadline  *time.Time

	output, outputFrom *string
	usage              domain.Usage // added
	cost               domain.Nanos // added
	provider           string
	hidden             bool
}

// stepPatch is what a batch does to one step; nil leaves a column as it is.
type stepPatch struct {
	key      stepKey
	node     *string
	idx      *int
	kind     *string
	name     *string
	state    *string
	held     *bool
	released bool // ready again: held while the run is paused
	attempt  *int
	queue    *string
	priority *int

	notBefore     *time.Time
	readyPosition *int64
	worker        *string
	started       *time.Time // unless it had started before
	ended         *time.Time
	due           *time.Time
	closeBy       *time.Time
	lease         *time.Time // extended: due then, or at closeBy when that is sooner

	errorCode, errorMessage  *string
	input, inputFrom, output *string
	usage                    domain.Usage // added
	cost                     domain.Nanos // added
}

// defaultQueue is the queue of steps that name none.
const defaultQueue = "default"

func newRunsFold() Applier {
	return &runsFold{runs: map[string]*runPatch{}, steps: map[stepKey]*stepPatch{}}
}

const projectOfRunsDeleted = `insert into dead_projects (project_id) values ($1) on conflict do nothing`

func (f *runsFold) Apply(b *pgx.Batch, r eventstore.Recorded) error {
	if ofProject(b, r, projectOfRunsDeleted) {
		return nil // it only hides runs, whenever they come: no need to keep the order
	}
	id := clean(r.StreamID)
	p := f.run(id)
	p.revision, p.updated = int64(r.Revision), r.Time
	switch e := r.Event.(type) {
	case run.Queued, run.Started, run.Paused, run.Resumed, run.Succeeded, run.Failed, run.Cancelled, run.TimedOut, run.Hidden:
		f.applyRun(p, r.Event)
	case run.StepScheduled, run.StepStarted, run.StepLeaseExtended, run.StepLeaseReleased, run.StepWaiting:
		f.applyOpen(id, r.Event, int64(r.Position))
	case run.StepSucceeded, run.StepFailed, run.StepSkipped:
		f.applyEnded(id, r.Event)
	case run.StepCallStarted:
		// The history shows it; no view does.
	case run.StepCallFinished:
		s := f.step(id, e.Step)
		s.usage, s.cost = s.usage.Add(e.Result.Usage), s.cost.Add(e.Result.CostNanos)
		p.usage, p.cost = p.usage.Add(e.Result.Usage), p.cost.Add(e.Result.CostNanos)
		if e.Result.Provider != "" {
			p.provider = clean(e.Result.Provider)
		}
	default:
		return unhandled(r)
	}
	return nil
}

func (f *runsFold) run(id string) *runPatch {
	p := f.runs[id]
	if p == nil {
		p = &runPatch{id: id}
		f.runs[id] = p
		f.runOrder = append(f.runOrder, p)
	}
	return p
}

func (f *runsFold) step(id, step string) *stepPatch {
	key := stepKey{id, clean(step)}
	s := f.steps[key]
	if s == nil {
		s = &stepPatch{key: key}
		f.steps[key] = s
		f.stepOrder = append(f.stepOrder, s)
	}
	return s
}

func (f *runsFold) applyRun(p *runPatch, event any) {
	switch e := event.(type) {
	case run.Queued:
		p.queued, p.status, p.deadline = &e, text(run.StatusQueued), &e.Deadline
	case run.Started:
		p.status, p.started = text(run.StatusRunning), &e.At
	case run.Paused:
		p.paused, p.wasPaused = new(true), true
		p.reason, p.unreason = &e.Reason, false
		f.holdReady(p.id)
	case run.Resumed:
		p.paused, p.reason, p.unreason = new(false), nil, true
		if !e.Deadline.IsZero() {
			p.deadline = &e.Deadline
		}
	case run.Succeeded:
		p.output, p.outputFrom = payload(e.Output), names(e.OutputFrom)
		p.end(run.StatusSucceeded, e.At, nil)
	case run.Failed:
		p.end(run.StatusFailed, e.At, &e.Reason)
	case run.Cancelled:
		p.end(run.StatusCancelled, e.At, &run.Failure{Code: "CANCELLED", Message: e.Reason})
	case run.TimedOut:
		p.end(run.StatusTimeout, e.At, &run.Failure{Code: "RUN_TIMEOUT", Message: "The run took longer than its maximum duration."})
	case run.Hidden:
		p.hidden = true
	}
}

func (p *runPatch) end(status run.Status, at time.Time, reason *run.Failure) {
	p.status, p.ended, p.paused = text(status), &at, new(false)
	p.reason, p.unreason = reason, reason == nil
}

// holdReady holds the steps this batch made ready; SQL holds the others.
func (f *runsFold) holdReady(id string) {
	for _, s := range f.stepOrder {
		if s.key.run == id && s.state != nil && *s.state == string(run.StepReady) {
			s.held, s.released = new(true), false
		}
	}
}

// applyOpen takes the events after which a step is still open.
func (f *runsFold) applyOpen(id string, event any, position int64) {
	switch e := event.(type) {
	case run.StepScheduled:
		s := f.step(id, e.Step)
		s.describe(e.Node, e.Idx, e.Type, e.Name, e.Attempt)
		s.become(run.StepReady)
		s.queue, s.priority = optional(cmp.Or(e.Queue, defaultQueue)), &e.Priority
		s.notBefore, s.readyPosition = &e.NotBefore, &position
		s.dueAt(&e.StartBy)
		if s.input == nil && s.inputFrom == nil {
			s.input, s.inputFrom = payload(e.Input), names(e.InputFrom)
		}
	case run.StepStarted:
		s := f.step(id, e.Step)
		s.become(run.StepRunning)
		s.attempt, s.worker, s.closeBy = &e.Attempt, optional(e.Worker), &e.CloseBy
		s.dueAt(&e.LeaseUntil)
		if e.CloseBy.Before(e.LeaseUntil) {
			s.dueAt(&e.CloseBy)
		}
		s.startedAt(e.At)
	case run.StepLeaseExtended:
		s := f.step(id, e.Step)
		s.lease, s.due = &e.LeaseUntil, nil
	case run.StepLeaseReleased:
		s := f.step(id, e.Step)
		s.become(run.StepReady)
		s.held, s.released = nil, true
		s.notBefore, s.readyPosition = &e.At, &position
		s.dueAt(&e.StartBy)
	case run.StepWaiting:
		s := f.step(id, e.Step)
		s.describe(e.Node, e.Idx, workflow.NodeWait, e.Name, 1)
		s.become(run.StepWait)
		s.dueAt(&e.Until)
		s.startedAt(e.At)
	}
}

// applyEnded takes the events that end a step, or an attempt of it.
func (f *runsFold) applyEnded(id string, event any) {
	switch e := event.(type) {
	case run.StepSucceeded:
		s := f.step(id, e.Step)
		s.describe(e.Node, e.Idx, e.Type, e.Name, e.Attempt)
		s.end(run.StepDone, e.At)
		s.output = payload(e.Output)
	case run.StepFailed:
		s := f.step(id, e.Step)
		s.describe(e.Node, e.Idx, e.Type, e.Name, e.Attempt)
		s.end(run.StepFail, e.At)
		code, message := clean(e.Failure.Code), clean(e.Failure.Message)
		s.errorCode, s.errorMessage = &code, &message
	case run.StepSkipped:
		s := f.step(id, e.Step)
		s.describe(e.Node, e.Idx, e.Type, e.Name, 0)
		s.end(run.StepSkip, e.At)
	}
}

// describe sets what every event of a step repeats; the first one counts.
func (s *stepPatch) describe(node string, idx int, kind, name string, attempt int) {
	if s.node == nil {
		node, kind, name = clean(node), clean(kind), clean(name)
		s.node, s.idx, s.kind, s.name = &node, &idx, &kind, &name
	}
	if attempt > 0 {
		s.attempt = &attempt
	}
}

// become changes the state; unless said otherwise the step is not held.
func (s *stepPatch) become(state run.StepStatus) {
	s.state, s.held, s.released = text(state), new(false), false
}

func (s *stepPatch) dueAt(at *time.Time) { s.due, s.lease = at, nil }

func (s *stepPatch) startedAt(at time.Time) {
	if s.started == nil {
		s.started = &at
	}
}

func (s *stepPatch) end(state run.StepStatus, at time.Time) {
	s.become(state)
	s.startedAt(at)
	s.ended = &at
}

// Flush queues the patches and begins anew. The order matters: runs before
// steps, which look at whether their run is paused; the pause before the steps
// that became ready after it; the end of a run after its steps.
func (f *runsFold) Flush(b *pgx.Batch) {
	if len(f.runOrder) == 0 {
		return
	}
	begun, changed := split(f.runOrder, func(p *runPatch) bool { return p.queued != nil })
	ended := slices.DeleteFunc(slices.Clone(f.runOrder), func(p *runPatch) bool { return p.ended == nil })
	queueBegun(b, begun)
	queueChanged(b, changed)
	queueHeld(b, changed)
	queueSteps(b, f.stepOrder)
	queueEnded(b, ended)
	queueCounters(b, begun, ended)
	queueReady(b, f.stepOrder)
	clear(f.runs)
	clear(f.steps)
	f.runOrder, f.stepOrder = f.runOrder[:0], f.stepOrder[:0]
}

func split[T any](all []T, first func(T) bool) (yes, no []T) {
	for _, v := range all {
		if first(v) {
			yes = append(yes, v)
		} else {
			no = append(no, v)
		}
	}
	return yes, no
}

func text[S ~string](s S) *string {
	t := string(s)
	return &t
}

// names is a list of steps as JSON; nil where there are none.
func names(steps []string) *string {
	if len(steps) == 0 {
		return nil
	}
	list, err := document(steps)
	if err != nil {
		return nil // strings always encode
	}
	return &list
}
