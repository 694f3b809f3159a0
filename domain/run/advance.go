package run

import (
	"cmp"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Advance decides everything the time has made due: waits that are over,
// leases that ran out, timeouts, the run's deadline. With nothing due it
// decides nothing, so that asking too often or too early is harmless.
type Advance struct {
	RunID string
	Expr  Evaluator
}

// Stream returns the run's stream.
func (c Advance) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to change runs of the project.
func (c Advance) Needs(r Run) domain.Need { return needs(r, "runs:write") }

// Decide records what is due.
func (c Advance) Decide(r Run, now time.Time) ([]domain.Event, error) {
	if !r.Exists() {
		return nil, domain.Missing()
	}
	if r.Ended() {
		return nil, nil
	}
	d := decide(r, now, c.Expr)
	if r.pause == nil && d.due() {
		d.emit(TimedOut{At: now})
		return d.events, nil
	}
	for _, i := range r.openByNumber() {
		if d.run.Ended() {
			break
		}
		d.advance(int(i))
	}
	return d.events, nil
}

// openByNumber returns the positions of the open steps, ordered by number.
func (r Run) openByNumber() []int32 {
	open := slices.Clone(r.open)
	slices.SortFunc(open, func(a, b int32) int { return cmp.Compare(r.steps.get(int(a)).Idx, r.steps.get(int(b)).Idx) })
	return open
}

// advance decides what is due in one step.
func (d *decision) advance(i int) {
	s := *d.run.steps.get(i)
	if due, ok := d.run.stepDue(&s); !ok || due.After(d.now) {
		return
	}
	switch s.Status {
	case StepWait:
		d.emit(StepSucceeded{Step: s.Step, Node: s.Node, Idx: s.Idx, Type: s.Type, Name: s.Name, Attempt: 1, At: d.now})
		d.follow(i)
		d.finish()
	case StepReady:
		failure := Failure{Code: CodeScheduleToStart, Message: "No worker of queue " + s.Queue + " took the step in time."}
		if d.closed(&s) {
			failure = scheduleToClose()
		}
		d.fail(s, failure, false, 0)
	case StepRunning:
		switch {
		case d.closed(&s):
			d.fail(s, scheduleToClose(), false, 0)
		case !d.now.Before(s.CloseBy):
			d.fail(s, Failure{Code: CodeTimeout, Message: "The attempt took longer than its startToClose timeout."}, true, 0)
		case d.run.leaseDuration(&s) < LeaseDuration:
			d.fail(s, Failure{Code: CodeHeartbeat, Message: "The worker sent no heartbeat in time."}, true, 0)
		default:
			d.fail(s, Failure{Code: CodeLeaseExpired, Message: "The worker was lost: it sent no heartbeat in time."}, true, 0)
		}
	}
}

func scheduleToClose() Failure {
	return Failure{Code: CodeScheduleToClose, Message: "All attempts together took longer than the scheduleToClose timeout."}
}

// closed reports whether the scheduleToClose timeout of a step has passed.
func (d *decision) closed(s *Step) bool {
	limit := timeouts(d.run.node(s)).ScheduleToClose.Std()
	return limit > 0 && !s.since.IsZero() && !d.now.Before(s.since.Add(limit))
}

// stepDue returns when the time will change something about a step.
func (r Run) stepDue(s *Step) (time.Time, bool) {
	switch {
	case s.Status == StepWait:
		return s.Until, true
	case s.Status == StepRunning:
		return earlier(s.LeaseUntil, s.CloseBy), true
	case s.Status == StepReady && r.pause == nil:
		return s.StartBy, true
	default:
		return time.Time{}, false
	}
}

// NextWake returns when Advance will have something to decide, which may be in
// the past; false where only a worker, a person or nothing at all can change
// the run.
func (r Run) NextWake() (at time.Time, ok bool) {
	if !r.Exists() || r.Ended() {
		return at, false
	}
	if r.pause == nil {
		at, ok = r.deadline, true
	}
	for _, i := range r.open {
		due, has := r.stepDue(r.steps.get(int(i)))
		if has && (!ok || due.Before(at)) {
			at, ok = due, true
		}
	}
	return at, ok
}
