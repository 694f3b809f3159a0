package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

const password = "correct horse battery"

func registration(email string, role domain.Role) user.Registration {
	return user.Registration{Email: email, Name: "Anna Arndt", Password: password, Role: role}
}

func (s *system) register(t *testing.T, email string, role domain.Role) readmodels.User {
	t.Helper()
	u, _, err := s.Register(t.Context(), registration(email, role))
	require.NoError(t, err)
	return u
}

func (s *system) login(t *testing.T, email string) Tokens {
	t.Helper()
	tokens, _, err := s.Login(t.Context(), email, password)
	require.NoError(t, err)
	return tokens
}

func TestRegister(t *testing.T) {
	t.Parallel()
	s := newSystem(t, func(h *Handler) { h.PersonalProjects = true })
	first, receipt, err := s.Register(t.Context(), registration("  Anna@Example.org ", domain.Viewer))
	require.NoError(t, err)
	require.Equal(t, readmodels.User{
		ID: first.ID, Email: "Anna@Example.org", Name: "Anna Arndt", Role: domain.Owner, IsActive: true, IsSuperuser: true, IsVerified: true,
		CreatedAt: s.Now(), UpdatedAt: s.Now(),
	}, first, "the first user owns the system")

	events := s.history(t, "user-"+first.ID)
	require.Len(t, events, 1)
	registered := events[0].Event.(user.Registered)
	require.Equal(t, receipt.Position, events[0].Position)
	require.Equal(t, first.ID, string(events[0].Metadata.Actor.ID))
	for _, text := range []string{"anna", "Anna", "Arndt", "example", "argon2", password} {
		require.NotContains(t, string(events[0].Data), text, "no personal text in the log")
	}
	require.Equal(t, claim.Taken{Holder: first.ID}, s.history(t, "emailClaim-"+registered.EmailHash)[0].Event)

	second := s.register(t, "ben@example.org", "")
	require.Equal(t, domain.Viewer, second.Role)
	require.Equal(t, domain.Developer, s.register(t, "cleo@example.org", domain.Developer).Role)
	for _, role := range []domain.Role{domain.Admin, domain.Owner, domain.Auditor, domain.Operator} {
		_, _, err := s.Register(t.Context(), registration("dora@example.org", role))
		requireFailure(t, err, domain.Forbidden, "ROLE_NOT_ALLOWED")
	}
	_, _, err = s.Register(t.Context(), registration("dora@example.org", "boss"))
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	_, _, err = s.Register(t.Context(), registration("ANNA@example.ORG", domain.Viewer))
	requireFailure(t, err, domain.Conflict, "EMAIL_TAKEN")
	s.register(t, "dora@example.org", domain.Viewer)
}

func TestRegisterMakesAPersonalProject(t *testing.T) {
	t.Parallel()
	s := newSystem(t, func(h *Handler) { h.PersonalProjects = true })
	anna, ben := s.register(t, "anna@example.org", ""), s.register(t, "ben@example.org", "")
	slugs := map[string]bool{}
	for _, u := range []readmodels.User{anna, ben} {
		events := s.history(t, "project-"+derivedID(u.ID, "personal project"))
		require.Len(t, events, 1)
		created := events[0].Event.(project.Created)
		require.Equal(t, u.ID, created.OwnerUserID)
		require.Equal(t, project.Spec{Name: "Personal", Status: "active"}, created.Spec)
		require.Less(t, events[0].Position, s.history(t, "user-"+u.ID)[0].Position, "there before the user is")
		slugs[created.Slug] = true
	}
	require.Len(t, slugs, 2)

	plain := newSystem(t)
	cleo := plain.register(t, "cleo@example.org", "")
	require.Empty(t, plain.history(t, "project-"+derivedID(cleo.ID, "personal project")))
}

