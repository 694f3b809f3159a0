package project_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/project"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var created = project.Created{
	ProjectID: "p1", OwnerUserID: "anna", Slug: "atlas",
	Spec: project.Spec{Name: "Atlas", Status: project.Active, Settings: json.RawMessage(`{"a":1}`)},
}

func ptr[T any](v T) *T { return &v }

func TestCreate(t *testing.T) {
	t.Parallel()
	domaintest.Given[project.Project](t).
		When(project.Create{ProjectID: "p1", OwnerUserID: "anna", Slug: "atlas", Patch: project.Patch{
			Name: ptr("  Atlas "), Settings: domain.Some(json.RawMessage(`{ "a": 1 }`)),
		}}, now).
		Then(created)
	domaintest.Given[project.Project](t).
		When(project.Create{ProjectID: "p1", OwnerUserID: "anna", Slug: "x", Patch: project.Patch{
			Name: ptr("a\nb"), Status: ptr("gone"), Description: domain.Some(strings.Repeat("x", 4001)),
			Settings: domain.Some(json.RawMessage(`[1]`)), Metadata: domain.Some(json.RawMessage(`{`)),
		}}, now).
		ThenInvalid("name", "description", "status", "settings", "metadata")
	domaintest.Given[project.Project](t).
		When(project.Create{ProjectID: "p1", OwnerUserID: "anna", Slug: "x"}, now).ThenInvalid("name")
	domaintest.Given[project.Project](t, created).
		When(project.Create{ProjectID: "p1", OwnerUserID: "anna", Slug: "atlas", Patch: project.Patch{Name: ptr("Atlas")}}, now).
		ThenError(domain.Conflict, "PROJECT_EXISTS")
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	given := domaintest.Given[project.Project](t, created)
	given.When(project.Update{ProjectID: "p1", Patch: project.Patch{
		Description: domain.Some("maps"), Settings: domain.Cleared[json.RawMessage](), Status: ptr(project.Archived),
	}}, now).Then(project.Updated{Spec: project.Spec{Name: "Atlas", Description: "maps", Status: project.Archived}})
	given.When(project.Update{ProjectID: "p1"}, now).Then()
	given.When(project.Update{ProjectID: "p1", Patch: project.Patch{Name: ptr("Atlas"), Settings: domain.Some(json.RawMessage(` {"a" : 1}`))}}, now).Then()
	given.When(project.Update{ProjectID: "p1", Patch: project.Patch{Name: ptr(" ")}}, now).ThenInvalid("name")
}

func TestMembers(t *testing.T) {
	t.Parallel()
	given := domaintest.Given[project.Project](t, created, project.MemberAdded{UserID: "ben", Role: domain.Developer})
	given.When(project.AddMember{ProjectID: "p1", UserID: "cleo", Role: domain.Viewer}, now).
		Then(project.MemberAdded{UserID: "cleo", Role: domain.Viewer})
	given.When(project.AddMember{ProjectID: "p1", UserID: "cleo", Role: domain.Auditor}, now).ThenInvalid("role")
	given.When(project.AddMember{ProjectID: "p1", UserID: "ben", Role: domain.Developer}, now).Then()
	given.When(project.AddMember{ProjectID: "p1", UserID: "ben", Role: domain.Admin}, now).ThenError(domain.Conflict, "ALREADY_MEMBER")

	given.When(project.ChangeMember{ProjectID: "p1", UserID: "ben", Role: domain.Owner}, now).
		Then(project.MemberRoleChanged{UserID: "ben", Role: domain.Owner})
	given.When(project.ChangeMember{ProjectID: "p1", UserID: "ben", Role: domain.Developer}, now).Then()
	given.When(project.ChangeMember{ProjectID: "p1", UserID: "cleo", Role: domain.Viewer}, now).ThenError(domain.NotFound, "NOT_FOUND")
	given.When(project.ChangeMember{ProjectID: "p1", UserID: "ben", Role: "boss"}, now).ThenInvalid("role")
	given.When(project.ChangeMember{ProjectID: "p1", UserID: "anna", Role: domain.Admin}, now).ThenError(domain.Conflict, "LAST_OWNER")

	given.When(project.RemoveMember{ProjectID: "p1", UserID: "ben"}, now).Then(project.MemberRemoved{UserID: "ben"})
	given.When(project.RemoveMember{ProjectID: "p1", UserID: "cleo"}, now).ThenError(domain.NotFound, "NOT_FOUND")
	given.When(project.RemoveMember{ProjectID: "p1", UserID: "anna"}, now).ThenError(domain.Conflict, "LAST_OWNER")
}

