package tool

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain/run"
	domaintool "github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/worker/egress"
)

func loopback(t *testing.T) *egress.Guard {
	t.Helper()
	allow, err := egress.ParseAllow("127.0.0.0/8")
	require.NoError(t, err)
	return &egress.Guard{Allow: allow}
}

func openPlain(_ context.Context, toolID, sealed string) (json.RawMessage, error) {
	plain, ok := strings.CutPrefix(sealed, "sealed for "+toolID+": ")
	if !ok {
		return nil, errors.New("sealed for another tool")
	}
	return json.RawMessage(plain), nil
}

func testSet(t *testing.T) *Set {
	t.Helper()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	return New(loopback(t), openPlain, func() time.Time { return now })
}

func planOf(t *testing.T, config any) run.ToolPlan {
	t.Helper()
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	return run.ToolPlan{Version: 1, Spec: domaintool.Spec{Name: "orders", Kind: "api", Config: raw, Status: "active"}}
}

type object = map[string]any

// seen is what a server was asked.
type seen struct {
	method, path, query, body string
	header                    http.Header
}

// recorder answers every request alike and remembers the last one.
func recorder(t *testing.T, status int, header map[string]string, body string) (address string, last *seen) {
	t.Helper()
	last = &seen{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		*last = seen{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, string(data), r.Header}
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL, last
}

func TestHTTPRequests(t *testing.T) {
	t.Parallel()
	const arguments = `{"id":"a/b?c","n":12345678901234567890,"tags":["x","y"],"deep":{"list":[{"v":true}]},"none":null}`
	tests := []struct {
		name   string
		config object
		want   seen // method, path, query, body
	}{
		{"post by default", object{"url": "/x"}, seen{method: "POST", path: "/x", body: arguments}},
		{"get with arguments as query", object{"url": "/x?fixed=1", "method": "get"}, seen{method: "GET", path: "/x", query: "fixed=1&id=a%2Fb%3Fc&n=12345678901234567890&tags=x&tags=y"}},
		{"path and query templates", object{"url": "/o/${ input.id }/p?q=${input.id}&n=${ input.n }", "method": "GET"}, seen{method: "GET", path: "/o/a%2Fb%3Fc/p", query: "n=12345678901234567890&q=a%2Fb%3Fc"}},
		{"configured query", object{"url": "/x", "method": "DELETE", "query": object{"tag": "${ input.tags }", "k": "v-${ input.n }", "empty": "${ input.none }"}}, seen{method: "DELETE", path: "/x", query: "k=v-12345678901234567890&tag=x&tag=y"}},
		{"body template", object{"url": "/x", "method": "PUT", "body": object{"order": object{"id": "${ input.id }", "n": "${ input.n }", "text": "n=${ input.n }, ok=${ input.deep.list[0].v }", "all": "${ input.deep }", "fixed": 1}}}, seen{method: "PUT", path: "/x", body: `{"order":{"all":{"list":[{"v":true}]},"fixed":1,"id":"a/b?c","n":12345678901234567890,"text":"n=12345678901234567890, ok=true"}}`}},
		{"text body", object{"url": "/x", "headers": object{"content-type": "text/plain"}, "body": "id is ${ input.id } & <b>"}, seen{method: "POST", path: "/x", body: "id is a/b?c & <b>"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address, last := recorder(t, 200, map[string]string{"Content-Type": "application/json"}, `{"ok":true}`)
			tt.config["url"] = address + tt.config["url"].(string)
			tool, err := testSet(t).Tool("t1", planOf(t, tt.config))
			require.NoError(t, err)
			require.True(t, tool.Effect())
			out, err := tool.Call(t.Context(), Call{Key: "run/step/tool-1", Arguments: json.RawMessage(arguments)})
			require.NoError(t, err)
			require.Equal(t, `{"ok":true}`, string(out))
			require.Equal(t, "run/step/tool-1", last.header.Get("Idempotency-Key"))
			last.header = nil
			require.Equal(t, tt.want, *last)
		})
	}
}

func TestHTTPOutputs(t *testing.T) {
	t.Parallel()
	const asJSON = "application/json"
	tests := []struct {
		name, kind, body, response string
		status                     int
		want, code                 string
	}{
		{name: "json", kind: asJSON, status: 200, body: ` {"a": 1} `, want: `{"a": 1}`},
		{name: "no type", kind: "", status: 200, body: `plain`, want: `{"text":"plain"}`},
		{name: "text", kind: "text/plain", status: 200, body: `{"a":1}`, want: `{"text":"{\"a\":1}"}`},
		{name: "nothing", kind: asJSON, status: 204, want: `{"status":204}`},
		{name: "pointer", kind: asJSON, status: 200, body: `{"data":[{"a/b":2}]}`, response: "/data/0/a~1b", want: `2`},
		{name: "path", kind: "application/vnd.api+json", status: 200, body: `{"data":{"items":[1,2.50]}}`, response: "data.items[1]", want: `2.50`},
		{name: "nothing there", kind: asJSON, status: 200, body: `{}`, response: "data", code: "TOOL_RESPONSE_MISSING"},
		{name: "not json", kind: asJSON, status: 200, body: `{`, code: "TOOL_BAD_RESPONSE"},
		{name: "too large", kind: "text/plain", status: 200, body: strings.Repeat("x", run.MaxPayload), code: "TOOL_RESPONSE_TOO_LARGE"},
		{name: "redirect", kind: "", status: 302, code: "TOOL_HTTP_302"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address, _ := recorder(t, tt.status, map[string]string{"Content-Type": tt.kind, "Location": "/elsewhere"}, tt.body)
			tool, err := testSet(t).Tool("t1", planOf(t, object{"url": address, "response": tt.response}))
			require.NoError(t, err)
			out, err := tool.Call(t.Context(), Call{})
			if tt.code != "" {
				require.Equal(t, tt.code, asError(t, err).Code)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, string(out))
		})
	}
}