func TestABrokenRegistrationIsCompletedByRegisteringAgain(t *testing.T) {
	t.Parallel()
	for appends := range 5 {
		s := newSystem(t, func(h *Handler) { h.PersonalProjects = true })
		ctx := &countdown{Context: t.Context(), left: appends, count: func() int { return s.appends(t) }}
		_, _, err := s.Register(ctx, registration("anna@example.org", domain.Admin))
		require.Error(t, err, "%d appends", appends)
		require.Equal(t, appends, s.appends(t))

		// Another process, which remembers nothing, finds what is there.
		again := handlerOn(t, s.url, nil, func(h *Handler) { h.PersonalProjects = true })
		u, _, err := again.Register(t.Context(), registration("Anna@example.org", domain.Viewer))
		require.NoError(t, err, "%d appends", appends)
		require.Equal(t, domain.Owner, u.Role)
		require.Len(t, s.history(t, "user-"+u.ID), 1)
		require.Len(t, s.history(t, "project-"+derivedID(u.ID, "personal project")), 1)
		require.Len(t, s.history(t, "ownerClaim-"+systemKey), 1)
		_, _, err = again.Login(t.Context(), "anna@example.org", password)
		require.NoError(t, err)
	}
}

// countdown is a context that ends once a number of appends was made.
type countdown struct {
	context.Context
	left  int
	count func() int
}

func (c *countdown) Err() error {
	if c.count() >= c.left {
		return context.Canceled
	}
	return c.Context.Err()
}

func (c *countdown) Done() <-chan struct{} {
	if c.Err() != nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return c.Context.Done()
}

func TestRegisterIsRepeatable(t *testing.T) {
	t.Parallel()
	s := newSystem(t, func(h *Handler) { h.PersonalProjects = true })
	ctx := WithCommandID(t.Context(), NewID())
	u, receipt, err := s.Register(ctx, registration("anna@example.org", ""))
	require.NoError(t, err)
	for range 2 {
		again, repeated, err := s.Register(ctx, registration("anna@example.org", ""))
		require.NoError(t, err)
		require.Equal(t, u, again)
		require.True(t, repeated.Unchanged)
		require.Equal(t, receipt.Position, repeated.Position)
	}
	_, _, err = s.Register(t.Context(), registration("anna@example.org", ""))
	requireFailure(t, err, domain.Conflict, "EMAIL_TAKEN")
	guess := registration("anna@example.org", "")
	guess.Password = "somebody else's guess"
	_, _, err = s.Register(ctx, guess)
	requireFailure(t, err, domain.Conflict, "EMAIL_TAKEN")
}

func TestConcurrentRegistrations(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	other := handlerOn(t, s.url, nil, func(h *Handler) {})
	var wait sync.WaitGroup
	var mu sync.Mutex
	roles, taken := map[domain.Role]int{}, 0
	for i := range 8 {
		h := []*Handler{s.Handler, other}[i%2]
		wait.Go(func() { // four addresses, each twice
			u, _, err := h.Register(t.Context(), registration(fmt.Sprintf("user%d@example.org", i/2), domain.Developer))
			mu.Lock()
			defer mu.Unlock()
			if code(err) == "EMAIL_TAKEN" {
				taken++
				return
			}
			assert.NoError(t, err)
			roles[u.Role]++
		})
	}
	wait.Wait()
	require.Equal(t, 4, taken)
	require.Equal(t, map[domain.Role]int{domain.Owner: 1, domain.Developer: 3}, roles)
}

func TestAnAbandonedOwnerClaimIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, err := Execute(t.Context(), s.Handler, ownerClaim(NewID()))
	require.NoError(t, err)
	_, _, err = s.Register(t.Context(), registration("anna@example.org", domain.Owner))
	requireFailure(t, err, domain.Forbidden, "ROLE_NOT_ALLOWED")
	require.Equal(t, domain.Viewer, s.register(t, "ben@example.org", "").Role, "the claimant may still be at it")
	s.clock.Add(abandonedAfter + time.Minute)
	require.Equal(t, domain.Owner, s.register(t, "anna@example.org", "").Role)
	require.Equal(t, domain.Viewer, s.register(t, "cleo@example.org", "").Role)
}

