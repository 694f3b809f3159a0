package llm

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

// serve starts a server on loopback and returns a client for it.
func serve(t *testing.T, h http.Handler) *OpenAI {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &OpenAI{BaseURL: s.URL + "/v1", APIKey: "sk-test-secret", Clock: func() time.Time { return day("2026-11-01T00:00:00Z") }}
}

func ask(text string) Request {
	return Request{Model: "gpt-4o", Messages: []Message{{Role: User, Content: text}}}
}

// The simulated provider and the client talking to Server over HTTP give the
// same answers, but for the adapter's name.
func TestServerAnswersAsTheSimulatedProvider(t *testing.T) {
	t.Parallel()
	client := serve(t, &Server{APIKey: "sk-test-secret"})
	temperature := 7.0
	tests := map[string]Request{
		"default":          ask("What is the capital of France?"),
		"no message":       {Model: "m", Messages: []Message{{Role: System, Content: ""}}},
		"text":             ask(`Do it. {"city":"Bonn","simulate":{"text":"done","usage":{"input":100,"cacheRead":20,"cacheWrite":5,"output":7,"reasoning":3}}}`),
		"json":             ask(`{"simulate":{"json":{"a": [1, 2]}}}`),
		"nested":           ask(`Input: {"input":{"simulate":{"text":"deep"}}}`),
		"tool call":        ask(`{"simulate":{"turns":[{"toolCalls":[{"name":"add","arguments":{"a":1,"b":2}},{"name":"noop"}]},{"text":"three"}]}}`),
		"broken arguments": ask(`{"simulate":{"toolCalls":[{"name":"add","arguments":"{not json"}]}}`),
		"second turn": {Model: "gpt-4o", Temperature: &temperature, Tools: []Tool{{Name: "add", Description: "adds"}}, Messages: []Message{
			{Role: System, Content: "You add."},
			{Role: User, Content: `{"simulate":{"turns":[{"toolCalls":[{"name":"add"}]},{"text":"three"}]}}`},
			{Role: Assistant, ToolCalls: []ToolCall{{ID: "call_1_1", Name: "add", Arguments: `{"a":1}`}}},
			{Role: ToolRole, ToolCallID: "call_1_1", Content: "3"},
		}},
		"last turn repeats": {Model: "gpt-4o", Messages: []Message{
			{Role: User, Content: `{"simulate":{"turns":[{"text":"only"}]}}`}, {Role: Assistant, Content: "only"}, {Role: User, Content: "again"},
		}},
		"schema": {Model: "gpt-4o", Messages: []Message{{Role: User, Content: "x"}}, Schema: json.RawMessage(`{"type":"object","required":["n","s"],"properties":{"n":{"type":"integer","minimum":3},"s":{"enum":["low","high"]}}}`)},
		"finish": ask(`{"simulate":{"text":"cut","finishReason":"length"}}`),
	}
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := Simulated{}.Complete(t.Context(), r)
			require.NoError(t, err)
			got, err := client.Complete(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, OpenAIName, got.Provider)
			require.Equal(t, SimulatedName, want.Provider)
			want.Provider = got.Provider
			if len(r.Tools) > 0 { // on the wire a tool without parameters gets the empty schema
				got.Usage.Input = want.Usage.Input
			}
			require.Equal(t, want, got)
		})
	}
}

func TestSimulatedAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, input, text, finish string
		usage                     domain.Usage
	}{
		{"default", "Hello   world", "Simulated answer to: Hello world", "stop", domain.Usage{Input: 7, Output: 8}},
		{"scripted", `{"simulate":{"text":"ok","usage":{"input":5,"output":2}}}`, "ok", "stop", domain.Usage{Input: 5, Output: 2}},
		{"json", `{"simulate":{"json":{"a": [1, 2]}}}`, `{"a":[1,2]}`, "stop", domain.Usage{Input: 12, Output: 3}},
		{"not a directive", `{"Simulate":{"text":"ok"}}`, `Simulated answer to: {"Simulate":{"text":"ok"}}`, "stop", domain.Usage{Input: 10, Output: 12}},
		{"braces before it", `{{{ {x} {"simulate":{"text":"ok"}}`, "ok", "stop", domain.Usage{Input: 12, Output: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Simulated{}.Complete(t.Context(), ask(tt.input))
			require.NoError(t, err)
			require.Equal(t, Response{Message: Message{Role: Assistant, Content: tt.text}, FinishReason: tt.finish, Usage: tt.usage, Provider: "simulated", Model: "gpt-4o"}, got)
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	client := serve(t, &Server{APIKey: "sk-test-secret"})
	client.Timeout = 50 * time.Millisecond
	tests := []struct {
		name, fault string
		want        Error
	}{
		{"server error", `{"call":1}`, Error{Code: "MODEL_HTTP_500", Status: 500, Retryable: true, Message: "The model provider answered 500: Simulated fault."}},
		{"rate limit", `{"call":1,"status":429,"retryAfter":"1500ms","message":"slow down"}`, Error{Code: "MODEL_HTTP_429", Status: 429, Retryable: true, RetryAfter: 1500 * time.Millisecond, Message: "The model provider answered 429: slow down"}},
		{"quota", `{"call":1,"status":429,"code":"insufficient_quota"}`, Error{Code: "MODEL_QUOTA_EXHAUSTED", Status: 429, Message: "The model provider answered 429: Simulated fault."}},
		{"context length", `{"call":1,"status":400,"code":"context_length_exceeded"}`, Error{Code: "MODEL_CONTEXT_LENGTH", Status: 400, Message: "The model provider answered 400: Simulated fault."}},
		{"credentials", `{"call":1,"status":401,"message":"bad key sk-other"}`, Error{Code: "MODEL_HTTP_401", Status: 401, Message: "The model provider refused the credentials."}},
		{"our key is not shown", `{"call":1,"status":400,"message":"key sk-test-secret"}`, Error{Code: "MODEL_HTTP_400", Status: 400, Message: "The model provider answered 400: key ***"}},
		{"disconnect", `{"call":1,"kind":"disconnect"}`, Error{Code: "MODEL_UNREACHABLE", Retryable: true, Message: "The model provider could not be reached or broke the connection."}},
		{"timeout", `{"call":1,"kind":"timeout"}`, Error{Code: "MODEL_TIMEOUT", Retryable: true, Message: "The model provider did not answer in time."}},
		{"malformed", `{"call":1,"kind":"malformed"}`, Error{Code: "MODEL_BAD_RESPONSE", Status: 200, Retryable: true, Message: "The model provider's answer is not valid JSON."}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			own := *client
			if tt.want.Code != "MODEL_TIMEOUT" {
				own.Timeout = time.Minute
			}
			r := ask(`{"simulate":{"text":"fine","faults":[` + tt.fault + `]}}`)
			_, err := own.Complete(t.Context(), r)
			require.Equal(t, tt.want, withoutCause(t, err), "over HTTP")
			if !strings.Contains(tt.name, "our key") {
				_, err = Simulated{}.Complete(t.Context(), r)
				require.Equal(t, tt.want, withoutCause(t, err), "in process")
			}
			r.Key, own.Timeout = "run/step/model-2", time.Minute
			got, err := own.Complete(t.Context(), r)
			require.NoError(t, err, "the second call of the step")
			require.Equal(t, "fine", got.Message.Content)
		})
	}
}

func withoutCause(t *testing.T, err error) Error {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	plain := *e
	plain.Cause = nil
	return plain
}

func TestFaultsOfSeveralCalls(t *testing.T) {
	t.Parallel()
	r := ask(`{"simulate":{"text":"fine","faults":[{"call":2,"times":2,"status":503}]}}`)
	for call, fails := range map[string]bool{"1": false, "2": true, "3": true, "4": false} {
		r.Key = "run/step/model-" + call
		_, err := Simulated{}.Complete(t.Context(), r)
		require.Equal(t, fails, err != nil, call)
	}
}

func TestDirectiveThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, directive := range []string{`{"turn":[]}`, `{"latency":"soon"}`, `"text"`} {
		_, err := Simulated{}.Complete(t.Context(), ask(`{"simulate":`+directive+`}`))
		e := withoutCause(t, err)
		require.Equal(t, "MODEL_HTTP_400", e.Code, directive)
		require.False(t, e.Retryable)
	}
}

func TestLatencyEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := ask(`{"simulate":{"text":"late","latency":"10m"}}`)
	_, err := Simulated{}.Complete(ctx, r)
	require.ErrorIs(t, err, context.Canceled)
	_, err = serve(t, &Server{}).Complete(ctx, r)
	require.ErrorIs(t, err, context.Canceled)
}

