package projections_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
)

// asJSON is what the API answers.
func asJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

func running(t testing.TB) plane {
	t.Helper()
	p := newPlane(t)
	start(t, p.runner(t, projections.Runner{Views: p.views}))
	return p
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	p.append(t, "user-u1", at(0), user.Registered{UserID: "u1", EmailHash: "h1", EmailSealed: "e", NameSealed: "n", PasswordSealed: "p", Role: domain.Owner})
	p.append(t, "user-u2", at(1), user.Registered{UserID: "u2", EmailHash: "h2", EmailSealed: "e", NameSealed: "n", PasswordSealed: "p", Role: domain.Viewer})
	p.append(t, "session-s1", at(2), session.Started{SessionID: "s1", UserID: "u1", TokenHash: "t", ExpiresAt: at(1e9), Epoch: 3})
	p.append(t, "session-s2", at(3), session.Started{SessionID: "s2", UserID: "u1", TokenHash: "t", ExpiresAt: at(1e9)})
	p.append(t, "session-s1", at(4), session.Refreshed{Presented: "t", Successor: "t2"})
	p.append(t, "session-s2", at(5), session.Revoked{Reason: "logout"})
	p.append(t, "user-u1", at(6), user.Renamed{NameSealed: "n2"}, user.PasswordChanged{PasswordSealed: "p2"}, user.RoleChanged{Role: domain.Admin})
	p.append(t, "user-u2", at(7), user.Deactivated{})
	expires := at(100)
	p.append(t, "apiKey-k1", at(8), apikey.Created{KeyID: "k1", UserID: "u1", Name: "one", Prefix: "sk_1", Digest: "d1", Default: true})
	p.append(t, "apiKey-k2", at(9), apikey.Created{KeyID: "k2", UserID: "u1", Name: "two", Prefix: "sk_2", Digest: "d2", Scopes: []domain.Permission{"runs:read"}, ExpiresAt: &expires})
	p.waitFor(t, p.append(t, "apiKey-k1", at(10), apikey.Revoked{Reason: "deleted"}), "accounts")

	u, err := p.views.UserByID(ctx, "u1")
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"u1","email":"open:u1:e","name":"open:u1:n2","role":"admin","is_active":true,"is_superuser":false,"is_verified":true,
		"last_login_at":"2026-03-04T05:06:10Z","created_at":"2026-03-04T05:06:07Z","updated_at":"2026-03-04T05:06:13Z"}`, asJSON(t, u))
	require.Equal(t, []any{"h1", 1, int64(3), at(6)}, []any{u.EmailHash, u.SessionEpoch, u.Revision, u.PasswordChangedAt})
	u2, err := p.views.UserByEmailHash(ctx, "h2")
	require.NoError(t, err)
	require.Equal(t, []any{"u2", false, 1}, []any{u2.ID, u2.IsActive, u2.SessionEpoch})
	_, err = p.views.UserByEmailHash(ctx, "nobody")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	all, err := p.views.Users(ctx, readmodels.UserFilter{}, readmodels.Page{})
	require.NoError(t, err)
	require.Equal(t, 2, all.Total)
	require.Equal(t, "u2", all.Items[0].ID)
	active := true
	some, err := p.views.Users(ctx, readmodels.UserFilter{Role: domain.Admin, Active: &active}, readmodels.Page{})
	require.NoError(t, err)
	require.Len(t, some.Items, 1)

	s, err := p.views.SessionByID(ctx, "s1")
	require.NoError(t, err)
	require.Equal(t, []any{3, at(4), int64(1)}, []any{s.Epoch, *s.LastRefreshedAt, s.Revision})
	require.Nil(t, s.RevokedAt)
	open, err := p.views.SessionsOf(ctx, "u1")
	require.NoError(t, err)
	require.Len(t, open, 1)
	s, err = p.views.SessionByID(ctx, "s2")
	require.NoError(t, err)
	require.Equal(t, "logout", *s.RevokedReason)

	keys, err := p.views.APIKeysOf(ctx, "u1")
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.JSONEq(t, `{"id":"k2","userId":"u1","name":"two","prefix":"sk_2","scopes":["runs:read"],"expiresAt":"2026-03-04T05:07:47Z",
		"default":false,"createdAt":"2026-03-04T05:06:16Z","revokedAt":null}`, asJSON(t, keys[0]))
	k, err := p.views.APIKeyByDigest(ctx, "d1")
	require.NoError(t, err)
	require.Nil(t, k.Scopes)
	require.NotNil(t, k.RevokedAt)
	_, err = p.views.APIKeyByID(ctx, "k9")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
}

func TestProjectsAndMembers(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	p.append(t, "user-u1", at(0), user.Registered{UserID: "u1", EmailHash: "h1", EmailSealed: "e", NameSealed: "n", Role: domain.Owner})
	p.append(t, "project-p1", at(1), project.Created{ProjectID: "p1", OwnerUserID: "u1", Slug: "one", Spec: project.Spec{Name: "One", Status: "active"}})
	p.append(t, "project-p2", at(2), project.Created{ProjectID: "p2", OwnerUserID: "u2", Slug: "two", Spec: project.Spec{Name: "Two_%", Status: "draft", Settings: json.RawMessage(`{"a":1}`)}})
	p.append(t, "project-p1", at(3), project.MemberAdded{UserID: "u3", Role: domain.Viewer}, project.MemberRoleChanged{UserID: "u3", Role: domain.Developer},
		project.MemberAdded{UserID: "u4", Role: domain.Viewer}, project.MemberRemoved{UserID: "u4"})
	last := p.append(t, "project-p1", at(4), project.Updated{Spec: project.Spec{Name: "Uno", Description: "d", Status: "archived"}})
	p.waitFor(t, last, "projects", "accounts")

	one, err := p.views.Project(ctx, readmodels.Visible{Projects: []string{"p1"}}, "p1")
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"p1","slug":"one","ownerUserId":"u1","name":"Uno","description":"d","status":"archived","settings":{},"metadata":{},
		"createdAt":"2026-03-04T05:06:08Z","updatedAt":"2026-03-04T05:06:11Z"}`, asJSON(t, one))
	require.EqualValues(t, 5, one.Revision)
	_, err = p.views.Project(ctx, readmodels.Visible{Projects: []string{"p2"}}, "p1")
	require.Equal(t, domain.NotFound, domain.KindOf(err), "not visible")

	list := func(visible readmodels.Visible, f readmodels.ProjectFilter) []string {
		found, err := p.views.Projects(ctx, visible, f, readmodels.Page{})
		require.NoError(t, err)
		require.Equal(t, len(found.Items), found.Total)
		ids := []string{}
		for _, item := range found.Items {
			ids = append(ids, item.ID)
		}
		return ids
	}
	require.Equal(t, []string{"p2", "p1"}, list(everything, readmodels.ProjectFilter{}))
	require.Equal(t, []string{"p1"}, list(readmodels.Visible{Projects: []string{"p1", "p9"}}, readmodels.ProjectFilter{}))
	require.Empty(t, list(readmodels.Visible{}, readmodels.ProjectFilter{}))
	require.Equal(t, []string{"p2"}, list(everything, readmodels.ProjectFilter{Status: "draft"}))
	require.Equal(t, []string{"p2"}, list(everything, readmodels.ProjectFilter{Search: "wO_%"}))

	members, err := p.views.Members(ctx, everything, "p1")
	require.NoError(t, err)
	require.JSONEq(t, `[{"projectId":"p1","userId":"u1","email":"open:u1:e","name":"open:u1:n","role":"owner","addedAt":"2026-03-04T05:06:08Z"},
		{"projectId":"p1","userId":"u3","email":"[erased]","name":"[erased]","role":"developer","addedAt":"2026-03-04T05:06:10Z"}]`, asJSON(t, members))
	_, err = p.views.Member(ctx, everything, "p1", "u4")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	member, err := p.views.Member(ctx, everything, "p1", "u3")
	require.NoError(t, err)
	require.Equal(t, domain.Developer, member.Role)
	roles, err := p.views.MembershipsOf(ctx, "u3")
	require.NoError(t, err)
	require.Equal(t, map[string]domain.Role{"p1": domain.Developer}, roles)

	p.waitFor(t, p.append(t, "project-p1", at(9), project.Deleted{}), "projects")
	require.Equal(t, []string{"p2"}, list(everything, readmodels.ProjectFilter{}))
	roles, err = p.views.MembershipsOf(ctx, "u3")
	require.NoError(t, err)
	require.Empty(t, roles)
	_, err = p.views.Members(ctx, everything, "p1")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
}

