package tool_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/tool"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func patch(t *testing.T, body string) tool.Patch {
	t.Helper()
	var p tool.Patch
	require.NoError(t, json.Unmarshal([]byte(body), &p))
	return p
}

func TestCreate(t *testing.T) {
	t.Parallel()
	none := domaintest.Given[tool.Tool](t)
	none.When(tool.Create{ToolID: "t1", ProjectID: "p1", AuthSealed: "sealed", Patch: patch(t,
		`{"name":"Search","kind":"mcp","authType":"apikey","description":"d","rateLimitPerMin":0,"config":{"url": "http://x"},"scopes":["a"],"authConfig":{"key":"k"}}`)}, now).
		Then(tool.Created{ToolID: "t1", ProjectID: "p1", AuthSealed: "sealed", Spec: tool.Spec{
			Name: "Search", Kind: "mcp", AuthType: "apikey", Description: ptr("d"), Scopes: []string{"a"}, Env: "dev",
			Config: json.RawMessage(`{"url":"http://x"}`), Status: "active",
		}})
	none.When(tool.Create{ToolID: "t1", ProjectID: "p1"}, now).ThenInvalid("name", "kind")
	none.When(tool.Create{ToolID: "t1", ProjectID: "p1", Patch: patch(t,
		`{"name":"","kind":"soap","authType":"magic","rateLimitPerMin":-1,"env":"x","config":[],"status":"?","authConfig":"secret","scopes":[""]}`)}, now).
		ThenInvalid("name", "kind", "authType", "rateLimitPerMin", "scopes[0]", "env", "config", "status", "authConfig")
	for _, kind := range tool.Kinds {
		for _, auth := range tool.AuthTypes {
			none.When(tool.Create{ToolID: "t1", ProjectID: "p1", Patch: tool.Patch{Name: ptr("x"), Kind: &kind, AuthType: &auth}}, now).
				Then(tool.Created{ToolID: "t1", ProjectID: "p1", Spec: tool.Spec{Name: "x", Kind: kind, AuthType: auth, Env: "dev", Status: "active"}})
		}
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	before := tool.Spec{Name: "Search", Kind: "http", AuthType: "none", Description: ptr("d"), RateLimitPerMin: ptr(60), Env: "dev", Status: "active"}
	given := domaintest.Given[tool.Tool](t, tool.Created{ToolID: "t1", ProjectID: "p1", Spec: before, AuthSealed: "old"})
	given.When(tool.Update{ToolID: "t1"}, now).Then()
	given.When(tool.Update{ToolID: "t1", Patch: patch(t, `{"name":"Search","rateLimitPerMin":60,"description":"d"}`)}, now).Then()

	cleared := before
	cleared.Description, cleared.RateLimitPerMin = nil, nil
	given.When(tool.Update{ToolID: "t1", Patch: patch(t, `{"description":null,"rateLimitPerMin":null}`)}, now).
		Then(tool.Updated{Version: 2, Spec: cleared, AuthSealed: "old"})
	given.When(tool.Update{ToolID: "t1", AuthSealed: ptr("new")}, now).Then(tool.Updated{Version: 2, Spec: before, AuthSealed: "new"})
	given.When(tool.Update{ToolID: "t1", AuthSealed: ptr("")}, now).Then(tool.Updated{Version: 2, Spec: before})
	given.When(tool.Update{ToolID: "t1", Patch: patch(t, `{"rateLimitPerMin":1000001}`)}, now).ThenInvalid("rateLimitPerMin")
}

func TestDeletedIsNotFound(t *testing.T) {
	t.Parallel()
	created := tool.Created{ToolID: "t1", ProjectID: "p1", Spec: tool.Spec{Name: "x", Kind: "http", AuthType: "none", Env: "dev", Status: "active"}}
	domaintest.Given[tool.Tool](t, created).When(tool.Delete{ToolID: "t1"}, now).Then(tool.Deleted{})
	for _, command := range []domaintest.Decider[tool.Tool]{tool.Update{ToolID: "t1"}, tool.Delete{ToolID: "t1"}} {
		domaintest.Given[tool.Tool](t).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
		domaintest.Given[tool.Tool](t, created, tool.Deleted{}).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
	}
	domaintest.Given[tool.Tool](t, created).
		When(tool.Create{ToolID: "t1", ProjectID: "p1"}, now).ThenError(domain.Conflict, "TOOL_EXISTS")
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	t.Parallel()
	spec := tool.Default()
	spec.Name, spec.Kind, spec.Config = "search", "http", json.RawMessage(`{"url":"https://api.example.com/v1"}`)
	given := domaintest.Given[tool.Tool](t, tool.Created{ToolID: "t1", ProjectID: "p1", Spec: spec, AuthSealed: "sealed"})

	path := spec
	path.Config = json.RawMessage(`{"url":"https://API.example.com/v2"}`)
	given.When(tool.Update{ToolID: "t1", Patch: patch(t, `{"config":{"url":"https://API.example.com/v2"}}`)}, now).
		Then(tool.Updated{Version: 2, Spec: path, AuthSealed: "sealed"})

	elsewhere := patch(t, `{"config":{"url":"https://thief.example.net/v1"}}`)
	given.When(tool.Update{ToolID: "t1", Patch: elsewhere}, now).ThenInvalid("authConfig")
	given.When(tool.Update{ToolID: "t1", Patch: patch(t, `{"config":null}`)}, now).ThenInvalid("authConfig")

	moved := spec
	moved.Config = json.RawMessage(`{"url":"https://thief.example.net/v1"}`)
	given.When(tool.Update{ToolID: "t1", Patch: elsewhere, AuthSealed: ptr("new")}, now).
		Then(tool.Updated{Version: 2, Spec: moved, AuthSealed: "new"})
	given.When(tool.Update{ToolID: "t1", Patch: elsewhere, AuthSealed: ptr("")}, now).
		Then(tool.Updated{Version: 2, Spec: moved})
}