func TestRequestOnTheWire(t *testing.T) {
	t.Parallel()
	temperature := 7.0
	var body, key, auth string
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		body, key, auth = string(data), r.Header.Get("Idempotency-Key"), r.Header.Get("Authorization")
		_, _ = io.WriteString(w, `{"model":"x","choices":[{"message":{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}`)
	}))
	r := Request{
		Model: "gpt-4o", Key: "run/step/model-1", Temperature: &temperature, MaxTokens: 99,
		Messages: []Message{{Role: System, Content: "s"}, {Role: User, Content: "u"}, {Role: Assistant, ToolCalls: []ToolCall{{ID: "c1", Name: "f", Arguments: `{}`}}}, {Role: ToolRole, ToolCallID: "c1", Content: ""}},
		Tools:    []Tool{{Name: "f", Description: "d"}},
		Schema:   json.RawMessage(`{"type":"object"}`),
	}
	got, err := client.Complete(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, Response{Message: Message{Role: Assistant, Content: "ab"}, FinishReason: "stop", Usage: domain.Usage{Input: 6, CacheRead: 4, Output: 3, Reasoning: 2}, Provider: "openai", Model: "x"}, got)
	require.Equal(t, "run/step/model-1", key)
	require.Equal(t, "Bearer sk-test-secret", auth)
	require.JSONEq(t, `{"model":"gpt-4o","temperature":0.7,"max_tokens":99,
		"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},
			{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
			{"role":"tool","content":"","tool_call_id":"c1"}],
		"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
		"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}}`, body)

	r = ask("u")
	r.Model, r.Temperature, r.MaxTokens = "o3-mini", &temperature, 99
	_, err = client.Complete(t.Context(), r)
	require.NoError(t, err)
	require.JSONEq(t, `{"model":"o3-mini","max_completion_tokens":99,"messages":[{"role":"user","content":"u"}]}`, body)
}

func TestAnswersThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		handler http.HandlerFunc
		code    string
		retry   bool
	}{
		"too large": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 2000)) }, "MODEL_RESPONSE_TOO_LARGE", false},
		"no choice": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"choices":[]}`) }, "MODEL_BAD_RESPONSE", true},
		"redirect":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "MODEL_HTTP_302", false},
		"not found": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "MODEL_HTTP_404", false},
		"overload":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "MODEL_HTTP_503", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, tt.handler)
			client.MaxResponse = 1000
			_, err := client.Complete(t.Context(), ask("x"))
			e := withoutCause(t, err)
			require.Equal(t, tt.code, e.Code)
			require.Equal(t, tt.retry, e.Retryable)
		})
	}
}

func TestUsageIsEstimatedWhereThereIsNone(t *testing.T) {
	t.Parallel()
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":"12345"},"finish_reason":"stop"}]}`)
	}))
	got, err := client.Complete(t.Context(), ask("12345678"))
	require.NoError(t, err)
	require.True(t, got.UsageEstimated)
	require.Equal(t, domain.Usage{Input: 5, Output: 2}, got.Usage)
	require.Equal(t, "gpt-4o", got.Model)
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	_, err := (&OpenAI{BaseURL: s.URL}).Complete(t.Context(), ask("x"))
	e := withoutCause(t, err)
	require.Equal(t, "MODEL_UNREACHABLE", e.Code)
	require.True(t, e.Retryable)
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := day("2026-11-01T00:00:00Z")
	tests := map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "0.5": 500 * time.Millisecond, "-5": 0, "999999": time.Hour, "soon": 0,
		"Sun, 01 Nov 2026 00:00:10 GMT": 10 * time.Second, "Sat, 31 Oct 2026 00:00:10 GMT": 0,
	}
	for value, want := range tests {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {value}}, now), value)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	require.NoError(t, (&OpenAI{BaseURL: "https://api.example.com/v1"}).Check())
	for _, bad := range []string{"", "ftp://x", "http://", "http://user:pass@host/v1", "::"} {
		require.Error(t, (&OpenAI{BaseURL: bad}).Check(), bad)
	}
}

func TestModelsFor(t *testing.T) {
	t.Parallel()
	outside := &OpenAI{BaseURL: "http://localhost"}
	require.Equal(t, Simulated{}, Models{Simulated: Simulated{}}.For("openai"))
	both := Models{OpenAI: outside, Simulated: Simulated{}}
	require.Equal(t, outside, both.For("azure"))
	require.Equal(t, outside, both.For("anthropic"))
	require.Equal(t, Simulated{}, both.For("simulated"))
}
