package http

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

// The tests of this file follow the sections of the contract with the existing
// frontend, and send exactly the bodies its forms send.

// requireKeys requires that an object has exactly these keys.
func requireKeys(t testing.TB, o object, keys string) {
	t.Helper()
	require.Equal(t, slices.Sorted(slices.Values(strings.Fields(keys))), slices.Sorted(maps.Keys(o)))
}

func requireTime(t testing.TB, v any) {
	t.Helper()
	text, ok := v.(string)
	require.True(t, ok, "%v is a time", v)
	_, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(text, "Z"), "%s is UTC", text)
}

func requireEnvelope(t testing.TB, o object, items string) []any {
	t.Helper()
	for _, key := range []string{"total", "page", "totalPages", "pageSize"} {
		require.IsType(t, 0.0, o[key], key)
	}
	list, ok := o[items].([]any)
	require.True(t, ok, "%s is a list", items)
	return list
}

func TestContractProjects(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	body := object{"name": " My project ", "description": "d", "settings": object{"Some_Key": 1, "someKey": 2}, "metadata": object{}}
	a := c.do(t, 201, "POST", "/projects", body)
	made := a.object()
	requireKeys(t, made, "id name slug ownerUserId createdAt updatedAt description status settings metadata")
	require.Equal(t, "My project", made["name"])
	require.Equal(t, "active", made["status"])
	require.Equal(t, object{"Some_Key": 1.0, "someKey": 2.0}, made["settings"], "free-form objects are not touched")
	require.Equal(t, c.userID, made["ownerUserId"])
	id := made["id"].(string)
	require.Equal(t, "/api/v1/projects/"+id, a.Header.Get("Location"))
	require.Empty(t, a.Header.Get("X-Projection-Lag"))
	require.NotEmpty(t, a.Header.Get("X-Event-Position"))

	list := requireEnvelope(t, c.get(t, "/projects?page=1&page_size=100"), "items")
	require.Equal(t, made, list[0], "the one refetch after a write finds it, newest first")

	for _, method := range []string{"PUT", "PATCH"} {
		changed := c.do(t, 200, method, "/projects/"+id, object{"name": "New " + method}).object()
		require.Equal(t, "New "+method, changed["name"])
		require.Equal(t, "d", changed["description"], "an absent key is unchanged")
	}
	cleared := c.do(t, 200, "PATCH", "/projects/"+id, object{"description": nil, "settings": nil}).object()
	require.NotContains(t, cleared, "description")
	require.Equal(t, object{}, cleared["settings"])

	m := c.make(t, id)
	require.Equal(t, object{"id": id, "deleted": true}, c.do(t, 200, "DELETE", "/projects/"+id, nil).object())
	for _, path := range []string{"/projects/" + id, "/agents/" + m.agent, "/tools/" + m.tool, "/workflows/" + m.workflow, "/runs/" + m.run} {
		requireProblem(t, c.try(t, "GET", path, nil), 404, "NOT_FOUND")
	}
	requireProblem(t, c.try(t, "DELETE", "/projects/"+id, nil), 404, "NOT_FOUND")
	requireProblem(t, s.user(t, domain.Viewer).try(t, "POST", "/projects", object{"name": "x"}), 403, "FORBIDDEN")
}

func TestContractMembers(t *testing.T) {
	t.Parallel()
	s := shared()
	c, friend := s.user(t, domain.Developer), s.user(t, domain.Viewer)
	project := c.project(t)
	path := "/projects/" + project + "/members"
	requireProblem(t, friend.try(t, "GET", path, nil), 404, "NOT_FOUND")
	added := c.do(t, 201, "POST", path, object{"user_id": friend.userID, "role": "developer"}).object()
	requireKeys(t, added, "projectId userId email name role addedAt")
	require.EqualValues(t, 2, friend.get(t, path)["total"])
	friend.do(t, 201, "POST", "/agents", object{"name": "by a member", "projectId": project})
	c.do(t, 200, "PATCH", path+"/"+friend.userID, object{"role": "viewer"})
	requireProblem(t, friend.try(t, "POST", "/agents", object{"name": "x", "projectId": project}), 403, "FORBIDDEN")
	requireProblem(t, c.try(t, "PATCH", path+"/"+friend.userID, object{"role": "auditor"}), 422, "VALIDATION_FAILED")
	requireProblem(t, c.try(t, "DELETE", path+"/"+c.userID, nil), 409, "LAST_OWNER")
	byMail := s.user(t, domain.Viewer)
	c.do(t, 201, "POST", path, object{"email": byMail.get(t, "/auth/me")["email"], "role": "viewer"})
	requireProblem(t, c.try(t, "POST", path, object{"email": "nobody@example.com", "role": "viewer"}), 422, "VALIDATION_FAILED")
	friend.do(t, 200, "DELETE", path+"/"+friend.userID, nil) // one may leave
	requireProblem(t, friend.try(t, "GET", "/projects/"+project, nil), 404, "NOT_FOUND")
}