func TestCreateUser(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	cli := WithActor(t.Context(), domain.Process("cli"))
	u, _, err := s.CreateUser(cli, registration("root@example.org", domain.Admin))
	require.NoError(t, err)
	require.Equal(t, domain.Admin, u.Role)
	require.Equal(t, domain.Viewer, s.register(t, "anna@example.org", "").Role, "the system is not empty any more")

	admin := as(t.Context(), domain.Admin)
	_, _, err = s.CreateUser(admin, registration("a@example.org", domain.Auditor))
	require.NoError(t, err)
	_, _, err = s.CreateUser(admin, registration("b@example.org", domain.Owner))
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, _, err = s.CreateUser(as(t.Context(), domain.Developer), registration("b@example.org", domain.Viewer))
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, _, err = s.CreateUser(t.Context(), registration("b@example.org", domain.Viewer))
	requireFailure(t, err, domain.Unauthorized, "UNAUTHENTICATED")
}

func TestLogin(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	u := s.register(t, "Anna@example.org", "")
	tokens := s.login(t, " anna@EXAMPLE.org ")
	require.Equal(t, "bearer", tokens.TokenType)
	require.Equal(t, 900, tokens.ExpiresIn)
	require.Equal(t, u.ID, tokens.UserID)
	started := s.history(t, "session-"+tokens.SessionID)[0]
	require.Equal(t, session.Started{
		SessionID: tokens.SessionID, UserID: u.ID, TokenHash: tokenHash(tokens.RefreshToken), ExpiresAt: s.Now().Add(7 * 24 * time.Hour),
	}, started.Event)
	require.Equal(t, u.ID, started.Metadata.Actor.ID)

	for email, pw := range map[string]string{"anna@example.org": "wrong password", "nobody@example.org": password, "": "", "anna@example.org ": password + " "} {
		_, _, err := s.Login(t.Context(), email, pw)
		requireFailure(t, err, domain.Unauthorized, "INVALID_CREDENTIALS")
	}
	_, err := s.Deactivate(WithActor(t.Context(), domain.Process("cli")), u.ID)
	require.NoError(t, err)
	_, _, err = s.Login(t.Context(), "anna@example.org", "wrong password")
	requireFailure(t, err, domain.Unauthorized, "INVALID_CREDENTIALS")
	_, _, err = s.Login(t.Context(), "anna@example.org", password)
	requireFailure(t, err, domain.Unauthorized, "USER_INACTIVE")
	_, err = s.Reactivate(WithActor(t.Context(), domain.Process("cli")), u.ID)
	require.NoError(t, err)
	s.login(t, "anna@example.org")

	require.NoError(t, s.Vault.Erase(t.Context(), u.ID))
	_, _, err = s.Login(t.Context(), "anna@example.org", password)
	requireFailure(t, err, domain.Unauthorized, "INVALID_CREDENTIALS")
}

func TestRefreshKeepsTheFirstTokenOfTheFrontend(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.register(t, "anna@example.org", "")
	login := s.login(t, "anna@example.org")
	for range 3 {
		s.clock.Add(15 * time.Minute)
		tokens, _, err := s.Refresh(t.Context(), login.RefreshToken)
		require.NoError(t, err)
		require.NotEqual(t, login.RefreshToken, tokens.RefreshToken)
		require.NotEqual(t, login.AccessToken, tokens.AccessToken)
		require.Equal(t, login.SessionID, tokens.SessionID)
	}
	s.clock.Add(7 * 24 * time.Hour)
	_, _, err := s.Refresh(t.Context(), login.RefreshToken)
	requireFailure(t, err, domain.Unauthorized, "SESSION_EXPIRED")
}

