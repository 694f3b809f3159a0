package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/llm"
	"github.com/sparkops/control-plane/worker/tool"
)

// Config is what a worker is made of. Only Tasks, Models.Simulated and Tools
// are required.
type Config struct {
	Tasks  Tasks
	Models llm.Models
	Tools  *tool.Set

	ID     string   // names the worker in leases; "worker" where empty
	Queues []string // it serves; workflow.DefaultQueue alone where empty
	Slots  int      // tasks at a time, 32 where 0

	Wait      time.Duration // of a long poll for tasks, 20 s where 0
	Heartbeat time.Duration // between heartbeats of a task, run.HeartbeatInterval where 0
	Drain     time.Duration // from the end of Run's context until everything is given back, 15 s where 0

	Clock      func() time.Time      // nil: the system clock
	Logger     *slog.Logger          // nil: slog.Default()
	Registerer prometheus.Registerer // nil: no metrics
}

// Worker carries out tasks until its context ends. It is made by New and run
// once.
type Worker struct {
	Config
	metrics metrics
	slots   chan struct{} // a token for each free one

	drainOnce sync.Once
	draining  chan struct{} // closed when no task may be begun any more

	base   context.Context // of tasks and their reports: ends when the drain is over
	active atomic.Int64

	mu      sync.Mutex
	running map[*running]struct{} // guarded by mu
	warned  time.Time             // guarded by mu: the last warning about heartbeats
	group   sync.WaitGroup        // one for each goroutine that works
}

// Reasons for which a task's context ends.
var (
	errGone  = errors.New("the task is not held any more")
	errDrain = errors.New("the worker is draining")
	errClose = errors.New("the attempt is out of time")
)

// New checks the configuration, fills in defaults and returns a worker that
// does nothing until Run.
func New(c Config) (*Worker, error) {
	if c.Tasks == nil || c.Tools == nil || c.Models.Simulated == nil {
		return nil, errors.New("worker: tasks, tools and a simulated model provider are required")
	}
	if c.ID == "" {
		c.ID = "worker"
	}
	if len(c.Queues) == 0 {
		c.Queues = []string{workflow.DefaultQueue}
	}
	if c.Slots <= 0 {
		c.Slots = 32
	}
	if c.Wait <= 0 {
		c.Wait = 20 * time.Second
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = run.HeartbeatInterval
	}
	if c.Drain <= 0 {
		c.Drain = 15 * time.Second
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	w := &Worker{Config: c, slots: make(chan struct{}, c.Slots), draining: make(chan struct{}), running: map[*running]struct{}{}}
	for range c.Slots {
		w.slots <- struct{}{}
	}
	var err error
	w.metrics, err = newMetrics(c.Registerer, &w.active)
	return w, err
}

// Run works until ctx ends, then drains: it takes no more tasks, gives back at
// once those between two calls, lets calls under way finish for most of
// Config.Drain, and gives back the rest. It returns nil when every task was
// reported or given back.
func (w *Worker) Run(ctx context.Context) error {
	ctx = commands.WithActor(ctx, domain.Process("worker"))
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	w.base = base
	w.lease(ctx)
	w.drainOnce.Do(func() { close(w.draining) })
	return w.drain(cancel)
}

// Cancel ends the work on a run at once, for callers that learn of its end
// sooner than the next heartbeat would.
func (w *Worker) Cancel(runID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.running {
		if r.task.RunID == runID {
			r.cancel(errGone)
		}
	}
}

// lease takes tasks while slots are free, until ctx ends.
func (w *Worker) lease(ctx context.Context) {
	identity := commands.Worker{ID: w.ID, Queues: w.Queues}
	failures := 0
	for ctx.Err() == nil {
		n := w.takeSlots(ctx)
		if n == 0 {
			return
		}
		tasks, err := w.Tasks.LeaseTasks(ctx, identity, n, w.Wait)
		for i := len(tasks); i < n; i++ {
			w.slots <- struct{}{}
		}
		for _, t := range tasks {
			w.begin(t, ctx.Err() != nil)
		}
		if err == nil || ctx.Err() != nil {
			failures = 0
			continue
		}
		if failures == 0 {
			w.Logger.WarnContext(ctx, "no tasks can be leased, trying again", "worker", w.ID, "error", err)
		}
		if pause(ctx, backoff(failures)) != nil {
			return
		}
		failures++
	}
}

// takeSlots waits for a free slot and takes those free beside it. A quarter of
// all is left alone: they are for steps that CompleteTask hands over while
// the lease loop waits for tasks.
func (w *Worker) takeSlots(ctx context.Context) int {
	select {
	case <-ctx.Done():
		return 0
	case <-w.slots:
	}
	return 1 + w.trySlots(w.Slots-w.Slots/4-1)
}

func (w *Worker) trySlots(most int) int {
	for n := range most {
		select {
		case <-w.slots:
		default:
			return n
		}
	}
	return max(0, most)
}

// begin works on a task in a goroutine of its own, whose slot is taken
// already. A task that arrives during the drain is given back.
func (w *Worker) begin(t Task, giveBack bool) {
	w.group.Add(1)
	go func() {
		defer func() {
			w.slots <- struct{}{}
			w.group.Done()
		}()
		if giveBack {
			w.release(t)
			return
		}
		for more := true; more; {
			t, more = w.perform(t)
		}
	}()
}

// takeMost is how many steps one completion takes over at most.
const takeMost = 4

// perform works on one task and reports what came of it. It returns the next
// task of the same slot, if the report handed one over.
func (w *Worker) perform(t Task) (Task, bool) {
	r := w.start(t)
	out := w.execute(r)
	next := w.report(r, out)
	w.finish(r)
	if len(next) == 0 {
		return Task{}, false
	}
	return next[0], true
}

// drain waits for the tasks under way, with less and less patience.
func (w *Worker) drain(cancel context.CancelFunc) error {
	done := make(chan struct{})
	go func() {
		w.group.Wait()
		close(done)
	}()
	w.cancelAll(func(r *running) bool { return !r.calling.Load() })
	patience := time.NewTimer(w.Config.Drain * 2 / 3)
	defer patience.Stop()
	last := time.NewTimer(w.Config.Drain)
	defer last.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-patience.C:
			w.cancelAll(func(*running) bool { return true })
		case <-last.C:
			cancel()
			left := w.active.Load()
			if left == 0 {
				<-done
				return nil
			}
			select {
			case <-done:
			case <-time.After(time.Second): // contexts are over; whoever ignores that is left behind
			}
			return fmt.Errorf("worker: %d tasks were not given back in time; their leases expire", left)
		}
	}
}

func (w *Worker) cancelAll(which func(*running) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.running {
		if which(r) {
			r.cancel(errDrain)
		}
	}
}

func (w *Worker) isDraining() bool {
	select {
	case <-w.draining:
		return true
	default:
		return false
	}
}
