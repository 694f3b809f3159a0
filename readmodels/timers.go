package readmodels

import (
	"context"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// The kinds of timer.
const (
	TimerStart    = "start"    // the step must have been taken by a worker
	TimerLease    = "lease"    // the worker's lease ends
	TimerClose    = "close"    // the attempt must have ended
	TimerWait     = "wait"     // a wait step is over
	TimerDeadline = "deadline" // the run must have ended; has no step
)

// Timer says that something about a run is due at a time. It may be superseded
// already: the run's own state decides what is due.
type Timer struct {
	RunID string    `db:"run_id"`
	Step  string    `db:"step"` // "" for a timer of the run itself
	Kind  string    `db:"kind"`
	DueAt time.Time `db:"due_at"`
}

const dueTimers = `select run_id, step, kind, due_at from timers where due_at <= $1 order by due_at, run_id, step, kind limit $2`

// DueTimers returns the timers due at now, the oldest first.
func (v *Views) DueTimers(ctx context.Context, now time.Time, limit int) ([]Timer, error) {
	return rows[Timer](ctx, v.pool, dueTimers, now, limit)
}

const nextTimer = `select run_id, step, kind, due_at from timers order by due_at limit 1`

// NextTimer returns when the next timer is due, which may be in the past; ok
// is false when there is none.
func (v *Views) NextTimer(ctx context.Context) (at time.Time, ok bool, err error) {
	t, err := row[Timer](ctx, v.pool, nextTimer)
	if domain.KindOf(err) == domain.NotFound {
		return time.Time{}, false, nil
	}
	return t.DueAt, err == nil, err
}

const timersOfRun = `select run_id, step, kind, due_at from timers where run_id = $1 order by due_at, step, kind`

// TimersOf returns the timers of one run, the next first.
func (v *Views) TimersOf(ctx context.Context, runID string) ([]Timer, error) {
	return rows[Timer](ctx, v.pool, timersOfRun, runID)
}
