package worker

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

// outcome is how an attempt ended: exactly one of output, failure and stopped.
type outcome struct {
	output     json.RawMessage
	failure    *run.Failure
	retryable  bool
	retryAfter time.Duration
	stopped    error // why it was not finished: errGone, errDrain, errClose
	cause      error // of the failure, logged and never shown
}

func failed(code, message string) outcome {
	return outcome{failure: &run.Failure{Code: code, Message: message}}
}

// report records an outcome and returns tasks handed over by it.
func (w *Worker) report(r *running, out outcome) []Task {
	r.calling.Store(true) // a drain waits for reports
	t := r.task
	switch {
	case errors.Is(out.stopped, errGone):
		w.metrics.task(t.Type, "dropped")
		return nil
	case errors.Is(out.stopped, errClose):
		out = outcome{failure: &run.Failure{Code: run.CodeTimeout, Message: "The attempt did not end in time."}, retryable: true}
	case out.stopped != nil:
		w.release(t)
		return nil
	}
	if out.failure != nil {
		return w.reportFailure(t, out)
	}
	return w.reportOutput(t, out.output)
}

func (w *Worker) reportOutput(t Task, output json.RawMessage) []Task {
	extra := 0
	take := 0
	if !w.isDraining() {
		extra = w.trySlots(takeMost - 1)
		take = 1 + extra
	}
	var next []Task
	err := w.retry(t, "complete task", func(ctx context.Context) (err error) {
		next, err = w.Tasks.CompleteTask(ctx, t, output, take)
		return err
	})
	used := max(0, min(extra, len(next)-1))
	for range extra - used {
		w.slots <- struct{}{}
	}
	switch kind := domain.KindOf(err); {
	case err == nil:
		w.metrics.task(t.Type, "succeeded")
	case kind == domain.TooLarge || kind == domain.Invalid || kind == domain.Malformed:
		return w.reportFailure(t, failed("OUTPUT_INVALID", "The output of the step cannot be stored."))
	default:
		w.metrics.task(t.Type, "dropped")
	}
	for i, task := range next {
		switch {
		case i == 0: // goes on in this slot
		case i <= used:
			w.begin(task, w.isDraining())
		default: // more than was asked for
			w.release(task)
		}
	}
	return next
}

func (w *Worker) reportFailure(t Task, out outcome) []Task {
	if out.cause != nil {
		w.Logger.WarnContext(w.base, "attempt failed", "run", t.RunID, "step", t.Step, "attempt", t.Attempt, "code", out.failure.Code, "error", out.cause)
	}
	err := w.retry(t, "fail task", func(ctx context.Context) error {
		return w.Tasks.FailTask(ctx, t, *out.failure, out.retryable, out.retryAfter)
	})
	if err != nil {
		w.metrics.task(t.Type, "dropped")
		return nil
	}
	w.metrics.task(t.Type, "failed")
	return nil
}

func (w *Worker) release(t Task) {
	err := w.retry(t, "release task", func(ctx context.Context) error { return w.Tasks.ReleaseTask(ctx, t) })
	if err != nil {
		w.metrics.task(t.Type, "dropped")
		return
	}
	w.metrics.task(t.Type, "released")
}

// retry makes one report, again and again while the control plane cannot take
// it; repeating a report changes nothing. The last error is logged here unless
// it only says that the task is gone.
func (w *Worker) retry(t Task, what string, do func(context.Context) error) error {
	for n := 0; ; n++ {
		err := do(w.base)
		if err == nil || gone(err) {
			return err
		}
		again := transient(err) || domain.KindOf(err) == "" && n < 5
		if !again || pause(w.base, backoff(n)) != nil {
			w.Logger.ErrorContext(w.base, what, "run", t.RunID, "step", t.Step, "attempt", t.Attempt, "error", err)
			return err
		}
	}
}

// backoff returns a random time around 50 ms, doubled with each failure up to
// two seconds.
func backoff(failures int) time.Duration {
	span := 50 * time.Millisecond << min(failures, 6)
	span = min(span, 2*time.Second)
	return span/2 + rand.N(span)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