func TestRefreshReuseEndsTheFamily(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.register(t, "anna@example.org", "")
	login, elsewhere := s.login(t, "anna@example.org"), s.login(t, "anna@example.org")
	first, _, err := s.Refresh(t.Context(), login.RefreshToken)
	require.NoError(t, err)
	second, _, err := s.Refresh(t.Context(), first.RefreshToken)
	require.NoError(t, err)
	for _, token := range []string{login.RefreshToken, login.RefreshToken, second.RefreshToken, first.RefreshToken} {
		_, _, err = s.Refresh(t.Context(), token)
		requireFailure(t, err, domain.Unauthorized, "REFRESH_REUSED")
	}
	events := s.history(t, "session-"+login.SessionID)
	require.Equal(t, session.Revoked{Reason: session.ReasonReuse}, events[len(events)-1].Event)
	require.Len(t, events, 4)
	_, _, err = s.Refresh(t.Context(), elsewhere.RefreshToken)
	require.NoError(t, err, "another login is another family")
	for _, noise := range []string{"", "x", login.RefreshToken + "x", "rt_" + login.SessionID + "_", "rt__", "rt_" + NewID() + "_x", elsewhere.AccessToken} {
		_, _, err = s.Refresh(t.Context(), noise)
		requireFailure(t, err, domain.Unauthorized, "REFRESH_INVALID")
	}
	_, _, err = s.Refresh(t.Context(), elsewhere.RefreshToken)
	require.NoError(t, err, "noise ends nothing")
}

func TestConcurrentRefreshesAllSucceed(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.register(t, "anna@example.org", "")
	login := s.login(t, "anna@example.org")
	handlers := []*Handler{s.Handler, s.Handler}
	other := *s.Handler // a second node with the same keys and a cache of its own
	another, err := New(other)
	require.NoError(t, err)
	handlers[1] = another
	var wait sync.WaitGroup
	for i := range 24 {
		wait.Go(func() {
			_, _, err := handlers[i%2].Refresh(t.Context(), login.RefreshToken)
			assert.NoError(t, err)
		})
	}
	wait.Wait()
	require.Len(t, s.history(t, "session-"+login.SessionID), 25)
}

func TestLogout(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	u := s.register(t, "anna@example.org", "")
	byToken, bySession, foreign := s.login(t, "anna@example.org"), s.login(t, "anna@example.org"), s.login(t, "anna@example.org")
	for range 2 {
		_, err := s.Logout(t.Context(), byToken.RefreshToken, "")
		require.NoError(t, err)
	}
	_, _, err := s.Refresh(t.Context(), byToken.RefreshToken)
	requireFailure(t, err, domain.Unauthorized, "SESSION_ENDED")

	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: domain.Viewer})
	_, err = s.Logout(self, "", bySession.SessionID)
	require.NoError(t, err)
	_, _, err = s.Refresh(t.Context(), bySession.RefreshToken)
	requireFailure(t, err, domain.Unauthorized, "SESSION_ENDED")

	_, err = s.Logout(as(t.Context(), domain.Viewer), "", foreign.SessionID)
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	for _, noise := range []string{"x", "rt_" + foreign.SessionID + "_x", "rt_" + NewID() + "_x"} {
		receipt, err := s.Logout(t.Context(), noise, "")
		require.NoError(t, err)
		require.True(t, receipt.Unchanged)
	}
	_, _, err = s.Refresh(t.Context(), foreign.RefreshToken)
	require.NoError(t, err)
}

