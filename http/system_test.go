package http

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	s := shared()
	var broken atomic.Bool
	_, url := s.serve(t, Config{Ready: map[string]func(context.Context) error{
		"postgres": s.views.Ping,
		"eventstore": func(context.Context) error {
			if !broken.Load() {
				return nil
			}
			return errors.New("dial tcp 10.0.0.1:2113: hush")
		},
	}})
	c := &client{url: url}
	require.Equal(t, object{"status": "ok", "version": "test"}, c.do(t, 200, "GET", "/health", nil).object())
	ready := c.do(t, 200, "GET", "/ready", nil).object()
	require.Equal(t, object{"status": "ready", "checks": object{"postgres": object{"status": "ok"}, "eventstore": object{"status": "ok"}}}, ready)
	broken.Store(true)
	a := c.try(t, "GET", "/ready", nil)
	p := requireProblem(t, a, 503, "NOT_READY")
	require.Equal(t, "Not ready: eventstore.", p["message"])
	require.Equal(t, []string{"eventstore"}, fields(p))
	require.NotContains(t, a.Text, "hush")
	require.Equal(t, "1", a.Header.Get("Retry-After"))
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := shared()
	_, url := s.serve(t, Config{})
	c := &client{url: url, token: s.owner.token}
	c.get(t, "/agents?page=1")
	c.try(t, "GET", "/agents/"+randomID, nil)
	c.try(t, "GET", "/no/such/address/at/all", nil)
	text := c.try(t, "GET", "/metrics", nil).Text
	require.Contains(t, text, `sparkops_http_requests_total{method="GET",route="/api/v1/agents",status="2xx"} 1`)
	require.Contains(t, text, `sparkops_http_requests_total{method="GET",route="/api/v1/agents/:id",status="4xx"} 1`)
	require.Contains(t, text, `sparkops_http_requests_total{method="GET",route="unmatched",status="4xx"} 1`)
	require.Contains(t, text, `sparkops_http_request_duration_seconds_count{method="GET",route="/api/v1/agents"} 1`)
	require.NotContains(t, text, randomID)
}

func TestTestClock(t *testing.T) {
	t.Parallel()
	s := shared()
	requireProblem(t, s.owner.try(t, "POST", "/debug/clock", object{"advance": "1h"}), 404, "NOT_FOUND")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	_, url := s.serve(t, Config{AdvanceClock: func(d time.Duration) time.Time { return at.Add(d) }})
	owner := &client{url: url, token: s.owner.token}
	require.Equal(t, object{"now": "2026-01-01T01:30:00Z"}, owner.do(t, 200, "POST", "/debug/clock", object{"advance": "90m"}).object())
	requireProblem(t, owner.try(t, "POST", "/debug/clock", object{"advance": "-1h"}), 422, "VALIDATION_FAILED")
	viewer := &client{url: url, token: s.user(t, domain.Admin).token}
	requireProblem(t, viewer.try(t, "POST", "/debug/clock", object{"advance": "1h"}), 403, "FORBIDDEN")
	requireProblem(t, (&client{url: url}).try(t, "POST", "/debug/clock", object{"advance": "1h"}), 401, "UNAUTHENTICATED")
}

func TestToolTest(t *testing.T) {
	t.Parallel()
	s := shared()
	var failure atomic.Pointer[error]
	_, url := s.serve(t, Config{TestTool: func(_ context.Context, id string, input json.RawMessage) (json.RawMessage, error) {
		require.True(t, isID(id))
		require.JSONEq(t, `{"a_b":1}`, string(input))
		if err := failure.Load(); err != nil {
			return nil, *err
		}
		return json.RawMessage(`{"said":"hello"}`), nil
	}})
	maker := s.user(t, domain.Developer)
	m := maker.make(t, maker.project(t))
	c := &client{url: url, token: maker.token}
	body := object{"input": object{"a_b": 1}}
	require.Equal(t, object{"success": true, "message": "The tool answered.", "output": object{"said": "hello"}}, c.do(t, 200, "POST", "/tools/"+m.tool+"/test", body).object())
	fail := func(err error) { failure.Store(&err) }
	fail(domain.Fail(domain.Conflict, "TOOL_HTTP_503", "The server answered 503."))
	require.Equal(t, object{"success": false, "message": "The server answered 503."}, c.do(t, 200, "POST", "/tools/"+m.tool+"/test", body).object())
	fail(errors.New("dial tcp: hush"))
	require.Equal(t, object{"success": false, "message": "The tool could not be called."}, c.do(t, 200, "POST", "/tools/"+m.tool+"/test", body).object())
}

func TestProjectionsOfAnOperator(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	operator := s.user(t, domain.Operator)
	m := s.owner.make(t, s.owner.project(t))
	list := operator.get(t, "/projections")
	require.EqualValues(t, 6, list["total"])
	names := map[string]object{}
	for _, item := range list["items"].([]any) {
		names[item.(object)["name"].(string)] = item.(object)
	}
	require.Equal(t, "live", names["runs"]["state"])
	require.Equal(t, 0.0, names["runs"]["events"], "nothing is behind")
	before := names["agents"]["schema"]

	started := operator.do(t, 202, "POST", "/projections/agents/rebuild", nil).object()
	require.Equal(t, "agents", started["name"])
	require.Greater(t, started["head"], 0.0)
	require.Eventually(t, func() bool {
		for _, item := range operator.get(t, "/projections")["items"].([]any) {
			if p := item.(object); p["name"] == "agents" {
				return p["state"] == "live" && p["schema"] != before
			}
		}
		return false
	}, patience, 20*time.Millisecond, "the new build takes over")
	require.Equal(t, "agent", s.owner.get(t, "/agents/"+m.agent)["name"])
	requireProblem(t, operator.try(t, "POST", "/projections/nothing/rebuild", nil), 404, "PROJECTION_UNKNOWN")
}

