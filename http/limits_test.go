package http

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	l, err := newLimiter(60, 3)
	require.NoError(t, err)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l.now = func() time.Time { return now }
	require.Equal(t, allowance{ok: true, remaining: 2, reset: 1}, l.take("a"))
	require.Equal(t, allowance{ok: true, remaining: 1, reset: 2}, l.take("a"))
	require.Equal(t, allowance{ok: true, remaining: 1, reset: 2}, l.peek("a"))
	require.Equal(t, allowance{ok: true, remaining: 0, reset: 3}, l.take("a"))
	require.Equal(t, allowance{ok: false, remaining: 0, reset: 3, retryAfter: 1}, l.take("a"))
	require.Equal(t, allowance{ok: true, remaining: 2, reset: 1}, l.take("b"), "everybody has a bucket")
	now = now.Add(time.Second)
	require.True(t, l.take("a").ok, "one a second comes back")
	require.False(t, l.take("a").ok)
	now = now.Add(time.Hour)
	require.Equal(t, 2, l.take("a").remaining, "and no more than the burst")
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	s := shared()
	_, url := s.serve(t, Config{Limits: Limits{PerMinute: 1, Burst: 3, LoginFailure: 100, Registration: 100, Streams: 1}})
	one, two := *s.user(t, domain.Viewer), *s.user(t, domain.Viewer)
	one.url, two.url = url, url
	for want := 2; want >= 0; want-- {
		h := one.do(t, 200, "GET", "/agents", nil).Header
		require.Equal(t, "1", h.Get("X-RateLimit-Limit"))
		require.Equal(t, string(rune('0'+want)), h.Get("X-RateLimit-Remaining"))
		require.NotEmpty(t, h.Get("X-RateLimit-Reset"))
	}
	a := one.try(t, "GET", "/agents", nil)
	requireProblem(t, a, 429, "RATE_LIMITED")
	require.Regexp(t, `^\d+$`, a.Header.Get("Retry-After"))
	two.do(t, 200, "GET", "/agents", nil) // another user of the same address
	for range 5 {
		for _, path := range []string{"/health", "/ready", "/metrics"} {
			require.Equal(t, 200, one.try(t, "GET", path, nil).Status, "probes are free")
		}
		require.Equal(t, 200, one.try(t, "OPTIONS", "/agents", nil).Status, "so are preflights")
	}
}

// A forged address changes nothing unless it comes from a trusted proxy.
func TestForgedAddress(t *testing.T) {
	t.Parallel()
	s := shared()
	limits := Limits{PerMinute: 1, Burst: 1, LoginFailure: 100, Registration: 100, Streams: 1}
	ask := func(server *Server, remote, forwarded string) int {
		req := httptest.NewRequest(http.MethodGet, prefix+"/nothing", nil)
		req.RemoteAddr = remote + ":1234"
		if forwarded != "" {
			req.Header.Set("X-Forwarded-For", forwarded)
			req.Header.Set("X-Real-Ip", forwarded)
		}
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, req)
		return rec.Code
	}
	direct, _ := s.serve(t, Config{Limits: limits})
	require.Equal(t, 404, ask(direct, "203.0.113.5", "198.51.100.1"))
	require.Equal(t, 429, ask(direct, "203.0.113.5", "198.51.100.2"), "the header is not believed")
	require.Equal(t, 429, ask(direct, "203.0.113.5", ""))
	require.Equal(t, 404, ask(direct, "203.0.113.6", ""))

	proxied, _ := s.serve(t, Config{Limits: limits, TrustedProxies: []string{"10.0.0.0/8"}})
	require.Equal(t, 404, ask(proxied, "10.1.2.3", "198.51.100.1"))
	require.Equal(t, 404, ask(proxied, "10.1.2.3", "198.51.100.2"), "another client behind the proxy")
	require.Equal(t, 429, ask(proxied, "10.1.2.3", "203.0.113.99, 198.51.100.2"), "what the client itself forged does not count")
	require.Equal(t, 404, ask(proxied, "203.0.113.7", "198.51.100.7"))
	require.Equal(t, 429, ask(proxied, "203.0.113.7", "198.51.100.8"), "from elsewhere it is not believed")

	_, err := New(Config{Handler: s.handler, Views: s.views, TrustedProxies: []string{"10.0.0.0"}})
	require.ErrorContains(t, err, "10.0.0.0")
}

func TestFailedLoginsAreBounded(t *testing.T) {
	t.Parallel()
	s := shared()
	_, url := s.serve(t, Config{Limits: Limits{PerMinute: 1000, Burst: 1000, LoginFailure: 2, Registration: 2, Streams: 1}})
	victim := s.user(t, domain.Viewer)
	email := victim.get(t, "/auth/me")["email"].(string)
	c := &client{url: url}
	for range 2 {
		requireProblem(t, c.try(t, "POST", "/auth/login", object{"email": email, "password": "wrong"}), 401, "INVALID_CREDENTIALS")
	}
	requireProblem(t, c.try(t, "POST", "/auth/login", object{"email": " " + email + " ", "password": password}), 429, "RATE_LIMITED")
	requireProblem(t, c.try(t, "POST", "/auth/login", object{"email": "other@example.com", "password": "wrong"}), 401, "INVALID_CREDENTIALS")
	for range 2 {
		requireProblem(t, c.try(t, "POST", "/auth/register", object{"email": "x", "name": "x", "password": "x"}), 422, "VALIDATION_FAILED")
	}
	requireProblem(t, c.try(t, "POST", "/auth/register", object{"email": "x", "name": "x", "password": "x"}), 429, "RATE_LIMITED")
}
