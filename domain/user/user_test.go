package user_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/user"
)

var (
	now        = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	registered = user.Registered{UserID: "anna", EmailHash: "h", EmailSealed: "e", NameSealed: "n", PasswordSealed: "p", Role: domain.Developer}
)

func TestCreate(t *testing.T) {
	t.Parallel()
	create := user.Create{UserID: "anna", EmailHash: "h", EmailSealed: "e", NameSealed: "n", PasswordSealed: "p", Role: domain.Developer}
	domaintest.Given[user.User](t).When(create, now).Then(registered)
	domaintest.Given[user.User](t, registered).When(create, now).ThenError(domain.Conflict, "EMAIL_TAKEN")
	require.Equal(t, user.User{ID: "anna", EmailHash: "h", EmailSealed: "e", NameSealed: "n", PasswordSealed: "p", Role: domain.Developer, Active: true},
		domaintest.Fold[user.User](t, registered))
}

func TestChanges(t *testing.T) {
	t.Parallel()
	given := domaintest.Given[user.User](t, registered)
	given.When(user.Rename{UserID: "anna", NameSealed: "m"}, now).Then(user.Renamed{NameSealed: "m"})
	given.When(user.Rename{UserID: "anna", NameSealed: "n"}, now).Then()

	given.When(user.ChangePassword{UserID: "anna", Verified: "p", PasswordSealed: "q"}, now).Then(user.PasswordChanged{PasswordSealed: "q"})
	given.When(user.ChangePassword{UserID: "anna", PasswordSealed: "q"}, now).Then(user.PasswordChanged{PasswordSealed: "q"})
	given.When(user.ChangePassword{UserID: "anna", Verified: "p", PasswordSealed: "p"}, now).Then()
	domaintest.Given[user.User](t, registered, user.PasswordChanged{PasswordSealed: "r"}).
		When(user.ChangePassword{UserID: "anna", Verified: "p", PasswordSealed: "q"}, now).ThenError(domain.Conflict, "PASSWORD_CHANGED")

	given.When(user.ChangeRole{UserID: "anna", Role: domain.Admin, By: "root"}, now).Then(user.RoleChanged{Role: domain.Admin})
	given.When(user.ChangeRole{UserID: "anna", Role: domain.Developer, By: "root"}, now).Then()
	given.When(user.ChangeRole{UserID: "anna", Role: "boss", By: "root"}, now).ThenInvalid("role")
	given.When(user.ChangeRole{UserID: "anna", Role: domain.Admin, By: "anna"}, now).ThenError(domain.Conflict, "OWN_ACCOUNT")

	given.When(user.Deactivate{UserID: "anna", By: "root"}, now).Then(user.Deactivated{})
	given.When(user.Deactivate{UserID: "anna", By: "anna"}, now).ThenError(domain.Conflict, "OWN_ACCOUNT")
	given.When(user.Reactivate{UserID: "anna"}, now).Then()
	inactive := domaintest.Given[user.User](t, registered, user.Deactivated{})
	inactive.When(user.Deactivate{UserID: "anna", By: "root"}, now).Then()
	inactive.When(user.Reactivate{UserID: "anna"}, now).Then(user.Reactivated{})
}

func TestEpochCountsEveryEndOfAllSessions(t *testing.T) {
	t.Parallel()
	u := domaintest.Fold[user.User](t, registered, user.PasswordChanged{PasswordSealed: "q"}, user.Renamed{NameSealed: "m"},
		user.Deactivated{}, user.Reactivated{}, user.RoleChanged{Role: domain.Viewer})
	require.Equal(t, user.User{ID: "anna", EmailHash: "h", EmailSealed: "e", NameSealed: "m", PasswordSealed: "q", Role: domain.Viewer, Active: true, Epoch: 2}, u)
}