func asError(t *testing.T, err error) Error {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	return *e
}

func TestHTTPStatusClasses(t *testing.T) {
	t.Parallel()
	type class struct{ retryable, unknown bool }
	tests := map[int]struct{ safe, unsafe class }{
		400: {}, 401: {}, 404: {}, 409: {}, 422: {}, 301: {}, 501: {},
		408: {safe: class{retryable: true}},
		425: {safe: class{retryable: true}},
		429: {safe: class{retryable: true}, unsafe: class{retryable: true}},
		500: {safe: class{retryable: true}},
		502: {safe: class{retryable: true}, unsafe: class{unknown: true}},
		503: {safe: class{retryable: true}, unsafe: class{retryable: true}},
		504: {safe: class{retryable: true}, unsafe: class{unknown: true}},
		522: {safe: class{retryable: true}},
	}
	for status, want := range tests {
		address, _ := recorder(t, status, map[string]string{"Retry-After": "7"}, "why")
		for _, safe := range []bool{true, false} {
			tool, err := testSet(t).Tool("t1", planOf(t, object{"url": address, "idempotent": safe}))
			require.NoError(t, err)
			_, err = tool.Call(t.Context(), Call{})
			e := asError(t, err)
			expected := tt(safe, want.safe, want.unsafe)
			require.Equal(t, expected, class{e.Retryable, e.Unknown}, "%d, safe %v", status, safe)
			require.Equal(t, 7*time.Second, e.RetryAfter)
			require.Contains(t, string(e.Details), `"body":"why"`)
		}
	}
}

func tt[T any](cond bool, a, b T) T {
	if cond {
		return a
	}
	return b
}

func TestHTTPTransportFailures(t *testing.T) {
	t.Parallel()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(silent.Close)
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(broken.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	tests := []struct {
		name, url          string
		safe               bool
		code               string
		retryable, unknown bool
	}{
		{"timeout, safe", silent.URL, true, "TOOL_TIMEOUT", true, false},
		{"timeout, unsafe", silent.URL, false, "TOOL_TIMEOUT", false, true},
		{"broken, safe", broken.URL, true, "TOOL_UNREACHABLE", true, false},
		{"broken, unsafe", broken.URL, false, "TOOL_UNREACHABLE", false, true},
		{"nobody there, safe", gone.URL, true, "TOOL_UNREACHABLE", true, false},
		{"nobody there, unsafe: nothing was sent", gone.URL, false, "TOOL_UNREACHABLE", true, false},
		{"inner address", "http://10.255.255.1/", false, "EGRESS_REFUSED", false, false},
		{"metadata service", "http://169.254.169.254/latest/meta-data", true, "EGRESS_REFUSED", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := object{"url": tt.url, "idempotent": tt.safe}
			if strings.HasPrefix(tt.name, "timeout") {
				config["timeout"] = "50ms"
			}
			tool, err := testSet(t).Tool("t1", planOf(t, config))
			require.NoError(t, err)
			_, err = tool.Call(t.Context(), Call{Key: "k"})
			e := asError(t, err)
			require.Equal(t, tt.code, e.Code)
			require.Equal(t, tt.retryable, e.Retryable)
			require.Equal(t, tt.unknown, e.Unknown)
		})
	}
}