const agentKeys = `id projectId version health lastHeartbeat createdAt updatedAt name runtime model provider env temperature
	concurrency promptSummary tools autoscale status metadata`

func TestContractAgents(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	project := c.project(t)
	form := object{
		"name": "My agent", "projectId": project, "runtime": "python", "model": "gpt-4o", "provider": "openai", "env": "dev",
		"temperature": 7, "concurrency": 8, "promptSummary": "", "tools": []string{},
		"autoscale_min": 1, "autoscale_max": 10, "autoscale_target_cpu": 70,
	}
	a := c.do(t, 201, "POST", "/agents", form)
	made := a.object()
	requireKeys(t, made, agentKeys)
	require.Equal(t, project, made["projectId"])
	require.Equal(t, object{"min": 1.0, "max": 10.0, "targetCpu": 70.0}, made["autoscale"])
	require.Equal(t, []any{}, made["tools"])
	require.Equal(t, "healthy", made["health"])
	require.Equal(t, 7.0, made["temperature"])
	require.Equal(t, made["createdAt"], made["lastHeartbeat"])
	requireTime(t, made["lastHeartbeat"])
	id := made["id"].(string)

	list := requireEnvelope(t, c.get(t, "/agents?project_id="+project+"&page=1&page_size=20&env=undefined&health=&status=null"), "items")
	require.Equal(t, []any{made}, list)
	require.Empty(t, requireEnvelope(t, c.get(t, "/agents?projectId="+project+"&env=prod"), "items"))

	edit := object{
		"name": "Renamed", "runtime": "node", "model": "claude-3-haiku", "provider": "anthropic", "env": "staging",
		"temperature": 0.7, "concurrency": 3,
	}
	changed := c.do(t, 200, "PUT", "/agents/"+id, edit).object()
	require.Equal(t, id, changed["id"])
	require.Equal(t, 0.7, changed["temperature"])
	require.Equal(t, 2.0, changed["version"])
	require.Equal(t, object{"min": 1.0, "max": 10.0, "targetCpu": 70.0}, changed["autoscale"])
	nested := c.do(t, 200, "PATCH", "/agents/"+id, object{"autoscale": object{"target_cpu": 55}}).object()
	require.Equal(t, 55.0, nested["autoscale"].(object)["targetCpu"])

	health := c.get(t, "/agents/"+id+"/health")
	requireKeys(t, health, "health lastHeartbeat metrics")
	require.IsType(t, object{}, health["metrics"])

	p := requireProblem(t, c.try(t, "POST", "/agents", object{"name": "", "project_id": project, "env": "moon", "autoscale_min": 5, "autoscale_max": 2, "temperature": 11}), 422, "VALIDATION_FAILED")
	require.Equal(t, []string{"name", "env", "temperature", "autoscale_min"}, fields(p), "every broken rule, in the caller's key style")
	p = requireProblem(t, c.try(t, "POST", "/agents", object{"name": 1, "projectId": project, "concurrency": "many", "tools": []any{1}}), 422, "VALIDATION_FAILED")
	require.ElementsMatch(t, []string{"name", "concurrency", "tools[0]"}, fields(p))

	requireProblem(t, s.user(t, domain.Developer).try(t, "POST", "/agents", form), 404, "NOT_FOUND")
	require.Equal(t, object{"id": id, "deleted": true}, c.do(t, 200, "DELETE", "/agents/"+id, nil).object())
	requireProblem(t, c.try(t, "DELETE", "/agents/"+id, nil), 404, "NOT_FOUND")
	require.Empty(t, requireEnvelope(t, c.get(t, "/agents?project_id="+project), "items"))
}

