package run

import (
	"fmt"
	"time"
)

// Reason says in one sentence what a run waits for.
type Reason struct {
	Code    string     `json:"code"` // WORKER, RUNNING, RETRY, WAIT, PAUSED, ENDED
	Message string     `json:"message"`
	Step    string     `json:"step,omitempty"`
	Queue   string     `json:"queue,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"` // when something happens by itself at the latest
}

// Why explains what the run waits for at a moment: one reason for each open
// step, or the one that stands above them.
func (r Run) Why(now time.Time) []Reason {
	switch {
	case !r.Exists():
		return nil
	case r.Ended():
		return []Reason{r.whyEnded()}
	}
	var reasons []Reason
	if p := r.pause; p != nil {
		reasons = append(reasons, Reason{
			Code: "PAUSED", Step: p.Step, Since: moment(p.At),
			Message: fmt.Sprintf("The run is paused since %s because of %s: %s Resume or cancel it.", clock(p.At), p.Reason.Code, p.Reason.Message),
		})
	}
	for _, i := range r.openByNumber() {
		if s := r.steps.get(int(i)); !s.held {
			reasons = append(reasons, s.why(now))
		}
	}
	return reasons
}

func (r Run) whyEnded() Reason {
	message := fmt.Sprintf("The run is over since %s: %s.", clock(r.endedAt), r.status)
	if r.reason.Message != "" {
		message = fmt.Sprintf("The run is over since %s: %s, because of %s: %s", clock(r.endedAt), r.status, r.reason.Code, r.reason.Message)
	}
	return Reason{Code: "ENDED", Step: r.failedStep, Since: moment(r.endedAt), Message: message}
}

func (s *Step) why(now time.Time) Reason {
	switch {
	case s.Status == StepWait:
		return Reason{
			Code: "WAIT", Step: s.Step, Since: moment(s.ScheduledAt), Until: moment(s.Until),
			Message: fmt.Sprintf("Step %s waits until %s.", s.Name, clock(s.Until)),
		}
	case s.Status == StepRunning:
		return Reason{
			Code: "RUNNING", Step: s.Step, Queue: s.Queue, Since: moment(s.LeasedAt), Until: moment(s.CloseBy),
			Message: fmt.Sprintf("Step %s is carried out by worker %s since %s (attempt %d); its lease lasts until %s.", s.Name, s.Worker, clock(s.LeasedAt), s.Attempt, clock(s.LeaseUntil)),
		}
	case s.NotBefore.After(now):
		cause := "a failure"
		if s.Failure != nil {
			cause = s.Failure.Code
		}
		return Reason{
			Code: "RETRY", Step: s.Step, Queue: s.Queue, Since: moment(s.EndedAt), Until: moment(s.NotBefore),
			Message: fmt.Sprintf("Step %s failed with %s; attempt %d starts at %s.", s.Name, cause, s.Attempt, clock(s.NotBefore)),
		}
	default:
		return Reason{
			Code: "WORKER", Step: s.Step, Queue: s.Queue, Since: moment(s.NotBefore), Until: moment(s.StartBy),
			Message: fmt.Sprintf("Step %s waits for a worker of queue %s since %s.", s.Name, s.Queue, clock(s.NotBefore)),
		}
	}
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
