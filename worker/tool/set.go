package tool

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/worker/egress"
)

// Set makes tools and holds what their calls share: connections, rate limits,
// counters. It is made by New.
type Set struct {
	guard  *egress.Guard
	client *http.Client
	fresh  *http.Client // a connection for each request
	open   func(ctx context.Context, toolID, sealed string) (json.RawMessage, error)
	clock  func() time.Time

	mu       sync.Mutex
	buckets  map[string]*rate.Limiter // by tool id
	counters counters
}

// New returns a set whose HTTP tools go through the guard. open decrypts a
// tool's stored credentials, a JSON object (commands.Handler.OpenToolAuth); nil means that no tool has any.
// clock is used for Retry-After dates; nil means time.Now.
func New(guard *egress.Guard, open func(ctx context.Context, toolID, sealed string) (json.RawMessage, error), clock func() time.Time) *Set {
	if clock == nil {
		clock = time.Now
	}
	fresh := guard.Client()
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	return &Set{guard: guard, client: guard.Client(), fresh: fresh, open: open, clock: clock, buckets: map[string]*rate.Limiter{}, counters: newCounters()}
}

// Try makes one call of a tool outside any run, for the button "test".
func (s *Set) Try(ctx context.Context, id string, plan run.ToolPlan, c Call) (json.RawMessage, error) {
	t, err := s.Tool(id, plan)
	if err != nil {
		return nil, err
	}
	if err := CheckArguments(t.Parameters(), c.Arguments); err != nil {
		return nil, err
	}
	return t.Call(ctx, c)
}

// bucket returns the limiter of a tool. The limit holds per process.
func (s *Set) bucket(id string, perMinute int) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := rate.Limit(float64(perMinute) / 60)
	b, ok := s.buckets[id]
	switch {
	case !ok:
		if len(s.buckets) >= 10_000 { // of tools long gone; a full bucket forgives one burst
			s.buckets = map[string]*rate.Limiter{}
		}
		b = rate.NewLimiter(limit, perMinute)
		s.buckets[id] = b
	case b.Burst() != perMinute:
		b.SetLimit(limit)
		b.SetBurst(perMinute)
	}
	return b
}

// limited holds back calls over a tool's rate limit: for a short while it
// waits, for longer it fails with the time to wait.
type limited struct {
	Tool
	bucket *rate.Limiter
}

const longestWait = 5 * time.Second

// Call makes the call when the limit allows it.
func (l limited) Call(ctx context.Context, c Call) (json.RawMessage, error) {
	r := l.bucket.Reserve()
	d := r.Delay()
	if d > longestWait {
		r.Cancel()
		return nil, &Error{Code: "TOOL_RATE_LIMITED", Message: "The tool's own rate limit is used up.", Retryable: true, RetryAfter: d}
	}
	if err := sleep(ctx, d); err != nil {
		r.Cancel()
		return nil, err
	}
	return l.Tool.Call(ctx, c)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
