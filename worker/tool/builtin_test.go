package tool

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain/run"
)

func TestBuiltins(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, arguments, want, code string
		attempt                     int
	}{
		{name: "noop", want: `{}`},
		{name: "echo", arguments: `{"a": [1]}`, want: `{"a": [1]}`},
		{name: "echo", want: `{}`},
		{name: "add", arguments: `{"a":1,"b":2}`, want: `{"result":3}`},
		{name: "math", arguments: `{"op":"div","a":1,"b":4}`, want: `{"result":0.25}`},
		{name: "math", arguments: `{"op":"pow","a":2,"b":10}`, want: `{"result":1024}`},
		{name: "math", arguments: `{"op":"div","a":1,"b":0}`, code: "TOOL_FAILED"},
		{name: "math", arguments: `{"op":"root","a":1,"b":0}`, code: "TOOL_ARGUMENTS_INVALID"},
		{name: "add", arguments: `[]`, code: "TOOL_ARGUMENTS_INVALID"},
		{name: "sleep", arguments: `{"duration":"1ms"}`, want: `{"slept":"1ms"}`},
		{name: "sleep", arguments: `{"duration":0.001}`, want: `{"slept":"1ms"}`},
		{name: "sleep", arguments: `{"duration":"soon"}`, code: "TOOL_ARGUMENTS_INVALID"},
		{name: "fail", code: "TOOL_FAILED"},
		{name: "fail", arguments: `{"code":"OWN","untilAttempt":3}`, attempt: 2, code: "OWN"},
		{name: "fail", arguments: `{"code":"OWN","untilAttempt":3}`, attempt: 3, want: `{"attempt":3}`},
		{name: "shell", code: "TOOL_UNKNOWN"},
	}
	for _, tt := range tests {
		t.Run(tt.name+tt.arguments, func(t *testing.T) {
			t.Parallel()
			tool, err := testSet(t).Resolve(BuiltinPrefix+tt.name, nil)
			var out json.RawMessage
			if err == nil {
				require.Equal(t, tt.name == "counter", tool.Effect())
				out, err = tool.Call(t.Context(), Call{Arguments: json.RawMessage(tt.arguments), Attempt: tt.attempt})
			}
			if tt.code != "" {
				require.Equal(t, tt.code, asError(t, err).Code)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, string(out))
		})
	}
}

func TestFailSaysWhetherToRetry(t *testing.T) {
	t.Parallel()
	tool, err := testSet(t).Resolve("builtin:fail", nil)
	require.NoError(t, err)
	_, err = tool.Call(t.Context(), Call{Arguments: json.RawMessage(`{"retryAfter":"3s"}`)})
	require.Equal(t, Error{Code: "TOOL_FAILED", Message: "The tool was told to fail.", Retryable: true, RetryAfter: 3 * time.Second}, asError(t, err))
	_, err = tool.Call(t.Context(), Call{Arguments: json.RawMessage(`{"retryable":false}`)})
	require.False(t, asError(t, err).Retryable)
}

func TestCounterCountsEachKeyOnce(t *testing.T) {
	t.Parallel()
	set := testSet(t)
	tool, err := set.Resolve("builtin:counter", nil)
	require.NoError(t, err)
	require.True(t, tool.Effect())
	for _, call := range []struct{ key, arguments, want string }{
		{"a", `{"name":"n"}`, `{"count":1}`}, {"b", `{"name":"n","by":5}`, `{"count":6}`}, {"a", `{"name":"n"}`, `{"count":1}`},
		{"a", `{"name":"other"}`, `{"count":1}`}, {"", `{"name":"n"}`, `{"count":7}`}, {"", `{"name":"n"}`, `{"count":8}`},
	} {
		out, err := tool.Call(t.Context(), Call{Key: call.key, Arguments: json.RawMessage(call.arguments)})
		require.NoError(t, err)
		require.Equal(t, call.want, string(out))
	}
	require.Equal(t, int64(8), set.Count("n"))
}