func TestContractTools(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	project := c.project(t)
	for _, kind := range []string{"api", "webhook", "database", "function", "mcp", "integration", "custom", "http", "db", "saas", "browser", "search", "storage"} {
		made := c.do(t, 201, "POST", "/tools", object{"name": kind, "kind": kind, "authType": "api_key", "projectId": project, "rateLimitPerMin": 0}).object()
		require.Equal(t, kind, made["kind"], "answered exactly as sent")
		require.Nil(t, made["rateLimitPerMin"], "0 is unlimited")
	}
	for _, auth := range []string{"none", "api_key", "bearer", "oauth", "basic", "custom", "apikey"} {
		made := c.do(t, 201, "POST", "/tools", object{"name": auth, "kind": "api", "auth_type": auth, "project_id": project}).object()
		require.Equal(t, auth, made["authType"])
	}
	form := object{
		"name": "With secrets", "kind": "http", "authType": "bearer", "projectId": project, "description": "d", "rateLimitPerMin": 60,
		"config": object{"url": "https://example.com", "auth_config": 1}, "authConfig": object{"token": "top secret"},
		"provider": "acme", "scopes": []string{"read"}, "env": "prod",
	}
	a := c.do(t, 201, "POST", "/tools", form)
	made := a.object()
	requireKeys(t, made, "id projectId version createdAt updatedAt name kind authType description rateLimitPerMin provider scopes env config status")
	require.NotContains(t, a.Text, "top secret")
	require.Equal(t, object{"url": "https://example.com", "auth_config": 1.0}, made["config"])
	id := made["id"].(string)
	edit := object{"name": "Edited", "kind": "http", "authType": "bearer", "description": "", "rateLimitPerMin": 1_000_000}
	require.Equal(t, 1_000_000.0, c.do(t, 200, "PUT", "/tools/"+id, edit).object()["rateLimitPerMin"])
	requireProblem(t, c.try(t, "PUT", "/tools/"+id, object{"rateLimitPerMin": 1_000_001}), 422, "VALIDATION_FAILED")
	requireProblem(t, c.try(t, "PUT", "/tools/"+id, object{"kind": "steam"}), 422, "VALIDATION_FAILED")
	require.Equal(t, "Edited", c.get(t, "/tools/"+id)["name"])
	require.Len(t, requireEnvelope(t, c.get(t, "/tools?project_id="+project+"&kind=mcp&page_size=10"), "items"), 1)
	require.Len(t, requireEnvelope(t, c.get(t, "/tools?project_id="+project+"&auth_type=basic&page_size=10"), "items"), 1)
	requireProblem(t, c.try(t, "POST", "/tools/"+id+"/test", object{}), 503, "TOOL_TEST_UNAVAILABLE")
	c.do(t, 200, "DELETE", "/tools/"+id, nil)
	requireProblem(t, c.try(t, "GET", "/tools/"+id, nil), 404, "NOT_FOUND")
}

const workflowKeys = `id projectId currentVersion versions avgDurationMs successRate lastRunAt createdAt updatedAt name description
	tags status triggerType timeoutSeconds maxRetries enableApproval enableNotifications`

