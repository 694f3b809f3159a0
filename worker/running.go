package worker

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
)

// running is a task the worker is at.
type running struct {
	task   Task
	ctx    context.Context // ends with the task, the lease, the attempt's time or the drain
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // of the attempt's time

	calling atomic.Bool                     // a call outside is under way or a report is being made
	details atomic.Pointer[json.RawMessage] // sent with heartbeats

	mu    sync.Mutex
	over  bool        // guarded by mu
	timer *time.Timer // of the next heartbeat; guarded by mu
	beats sync.WaitGroup
}

// start begins to keep a task's lease alive.
func (w *Worker) start(t Task) *running {
	r := &running{task: t}
	ctx, cancel := context.WithCancelCause(w.base)
	r.cancel = cancel
	r.ctx, r.stop = ctx, func() {}
	if !t.CloseBy.IsZero() {
		r.ctx, r.stop = context.WithTimeoutCause(ctx, t.CloseBy.Sub(w.Clock()), errClose)
	}
	w.active.Add(1)
	w.mu.Lock()
	w.running[r] = struct{}{}
	w.mu.Unlock()
	if w.isDraining() {
		r.cancel(errDrain)
	}
	r.beats.Add(1)
	r.mu.Lock()
	r.timer = time.AfterFunc(w.Heartbeat, func() { w.beat(r) })
	r.mu.Unlock()
	return r
}

// finish ends heartbeats and waits for one under way.
func (w *Worker) finish(r *running) {
	r.mu.Lock()
	r.over = true
	if r.timer.Stop() {
		r.beats.Done()
	}
	r.mu.Unlock()
	r.cancel(context.Canceled)
	r.stop()
	r.beats.Wait()
	w.mu.Lock()
	delete(w.running, r)
	w.mu.Unlock()
	w.active.Add(-1)
}

// beat sends one heartbeat and plans the next: soon, after one that failed.
func (w *Worker) beat(r *running) {
	defer r.beats.Done()
	ctx, cancel := context.WithTimeout(w.base, max(w.Heartbeat, time.Second))
	defer cancel()
	var details json.RawMessage
	if d := r.details.Load(); d != nil {
		details = *d
	}
	_, err := w.Tasks.HeartbeatTask(ctx, r.task, details)
	again := w.Heartbeat
	switch {
	case err == nil:
	case gone(err):
		r.cancel(errGone)
		return
	default:
		again = w.Heartbeat / 5
		if w.mayWarn() { // it is the same for every task
			w.Logger.WarnContext(ctx, "heartbeats cannot be sent, trying again", "run", r.task.RunID, "step", r.task.Step, "error", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || w.base.Err() != nil {
		return
	}
	r.beats.Add(1)
	r.timer = time.AfterFunc(again, func() { w.beat(r) })
}

// warnPause is the time between two warnings about heartbeats.
const warnPause = 10 * time.Second

// mayWarn says yes once in a while.
func (w *Worker) mayWarn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.warned) < warnPause {
		return false
	}
	w.warned = time.Now()
	return true
}
