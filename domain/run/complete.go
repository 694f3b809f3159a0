package run

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Complete records the result of a step and decides all that follows from it:
// decisions, waits, skipped branches, steps that become ready, the end of the
// run. Up to Take of the steps it makes ready are handed to the same worker at
// once, when their queue is one of Queues (nil: any). Repeating it changes
// nothing.
type Complete struct {
	Held
	Output json.RawMessage
	Take   int
	Queues []string
	Expr   Evaluator
}

// Decide records the result and what follows.
func (c Complete) Decide(r Run, now time.Time) ([]domain.Event, error) {
	if s, _ := r.Step(c.Step); s.Status == StepDone && s.Token == c.Token {
		return nil, nil
	}
	s, err := c.step(r)
	if err != nil {
		return nil, err
	}
	d := decide(r, now, c.Expr)
	if len(c.Output) > MaxPayload {
		failure := tooLarge()
		d.fail(s, failure, false, 0)
		return d.events, nil
	}
	if err := checkPayload("output", c.Output, MaxPayload); err != nil {
		return nil, err
	}
	d.size = len(c.Output)
	d.emit(StepSucceeded{
		Step: s.Step, Node: s.Node, Idx: s.Idx, Type: s.Type, Name: s.Name, Attempt: s.Attempt, Output: c.Output, At: now,
	})
	if i, ok := r.find(s.Step); ok && i < len(r.graph().Nodes) {
		d.follow(i)
	}
	d.finish()
	d.take(s.Worker, c.Take, c.Queues)
	return d.events, nil
}

func tooLarge() Failure {
	return Failure{Code: CodeOutputTooLarge, Message: "The output is larger than 256 KiB; store it elsewhere and answer with a reference."}
}

// take leases up to n of the steps this decision made ready.
func (d *decision) take(worker string, n int, queues []string) {
	for _, e := range slices.Clone(d.events) {
		scheduled, ok := e.(StepScheduled)
		if !ok || n <= 0 || queues != nil && !slices.Contains(queues, scheduled.Queue) {
			continue
		}
		before := len(d.events)
		if d.lease(Ticket{Step: scheduled.Step, Attempt: scheduled.Attempt}, worker); len(d.events) > before {
			n--
		}
	}
}

// Fail ends an attempt without a result. The retry policy of the node decides
// what follows; RetryAfter is a delay the other side asked for. A failure of
// code OUTCOME_UNKNOWN always waits for an operator. Repeating it changes
// nothing.
type Fail struct {
	Held
	Failure    Failure
	Retryable  bool
	RetryAfter time.Duration
	Expr       Evaluator
}

// Decide records the failure and what follows.
func (c Fail) Decide(r Run, now time.Time) ([]domain.Event, error) {
	failure := c.Failure.bounded("STEP_FAILED")
	if s, _ := r.Step(c.Step); c.repeats(s, failure) {
		return nil, nil
	}
	s, err := c.step(r)
	if err != nil {
		return nil, err
	}
	d := decide(r, now, c.Expr)
	d.fail(s, failure, c.Retryable && failure.Code != CodeOutcomeUnknown, c.RetryAfter)
	return d.events, nil
}

// repeats reports whether this very failure is recorded already.
func (c Fail) repeats(s Step, failure Failure) bool {
	return c.Token > 0 && s.failedToken == c.Token && s.Status != StepRunning && s.Failure.Code == failure.Code
}