func TestAgentsAndTools(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	spec := agent.Spec{
		Name: "A", Runtime: "python", Model: "gpt-4o", Provider: "openai", Env: "dev", Temperature: 0.7, Concurrency: 8,
		Autoscale: agent.Autoscale{Min: 1, Max: 10, TargetCPU: 70}, Status: "active",
	}
	p.append(t, "agent-a1", at(0), agent.Created{AgentID: "a1", ProjectID: "p1", Spec: spec})
	spec.Name, spec.Env, spec.Tools = "B", "prod", []string{"t1"}
	p.append(t, "agent-a2", at(1), agent.Created{AgentID: "a2", ProjectID: "p2", Spec: spec})
	spec.Name = "B2"
	p.append(t, "agent-a2", at(2), agent.Updated{Version: 2, Spec: spec})
	limit := 60
	p.append(t, "tool-t1", at(3), tool.Created{ToolID: "t1", ProjectID: "p1", AuthSealed: "secret", Spec: tool.Spec{Name: "T", Kind: "api", AuthType: "bearer", Env: "dev", Status: "active", RateLimitPerMin: &limit}})
	p.append(t, "tool-t2", at(4), tool.Created{ToolID: "t2", ProjectID: "p2", Spec: tool.Spec{Name: "U", Kind: "http", AuthType: "none", Env: "dev", Status: "active"}})
	last := p.append(t, "tool-t1", at(5), tool.Updated{Version: 2, AuthSealed: "secret2", Spec: tool.Spec{Name: "T2", Kind: "mcp", AuthType: "oauth", Env: "dev", Status: "inactive", Provider: "x", Scopes: []string{"s"}, Config: json.RawMessage(`{"url":"u"}`)}})
	p.waitFor(t, last, "agents", "tools")

	a, err := p.views.Agent(ctx, everything, "a1")
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"a1","projectId":"p1","version":1,"name":"A","runtime":"python","model":"gpt-4o","provider":"openai","env":"dev","temperature":0.7,
		"concurrency":8,"promptSummary":"","tools":[],"autoscale":{"min":1,"max":10,"targetCpu":70},"status":"active","metadata":{},
		"health":"healthy","lastHeartbeat":"2026-03-04T05:06:07Z","createdAt":"2026-03-04T05:06:07Z","updatedAt":"2026-03-04T05:06:07Z"}`, asJSON(t, a))
	b, err := p.views.Agent(ctx, readmodels.Visible{Projects: []string{"p2"}}, "a2")
	require.NoError(t, err)
	require.Equal(t, []any{"B2", 2, int64(1), at(2), []string{"t1"}}, []any{b.Name, b.Version, b.Revision, b.UpdatedAt, b.Tools})

	agents := func(visible readmodels.Visible, f readmodels.AgentFilter) (ids []string) {
		found, err := p.views.Agents(ctx, visible, f, readmodels.Page{})
		require.NoError(t, err)
		for _, item := range found.Items {
			ids = append(ids, item.ID)
		}
		return ids
	}
	require.Equal(t, []string{"a2", "a1"}, agents(everything, readmodels.AgentFilter{Health: "healthy", Status: "active"}))
	require.Equal(t, []string{"a1"}, agents(everything, readmodels.AgentFilter{ProjectID: "p1"}))
	require.Equal(t, []string{"a2"}, agents(everything, readmodels.AgentFilter{Env: "prod"}))
	require.Empty(t, agents(everything, readmodels.AgentFilter{Health: "degraded"}))
	require.Empty(t, agents(readmodels.Visible{Projects: []string{"p2"}}, readmodels.AgentFilter{ProjectID: "p1"}))

	u, err := p.views.Tool(ctx, everything, "t2")
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"t2","projectId":"p2","version":1,"name":"U","kind":"http","authType":"none","description":null,"rateLimitPerMin":null,
		"env":"dev","config":{},"status":"active","createdAt":"2026-03-04T05:06:11Z","updatedAt":"2026-03-04T05:06:11Z"}`, asJSON(t, u))
	tl, err := p.views.Tool(ctx, everything, "t1")
	require.NoError(t, err)
	require.Equal(t, []any{"mcp", "oauth", "secret2", 2, []string{"s"}}, []any{tl.Kind, tl.AuthType, tl.AuthSealed, tl.Version, tl.Scopes})
	require.NotContains(t, asJSON(t, tl), "secret2")
	found, err := p.views.Tools(ctx, everything, readmodels.ToolFilter{Kind: "mcp", AuthType: "oauth", Env: "dev", Status: "inactive", ProjectID: "p1", Search: "t"}, readmodels.Page{})
	require.NoError(t, err)
	require.Equal(t, 1, found.Total)

	// A deletion in the project, of it, and a creation that came too late.
	p.append(t, "agent-a2", at(6), agent.Deleted{})
	p.append(t, "tool-t2", at(6), tool.Deleted{})
	p.append(t, "project-p1", at(7), project.Deleted{})
	p.append(t, "tool-t3", at(8), tool.Created{ToolID: "t3", ProjectID: "p1"})
	last = p.append(t, "agent-a3", at(8), agent.Created{AgentID: "a3", ProjectID: "p1"})
	p.waitFor(t, last, "agents", "tools")
	require.Empty(t, agents(everything, readmodels.AgentFilter{}))
	found, err = p.views.Tools(ctx, everything, readmodels.ToolFilter{}, readmodels.Page{})
	require.NoError(t, err)
	require.Zero(t, found.Total)
	require.NotNil(t, found.Items)
}

