package commands

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/eventstore"
)

// Follower passes the events of runs on while they happen. All follows of one
// Follower share one subscription, which lives as long as anybody follows. It
// is safe for concurrent use.
type Follower struct {
	handler *Handler

	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool // run id -> who wants to know
	count   int
	stop    context.CancelFunc // of the subscription; nil without one
	live    chan struct{}      // closed once the subscription has caught up
	running sync.WaitGroup
}

// NewFollower returns a Follower on the handler's store. The caller closes it.
func NewFollower(h *Handler) *Follower {
	return &Follower{handler: h, waiting: map[string]map[chan struct{}]bool{}}
}

// Close ends the subscription and waits for it. Follows that still go on only
// see what they find when they look by themselves.
func (f *Follower) Close() {
	f.mu.Lock()
	if f.stop != nil {
		f.stop()
	}
	f.mu.Unlock()
	f.running.Wait()
}

// Follow calls each with every event of the run after a position, in order and
// none twice, and returns nil after the event that ends the run, at once when
// that has been passed already. Whenever nothing happened for the time idle it
// calls each with nil. It ends early with each's error or the context's. It
// needs runs:read in the run's project.
func (f *Follower) Follow(ctx context.Context, runID string, after uint64, idle time.Duration, each func(*eventstore.Recorded) error) error {
	if _, err := f.handler.readableRun(ctx, runID); err != nil {
		return err
	}
	news, live, leave := f.join(ctx, runID)
	defer leave()
	next, ended := int64(0), false
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		seen := false
		err := f.handler.readRun(ctx, runID, next, func(e eventstore.Recorded) error {
			next = int64(e.Revision) + 1
			ended = ended || endsRun(e.Event)
			if e.Position <= after {
				return nil
			}
			seen = true
			return each(&e)
		})
		if err != nil || ended {
			return err
		}
		if seen {
			timer.Reset(idle)
		}
		select {
		case <-news:
		case <-live:
			live = nil // what happened before it is read now
		case <-timer.C:
			if err := each(nil); err != nil {
				return err
			}
			timer.Reset(idle)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func endsRun(e domain.Event) bool {
	switch e.(type) {
	case run.Succeeded, run.Failed, run.Cancelled, run.TimedOut:
		return true
	default:
		return false
	}
}

// join registers interest in a run and sees to it that there is a subscription.
func (f *Follower) join(ctx context.Context, runID string) (news chan struct{}, live <-chan struct{}, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	news = make(chan struct{}, 1)
	if f.waiting[runID] == nil {
		f.waiting[runID] = map[chan struct{}]bool{}
	}
	f.waiting[runID][news] = true
	f.count++
	if f.stop == nil {
		background, stop := context.WithCancel(context.WithoutCancel(ctx))
		live := make(chan struct{})
		f.stop, f.live = stop, live
		f.running.Go(func() { f.subscribe(background, live) })
	}
	return news, f.live, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiting[runID], news)
		if len(f.waiting[runID]) == 0 {
			delete(f.waiting, runID)
		}
		if f.count--; f.count == 0 && f.stop != nil {
			f.stop()
			f.stop = nil
		}
	}
}

// subscribe wakes whoever follows a run of which something new is told. Where
// events may have been missed, everybody looks.
func (f *Follower) subscribe(ctx context.Context, live chan struct{}) {
	once := sync.OnceFunc(func() { close(live) })
	defer once()
	options := eventstore.SubscribeOptions{
		Name: "follow-runs", Categories: []string{run.Category},
		From: func(context.Context) (uint64, bool, error) { return 0, true, nil },
	}
	err := f.handler.Store.Subscribe(ctx, options, func(_ context.Context, m eventstore.Message) error {
		switch {
		case m.Event != nil:
			f.wake(m.Event.StreamID)
		case m.CaughtUp:
			once()
			f.wakeAll()
		}
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		f.handler.Logger.ErrorContext(ctx, "live runs are told late: the subscription ended", "error", err)
	}
}

func (f *Follower) wake(runID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wakeLocked(runID)
}

func (f *Follower) wakeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for runID := range f.waiting {
		f.wakeLocked(runID)
	}
}

func (f *Follower) wakeLocked(runID string) {
	for news := range f.waiting[runID] {
		select {
		case news <- struct{}{}:
		default: // it has not looked since it was woken last
		}
	}
}
