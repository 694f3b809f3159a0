package run

import (
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Cancel ends an active run at once; workers learn it from their next
// heartbeat. It wins over any result that comes later. A cancelled run stays
// as it is, one that ended otherwise is a Conflict.
type Cancel struct {
	RunID      string
	Reason, By string
}

// Stream returns the run's stream.
func (c Cancel) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to change runs of the project.
func (c Cancel) Needs(r Run) domain.Need { return needs(r, "runs:write") }

// Decide cancels the run.
func (c Cancel) Decide(r Run, now time.Time) ([]domain.Event, error) {
	switch {
	case !r.Exists():
		return nil, domain.Missing()
	case r.Status() == StatusCancelled:
		return nil, nil
	case r.Ended():
		return nil, EndedError(r)
	case len(c.Reason) > maxMessage:
		return nil, reasonTooLong()
	default:
		return []domain.Event{Cancelled{Reason: c.Reason, By: c.By, At: now}}, nil
	}
}

func reasonTooLong() error {
	return domain.InvalidFields([]domain.Field{{Field: "reason", Message: "is too long"}})
}

// Pause holds an active run until it is resumed.
type Pause struct {
	RunID      string
	Reason, By string
}

// Stream returns the run's stream.
func (c Pause) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to change runs of the project.
func (c Pause) Needs(r Run) domain.Need { return needs(r, "runs:write") }

// Decide pauses the run.
func (c Pause) Decide(r Run, now time.Time) ([]domain.Event, error) {
	switch {
	case !r.Exists():
		return nil, domain.Missing()
	case r.Ended():
		return nil, EndedError(r)
	case r.pause != nil:
		return nil, nil
	case len(c.Reason) > maxMessage:
		return nil, reasonTooLong()
	}
	reason := c.Reason
	if reason == "" {
		reason = "The run was paused by a user."
	}
	return []domain.Event{Paused{Reason: Failure{Code: CodePausedByUser, Message: reason}, At: now}}, nil
}

// Resume continues a paused run: what was held is scheduled again, with its
// retries counted anew, and the deadline moves by the time of the pause. A
// call whose outcome nobody knows may be repeated after it. A run that is
// active stays as it is, one that ended is a Conflict.
type Resume struct {
	RunID string
	By    string
	Expr  Evaluator
}

// Stream returns the run's stream.
func (c Resume) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to change runs of the project.
func (c Resume) Needs(r Run) domain.Need { return needs(r, "runs:write") }

// Decide schedules what was held and everything that became due meanwhile.
func (c Resume) Decide(r Run, now time.Time) ([]domain.Event, error) {
	switch {
	case !r.Exists():
		return nil, domain.Missing()
	case r.Ended():
		return nil, EndedError(r)
	case r.pause == nil:
		return nil, nil
	}
	d := decide(r, now, c.Expr)
	d.emit(Resumed{By: c.By, At: now, Deadline: r.deadline.Add(max(now.Sub(r.pause.At), 0))})
	for _, i := range r.openByNumber() {
		s := d.run.steps.get(int(i))
		switch {
		case s.held && s.again:
			d.reschedule(s.Step, s.Attempt+1, now)
		case s.held:
			at := now
			if s.NotBefore.After(now) {
				at = s.NotBefore
			}
			d.reschedule(s.Step, s.Attempt, at)
		}
	}
	d.sweep()
	d.finish()
	return d.events, nil
}

// Hide takes a finished run out of lists; an active one is a Conflict.
type Hide struct{ RunID string }

// Stream returns the run's stream.
func (c Hide) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to change runs of the project.
func (c Hide) Needs(r Run) domain.Need { return needs(r, "runs:write") }

// Decide hides the run.
func (c Hide) Decide(r Run, now time.Time) ([]domain.Event, error) {
	switch {
	case !r.Exists():
		return nil, domain.Missing()
	case !r.Ended():
		return nil, domain.Fail(domain.Conflict, "RUN_ACTIVE", "The run is active; cancel it first.")
	case r.hidden:
		return nil, nil
	default:
		return []domain.Event{Hidden{At: now}}, nil
	}
}