// The page and what it loads come from here, and nothing from anywhere else.
func TestDocsPage(t *testing.T) {
	t.Parallel()
	c := &client{url: shared().url}
	page := c.try(t, "GET", "/docs", nil)
	require.Equal(t, 200, page.Status)
	require.Contains(t, page.Header.Get("Content-Type"), "text/html")
	outside := regexp.MustCompile(`(?:src|href)="([^"]+)"|url\(|@import|https?://`)
	for _, path := range []string{"/docs", "/docs/docs.js", "/docs/docs.css"} {
		a := c.try(t, "GET", path, nil)
		require.Equal(t, 200, a.Status, path)
		require.Contains(t, a.Header.Get("Content-Security-Policy"), "script-src 'self'")
		for _, m := range outside.FindAllStringSubmatch(a.Text, -1) {
			require.Regexp(t, `^(/(docs|api)|#|data:)`, m[1], "%s in %s", m[0], path)
		}
		require.NotContains(t, a.Text, "innerHTML")
		require.NotContains(t, a.Text, "<script>")
		require.NotContains(t, a.Text, " style=")
	}
	for kind := range answers {
		require.Contains(t, page.Text, `id="problem-`+string(kind)+`"`, "type of every problem leads somewhere")
	}
	spec := c.do(t, 200, "GET", "/openapi.json", nil).object()
	require.Equal(t, "3.1.0", spec["openapi"])
	require.NotEmpty(t, c.try(t, "GET", "/openapi.yaml", nil).Text)
}

func TestUsersOfAnAdministrator(t *testing.T) {
	t.Parallel()
	s := shared()
	admin, person := s.user(t, domain.Admin), s.user(t, domain.Viewer)
	require.NotEmpty(t, admin.get(t, "/users?role=viewer&is_active=true&limit=5")["items"])
	changed := admin.do(t, 200, "PATCH", "/users/"+person.userID, object{"name": "New Name", "role": "developer"}).object()
	require.Equal(t, "New Name", changed["name"])
	require.Equal(t, "developer", changed["role"])
	person.project(t) // at once
	requireProblem(t, admin.try(t, "PATCH", "/users/"+person.userID, object{"role": "owner"}), 403, "FORBIDDEN")
	requireProblem(t, admin.try(t, "PATCH", "/users/"+admin.userID, object{"role": "viewer"}), 409, "OWN_ACCOUNT")
	requireProblem(t, admin.try(t, "PATCH", "/users/"+person.userID, object{"role": "king"}), 422, "VALIDATION_FAILED")
	require.Equal(t, false, admin.do(t, 200, "POST", "/users/"+person.userID+"/deactivate", nil).object()["is_active"])
	requireProblem(t, person.try(t, "GET", "/auth/me", nil), 401, "USER_INACTIVE")
	require.Equal(t, true, admin.do(t, 200, "PATCH", "/users/"+person.userID, object{"is_active": true}).object()["is_active"])
	admin.do(t, 200, "POST", "/users/"+person.userID+"/password", object{"password": "another good password"})
	requireProblem(t, admin.try(t, "GET", "/users/"+randomID, nil), 404, "NOT_FOUND")
}

func TestOwnAccount(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Viewer)
	require.Equal(t, "Other Name", c.do(t, 200, "PATCH", "/auth/me", object{"name": " Other Name "}).object()["name"])
	email := c.get(t, "/auth/me")["email"]
	p := requireProblem(t, c.try(t, "POST", "/auth/password", object{"currentPassword": "wrong", "newPassword": "a much better one"}), 422, "VALIDATION_FAILED")
	require.Equal(t, []string{"currentPassword"}, fields(p))
	p = requireProblem(t, c.try(t, "POST", "/auth/password", object{"current_password": password, "new_password": "short"}), 422, "VALIDATION_FAILED")
	require.Equal(t, []string{"new_password"}, fields(p))
	c.do(t, 200, "POST", "/auth/password", object{"current_password": password, "new_password": "a much better one"})
	requireProblem(t, c.try(t, "GET", "/auth/me", nil), 401, "SESSION_ENDED")
	(&client{url: s.url}).do(t, 200, "POST", "/auth/login", object{"email": email, "password": "a much better one"})
}

// A dependency that is down is a 503 that says when to try again, whatever was
// asked, and nothing half done.
func TestDependenciesDown(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	m := s.owner.make(t, s.owner.project(t))
	s.stopEventStore()
	for _, call := range [][2]string{
		{"PATCH", "/agents/" + m.agent}, {"GET", "/runs/" + m.run + "/events"}, {"GET", "/runs/" + m.run + "/why"}, {"GET", "/runs/" + m.run + "?as_of=99999999"},
	} {
		a := s.owner.try(t, call[0], call[1], object{"name": "lost"})
		require.Equal(t, 503, a.Status, "%s: %s", call[1], a.Text)
		require.NotEmpty(t, a.Header.Get("Retry-After"))
		require.NotEmpty(t, a.object()["message"])
	}
	require.Equal(t, "agent", s.owner.get(t, "/agents/"+m.agent)["name"], "reads go on")
	s.dropDatabase()
	for _, path := range []string{"/agents", "/agents/" + m.agent, "/runs/" + m.run, "/runs/" + m.run + "/steps", "/auth/me", "/projects"} {
		a := s.owner.try(t, "GET", path, nil)
		require.Equal(t, 503, a.Status, "%s: %s", path, a.Text)
		require.NotEmpty(t, a.Header.Get("Retry-After"))
	}
	require.Equal(t, 200, s.owner.try(t, "GET", "/health", nil).Status)
}
