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

// Timers are no table of their own: each open step holds when the time changes
// something about it, and each active run when it must be over.
const openTimers = `
	select run_id, step, due_at,
		case state when 'ready' then 'start' when 'waiting' then 'wait' else case when due_at = close_by then 'close' else 'lease' end end as kind
	from run_steps
	where (state in ('running', 'waiting') or state = 'ready' and not held)`

const openDeadlines = `
	select id as run_id, '' as step, deadline as due_at, 'deadline' as kind
	from runs where status in ('queued', 'running') and not paused`

const dueTimers = `
select * from (
	(` + openTimers + ` and due_at <= $1 order by due_at limit $2)
	union all
	(` + openDeadlines + ` and deadline <= $1 order by deadline limit $2)
) t order by due_at, run_id, step limit $2`

// DueTimers returns the timers due at now, the oldest first.
func (v *Views) DueTimers(ctx context.Context, now time.Time, limit int) ([]Timer, error) {
	return rows[Timer](ctx, v.pool, dueTimers, now, limit)
}

const nextTimer = `
select * from (
	(` + openTimers + ` order by due_at limit 1)
	union all
	(` + openDeadlines + ` order by deadline limit 1)
) t order by due_at limit 1`

// NextTimer returns when the next timer is due, which may be in the past; ok
// is false when there is none.
func (v *Views) NextTimer(ctx context.Context) (at time.Time, ok bool, err error) {
	t, err := row[Timer](ctx, v.pool, nextTimer)
	if domain.KindOf(err) == domain.NotFound {
		return time.Time{}, false, nil
	}
	return t.DueAt, err == nil, err
}

const timersOfRun = `
select * from (` + openTimers + ` and run_id = $1 union all` + openDeadlines + ` and id = $1) t
order by due_at, step`

// TimersOf returns the timers of one run, the next first.
func (v *Views) TimersOf(ctx context.Context, runID string) ([]Timer, error) {
	return rows[Timer](ctx, v.pool, timersOfRun, runID)
}
