package llm

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(&Server{Models: []string{"gpt-4o", "tiny"}, APIKey: "k", Clock: nil})
	t.Cleanup(server.Close)
	do := func(method, path, key, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(data)
	}
	const completions = "/v1/chat/completions"
	tests := []struct {
		name, method, path, key, body string
		status                        int
		contains                      string
	}{
		{"models", "GET", "/v1/models", "k", "", 200, `{"id":"tiny","object":"model","owned_by":"simulated"}`},
		{"key", "GET", "/v1/models", "wrong", "", 401, `"invalid_api_key"`},
		{"method", "GET", completions, "k", "", 405, `"method_not_allowed"`},
		{"path", "GET", "/v1/embeddings", "k", "", 404, `"not_found"`},
		{"json", "POST", completions, "k", "{", 400, `"invalid_json"`},
		{"empty", "POST", completions, "k", "{}", 400, `"missing_required_parameter"`},
		{"temperature", "POST", completions, "k", `{"model":"m","temperature":7,"messages":[{"role":"user","content":"x"}]}`, 400, `"decimal_out_of_range"`},
		{"directive", "POST", completions, "k", `{"model":"m","messages":[{"role":"user","content":"{\"simulate\":{\"no\":1}}"}]}`, 400, `"invalid_directive"`},
		{"answer", "POST", completions, "k", `{"model":"m","messages":[{"role":"user","content":"x"}]}`, 200, `"usage":{"prompt_tokens":4,"completion_tokens":6,"total_tokens":10`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := do(tt.method, tt.path, tt.key, tt.body)
			require.Equal(t, tt.status, status)
			require.Contains(t, body, tt.contains)
		})
	}
	status, body := do("POST", completions, "k", `{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"{\"simulate\":{\"toolCalls\":[{\"name\":\"f\"}]}}"}]}`)
	require.Equal(t, 200, status)
	lines := strings.Split(strings.TrimSpace(body), "\n\n")
	require.Len(t, lines, 4)
	require.Contains(t, lines[0], `"tool_calls":[{"index":0,"id":"call_1_1","type":"function","function":{"name":"f","arguments":"{}"}}]`)
	require.Contains(t, lines[1], `"finish_reason":"tool_calls"`)
	require.Contains(t, lines[2], `"total_tokens"`)
	require.Equal(t, "data: [DONE]", lines[3])
}
