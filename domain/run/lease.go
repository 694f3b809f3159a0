package run

import (
	"encoding/json"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// A lease lasts LeaseDuration (or the node's heartbeat timeout, when that is
// shorter); a worker sends a heartbeat every HeartbeatInterval.
const (
	LeaseDuration     = 30 * time.Second
	HeartbeatInterval = 10 * time.Second
)

// Held names an attempt a worker holds: all its commands carry it, and only
// the newest token of a step counts.
type Held struct {
	RunID   string
	Step    string
	Attempt int
	Token   int64
}

// Stream returns the run's stream.
func (h Held) Stream() string { return domain.StreamName(Category, h.RunID) }

// Needs returns the right to carry out steps in the run's project.
func (h Held) Needs(r Run) domain.Need { return needs(r, "tasks:work") }

// needs is a right in the run's project.
func needs(r Run, p domain.Permission) domain.Need {
	return domain.NeedIn(p, r.ProjectID(), r.Exists())
}

// step returns the step the worker holds, or why it does not any more.
func (h Held) step(r Run) (Step, error) {
	if !r.Exists() {
		return Step{}, domain.Missing()
	}
	if r.Ended() {
		return Step{}, EndedError(r)
	}
	s, _ := r.Step(h.Step)
	if s.Status != StepRunning || s.Token != h.Token {
		return Step{}, domain.Fail(domain.Conflict, "LEASE_LOST", "The step is not held under this token any more; drop its work.")
	}
	return s, nil
}

// EndedError is the Conflict for a run that is over.
func EndedError(r Run) error {
	return domain.Fail(domain.Conflict, "RUN_ENDED", "The run is over: %s.", r.Status())
}

// Ticket names an attempt that is ready.
type Ticket struct {
	Step    string
	Attempt int
}

// Lease hands ready attempts of one run to a worker: of those named, the ones
// that are still free. None is no error and no event.
type Lease struct {
	RunID   string
	Worker  string
	Tickets []Ticket
}

// Stream returns the run's stream.
func (c Lease) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to carry out steps in the run's project.
func (c Lease) Needs(r Run) domain.Need { return needs(r, "tasks:work") }

// Decide starts the attempts that are free.
func (c Lease) Decide(r Run, now time.Time) ([]domain.Event, error) {
	if !r.Exists() {
		return nil, domain.Missing()
	}
	d := decide(r, now, nil)
	for _, t := range c.Tickets {
		d.lease(t, c.Worker)
	}
	return d.events, nil
}

func (d *decision) lease(t Ticket, worker string) {
	s, _ := d.run.Step(t.Step)
	if !d.goesOn() || s.Status != StepReady || s.Attempt != t.Attempt || s.NotBefore.After(d.now) || d.due() {
		return
	}
	if d.run.startedAt.IsZero() {
		d.emit(Started{At: d.now})
	}
	bounds := timeouts(d.run.node(&s))
	closeBy := d.now.Add(bounds.StartToClose.Std())
	if bounds.ScheduleToClose > 0 {
		closeBy = earlier(closeBy, s.since.Add(bounds.ScheduleToClose.Std()))
	}
	d.emit(StepStarted{
		Step: s.Step, Attempt: s.Attempt, Token: d.run.token + 1, Worker: worker, At: d.now,
		LeaseUntil: d.now.Add(d.run.leaseDuration(&s)), CloseBy: closeBy,
	})
}

// due reports whether the run itself is out of time: nothing is begun then.
func (d *decision) due() bool { return !d.now.Before(d.run.deadline) }

// leaseDuration returns how long a lease of a step lasts without a heartbeat.
func (r Run) leaseDuration(s *Step) time.Duration {
	if h := timeouts(r.node(s)).Heartbeat.Std(); h > 0 && h < LeaseDuration {
		return h
	}
	return LeaseDuration
}

// ExtendLease is a heartbeat. It moves the end of the lease once a third of it
// has passed, so that hasty heartbeats cost no event; details survive to the
// next attempt. Conflict (LEASE_LOST, RUN_ENDED) tells the worker to stop.
type ExtendLease struct {
	Held
	Details json.RawMessage
}

// Decide moves the end of the lease when it must.
func (c ExtendLease) Decide(r Run, now time.Time) ([]domain.Event, error) {
	s, err := c.step(r)
	if err != nil {
		return nil, err
	}
	if err := checkPayload("details", c.Details, MaxDetails); err != nil {
		return nil, err
	}
	length := r.leaseDuration(&s)
	if s.LeaseUntil.Sub(now) > length-length/3 {
		return nil, nil
	}
	return []domain.Event{StepLeaseExtended{Step: s.Step, Token: s.Token, LeaseUntil: now.Add(length), Details: c.Details}}, nil
}

// ReleaseLease gives an attempt back unfinished; the step is ready again at
// once and the attempt does not count. With a call open that must not be
// repeated, the attempt has failed instead.
type ReleaseLease struct {
	Held
	Expr Evaluator
}

// Decide makes the step ready again.
func (c ReleaseLease) Decide(r Run, now time.Time) ([]domain.Event, error) {
	if s, _ := r.Step(c.Step); s.Status == StepReady && s.Token == c.Token {
		return nil, nil
	}
	s, err := c.step(r)
	if err != nil {
		return nil, err
	}
	d := decide(r, now, c.Expr)
	if _, unknown := s.unknownCall(); unknown {
		d.fail(s, Failure{Code: "RELEASED", Message: "The worker gave the step back."}, true, 0)
		return d.events, nil
	}
	d.emit(StepLeaseReleased{Step: s.Step, Token: s.Token, At: now, StartBy: startBy(timeouts(r.node(&s)), now, s.since)})
	return d.events, nil
}

// checkPayload checks that JSON of a worker can be stored.
func checkPayload(field string, raw json.RawMessage, limit int) error {
	switch {
	case len(raw) > limit:
		return domain.Fail(domain.TooLarge, "PAYLOAD_TOO_LARGE", "The field %s is larger than %d KiB.", field, limit>>10)
	case len(raw) > 0 && !json.Valid(raw):
		return domain.InvalidFields([]domain.Field{{Field: field, Message: "is not valid JSON"}})
	default:
		return nil
	}
}