func TestChangePasswordEndsSessions(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	u := s.register(t, "anna@example.org", "")
	before := s.login(t, "anna@example.org")
	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: u.Role})
	_, err := s.ChangePassword(self, "wrong password", "another password")
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	_, err = s.ChangePassword(self, password, "short")
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
	_, err = s.ChangePassword(t.Context(), password, "another password")
	requireFailure(t, err, domain.Unauthorized, "UNAUTHENTICATED")
	_, err = s.ChangePassword(self, password, "another password")
	require.NoError(t, err)

	_, _, err = s.Refresh(t.Context(), before.RefreshToken)
	requireFailure(t, err, domain.Unauthorized, "SESSION_ENDED")
	events := s.history(t, "session-"+before.SessionID)
	require.Equal(t, session.Revoked{Reason: session.ReasonPassword}, events[len(events)-1].Event)
	_, _, err = s.Login(t.Context(), "anna@example.org", password)
	requireFailure(t, err, domain.Unauthorized, "INVALID_CREDENTIALS")
	after, _, err := s.Login(t.Context(), "anna@example.org", "another password")
	require.NoError(t, err)
	_, _, err = s.Refresh(t.Context(), after.RefreshToken)
	require.NoError(t, err)

	cli := WithActor(t.Context(), domain.Process("cli"))
	_, err = s.ResetPassword(cli, u.ID, password)
	require.NoError(t, err)
	s.login(t, "anna@example.org")
	_, err = s.ResetPassword(as(t.Context(), domain.Admin), u.ID, "password of an owner")
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, err = s.ResetPassword(cli, NewID(), password)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestDeactivationEndsSessions(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.register(t, "root@example.org", "")
	u := s.register(t, "anna@example.org", "")
	admin := as(t.Context(), domain.Admin)
	before, alsoBefore := s.login(t, "anna@example.org"), s.login(t, "anna@example.org")
	_, err := s.Deactivate(admin, u.ID)
	require.NoError(t, err)
	_, _, err = s.Refresh(t.Context(), before.RefreshToken)
	requireFailure(t, err, domain.Unauthorized, "USER_INACTIVE")
	_, err = s.Reactivate(admin, u.ID)
	require.NoError(t, err)
	for _, token := range []string{before.RefreshToken, alsoBefore.RefreshToken} {
		_, _, err = s.Refresh(t.Context(), token)
		requireFailure(t, err, domain.Unauthorized, "SESSION_ENDED")
	}
	s.login(t, "anna@example.org")
}

func TestRename(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.register(t, "root@example.org", "")
	u := s.register(t, "anna@example.org", "")
	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: u.Role})
	receipt, err := s.Rename(self, u.ID, "Anna Arndt")
	require.NoError(t, err)
	require.True(t, receipt.Unchanged)
	_, err = s.Rename(self, u.ID, "Anna Berg")
	require.NoError(t, err)
	state, _, err := Load[user.User](t.Context(), s.Handler, "user-"+u.ID)
	require.NoError(t, err)
	name, err := s.Vault.Open(t.Context(), u.ID, state.NameSealed)
	require.NoError(t, err)
	require.Equal(t, "Anna Berg", name)
	_, err = s.Rename(as(t.Context(), domain.Developer), u.ID, "X")
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, err = s.Rename(as(t.Context(), domain.Admin), u.ID, "X")
	require.NoError(t, err)
	_, err = s.Rename(as(t.Context(), domain.Admin), NewID(), "X")
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	subjects, err := s.Vault.Open(t.Context(), "nobody", "v1.x")
	require.Error(t, err, subjects)
}

func TestChangeRole(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	owner, u := s.register(t, "root@example.org", ""), s.register(t, "anna@example.org", "")
	root := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: owner.ID, Role: domain.Owner})
	_, err := s.ChangeRole(root, u.ID, domain.Owner)
	require.NoError(t, err)
	_, err = s.ChangeRole(root, owner.ID, domain.Viewer)
	requireFailure(t, err, domain.Conflict, "OWN_ACCOUNT")
	_, err = s.Deactivate(root, owner.ID)
	requireFailure(t, err, domain.Conflict, "OWN_ACCOUNT")
	_, err = s.ChangeRole(as(t.Context(), domain.Admin), u.ID, domain.Viewer)
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
}

func TestHashingIsBounded(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.hashing <- struct{}{}
	s.hashing <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.hashPassword(ctx, password)
	require.ErrorIs(t, err, context.Canceled)
	<-s.hashing
	hashed, err := s.hashPassword(t.Context(), password)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(hashed, "$argon2id$v=19$m=19456,t=2,p=1$"), hashed)
	for _, guess := range []string{password, "x"} {
		right, err := s.verifyPassword(t.Context(), guess, hashed)
		require.NoError(t, err)
		require.Equal(t, guess == password, right)
	}
	_, err = s.verifyPassword(t.Context(), password, "$2a$10$x")
	require.True(t, errors.Is(err, errPHC))
}
