package readmodels

import (
	"context"
	"slices"
	"sync"
	"time"
)

// TaskRef names a step that is ready for a worker. It may have been taken
// meanwhile: the run's own state decides.
type TaskRef struct {
	RunID     string    `db:"run_id"`
	ProjectID string    `db:"project_id"`
	Step      string    `db:"step"`
	Node      string    `db:"node"`
	Type      string    `db:"type"`
	Queue     string    `db:"queue"`
	Priority  int       `db:"priority"`
	Attempt   int       `db:"attempt"`
	NotBefore time.Time `db:"not_before"`
	Position  int64     `db:"position"` // of the event that made it ready
}

// claimTime bounds how long a claimed task is kept from other workers before
// its lease is an event: a worker that dies in between delays it that long.
const claimTime = 3 * time.Second

// Tasks are no table of their own: they are the steps that are ready.
const taskColumns = `t.run_id, t.step, t.node, t.type, t.queue, t.priority, t.attempt, t.not_before, t.ready_position as position`

const unclaimed = `not exists (
	select 1 from sparkops.task_claims c
	where c.run_id = t.run_id and c.step = t.step and c.position >= t.ready_position and c.until > clock_timestamp())`

const claimReadyTasks = `
with ready as (
	select t.* from unnest($2::text[]) as q (queue) cross join lateral (
		select ` + taskColumns + `
		from run_steps t
		where t.state = 'ready' and not t.held and t.queue = q.queue and t.not_before <= $3 and ` + unclaimed + `
		order by t.priority desc, t.not_before, t.ready_position
		limit $4
		for update of t skip locked
	) t
	order by t.priority desc, t.not_before, t.position
	limit $4
), claimed as (
	insert into sparkops.task_claims as c (run_id, step, position, worker, until)
	select run_id, step, position, $1, clock_timestamp() + $5::interval from ready
	on conflict (run_id, step) do update
	set position = excluded.position, worker = excluded.worker, until = excluded.until
	where c.until <= clock_timestamp() or c.position < excluded.position
	returning run_id, step
)
select ready.*, r.project_id from ready join claimed using (run_id, step) join runs r on r.id = ready.run_id
order by priority desc, not_before, position`

// ClaimReadyTasks returns up to max tasks of the queues that are ready at now,
// the highest priority and then the oldest first, and keeps them from other
// claims for a few seconds, in which the worker leases them. An empty list does
// not mean that there is none: another worker may be claiming at this moment.
func (v *Views) ClaimReadyTasks(ctx context.Context, worker string, queues []string, now time.Time, max int) ([]TaskRef, error) {
	return rows[TaskRef](ctx, v.pool, claimReadyTasks, worker, nonNil(queues), now, max, claimTime)
}

const releaseClaims = `delete from sparkops.task_claims c
using unnest($1::text[], $2::text[], $3::bigint[]) as t (run_id, step, position)
where c.run_id = t.run_id and c.step = t.step and c.position = t.position`

// ReleaseClaims gives claimed tasks back at once that will not be leased.
func (v *Views) ReleaseClaims(ctx context.Context, tasks []TaskRef) error {
	var runs, steps []string
	var positions []int64
	for _, t := range tasks {
		runs, steps, positions = append(runs, t.RunID), append(steps, t.Step), append(positions, t.Position)
	}
	_, err := v.infra.Exec(ctx, releaseClaims, nonNil(runs), nonNil(steps), nonNil(positions))
	return Translate(err)
}

const purgeClaims = `delete from sparkops.task_claims where until < clock_timestamp() - interval '1 minute'`

// PurgeClaims removes claims nobody needs any more. Somebody calls it now and
// then.
func (v *Views) PurgeClaims(ctx context.Context) error {
	_, err := v.infra.Exec(ctx, purgeClaims)
	return Translate(err)
}

const nextTask = `select t.not_before from run_steps t
where t.state = 'ready' and not t.held and t.queue = any($1) and ` + unclaimed + `
order by t.not_before limit 1`

// WaitTasks returns when a task of the queues may be ready, or after wait. It
// may return for nothing: nobody tells when the claim of a worker that died
// runs out.
func (v *Views) WaitTasks(ctx context.Context, queues []string, wait time.Duration) error {
	woken, cancel := v.queues.wait(queues) // before looking: what comes later wakes
	defer cancel()
	timer := time.NewTimer(min(wait, claimTime))
	defer timer.Stop()
	next, err := column[time.Time](ctx, v.pool, nextTask, nonNil(queues))
	if err != nil {
		return err
	}
	var due <-chan time.Time
	if len(next) > 0 {
		until := next[0].Sub(v.now())
		if until <= 0 {
			return nil
		}
		at := time.NewTimer(until)
		defer at.Stop()
		due = at.C
	}
	select {
	case <-woken:
	case <-due:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

const tasksOfRun = `select ` + taskColumns + `, r.project_id from run_steps t join runs r on r.id = t.run_id
where t.run_id = $1 and t.state = 'ready' and not t.held order by t.not_before, t.step`

// TasksOf returns the tasks of one run that wait for a worker.
func (v *Views) TasksOf(ctx context.Context, runID string) ([]TaskRef, error) {
	return rows[TaskRef](ctx, v.pool, tasksOfRun, runID)
}

// QueueDepth is how many tasks of a queue wait for a worker, and since when.
type QueueDepth struct {
	Queue  string     `db:"queue" json:"queue"`
	Ready  int64      `db:"ready" json:"ready"`
	Leased int64      `db:"leased" json:"leased"`
	Oldest *time.Time `db:"oldest" json:"oldest"`
}

const queueDepths = `
select queue, sum(ready)::bigint as ready, sum(leased)::bigint as leased, min(oldest) as oldest from (
	select queue, count(*) as ready, 0 as leased, min(not_before) as oldest
	from run_steps where state = 'ready' and not held group by queue
	union all
	select queue, 0, count(*), null from run_steps where state = 'running' group by queue
) t where queue is not null group by queue order by queue`

// QueueDepths returns the queues that hold tasks, by name.
func (v *Views) QueueDepths(ctx context.Context) ([]QueueDepth, error) {
	return rows[QueueDepth](ctx, v.pool, queueDepths)
}

// queueHub wakes those who wait for tasks.
type queueHub struct {
	mu      sync.Mutex
	waiting map[*queueWaiter]struct{}
}

type queueWaiter struct {
	queues []string
	woken  chan struct{}
}

func newQueueHub() *queueHub { return &queueHub{waiting: map[*queueWaiter]struct{}{}} }

// wait returns a channel that is closed when one of the queues got a task.
func (h *queueHub) wait(queues []string) (<-chan struct{}, func()) {
	w := &queueWaiter{queues: queues, woken: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[w] = struct{}{}
	return w.woken, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiting, w)
	}
}

func (h *queueHub) wake(queue string) {
	h.wakeIf(func(w *queueWaiter) bool { return slices.Contains(w.queues, queue) })
}

func (h *queueHub) wakeAll() { h.wakeIf(func(*queueWaiter) bool { return true }) }

func (h *queueHub) wakeIf(match func(*queueWaiter) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.waiting {
		if match(w) {
			delete(h.waiting, w)
			close(w.woken)
		}
	}
}
