package domain_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestRoleIn(t *testing.T) {
	t.Parallel()
	in := map[string]domain.Role{"p": domain.Developer, "own": domain.Owner}
	for _, c := range []struct {
		role    domain.Role
		project string
		want    domain.Role
		visible bool
	}{
		{domain.Viewer, "p", domain.Developer, true},
		{domain.Viewer, "own", domain.Owner, true},
		{domain.Viewer, "q", "", false},
		{domain.Developer, "q", "", false},
		{domain.Admin, "p", domain.Admin, true},
		{domain.Admin, "own", domain.Owner, true},
		{domain.Owner, "q", domain.Owner, true},
		{domain.Auditor, "q", domain.Viewer, true},
		{domain.Auditor, "p", domain.Developer, true},
		{domain.Operator, "q", "", false},
		{domain.Operator, "p", domain.Developer, true},
	} {
		role, visible := domain.Actor{Kind: domain.ActorUser, ID: "u", Role: c.role, Projects: in}.RoleIn(c.project)
		require.Equal(t, c.visible, visible, "%+v", c)
		require.Equal(t, c.want, role, "%+v", c)
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	user := func(role domain.Role) domain.Actor {
		return domain.Actor{Kind: domain.ActorUser, ID: "u", Role: role, Projects: map[string]domain.Role{"p": domain.Developer}}
	}
	key := func(scopes ...domain.Permission) domain.Actor {
		return domain.Actor{Kind: domain.ActorAPIKey, ID: "u", Role: domain.Owner, Scopes: scopes}
	}
	for _, c := range []struct {
		name  string
		actor domain.Actor
		need  domain.Need
		kind  domain.Kind
		code  string
	}{
		{"nobody, public", domain.Actor{}, domain.Need{Permission: "auth:public"}, "", ""},
		{"nobody", domain.Actor{}, domain.Need{Permission: "agents:read", Project: "p"}, domain.Unauthorized, "UNAUTHENTICATED"},
		{"process", domain.Process("x"), domain.Need{Permission: "users:own"}, "", ""},
		{"process, undeclared", domain.Process("x"), domain.Need{Permission: "x:y"}, domain.Forbidden, "UNKNOWN_PERMISSION"},
		{"member", user(domain.Viewer), domain.Need{Permission: "agents:write", Project: "p"}, "", ""},
		{"member, too low", user(domain.Viewer), domain.Need{Permission: "agents:delete", Project: "p"}, domain.Forbidden, "FORBIDDEN"},
		{"stranger", user(domain.Developer), domain.Need{Permission: "agents:read", Project: "q"}, domain.NotFound, "NOT_FOUND"},
		{"system", user(domain.Viewer), domain.Need{Permission: "projects:write"}, domain.Forbidden, "FORBIDDEN"},
		{"self", user(domain.Viewer), domain.Need{Permission: "users:write", Self: "u"}, "", ""},
		{"not self", user(domain.Viewer), domain.Need{Permission: "users:write", Self: "v"}, domain.Forbidden, "FORBIDDEN"},
		{"nobody is nobody's self", domain.Actor{Kind: domain.ActorUser, Role: domain.Viewer}, domain.Need{Permission: "users:write"}, domain.Forbidden, "FORBIDDEN"},
		{"also", user(domain.Operator), domain.Need{Permission: "projections:write"}, "", ""},
		{"auditor reads", user(domain.Auditor), domain.Need{Permission: "runs:read", Project: "q"}, "", ""},
		{"auditor writes", user(domain.Auditor), domain.Need{Permission: "runs:write", Project: "q"}, domain.Forbidden, "FORBIDDEN"},
		{"scope", key("agents:read"), domain.Need{Permission: "agents:read", Project: "q"}, "", ""},
		{"no scope", key("agents:read"), domain.Need{Permission: "agents:write", Project: "q"}, domain.Forbidden, "SCOPE_MISSING"},
		{"no scope, self", key("agents:read"), domain.Need{Permission: "keys:write", Self: "u"}, domain.Forbidden, "SCOPE_MISSING"},
		{"no scope, anyone", key("agents:read"), domain.Need{Permission: "agents:list"}, domain.Forbidden, "SCOPE_MISSING"},
		{"nowhere", user(domain.Owner), domain.NeedIn("agents:write", "p", false), "", ""},
	} {
		err := c.actor.Authorize(c.need)
		require.Equal(t, c.kind, domain.KindOf(err), c.name)
		if err != nil {
			require.ErrorContains(t, err, c.code, c.name)
		}
	}
}
