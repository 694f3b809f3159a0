package run

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/sparkops/control-plane/domain/workflow"
)

// fail ends the present attempt of a step and decides what follows: the next
// attempt, or what the node does when its retries are used up.
func (d *decision) fail(s Step, failure Failure, retryable bool, retryAfter time.Duration) {
	n := d.run.node(&s)
	if call, unknown := s.unknownCall(); unknown {
		failure, retryable = outcomeUnknown(call, failure), false
	}
	at, again, reason := d.nextAttempt(s, n, failure, retryable, retryAfter)
	if reason != nil {
		failure = *reason
	}
	event := StepFailed{
		Step: s.Step, Node: s.Node, Idx: s.Idx, Type: s.Type, Name: s.Name, Attempt: s.Attempt,
		Failure: failure, Retryable: retryable, Final: !again, At: d.now,
	}
	onExhausted := n.OnExhausted
	if failure.Code == CodeOutcomeUnknown {
		onExhausted = workflow.OnExhaustedPause
	}
	switch {
	case again:
		d.emit(event)
		if d.goesOn() {
			d.reschedule(s.Step, s.Attempt+1, at)
		}
	case onExhausted == workflow.OnExhaustedContinue:
		event.Continued = true
		d.emit(event)
		if i, ok := d.run.find(s.Step); ok && i < len(d.run.graph().Nodes) {
			d.follow(i)
		}
		d.finish()
	case onExhausted == workflow.OnExhaustedPause:
		d.emit(event)
		if d.run.pause == nil {
			d.emit(Paused{Reason: failure, Step: s.Step, At: d.now})
		}
	default:
		d.emit(event)
		d.emit(Failed{Reason: failure, Step: s.Step, At: d.now})
	}
}

// outcomeUnknown says that a call may have had its effect although nobody
// knows: only a person can tell whether it may be repeated.
func outcomeUnknown(call *CallRecord, cause Failure) Failure {
	details, _ := json.Marshal(map[string]any{"call": call.Name, "seq": call.Seq, "key": call.Key, "cause": cause.Code}) // cannot fail
	return Failure{
		Code:    CodeOutcomeUnknown,
		Message: fmt.Sprintf("The call of %s was started and nobody knows whether it took effect; resume the run to repeat it, or cancel the run.", call.Name),
		Details: details,
	}
}

// nextAttempt decides whether a failed attempt is repeated, and when. An
// expression that cannot be evaluated is the failure itself: reason.
func (d *decision) nextAttempt(s Step, n workflow.Node, failure Failure, retryable bool, retryAfter time.Duration) (at time.Time, again bool, reason *Failure) {
	if n.Retry == nil || !retryable {
		return at, false, nil
	}
	r, tries := *n.Retry, s.Attempt-s.base
	if tries >= r.MaxAttempts || slices.Contains(r.NonRetryable, failure.Code) {
		return at, false, nil
	}
	if r.When != "" {
		i, _ := d.run.graph().Index(n.ID)
		vars := d.run.vars(i)
		vars.Error, vars.Attempt = &failure, s.Attempt
		yes, err := d.expr.Condition(r.When, vars)
		if err != nil {
			return at, false, &Failure{Code: CodeExpression, Message: sentence("The condition of the retry policy could not be evaluated", err)}
		}
		if !yes {
			return at, false, nil
		}
	}
	at = d.now.Add(max(backoff(r, d.run.ID(), s.Step, s.Attempt, tries), retryAfter))
	if r.MaxElapsed > 0 && at.Sub(s.since) > r.MaxElapsed.Std() {
		return at, false, nil
	}
	if close := timeouts(n).ScheduleToClose; close > 0 && !at.Before(s.since.Add(close.Std())) {
		return at, false, nil
	}
	return at, true, nil
}

// backoff returns how long to wait after so many tries. Full jitter takes a
// part of it that depends only on run, step and attempt, so that deciding
// again gives the same answer.
func backoff(r workflow.Retry, run, step string, attempt, tries int) time.Duration {
	span := float64(r.InitialInterval) * math.Pow(max(r.Backoff, 1), float64(tries-1))
	wait := r.MaxInterval.Std()
	if span < float64(wait) {
		wait = time.Duration(span)
	}
	if r.Jitter == workflow.JitterNone || wait <= 0 {
		return max(wait, 0)
	}
	h := fnv.New64a()
	h.Write([]byte(run + "\x00" + step + "\x00" + strconv.Itoa(attempt)))
	part := float64(mix(h.Sum64())>>11) / (1 << 53) // in [0, 1)
	return time.Duration(part * float64(wait)).Truncate(time.Microsecond)
}

// mix spreads a hash over all its bits (the finaliser of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// reschedule makes an attempt of a known step ready from a time on.
func (d *decision) reschedule(step string, attempt int, at time.Time) {
	s, _ := d.run.Step(step)
	n := d.run.node(&s)
	since := s.since
	if since.IsZero() {
		since = d.now
	}
	d.emit(StepScheduled{
		Step: s.Step, Node: s.Node, Idx: s.Idx, Type: s.Type, Name: s.Name, Attempt: attempt, Queue: n.Queue, Priority: n.Priority,
		At: d.now, NotBefore: at, StartBy: startBy(timeouts(n), at, since),
	})
}