func TestCountersForgetTheOldestKeys(t *testing.T) {
	t.Parallel()
	set := testSet(t)
	for i := range keysRemembered + 10 {
		set.counters.add(&set.mu, "n", time.Duration(i+1).String(), 1)
	}
	require.Len(t, set.counters.seen, keysRemembered)
	require.Len(t, set.counters.order, keysRemembered)
}

func TestSleepEndsWithTheContext(t *testing.T) {
	t.Parallel()
	tool, err := testSet(t).Resolve("builtin:sleep", nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	_, err = tool.Call(ctx, Call{Arguments: json.RawMessage(`{"duration":"1h"}`)})
	require.ErrorIs(t, err, context.Canceled)
}

func TestResolve(t *testing.T) {
	t.Parallel()
	set := testSet(t)
	inactive := planOf(t, object{"builtin": "echo"})
	inactive.Spec.Status = "inactive"
	broken := planOf(t, object{})
	broken.Spec.Config = json.RawMessage(`{"url":1}`)
	tools := map[string]run.ToolPlan{
		"echo": planOf(t, object{"builtin": "echo", "parameters": object{"type": "object"}}), "prefixed": planOf(t, object{"builtin": "builtin:add"}),
		"empty": planOf(t, object{}), "inactive": inactive, "broken": broken, "method": planOf(t, object{"url": "https://x.example", "method": "BREW"}),
	}
	for name, code := range map[string]string{
		"echo": "", "prefixed": "", "empty": "TOOL_NOT_CONFIGURED", "inactive": "TOOL_INACTIVE", "broken": "TOOL_CONFIG_INVALID", "method": "TOOL_CONFIG_INVALID", "missing": "TOOL_UNKNOWN",
	} {
		tool, err := set.Resolve(name, tools)
		if code != "" {
			require.Equal(t, code, asError(t, err).Code, name)
			continue
		}
		require.NoError(t, err, name)
		require.NotNil(t, tool)
	}
	tool, err := set.Resolve("echo", tools)
	require.NoError(t, err)
	require.JSONEq(t, `{"type":"object"}`, string(tool.Parameters()))
}

func TestCheckArguments(t *testing.T) {
	t.Parallel()
	schema := json.RawMessage(`{"type":"object","required":["city"],"properties":{"city":{"type":"string"},"days":{"type":"integer","maximum":7}}}`)
	tests := []struct {
		schema             json.RawMessage
		arguments, message string
	}{
		{schema, `{"city":"Bonn","days":3}`, ""},
		{schema, `{}`, "The arguments do not fit the tool's parameters: at '/': missing property 'city'."},
		{schema, `{"city":1}`, "The arguments do not fit the tool's parameters: at '/city': got number, want string."},
		{schema, `{"city":"x","days":8}`, "The arguments do not fit the tool's parameters: at '/days': maximum: got 8, want 7."},
		{schema, `{"city"`, "The arguments are not valid JSON."},
		{nil, ``, ""},
		{nil, `{`, "The arguments are not valid JSON."},
		{json.RawMessage(`{"type":7}`), `{}`, "The schema of the tool's parameters is not valid."},
		{json.RawMessage(`{"$ref":"https://example.com/schema.json"}`), `{}`, "The schema of the tool's parameters is not valid."},
		{json.RawMessage(`{"$ref":"file:///etc/hostname"}`), `{}`, "The schema of the tool's parameters is not valid."},
	}
	for _, tt := range tests {
		err := CheckArguments(tt.schema, json.RawMessage(tt.arguments))
		if tt.message == "" {
			require.NoError(t, err)
			continue
		}
		require.Equal(t, tt.message, asError(t, err).Message)
	}
}

func TestTry(t *testing.T) {
	t.Parallel()
	set := testSet(t)
	out, err := set.Try(t.Context(), "t1", planOf(t, object{"builtin": "add"}), Call{Arguments: json.RawMessage(`{"a":1,"b":1}`)})
	require.NoError(t, err)
	require.Equal(t, `{"result":2}`, string(out))
	_, err = set.Try(t.Context(), "t1", planOf(t, object{"builtin": "add"}), Call{Arguments: json.RawMessage(`{"a":1}`)})
	require.Equal(t, "TOOL_ARGUMENTS_INVALID", asError(t, err).Code)
}
