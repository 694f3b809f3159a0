package commands

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
)

func member(ctx context.Context, projectID string, role domain.Role) context.Context {
	return WithActor(ctx, domain.Actor{Kind: domain.ActorUser, ID: "member", Role: domain.Viewer, Projects: map[string]domain.Role{projectID: role}})
}

func (s *system) project(t testing.TB, name string) string {
	t.Helper()
	id, _, err := s.CreateProject(as(t.Context(), domain.Developer), project.Patch{Name: &name})
	require.NoError(t, err)
	return id
}

func TestCreateProject(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx := as(t.Context(), domain.Developer)
	slugs := map[string]bool{}
	for i, name := range []string{"Grüße, Welt!", "Grüße, Welt!", "gr e welt", "日本"} {
		id := s.project(t, name)
		created := s.history(t, "project-"+id)[0].Event.(project.Created)
		require.Equal(t, "tester", created.OwnerUserID)
		require.False(t, slugs[created.Slug], created.Slug)
		slugs[created.Slug] = true
		require.True(t, strings.HasPrefix(created.Slug, []string{"gr-e-welt", "gr-e-welt-", "gr-e-welt-", "project"}[i]), created.Slug)
	}
	_, _, err := s.CreateProject(as(t.Context(), domain.Viewer), project.Patch{Name: ptr("x")})
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	before := s.appends(t)
	_, _, err = s.CreateProject(ctx, project.Patch{Name: ptr("")})
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	require.Equal(t, before, s.appends(t), "no slug is reserved for nothing")

	named := WithCommandID(ctx, NewID())
	id, receipt, err := s.CreateProject(named, project.Patch{Name: ptr("Once")})
	require.NoError(t, err)
	again, repeated, err := s.CreateProject(named, project.Patch{Name: ptr("Once")})
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.True(t, repeated.Unchanged)
	require.Equal(t, receipt.Position, repeated.Position)
}

func TestSlugOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"Atlas": "atlas", "  A  b--C ": "a-b-c", "": "project", "!!!": "project", "Straße 7": "stra-e-7",
		strings.Repeat("ab ", 40): strings.TrimRight(strings.Repeat("ab-", 16), "-"),
	} {
		require.Equal(t, want, slugOf(name), name)
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.register(t, "root@example.org", "")
	ben := s.register(t, "ben@example.org", "")
	id := s.project(t, "Atlas")
	owner := member(t.Context(), id, domain.Owner)

	got, _, err := s.AddMember(owner, id, Invitee{Email: " BEN@example.org"}, domain.Developer)
	require.NoError(t, err)
	require.Equal(t, ben.ID, got)
	_, receipt, err := s.AddMember(owner, id, Invitee{UserID: ben.ID}, domain.Developer)
	require.NoError(t, err)
	require.True(t, receipt.Unchanged)
	for _, who := range []Invitee{{UserID: NewID()}, {Email: "nobody@example.org"}, {}} {
		_, _, err = s.AddMember(owner, id, who, domain.Viewer)
		requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	}
	_, _, err = s.AddMember(member(t.Context(), id, domain.Developer), id, Invitee{Email: "nobody@example.org"}, domain.Viewer)
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, _, err = s.AddMember(as(t.Context(), domain.Developer), id, Invitee{Email: "nobody@example.org"}, domain.Viewer)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")

	_, err = s.ChangeMember(owner, id, ben.ID, domain.Admin)
	require.NoError(t, err)
	leaver := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: ben.ID, Role: domain.Viewer, Projects: map[string]domain.Role{id: domain.Viewer}})
	_, err = s.RemoveMember(leaver, id, ben.ID)
	require.NoError(t, err)
	_, err = s.RemoveMember(owner, id, "tester")
	requireFailure(t, err, domain.Conflict, "LAST_OWNER")
}

func TestNothingIsMadeInAProjectThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	id, gone := s.project(t, "Atlas"), s.project(t, "Gone")
	owner := as(t.Context(), domain.Owner)
	_, err := s.DeleteProject(owner, gone)
	require.NoError(t, err)
	makers := map[string]func(ctx context.Context, project string) error{
		"agent": func(ctx context.Context, p string) error {
			_, _, err := s.CreateAgent(ctx, p, agent.Patch{Name: ptr("x")})
			return err
		},
		"tool": func(ctx context.Context, p string) error {
			_, _, err := s.CreateTool(ctx, p, tool.Patch{Name: ptr("x"), Kind: ptr("http")})
			return err
		},
		"workflow": func(ctx context.Context, p string) error {
			_, _, err := s.CreateWorkflow(ctx, p, workflow.Patch{Name: ptr("x")})
			return err
		},
	}
	for name, create := range makers {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, create(member(t.Context(), id, domain.Developer), id))
			requireFailure(t, create(owner, ""), domain.Invalid, "VALIDATION_FAILED")
			requireFailure(t, create(owner, gone), domain.NotFound, "NOT_FOUND")
			requireFailure(t, create(owner, NewID()), domain.NotFound, "NOT_FOUND")
			requireFailure(t, create(member(t.Context(), "other", domain.Owner), id), domain.NotFound, "NOT_FOUND")
			requireFailure(t, create(member(t.Context(), id, domain.Viewer), id), domain.Forbidden, "FORBIDDEN")
			requireFailure(t, create(t.Context(), id), domain.Unauthorized, "UNAUTHENTICATED")

			scoped := domain.Actor{Kind: domain.ActorAPIKey, ID: "k", Role: domain.Owner, Scopes: []domain.Permission{"runs:read"}}
			requireFailure(t, create(WithActor(t.Context(), scoped), id), domain.Forbidden, "SCOPE_MISSING")

			named := WithCommandID(owner, NewID())
			before := s.appends(t)
			require.NoError(t, create(named, id))
			require.NoError(t, create(named, id))
			require.Equal(t, before+1, s.appends(t), "repeating it makes nothing twice")
		})
	}
}