func TestContractWorkflows(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	project := c.project(t)
	form := object{"name": "My workflow", "projectId": project, "description": "", "tags": []string{"a", "b"}, "definition": object{}, "trigger_type": "manual"}
	made := c.do(t, 201, "POST", "/workflows", form).object()
	requireKeys(t, made, workflowKeys+" definition")
	require.Equal(t, project, made["projectId"])
	require.Equal(t, []any{"a", "b"}, made["tags"])
	require.Nil(t, made["successRate"])
	versions := made["versions"].([]any)
	require.Len(t, versions, 1)
	require.Equal(t, "draft", versions[0].(object)["status"])
	require.Equal(t, 1.0, versions[0].(object)["version"])
	require.Equal(t, c.userID, versions[0].(object)["authorUserId"])
	requireTime(t, versions[0].(object)["updatedAt"])
	id := made["id"].(string)

	list := requireEnvelope(t, c.get(t, "/workflows?project_id="+project+"&tags=a,b"), "items")
	require.Len(t, list, 1)
	requireKeys(t, list[0].(object), workflowKeys)
	require.Empty(t, requireEnvelope(t, c.get(t, "/workflows?project_id="+project+"&tags=a,c"), "items"))

	changed := c.do(t, 200, "PUT", "/workflows/"+id, object{"name": "Renamed", "tags": []string{}}).object()
	require.Equal(t, []any{}, changed["tags"])
	require.Len(t, changed["versions"], 1, "only a changed definition makes a version")
	graph := object{"nodes": []object{{"id": "pause", "type": "wait", "duration": "1s"}}, "edges": []object{}}
	changed = c.do(t, 200, "PATCH", "/workflows/"+id, object{"definition": graph}).object()
	require.Len(t, changed["versions"], 2)

	explicit := c.do(t, 201, "POST", "/workflows/"+id+"/versions", object{"note": "good", "status": "released"}).object()
	require.Equal(t, "released", explicit["status"])
	require.Equal(t, 3.0, explicit["version"])
	require.EqualValues(t, 4, c.do(t, 201, "POST", "/workflows/"+id+"/versions", nil).object()["version"])
	require.EqualValues(t, 4, c.get(t, "/workflows/"+id+"/versions")["total"])
	require.Equal(t, "wait", c.get(t, "/workflows/"+id+"/versions/2")["definition"].(object)["nodes"].([]any)[0].(object)["type"])
	require.Equal(t, "deprecated", c.do(t, 200, "PATCH", "/workflows/"+id+"/versions/3", object{"status": "deprecated"}).object()["status"])
	requireProblem(t, c.try(t, "GET", "/workflows/"+id+"/versions/9", nil), 404, "NOT_FOUND")

	figures := c.get(t, "/workflows/"+id+"/analytics")
	for _, key := range []string{"totalRuns", "failedRuns", "succeededRuns"} {
		require.Equal(t, 0.0, figures[key])
	}
	p := requireProblem(t, c.try(t, "POST", "/workflows", object{"name": "bad", "projectId": project, "definition": object{
		"nodes": []object{{"id": "a", "type": "agent"}, {"id": "b", "type": "steam"}, {"id": "c", "type": "wait", "duration": true}},
		"edges": []object{{"from": "a", "to": "nowhere"}},
	}}), 422, "VALIDATION_FAILED")
	require.Equal(t, []string{"definition.nodes[2].duration"}, fields(p))
	p = requireProblem(t, c.try(t, "POST", "/workflows", object{"name": "bad", "projectId": project, "definition": object{
		"nodes": []object{{"id": "a", "type": "agent"}, {"id": "b", "type": "steam"}},
		"edges": []object{{"from": "a", "to": "nowhere"}},
	}}), 422, "VALIDATION_FAILED")
	require.Contains(t, fields(p), "definition.nodes[1].type")
	require.Contains(t, fields(p), "definition.edges[0].to")
	c.do(t, 200, "DELETE", "/workflows/"+id, nil)
	requireProblem(t, c.try(t, "GET", "/workflows/"+id, nil), 404, "NOT_FOUND")
}

const runKeys = `id projectId workflowId workflowVersion agentId env trigger triggeredBy region status phase statusReason errorMessage
	queuedAt startedAt endedAt durationMs deadline updatedAt tokensPrompt tokensCompletion usage usdCost costNanos retries retryOf
	hasHumanInLoop metadata`

func TestContractRuns(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	m := c.make(t, c.project(t))
	form := object{"workflow_id": m.workflow, "agent_id": m.agent, "env": "staging", "trigger": "manual", "input_data": object{"some_key": 1, "someKey": 2}}
	a := c.do(t, 201, "POST", "/runs", form)
	made := a.object()
	requireKeys(t, made, runKeys+" input")
	require.Equal(t, "queued", made["status"])
	require.Equal(t, made["queuedAt"], made["startedAt"])
	require.Equal(t, object{"some_key": 1.0, "someKey": 2.0}, made["input"])
	require.Equal(t, false, made["hasHumanInLoop"])
	for _, key := range []string{"tokensPrompt", "tokensCompletion", "usdCost"} {
		require.IsType(t, 0.0, made[key], key)
	}
	id := made["id"].(string)
	require.Equal(t, made, c.get(t, "/runs/"+id))
	require.Equal(t, []any{}, c.do(t, 200, "GET", "/runs/"+id+"/steps", nil).JSON, "a bare array")
	camel := c.do(t, 201, "POST", "/runs", object{"workflowId": m.workflow, "agentId": m.agent, "env": "dev", "trigger": "manual", "inputData": object{}, "config": object{"a_b": 1}}).object()
	require.Equal(t, object{"a_b": 1.0}, camel["config"])

	list := c.get(t, "/runs?page=1&limit=20")
	requireEnvelope(t, list, "runs")
	require.Equal(t, 20.0, list["limit"])
	require.Equal(t, 3.0, list["total"])
	newest := list["runs"].([]any)[0].(object)
	requireKeys(t, newest, runKeys)
	require.Equal(t, camel["id"], newest["id"], "newest first")
	require.EqualValues(t, 3, c.get(t, "/runs?status=pending&agentId="+m.agent+"&workflowId="+m.workflow)["total"])
	require.EqualValues(t, 0, c.get(t, "/runs?status=completed")["total"])
	requireProblem(t, c.try(t, "GET", "/runs?status=flying", nil), 422, "VALIDATION_FAILED")

	requireProblem(t, c.try(t, "POST", "/runs/"+id+"/retry", nil), 409, "RUN_NOT_RETRYABLE")
	requireProblem(t, c.try(t, "DELETE", "/runs/"+id, nil), 409, "RUN_ACTIVE")
	cancelled := c.do(t, 200, "PATCH", "/runs/"+id+"/cancel", nil).object()
	require.Equal(t, "cancelled", cancelled["status"], "the answer already says so")
	require.Nil(t, cancelled["errorMessage"])
	requireTime(t, cancelled["endedAt"])
	require.Equal(t, cancelled, c.do(t, 200, "POST", "/runs/"+id+"/cancel", nil).object(), "unchanged")
	retried := c.do(t, 201, "POST", "/runs/"+id+"/retry", nil).object()
	require.Equal(t, id, retried["retryOf"])
	require.Equal(t, 1.0, retried["retries"])
	require.Equal(t, "manual", retried["trigger"])
	require.Equal(t, "cancelled", c.get(t, "/runs/"+id)["status"], "the old one is unchanged")

	require.Equal(t, object{"id": id, "deleted": true}, c.do(t, 200, "DELETE", "/runs/"+id, nil).object())
	requireProblem(t, c.try(t, "GET", "/runs/"+id, nil), 404, "NOT_FOUND")
	requireProblem(t, c.try(t, "DELETE", "/runs/"+id, nil), 404, "NOT_FOUND")
	require.NotEmpty(t, c.get(t, "/runs/"+id+"/events")["items"], "its history stays")

	requireProblem(t, c.try(t, "POST", "/runs", object{"workflow_id": m.workflow, "agent_id": m.agent, "env": "moon"}), 422, "VALIDATION_FAILED")
	requireProblem(t, c.try(t, "POST", "/runs", object{"workflow_id": m.workflow, "agent_id": m.agent, "input_data": []int{1}}), 422, "VALIDATION_FAILED")
	requireProblem(t, s.user(t, domain.Developer).try(t, "POST", "/runs", form), 404, "NOT_FOUND")
}