func TestUnknownIsNotFound(t *testing.T) {
	t.Parallel()
	for _, command := range []domaintest.Decider[user.User]{
		user.Rename{UserID: "x", NameSealed: "m"}, user.ChangePassword{UserID: "x", PasswordSealed: "q"}, user.ChangeRole{UserID: "x", Role: domain.Viewer},
		user.Deactivate{UserID: "x"}, user.Reactivate{UserID: "x"},
	} {
		domaintest.Given[user.User](t).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
	}
}

func TestOnlyOwnersTouchOwners(t *testing.T) {
	t.Parallel()
	developer, owner := user.User{ID: "d", Role: domain.Developer}, user.User{ID: "o", Role: domain.Owner}
	admin := domain.Actor{Kind: domain.ActorUser, ID: "a", Role: domain.Admin}
	root := domain.Actor{Kind: domain.ActorUser, ID: "r", Role: domain.Owner}
	for _, c := range []struct {
		need  domain.Need
		admin domain.Kind
	}{
		{user.ChangeRole{Role: domain.Admin}.Needs(developer), ""},
		{user.ChangeRole{Role: domain.Owner}.Needs(developer), domain.Forbidden},
		{user.ChangeRole{Role: domain.Viewer}.Needs(owner), domain.Forbidden},
		{user.Deactivate{}.Needs(developer), ""},
		{user.Deactivate{}.Needs(owner), domain.Forbidden},
		{user.Reactivate{}.Needs(owner), domain.Forbidden},
		{user.ChangePassword{}.Needs(owner), domain.Forbidden},
		{user.ChangePassword{}.Needs(developer), ""},
	} {
		require.Equal(t, c.admin, domain.KindOf(admin.Authorize(c.need)))
		require.NoError(t, root.Authorize(c.need))
	}
	self := domain.Actor{Kind: domain.ActorUser, ID: "d", Role: domain.Viewer}
	require.NoError(t, self.Authorize(user.ChangePassword{Verified: "p"}.Needs(developer)))
	require.Error(t, self.Authorize(user.ChangePassword{}.Needs(developer)), "without the old password it takes a role")
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	good := user.Registration{Email: " Anna@Example.org ", Name: " Anna ", Password: "correct horse"}.Normal()
	require.Equal(t, user.Registration{Email: "Anna@Example.org", Name: "Anna", Password: "correct horse", Role: domain.Viewer}, good)
	require.NoError(t, good.Check())

	bad := user.Registration{Email: "x", Name: "", Password: "short", Role: "boss"}.Check()
	var failure *domain.Error
	require.ErrorAs(t, bad, &failure)
	require.Equal(t, []domain.Field{
		{Field: "email", Message: "must be an e-mail address"},
		{Field: "name", Message: "must be 1 to 255 characters long"},
		{Field: "password", Message: "must be 8 to 256 characters long"},
		{Field: "role", Message: "must be one of owner, admin, developer, viewer, auditor, operator"},
	}, failure.Fields)

	require.NoError(t, user.CheckPassword("p", strings.Repeat("ü", 256)), "characters, not bytes")
	require.Error(t, user.CheckPassword("p", strings.Repeat("x", 257)))
	require.Error(t, user.CheckPassword("p", "1234567"))

	for email, valid := range map[string]bool{
		"a@b": true, "a.b+c@d-e.example": true, "ü@bücher.example": true, "o'neil@x.org": true,
		"": false, "@": false, "a@": false, "@b": false, "a@b@c": false, "a b@c": false, "a@b.": false, "a..b@c": false, ".a@b": false,
		"a@-b": false, "a@b-": false, "\"a\"@b": false, "a@b\n": false, "a@[1.2.3.4]": false, strings.Repeat("a", 65) + "@b": false,
		"a@" + strings.Repeat("b.", 130) + "c": false, "a\x00@b": false, "<a@b>": false,
	} {
		good.Email = email
		require.Equal(t, valid, good.Check() == nil, "%q", email)
	}
}