func TestWorkflows(t *testing.T) {
	t.Parallel()
	p, ctx := running(t), t.Context()
	spec := workflow.Spec{Name: "W", Tags: []string{"x", "y"}, Status: "active", TriggerType: "manual", TimeoutSeconds: 3600, MaxRetries: 3, EnableNotifications: true}
	graph := workflow.Definition{Nodes: []workflow.Node{{ID: "n", Type: workflow.NodeWait, Duration: workflow.Duration(time.Second)}}}
	p.append(t, "workflow-w1", at(0), workflow.Created{WorkflowID: "w1", ProjectID: "p1", Spec: spec, AuthorUserID: "u1"})
	p.append(t, "workflow-w1", at(1), workflow.VersionAdded{Version: 2, Definition: graph, AuthorUserID: "u2", Note: "why"})
	p.append(t, "workflow-w1", at(2), workflow.VersionReleased{Version: 2}, workflow.VersionDeprecated{Version: 1})
	spec.Name, spec.Tags = "V", nil
	last := p.append(t, "workflow-w2", at(3), workflow.Created{WorkflowID: "w2", ProjectID: "p2", Spec: spec, AuthorUserID: "u1"})
	p.waitFor(t, last, "workflows", "runs")

	w, err := p.views.Workflow(ctx, everything, "w1")
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"w1","projectId":"p1","name":"W","description":"","tags":["x","y"],"status":"active","triggerType":"manual","timeoutSeconds":3600,
		"maxRetries":3,"enableApproval":false,"enableNotifications":true,"currentVersion":2,"avgDurationMs":null,"successRate":null,"lastRunAt":null,
		"createdAt":"2026-03-04T05:06:07Z","updatedAt":"2026-03-04T05:06:09Z","definition":{"nodes":[{"id":"n","type":"wait","duration":"1s"}]},
		"versions":[{"version":1,"status":"deprecated","authorUserId":"u1","createdAt":"2026-03-04T05:06:07Z","updatedAt":"2026-03-04T05:06:09Z"},
			{"version":2,"status":"released","authorUserId":"u2","note":"why","createdAt":"2026-03-04T05:06:08Z","updatedAt":"2026-03-04T05:06:09Z"}]}`, asJSON(t, w))
	require.EqualValues(t, 3, w.Revision)
	_, err = p.views.Workflow(ctx, readmodels.Visible{Projects: []string{"p2"}}, "w1")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	_, err = p.views.WorkflowVersions(ctx, readmodels.Visible{Projects: []string{"p2"}}, "w1")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	versions, err := p.views.WorkflowVersions(ctx, everything, "w1")
	require.NoError(t, err)
	require.Equal(t, w.Versions, versions)
	second, err := p.views.WorkflowVersion(ctx, everything, "w1", 2)
	require.NoError(t, err)
	require.Equal(t, graph, *second.Definition)
	_, err = p.views.WorkflowVersion(ctx, everything, "w1", 3)
	require.Equal(t, domain.NotFound, domain.KindOf(err))

	all, err := p.views.Workflows(ctx, everything, readmodels.WorkflowFilter{}, readmodels.Page{})
	require.NoError(t, err)
	require.Equal(t, 2, all.Total)
	require.JSONEq(t, `{"id":"w2","projectId":"p2","name":"V","description":"","tags":[],"status":"active","triggerType":"manual","timeoutSeconds":3600,
		"maxRetries":3,"enableApproval":false,"enableNotifications":true,"currentVersion":1,"avgDurationMs":null,"successRate":null,"lastRunAt":null,
		"createdAt":"2026-03-04T05:06:10Z","updatedAt":"2026-03-04T05:06:10Z",
		"versions":[{"version":1,"status":"draft","authorUserId":"u1","createdAt":"2026-03-04T05:06:10Z","updatedAt":"2026-03-04T05:06:10Z"}]}`, asJSON(t, all.Items[0]))
	for tags, want := range map[string]int{"x": 1, "xy": 1, "xz": 0, "": 2} {
		var f readmodels.WorkflowFilter
		for _, tag := range tags {
			f.Tags = append(f.Tags, string(tag))
		}
		found, err := p.views.Workflows(ctx, everything, f, readmodels.Page{})
		require.NoError(t, err)
		require.Equal(t, want, found.Total, tags)
	}
	found, err := p.views.Workflows(ctx, everything, readmodels.WorkflowFilter{ProjectID: "p1", Status: "active", Search: "w"}, readmodels.Page{})
	require.NoError(t, err)
	require.Equal(t, 1, found.Total)

	p.append(t, "workflow-w2", at(4), workflow.Deleted{})
	p.append(t, "project-p1", at(5), project.Deleted{})
	last = p.append(t, "workflow-w1", at(6), workflow.VersionAdded{Version: 3, AuthorUserID: "u1"})
	p.waitFor(t, last, "workflows")
	found, err = p.views.Workflows(ctx, everything, readmodels.WorkflowFilter{}, readmodels.Page{})
	require.NoError(t, err)
	require.Zero(t, found.Total)
	schema := query[string](t, p.database, `select schema from sparkops.projections where name = 'workflows'`)
	require.Zero(t, query[int](t, p.database, `select count(*) from `+schema+`.workflow_versions`))
}