func TestAgentLife(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	p := s.project(t, "Atlas")
	ctx := member(t.Context(), p, domain.Admin)
	id, created, err := s.CreateAgent(ctx, p, agent.Patch{Name: ptr("Scout")})
	require.NoError(t, err)
	updated, err := s.UpdateAgent(WithExpected(ctx, created.Revision), id, agent.Patch{Temperature: ptr(7.0)})
	require.NoError(t, err)
	require.Equal(t, p, s.history(t, "agent-"+id)[1].Metadata.ProjectID)
	_, err = s.UpdateAgent(WithExpected(ctx, created.Revision), id, agent.Patch{Temperature: ptr(8.0)})
	requireFailure(t, err, domain.StaleRevision, "STALE_REVISION")
	_, err = s.DeleteAgent(WithExpected(ctx, updated.Revision), id)
	require.NoError(t, err)
	_, err = s.DeleteAgent(ctx, id)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestToolCredentialsAreSealed(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	p := s.project(t, "Atlas")
	ctx := member(t.Context(), p, domain.Admin)
	secret := func(text string) domain.Optional[json.RawMessage] {
		return domain.Some(json.RawMessage(`{ "token": "` + text + `" }`))
	}
	id, _, err := s.CreateTool(ctx, p, tool.Patch{Name: ptr("Search"), Kind: ptr("http"), AuthConfig: secret("alpha")})
	require.NoError(t, err)
	opened := func() string {
		t.Helper()
		state, _, err := Load[tool.Tool](ctx, s.Handler, "tool-"+id)
		require.NoError(t, err)
		auth, err := s.OpenToolAuth(ctx, id, state.AuthSealed)
		require.NoError(t, err)
		return string(auth)
	}
	require.Equal(t, `{"token":"alpha"}`, opened())
	_, err = s.UpdateTool(ctx, id, tool.Patch{Description: domain.Some("d")})
	require.NoError(t, err)
	require.Equal(t, `{"token":"alpha"}`, opened())
	_, err = s.UpdateTool(ctx, id, tool.Patch{AuthConfig: secret("beta")})
	require.NoError(t, err)
	require.Equal(t, `{"token":"beta"}`, opened())
	_, err = s.UpdateTool(ctx, id, tool.Patch{AuthConfig: domain.Some(json.RawMessage(`[]`))})
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	_, err = s.UpdateTool(ctx, id, tool.Patch{AuthConfig: domain.Cleared[json.RawMessage]()})
	require.NoError(t, err)
	require.Empty(t, opened())
	for _, e := range s.history(t, "tool-"+id) {
		require.NotContains(t, string(e.Data), "alpha")
		require.NotContains(t, string(e.Data), "beta")
	}

	_, err = s.UpdateTool(as(t.Context(), domain.Owner), "unknown", tool.Patch{AuthConfig: secret("x")})
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	_, err = s.Vault.Open(t.Context(), tool.Subject("unknown"), "v1.x")
	require.ErrorContains(t, err, "no key", "nothing was made for a tool that is not there")
	_, err = s.DeleteTool(ctx, id)
	require.NoError(t, err)
	_, err = s.UpdateTool(ctx, id, tool.Patch{AuthConfig: secret("x")})
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestWorkflowLife(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	p := s.project(t, "Atlas")
	ctx := member(t.Context(), p, domain.Admin)
	id, _, err := s.CreateWorkflow(ctx, p, workflow.Patch{Name: ptr("Daily"), Definition: &workflow.Definition{}})
	require.NoError(t, err)
	decides := func(condition string) *workflow.Definition {
		var def workflow.Definition
		require.NoError(t, json.Unmarshal([]byte(`{"nodes":[{"id":"d","type":"decision"},{"id":"w","type":"wait","duration":"1s"},{"id":"x","type":"wait","duration":"1s"}],
			"edges":[{"from":"d","to":"w","when":"`+condition+`"},{"from":"d","to":"x"}]}`), &def))
		return &def
	}
	_, err = s.UpdateWorkflow(ctx, id, workflow.Patch{Definition: decides("input.a >")})
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	_, err = s.UpdateWorkflow(ctx, id, workflow.Patch{Definition: decides("input.a > 1")})
	require.NoError(t, err)
	n, _, err := s.AddWorkflowVersion(ctx, id, NewVersion{Note: "n", Status: workflow.Released})
	require.NoError(t, err)
	require.Equal(t, 3, n)
	_, err = s.ReleaseWorkflowVersion(ctx, id, 2)
	require.NoError(t, err)
	_, err = s.DeprecateWorkflowVersion(ctx, id, 3)
	require.NoError(t, err)
	state, _, err := Load[workflow.Workflow](ctx, s.Handler, "workflow-"+id)
	require.NoError(t, err)
	require.Equal(t, 2, state.Runnable())
	require.Equal(t, "member", s.history(t, "workflow-"+id)[0].Event.(workflow.Created).AuthorUserID)
	_, err = s.DeleteWorkflow(ctx, id)
	require.NoError(t, err)
	_, _, err = s.AddWorkflowVersion(ctx, id, NewVersion{})
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}