// Giving up on a call that was sent leaves its outcome unknown only where
// repeating it does harm.
func TestHTTPGivenUp(t *testing.T) {
	t.Parallel()
	for _, safe := range []bool{true, false} {
		arrived := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			close(arrived)
			<-r.Context().Done()
		}))
		t.Cleanup(server.Close)
		tool, err := testSet(t).Tool("t1", planOf(t, object{"url": server.URL, "idempotent": safe}))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		_, err = tool.Call(ctx, Call{Key: "k"})
		if safe {
			require.ErrorIs(t, err, context.Canceled)
		} else {
			require.True(t, asError(t, err).Unknown)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	tests := []struct {
		authType, stored, header, value, query string
	}{
		{"bearer", `{"token":"abc"}`, "Authorization", "Bearer abc", ""},
		{"oauth", `{"accessToken":"abc"}`, "Authorization", "Bearer abc", ""},
		{"basic", `{"username":"u","password":"p"}`, "Authorization", "Basic dTpw", ""},
		{"api_key", `{"key":"abc"}`, "X-Api-Key", "abc", ""},
		{"apikey", `{"apiKey":"abc","header":"X-Own"}`, "X-Own", "abc", ""},
		{"api_key", `{"key":"a b","in":"query","name":"k"}`, "", "", "k=a+b"},
		{"custom", `{"headers":{"X-One":"1"}}`, "X-One", "1", ""},
		{"none", `{"token":"abc"}`, "Authorization", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.authType+tt.query, func(t *testing.T) {
			t.Parallel()
			address, last := recorder(t, 200, nil, "")
			plan := planOf(t, object{"url": address})
			plan.Spec.AuthType, plan.AuthSealed = tt.authType, "sealed for t1: "+tt.stored
			tool, err := testSet(t).Tool("t1", plan)
			require.NoError(t, err)
			_, err = tool.Call(t.Context(), Call{})
			require.NoError(t, err)
			require.Equal(t, tt.value, last.header.Get(tt.header))
			require.Equal(t, tt.query, last.query)
		})
	}
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	t.Parallel()
	plan := planOf(t, object{"url": "https://${ input.host }/x"})
	plan.Spec.AuthType, plan.AuthSealed = "bearer", `sealed for t1: {"token":"abc"}`
	_, err := testSet(t).Tool("t1", plan)
	require.Equal(t, "TOOL_CONFIG_INVALID", asError(t, err).Code)

	address, last := recorder(t, 200, nil, "")
	plan = planOf(t, object{"url": address})
	plan.Spec.AuthType, plan.AuthSealed = "bearer", `sealed for t1: {"token":"abc","host":"api.example.com"}`
	tool, err := testSet(t).Tool("t1", plan)
	require.NoError(t, err)
	_, err = tool.Call(t.Context(), Call{})
	require.Equal(t, "TOOL_CREDENTIALS", asError(t, err).Code)

	plan.AuthSealed = "sealed for another"
	tool, err = testSet(t).Tool("t1", plan)
	require.NoError(t, err)
	_, err = tool.Call(t.Context(), Call{})
	require.Equal(t, "TOOL_CREDENTIALS", asError(t, err).Code)
	require.Empty(t, last.method, "nothing was sent")
}

func TestURLTemplates(t *testing.T) {
	t.Parallel()
	tests := []struct{ url, arguments, want, code string }{
		{"https://h.example/a/${ input.x }", `{"x":"1 2"}`, "https://h.example/a/1%202", ""},
		{"https://h.example/a/${ input.x }", `{"x":".."}`, "", "TOOL_ARGUMENTS_INVALID"},
		{"https://h.example/a/.${ input.x }/b", `{"x":"."}`, "", "TOOL_ARGUMENTS_INVALID"},
		{"https://h.example/a?q=${ input.x }", `{"x":"1&admin=1"}`, "https://h.example/a?q=1%26admin%3D1", ""},
		{"https://h.example/a/${ input.x }", `{"x":"b?c#d@e"}`, "https://h.example/a/b%3Fc%23d@e", ""},
		{"${ input.url }", `{"url":"https://other.example/y?z=1"}`, "https://other.example/y?z=1", ""},
		{"https://${ input.h }/a/${ input.x }", `{"h":"other.example","x":"/"}`, "https://other.example/a/%2F", ""},
		{"https://h.example/${ input.y }", `{"x":1}`, "", "TOOL_ARGUMENTS_INVALID"},
		{"https://h.example/${ run.id }", `{}`, "", "TOOL_CONFIG_INVALID"},
		{"https://h.example/${ inputs }", `{}`, "", "TOOL_CONFIG_INVALID"},
	}
	for _, tt := range tests {
		template, err := parseURLTemplate(tt.url)
		require.NoError(t, err)
		vars, err := decodeInput(json.RawMessage(tt.arguments))
		require.NoError(t, err)
		u, err := template.fill(vars)
		if tt.code != "" {
			require.Equal(t, tt.code, asError(t, err).Code, tt.url)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tt.want, u.String())
	}
	for _, bad := range []string{"example.com", "ftp://x", "https://user:pass@h.example", "/x", "https://"} {
		_, err := parseURLTemplate(bad)
		require.Error(t, err, bad)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	address, _ := recorder(t, 200, nil, "")
	plan := planOf(t, object{"url": address})
	two := 2
	plan.Spec.RateLimitPerMin = &two
	set := testSet(t)
	for call := range 3 {
		tool, err := set.Tool("t1", plan)
		require.NoError(t, err)
		_, err = tool.Call(t.Context(), Call{})
		if call < 2 {
			require.NoError(t, err)
			continue
		}
		e := asError(t, err)
		require.Equal(t, "TOOL_RATE_LIMITED", e.Code)
		require.True(t, e.Retryable)
		require.Positive(t, e.RetryAfter)
	}
}
