package processes

import (
	"context"
	"sync"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

const (
	timersAtOnce   = 256                    // looked at in one round
	timerWorkers   = 8                      // runs advanced at the same time
	timerPoll      = time.Second            // at the latest, whatever happens
	timerPause     = 20 * time.Millisecond  // between two rounds
	advancedRecent = 500 * time.Millisecond // for the read model to show what was decided
	advancedFailed = 5 * time.Second
	warnPause      = 10 * time.Second // between two warnings about what passes by itself
	housekeeping   = time.Minute
)

// timers lets time pass: it asks each run that has something due to decide it.
// The read model says which runs those are; it may be behind, and each run
// decides for itself whether anything is due, so asking too often is harmless.
type timers struct {
	s *Service

	// wake returns when the runs' read model has changed, or after a time.
	wake func(ctx context.Context, atMost time.Duration) error

	// asked holds the timers that were acted on a moment ago, until when they
	// are left alone: the read model may still show them.
	asked map[readmodels.Timer]time.Time

	mu     sync.Mutex
	warned time.Time // guarded by mu: the last warning that a run could not be advanced for a while
}

// run acts on timers until ctx ends or wake fails.
func (t *timers) run(ctx context.Context) error {
	var cleaned time.Time
	failures := 0
	for {
		next, err := t.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if failures == 0 {
				t.s.Logger.WarnContext(ctx, "timers: the read models do not answer, trying again", "error", err)
			}
			next = backoff(failures)
			failures++
		default:
			failures = 0
		}
		if time.Since(cleaned) > housekeeping {
			cleaned = time.Now()
			t.clean(ctx)
		}
		if err := sleep(ctx, timerPause); err != nil {
			return err
		}
		if err := t.wake(ctx, min(next, timerPoll)); err != nil {
			return err
		}
	}
}

// round acts on what is due and returns how long nothing will be.
func (t *timers) round(ctx context.Context) (time.Duration, error) {
	now := t.s.Handler.Now()
	due, err := t.s.Handler.Views.DueTimers(ctx, now, timersAtOnce)
	if err != nil {
		return 0, err
	}
	t.forget()
	runs := t.fresh(due)
	t.advanceAll(ctx, runs, now)
	if len(due) > 0 {
		return timerPause, ctx.Err() // look again soon: more may follow, or the read model is behind
	}
	at, ok, err := t.s.Handler.Views.NextTimer(ctx)
	if err != nil || !ok {
		return timerPoll, err
	}
	return max(at.Sub(t.s.Handler.Now()), 0), nil
}

func (t *timers) forget() {
	for timer, until := range t.asked {
		if time.Now().After(until) {
			delete(t.asked, timer)
		}
	}
}

// fresh groups the timers nobody has acted on yet by run, the oldest first.
func (t *timers) fresh(due []readmodels.Timer) [][]readmodels.Timer {
	var runs [][]readmodels.Timer
	at := map[string]int{}
	for _, timer := range due {
		if _, asked := t.asked[timer]; asked {
			continue
		}
		i, known := at[timer.RunID]
		if !known {
			i = len(runs)
			at[timer.RunID] = i
			runs = append(runs, nil)
		}
		runs[i] = append(runs[i], timer)
	}
	return runs
}

func (t *timers) advanceAll(ctx context.Context, runs [][]readmodels.Timer, now time.Time) {
	quiet := make([]time.Duration, len(runs))
	slots := make(chan struct{}, timerWorkers)
	var all sync.WaitGroup
	for i, due := range runs {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.s.metrics.late.Observe(now.Sub(due[0].DueAt).Seconds())
			quiet[i] = t.advance(ctx, due[0].RunID)
		})
	}
	all.Wait()
	for i, due := range runs {
		for _, timer := range due {
			t.asked[timer] = time.Now().Add(quiet[i])
		}
	}
}

// advance asks one run and returns how long its timers are left alone now.
func (t *timers) advance(ctx context.Context, runID string) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	receipt, err := t.s.Handler.AdvanceRun(commands.WithActor(ctx, actor("timers")), runID)
	switch {
	case err == nil && !receipt.Unchanged:
		t.s.metrics.advance.WithLabelValues("decided").Inc()
	case err == nil || domain.KindOf(err) == domain.NotFound:
		t.s.metrics.advance.WithLabelValues("nothing").Inc()
	case ctx.Err() != nil:
	default:
		t.s.metrics.advance.WithLabelValues("failed").Inc()
		if !passes(err) {
			t.s.Logger.WarnContext(ctx, "timers: a run could not be advanced", "run", runID, "error", err)
			return advancedFailed
		}
		if t.mayWarn() { // a dependency is down for every run alike
			t.s.Logger.WarnContext(ctx, "timers: runs cannot be advanced, trying again", "run", runID, "error", err)
		}
	}
	return advancedRecent
}

// mayWarn says yes once in a while.
func (t *timers) mayWarn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.warned) < warnPause {
		return false
	}
	t.warned = time.Now()
	return true
}

// clean removes what nobody needs any more from the read side's own tables.
func (t *timers) clean(ctx context.Context) {
	views := t.s.Handler.Views
	if err := views.PurgeClaims(ctx); err != nil && ctx.Err() == nil {
		t.s.Logger.WarnContext(ctx, "timers: old claims could not be removed", "error", err)
	}
	if _, err := views.Purge(ctx); err != nil && ctx.Err() == nil {
		t.s.Logger.WarnContext(ctx, "timers: old idempotency keys could not be removed", "error", err)
	}
}