func TestContractPaging(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	project := c.project(t)
	for i := range 5 {
		c.do(t, 201, "POST", "/agents", object{"name": fmt.Sprint("agent ", i), "projectId": project})
	}
	for _, size := range []string{"page_size=2", "pageSize=2", "limit=2", "limit=2&page_size=2"} {
		page := c.get(t, "/agents?project_id="+project+"&page=2&"+size)
		require.Len(t, page["items"], 2, size)
		require.Equal(t, 3.0, page["totalPages"])
		require.Equal(t, 2.0, page["page"])
		require.Equal(t, 2.0, page["pageSize"])
	}
	requireProblem(t, c.try(t, "GET", "/agents?limit=2&page_size=3", nil), 422, "VALIDATION_FAILED")
	require.Equal(t, 100.0, c.get(t, "/agents?page_size=5000")["pageSize"], "larger is capped")
	require.Equal(t, []any{}, c.get(t, "/agents?project_id="+project+"&page=99")["items"], "a page past the end is empty")
	for _, bad := range []string{"page=0", "page=-1", "page=x", "page=99999999999999999999", "page_size=0", "page_size=many"} {
		requireProblem(t, c.try(t, "GET", "/agents?"+bad, nil), 422, "VALIDATION_FAILED")
	}
	var names []any
	for path := "/agents?limit=2&project_id=" + project; path != ""; {
		page := c.get(t, path)
		for _, item := range page["items"].([]any) {
			names = append(names, item.(object)["name"])
		}
		path = ""
		if next, ok := page["nextCursor"].(string); ok {
			path = "/agents?limit=2&project_id=" + project + "&cursor=" + next
		}
	}
	require.Equal(t, []any{"agent 4", "agent 3", "agent 2", "agent 1", "agent 0"}, names)
	requireProblem(t, c.try(t, "GET", "/agents?cursor=rubbish", nil), 422, "VALIDATION_FAILED")
	foreign := s.user(t, domain.Developer)
	require.Empty(t, requireEnvelope(t, foreign.get(t, "/agents?project_id="+project), "items"), "somebody else's project shows nothing")
}

// Every success under /api/v1 has a JSON body: the frontend parses them all.
func TestNoOperationAnswersWithoutBody(t *testing.T) {
	t.Parallel()
	server, err := newServer(Config{})
	require.NoError(t, err)
	for path, item := range server.api.OpenAPI().Paths {
		for _, operation := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if operation != nil {
				require.NotContains(t, operation.Responses, "204", "%s %s", operation.Method, path)
			}
		}
	}
}
