package http

import (
	"encoding/json"
	"net/url"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func agentKeysOf(t require.TestingT) *keys {
	server, err := newServer(Config{})
	require.NoError(t, err)
	registry := server.api.OpenAPI().Components.Schemas
	return keysOf(registry, registry.Schema(reflect.TypeFor[NewAgent](), true, ""))
}

func TestSpellings(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"rateLimitPerMin", "rate_limit_per_min", "rateLimitPerMin"}, spellings("rateLimitPerMin"))
	require.Equal(t, []string{"refresh_token", "refresh_token", "refreshToken"}, spellings("refresh_token"))
	require.Equal(t, "autoscale_target_cpu", snake("autoscaleTargetCpu"))
	require.Equal(t, "autoscaleTargetCpu", camel("autoscale_target_cpu"))
}

// Whatever mix of styles a body is written in, it means the same, and what is
// inside free-form objects comes through as it was.
func TestKeyStyleProperty(t *testing.T) {
	t.Parallel()
	known := agentKeysOf(t)
	names := []string{"projectId", "promptSummary", "autoscaleMin", "autoscaleTargetCpu", "name", "temperature"}
	rapid.Check(t, func(t *rapid.T) {
		want, sent := map[string]any{}, map[string]any{}
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, "keys") {
			value := rapid.StringMatching(`[a-z]{0,5}`).Draw(t, "value")
			want[name] = value
			sent[rapid.SampledFrom(spellings(name)).Draw(t, "spelling")] = value
		}
		free := map[string]any{}
		for _, key := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"some_key", "someKey", "project_id", "projectId", "target_cpu"}), rapid.ID).Draw(t, "free") {
			free[key] = rapid.Float64Range(-5, 5).Draw(t, "number")
		}
		want["metadata"], sent["metadata"] = free, free
		if rapid.Bool().Draw(t, "nested") {
			want["autoscale"] = map[string]any{"targetCpu": 5.0}
			sent["autoscale"] = map[string]any{rapid.SampledFrom(spellings("targetCpu")).Draw(t, "inner"): 5.0, "unknown_key": 1.0}
		}
		sent["nobody_knows_this"] = "x"
		raw, err := json.Marshal(sent)
		require.NoError(t, err)
		found := styled{names: map[string]string{}}
		out, err := found.body(known, "", raw)
		require.NoError(t, err)
		require.Empty(t, found.fields)
		var got map[string]any
		require.NoError(t, json.Unmarshal(out, &got))
		require.Equal(t, want, got)
	})
}

func TestKeysGivenTwice(t *testing.T) {
	t.Parallel()
	known := agentKeysOf(t)
	for body, want := range map[string][]string{
		`{"projectId":"a","project_id":"a"}`:                                 nil,
		`{"projectId":"a","project_id":"b"}`:                                 {"project_id"},
		`{"project_id":"a","project_id":"b"}`:                                {"project_id"},
		`{"metadata":{"b":1,"a":2},"metadata":{"a":2,"b":1}}`:                nil,
		`{"autoscale":{"target_cpu":1,"targetCpu":2},"name":"a","name":"a"}`: {"autoscale.targetCpu"},
		`{"x":1,"x":2}`: nil,
	} {
		found := styled{names: map[string]string{}}
		_, err := found.body(known, "", []byte(body))
		require.NoError(t, err)
		var got []string
		for _, f := range found.fields {
			got = append(got, f.Field)
		}
		require.Equal(t, want, got, body)
	}
}

func TestQueryKeys(t *testing.T) {
	t.Parallel()
	known := queryKeys(reflect.TypeFor[AgentsInput]())
	for sent, want := range map[string]string{
		"projectId=a&env=undefined&health=null&status=": "project_id=a",
		"project_id=a&projectId=a":                      "project_id=a",
		"limit=5":                                       "page_size=5",
		"pageSize=5&limit=5&page_size=5":                "page_size=5",
		"unknown=1&page=2":                              "page=2",
	} {
		values, err := url.ParseQuery(sent)
		require.NoError(t, err)
		found := styled{names: map[string]string{}}
		require.Equal(t, want, found.query(known, values).Encode(), sent)
		require.Empty(t, found.fields, sent)
	}
	for _, sent := range []string{"limit=5&page_size=6", "project_id=a&project_id=b", "search=%00", "search=%ff"} {
		values, err := url.ParseQuery(sent)
		require.NoError(t, err)
		found := styled{names: map[string]string{}}
		found.query(known, values)
		require.Len(t, found.fields, 1, sent)
	}
}
