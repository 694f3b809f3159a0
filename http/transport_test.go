package http

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

// The table of bad input: what is sent, and which problem comes back.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	m := c.make(t, c.project(t))
	big := `{"name":"` + strings.Repeat("x", maxBody) + `"}`
	exact := `{"name":"x","projectId":"` + m.project + `","unknown":"`
	exact += strings.Repeat("y", maxBody-len(exact)-2) + `"}`
	for name, tc := range map[string]struct {
		method, path, body, contentType string
		status                          int
		code                            string
	}{
		"broken JSON":              {"POST", "/agents", `{"name":`, "", 400, "MALFORMED"},
		"garbage after JSON":       {"POST", "/agents", `{"name":"a"} {"name":"b"}`, "", 400, "MALFORMED"},
		"too deep":                 {"POST", "/agents", `{"metadata":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, "", 400, "MALFORMED"},
		"NUL in a free-form value": {"POST", "/agents", `{"name":"a","projectId":"` + m.project + `","metadata":{"a":"\u0000"}}`, "", 400, "MALFORMED"},
		"half a surrogate":         {"POST", "/agents", `{"metadata":{"a":"\ud800"}}`, "", 400, "MALFORMED"},
		"number out of range":      {"POST", "/agents", `{"metadata":{"a":1e999999}}`, "", 400, "MALFORMED"},
		"not UTF-8":                {"POST", "/agents", "{\"name\":\"\xff\"}", "", 400, "MALFORMED"},
		"no body":                  {"POST", "/agents", "", "", 400, "BODY_REQUIRED"},
		"spaces only":              {"POST", "/agents", "  \n", "", 400, "BODY_REQUIRED"},
		"a list":                   {"POST", "/agents", `[]`, "", 422, "VALIDATION_FAILED"},
		"null":                     {"POST", "/agents", `null`, "", 422, "VALIDATION_FAILED"},
		"wrong types":              {"POST", "/agents", `{"name":5,"projectId":true}`, "", 422, "VALIDATION_FAILED"},
		"integer out of range":     {"PUT", "/agents/" + m.agent, `{"concurrency":1e30}`, "", 422, "VALIDATION_FAILED"},
		"fraction":                 {"PUT", "/agents/" + m.agent, `{"concurrency":1.5}`, "", 422, "VALIDATION_FAILED"},
		"unknown enum value":       {"PUT", "/agents/" + m.agent, `{"env":"moon"}`, "", 422, "VALIDATION_FAILED"},
		"both spellings":           {"PUT", "/agents/" + m.agent, `{"promptSummary":"a","prompt_summary":"b"}`, "", 422, "VALIDATION_FAILED"},
		"free form is no object":   {"PUT", "/agents/" + m.agent, `{"metadata":[1]}`, "", 422, "VALIDATION_FAILED"},
		"control character":        {"PUT", "/agents/" + m.agent, `{"name":"a\u0007b"}`, "", 422, "VALIDATION_FAILED"},
		"too large":                {"POST", "/agents", big, "", 413, "TOO_LARGE"},
		"form":                     {"POST", "/agents", `name=a`, "application/x-www-form-urlencoded", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"text":                     {"POST", "/agents", `{}`, "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"another charset":          {"POST", "/agents", `{}`, "application/json; charset=latin1", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"broken content type":      {"POST", "/agents", `{}`, ";;", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"no such address":          {"GET", "/nothing", "", "", 404, "NOT_FOUND"},
		"wrong method":             {"DELETE", "/agents", "", "", 405, "METHOD_NOT_ALLOWED"},
		"made-up method":           {"BREW", "/agents", "", "", 405, "METHOD_NOT_ALLOWED"},
		"id that is none":          {"GET", "/agents/42", "", "", 404, "NOT_FOUND"},
		"id with NUL":              {"GET", "/agents/%00", "", "", 404, "NOT_FOUND"},
		"id with more":             {"GET", "/agents/" + m.agent + "/../" + m.agent, "", "", 404, "NOT_FOUND"},
		"capital id":               {"GET", "/agents/" + strings.ToUpper(m.agent), "", "", 404, "NOT_FOUND"},
		"NUL in a query":           {"GET", "/agents?search=%00", "", "", 422, "VALIDATION_FAILED"},
		"broken query":             {"GET", "/agents?search=%zz", "", "", 400, "MALFORMED"},
		"as_of nonsense":           {"GET", "/runs/" + m.run + "?as_of=yesterday", "", "", 422, "VALIDATION_FAILED"},
		"as_of before the run":     {"GET", "/runs/" + m.run + "?as_of=1", "", "", 404, "NOT_FOUND"},
		"min position nonsense":    {"GET", "/agents", "", "min", 422, "VALIDATION_FAILED"},
		"min position to come":     {"GET", "/agents", "", "far", 503, "PROJECTION_LAG"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender := c
			switch tc.contentType {
			case "":
			case "min":
				sender = c.with("X-Min-Position", "soon")
			case "far":
				sender = c.with("X-Min-Position", "9000000000000")
			default:
				sender = c.with("Content-Type", tc.contentType)
			}
			var body any
			if tc.body != "" {
				body = tc.body
			}
			a := sender.try(t, tc.method, tc.path, body)
			requireProblem(t, a, tc.status, tc.code)
			if tc.status == 503 {
				require.NotEmpty(t, a.Header.Get("Retry-After"))
			}
			if tc.status == 405 {
				require.Contains(t, a.Header.Get("Allow"), "GET")
			}
		})
	}
	t.Run("the limit itself is allowed", func(t *testing.T) {
		t.Parallel()
		require.Len(t, exact, maxBody)
		c.do(t, 201, "POST", "/agents", exact)
	})
	t.Run("wrong types are all listed, without what was sent", func(t *testing.T) {
		t.Parallel()
		a := c.try(t, "POST", "/agents", `{"name":{"secret":"hush"},"project_id":["hush"],"concurrency":"hush","tools":"hush","autoscale":{"min":"hush"}}`)
		p := requireProblem(t, a, 422, "VALIDATION_FAILED")
		require.ElementsMatch(t, []string{"name", "project_id", "concurrency", "tools", "autoscale.min"}, fields(p))
		require.NotContains(t, a.Text, "hush")
	})
	t.Run("unknown keys are ignored", func(t *testing.T) {
		t.Parallel()
		c.do(t, 200, "PATCH", "/agents/"+m.agent, `{"nobodyKnows":{"a":[1]},"NAME":"ignored, too"}`)
		require.Equal(t, "agent", c.get(t, "/agents/"+m.agent)["name"])
	})
}

func TestPreflightAndOrigins(t *testing.T) {
	t.Parallel()
	s := shared()
	for _, path := range []string{"/agents", "/agents/1/2/3", "/nothing"} {
		a := (&client{url: s.url}).with("Origin", "http://localhost:8080", "Access-Control-Request-Method", "PATCH").try(t, "OPTIONS", path, nil)
		require.Equal(t, 200, a.Status)
		require.Equal(t, "http://localhost:8080", a.Header.Get("Access-Control-Allow-Origin"))
		require.Equal(t, "GET, POST, PUT, PATCH, DELETE, OPTIONS", a.Header.Get("Access-Control-Allow-Methods"))
		for _, header := range []string{"Authorization", "Content-Type", "X-API-Key"} {
			require.Contains(t, a.Header.Get("Access-Control-Allow-Headers"), header)
		}
		require.NotEmpty(t, a.Header.Get("Access-Control-Max-Age"))
		require.Empty(t, a.Header.Get("X-RateLimit-Limit"), "preflights are free")
	}
	for _, origin := range []string{"http://localhost:8081", "http://localhost:8080.evil.example", "null", "https://localhost:8080"} {
		a := (&client{url: s.url}).with("Origin", origin).try(t, "OPTIONS", "/agents", nil)
		require.Empty(t, a.Header.Get("Access-Control-Allow-Origin"), origin)
	}
}

func TestOriginsOnErrors(t *testing.T) {
	t.Parallel()
	s := shared()
	_, url := s.serve(t, Config{Limits: Limits{PerMinute: 1, Burst: 9, LoginFailure: 100, Registration: 100, Streams: 1}})
	c := (&client{url: url}).with("Origin", "http://localhost:8080")
	for _, tc := range []struct {
		method, path string
		body         any
		status       int
	}{
		{"GET", "/auth/me", nil, 401}, {"GET", "/nothing", nil, 404}, {"DELETE", "/agents", nil, 405},
		{"POST", "/auth/login", "{", 400}, {"POST", "/auth/login", strings.Repeat(" ", maxBody+1), 413},
		{"POST", "/auth/login", object{}, 422}, {"POST", "/auth/register", object{"email": "a@b.example", "name": "x", "password": password, "role": "owner"}, 403},
		{"GET", "/agents", nil, 401}, {"GET", "/agents", nil, 401}, {"GET", "/agents", nil, 429},
	} {
		a := c.try(t, tc.method, tc.path, tc.body)
		require.Equal(t, tc.status, a.Status, "%s %s: %s", tc.method, tc.path, a.Text)
		require.Equal(t, "http://localhost:8080", a.Header.Get("Access-Control-Allow-Origin"), tc.status)
		require.Contains(t, a.Header.Get("Access-Control-Expose-Headers"), "X-Event-Position")
		require.Equal(t, "Origin", a.Header.Get("Vary"))
		require.NotEmpty(t, a.object()["message"])
	}
}

func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	s := shared()
	c := &client{url: s.url}
	for _, path := range []string{"/health", "/metrics", "/docs", "/nothing", "/auth/me", "/openapi.json"} {
		h := c.try(t, "GET", path, nil).Header
		for name, want := range map[string]string{
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Origin-Agent-Cluster": "?1",
			"Referrer-Policy": "no-referrer", "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
			"X-Content-Type-Options": "nosniff", "X-Dns-Prefetch-Control": "off", "X-Download-Options": "noopen",
			"X-Frame-Options": "SAMEORIGIN", "X-Permitted-Cross-Domain-Policies": "none", "X-Xss-Protection": "0",
		} {
			require.Equal(t, want, h.Get(name), "%s %s", path, name)
		}
		require.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'")
		require.Contains(t, h.Get("Content-Security-Policy"), "frame-ancestors 'none'")
		require.NotContains(t, h.Get("Content-Security-Policy"), "unsafe")
		require.Empty(t, h.Get("X-Powered-By"))
		require.Empty(t, h.Get("Server"))
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	c := &client{url: shared().url}
	a := c.with("X-Request-Id", "abc-1.2_3").try(t, "GET", "/auth/me", nil)
	require.Equal(t, "abc-1.2_3", a.Header.Get("X-Request-Id"))
	require.Equal(t, "abc-1.2_3", a.object()["requestId"])
	for _, bad := range []string{"", "a b", "<script>", strings.Repeat("x", 129), `"quoted"`} {
		id := c.with("X-Request-Id", bad).try(t, "GET", "/auth/me", nil).Header.Get("X-Request-Id")
		require.True(t, isID(id), id)
	}
}

func TestPanicIsAProblem(t *testing.T) {
	t.Parallel()
	s := shared()
	log := &safeBuffer{}
	server, url := s.serve(t, Config{Logger: jsonLog(log)})
	server.echo.GET(prefix+"/panic", func(echo.Context) error { panic("hush: internal text") })
	a := (&client{url: url}).with("Origin", "http://localhost:8080").try(t, "GET", "/panic", nil)
	requireProblem(t, a, 500, "INTERNAL")
	require.NotContains(t, a.Text, "hush")
	require.Equal(t, "http://localhost:8080", a.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, log.String(), "hush: internal text")
	require.Contains(t, log.String(), `"level":"ERROR"`)
}

func TestAnUndeclaredRouteDoesNotStart(t *testing.T) {
	t.Parallel()
	server, err := newServer(Config{})
	require.NoError(t, err)
	require.NoError(t, server.checkPermissions())
	server.echo.GET(prefix+"/undeclared", func(echo.Context) error { return nil })
	require.ErrorContains(t, server.checkPermissions(), "GET /api/v1/undeclared declares no permission")

	server, err = newServer(Config{})
	require.NoError(t, err)
	server.operations = append(server.operations, declared{method: "GET", path: "/x", permission: "made:up"})
	require.ErrorContains(t, server.checkPermissions(), "made:up")
}

// One JSON line per request, with what an operator needs and no secret.
func TestRequestLog(t *testing.T) {
	t.Parallel()
	s := shared()
	log := &safeBuffer{}
	_, url := s.serve(t, Config{Logger: jsonLog(log)})
	c := *s.user(t, domain.Developer)
	c.url = url
	c.with("X-Request-Id", "find-me").get(t, "/agents?search=hush-query")
	c.try(t, "POST", "/auth/login", object{"email": "a@example.com", "password": "hush-password"})
	c.try(t, "POST", "/auth/refresh", object{"refresh_token": "hush-refresh"})
	(&client{url: url, key: "hush-key"}).try(t, "GET", "/auth/me", nil)
	issued := c.do(t, 201, "POST", "/auth/api-key", nil).object()["api_key"].(string)

	text := log.String()
	for _, secret := range []string{"hush", password, c.token, issued, "a@example.com"} {
		require.NotContains(t, text, secret)
	}
	var line object
	require.NoError(t, json.Unmarshal([]byte(strings.SplitN(text, "\n", 2)[0]), &line))
	require.Equal(t, "GET", line["method"])
	require.Equal(t, "/api/v1/agents", line["route"])
	require.Equal(t, 200.0, line["status"])
	require.Equal(t, "find-me", line["requestId"])
	require.Equal(t, c.userID, line["userId"])
	require.NotEmpty(t, line["latencyMs"])
	require.Equal(t, 5, strings.Count(text, "\n"), "one line per request")
}

// A client that dawdles loses its connection, not a worker of ours for ever.
func TestRunDrains(t *testing.T) {
	t.Parallel()
	s := shared()
	m := s.owner.make(t, s.owner.project(t))
	server, err := New(Config{Handler: s.handler, Views: s.views, Logger: jsonLog(&safeBuffer{})})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener) }()
	c := &client{url: "http://" + listener.Addr().String(), token: s.owner.token}
	require.Equal(t, "ok", (&client{url: c.url}).do(t, 200, "GET", "/health", nil).object()["status"])
	events := c.stream(t, "/runs/"+m.run+"/stream")
	require.Equal(t, "RunQueued", (<-events).name)
	stop()
	for range events { // the stream ends although the run goes on
	}
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the server did not stop")
	}
	_, err = http.Get(c.url + "/health")
	require.Error(t, err)
}