func TestSecondOwnerFreesTheFirst(t *testing.T) {
	t.Parallel()
	given := domaintest.Given[project.Project](t, created, project.MemberAdded{UserID: "ben", Role: domain.Owner})
	given.When(project.RemoveMember{ProjectID: "p1", UserID: "anna"}, now).Then(project.MemberRemoved{UserID: "anna"})
	given.When(project.ChangeMember{ProjectID: "p1", UserID: "anna", Role: domain.Viewer}, now).
		Then(project.MemberRoleChanged{UserID: "anna", Role: domain.Viewer})
	domaintest.Given[project.Project](t, created, project.MemberAdded{UserID: "ben", Role: domain.Owner}, project.MemberRemoved{UserID: "ben"}).
		When(project.RemoveMember{ProjectID: "p1", UserID: "anna"}, now).ThenError(domain.Conflict, "LAST_OWNER")
}

func TestWhatIsGoneIsNotFound(t *testing.T) {
	t.Parallel()
	commands := []domaintest.Decider[project.Project]{
		project.Update{ProjectID: "p1"}, project.Delete{ProjectID: "p1"},
		project.AddMember{ProjectID: "p1", UserID: "ben", Role: domain.Viewer},
		project.ChangeMember{ProjectID: "p1", UserID: "anna", Role: domain.Viewer},
		project.RemoveMember{ProjectID: "p1", UserID: "anna"},
	}
	for _, command := range commands {
		domaintest.Given[project.Project](t).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
		domaintest.Given[project.Project](t, created, project.Deleted{}).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
	}
	domaintest.Given[project.Project](t, created).When(project.Delete{ProjectID: "p1"}, now).Then(project.Deleted{})
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	p := domaintest.Fold[project.Project](t, created, project.MemberAdded{UserID: "ben", Role: domain.Developer})
	member := func(role domain.Role) domain.Actor {
		return domain.Actor{Kind: domain.ActorUser, ID: "me", Role: domain.Viewer, Projects: map[string]domain.Role{"p1": role}}
	}
	stranger := domain.Actor{Kind: domain.ActorUser, ID: "me", Role: domain.Developer}
	admin, owner := member(domain.Admin), member(domain.Owner)

	require.NoError(t, owner.Authorize(project.AddMember{UserID: "x", Role: domain.Owner}.Needs(p)))
	require.Equal(t, domain.Forbidden, domain.KindOf(admin.Authorize(project.AddMember{UserID: "x", Role: domain.Owner}.Needs(p))))
	require.NoError(t, admin.Authorize(project.AddMember{UserID: "x", Role: domain.Admin}.Needs(p)))
	require.Equal(t, domain.Forbidden, domain.KindOf(admin.Authorize(project.RemoveMember{UserID: "anna"}.Needs(p))))
	require.Equal(t, domain.Forbidden, domain.KindOf(member(domain.Developer).Authorize(project.RemoveMember{UserID: "ben"}.Needs(p))))
	require.NoError(t, member(domain.Viewer).Authorize(project.RemoveMember{UserID: "me"}.Needs(p)), "everybody may leave")
	require.Equal(t, domain.NotFound, domain.KindOf(stranger.Authorize(project.Update{}.Needs(p))))
	require.Equal(t, domain.NotFound, domain.KindOf(stranger.Authorize(project.Update{}.Needs(project.Project{}))), "unknown looks like foreign")
	require.NoError(t, stranger.Authorize(project.Create{}.Needs(project.Project{})))
	require.Equal(t, domain.Forbidden, domain.KindOf(owner.Authorize(project.Create{}.Needs(project.Project{}))), "a viewer of the system")
}
