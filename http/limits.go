package http

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"github.com/sparkops/control-plane/domain"
)

// Limits bound how often one user, key or address may ask. Zero values mean
// the defaults.
type Limits struct {
	PerMinute    int // requests of one user, key or address: 600
	Burst        int // at once: 100
	LoginFailure int // failed logins per minute of one address and e-mail: 10
	Registration int // registrations per minute of one address: 30
	Streams      int // live streams of one user at a time: 10
}

func (l Limits) withDefaults() Limits {
	fill := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	fill(&l.PerMinute, 600)
	fill(&l.Burst, 100)
	fill(&l.LoginFailure, 10)
	fill(&l.Registration, 30)
	fill(&l.Streams, 10)
	return l
}

// trackedCallers bounds the memory of one limiter. The least recently seen
// caller is forgotten first; it then has a full bucket again.
const trackedCallers = 65536

// limiter is one token bucket per caller.
type limiter struct {
	perMinute, burst int
	buckets          *lru.Cache[string, *rate.Limiter]
	mu               sync.Mutex // makes looking up and adding a bucket one step
	now              func() time.Time
}

func newLimiter(perMinute, burst int) (*limiter, error) {
	buckets, err := lru.New[string, *rate.Limiter](trackedCallers)
	if err != nil {
		return nil, fmt.Errorf("make rate limiter: %w", err)
	}
	return &limiter{perMinute: perMinute, burst: burst, buckets: buckets, now: time.Now}, nil
}

func (l *limiter) bucket(caller string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.buckets.Get(caller); ok {
		return b
	}
	b := rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.burst)
	l.buckets.Add(caller, b)
	return b
}

// allowance is what is left to a caller after a request.
type allowance struct {
	ok         bool
	remaining  int
	reset      int // seconds until the bucket is full again
	retryAfter int // seconds until the next request is allowed; 0 when ok
}

// take uses one token; peek only looks whether there is one.
func (l *limiter) take(caller string) allowance { return l.ask(caller, true) }
func (l *limiter) peek(caller string) allowance { return l.ask(caller, false) }

func (l *limiter) ask(caller string, use bool) allowance {
	b, now := l.bucket(caller), l.now()
	ok := b.TokensAt(now) >= 1
	if ok && use {
		ok = b.AllowN(now, 1)
	}
	tokens := b.TokensAt(now)
	perSecond := float64(l.perMinute) / 60
	a := allowance{ok: ok, remaining: max(0, int(tokens)), reset: int(math.Ceil((float64(l.burst) - tokens) / perSecond))}
	if !ok {
		a.retryAfter = max(1, int(math.Ceil((1-tokens)/perSecond)))
	}
	return a
}

// limited is the answer to a caller who asks too often.
func (a allowance) limited(what string) error {
	failure := domain.Fail(domain.RateLimited, "RATE_LIMITED", "%s; try again in %s.", what, seconds(a.retryAfter))
	return &retryError{failure: failure, after: a.retryAfter}
}

// retryError is a domain error that says when to try again.
type retryError struct {
	failure *domain.Error
	after   int // seconds
}

func (e *retryError) Error() string { return e.failure.Error() }
func (e *retryError) Unwrap() error { return e.failure }

func seconds(n int) string {
	if n == 1 {
		return "1 second"
	}
	return strconv.Itoa(n) + " seconds"
}

func (a allowance) header(h http.Header, limit int) {
	h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(a.remaining))
	h.Set("X-RateLimit-Reset", strconv.Itoa(a.reset))
}

// unlimited are the addresses that probes and scrapers ask.
var unlimited = map[string]bool{"/health": true, "/ready": true, "/metrics": true}

// limit counts each request against the user or key that makes it, and against
// the address where no credential counts.
func (s *Server) limit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if unlimited[c.Request().URL.Path] {
			return next(c)
		}
		r := requestOf(c.Request().Context())
		a := s.requests.take(r.caller())
		a.header(c.Response().Header(), s.limits.PerMinute)
		if !a.ok {
			return a.limited("Too many requests")
		}
		return next(c)
	}
}

// caller names whom a request counts against.
func (r *request) caller() string {
	switch {
	case r.actor.KeyID != "":
		return "key " + r.actor.KeyID
	case r.actor.ID != "":
		return "user " + r.actor.ID
	default:
		return "address " + r.address
	}
}
