package commands

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// tables are read models in the real schema whose rows the test writes itself,
// so that it decides what they know and what not yet.
type tables struct {
	*system
	db *pgx.Conn
}

func newTables(t *testing.T) *tables {
	t.Helper()
	url := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), url))
	db, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close(context.WithoutCancel(t.Context()))) })
	for _, name := range []string{"accounts", "projects"} {
		ddl, err := os.ReadFile(filepath.Join("..", "projections", "sql", name+".sql"))
		require.NoError(t, err)
		_, err = db.Exec(t.Context(), "create schema "+name+"_t; set search_path to "+name+"_t; "+string(ddl))
		require.NoError(t, err)
		_, err = db.Exec(t.Context(), "insert into sparkops.projections (schema, name, version, state) values ($1, $2, $3, 'live')",
			name+"_t", name, readmodels.Versions[name])
		require.NoError(t, err)
	}
	_, err = db.Exec(t.Context(), "set search_path to accounts_t, projects_t")
	require.NoError(t, err)
	views, err := readmodels.Open(t.Context(), url, readmodels.Options{})
	require.NoError(t, err)
	t.Cleanup(views.Close)
	return &tables{system: newSystem(t, func(h *Handler) { h.Views = views }), db: db}
}

func (s *tables) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := s.db.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func (s *tables) project(t *testing.T, u readmodels.User) {
	t.Helper()
	s.exec(t, `insert into users (id, email_hash, email_sealed, name_sealed, role, password_changed_at, created_at, updated_at, revision)
		values ($1, '', '', '', $2, now(), now(), now(), 0)`, u.ID, u.Role)
}

func TestAuthenticateBearer(t *testing.T) {
	t.Parallel()
	s := newTables(t)
	u := s.register(t, "anna@example.org", "")
	tokens := s.login(t, "anna@example.org")
	want := Identity{
		Actor: domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: domain.Owner, Projects: map[string]domain.Role{}}, SessionID: tokens.SessionID,
	}

	// The read models know neither user nor session yet.
	got, err := s.AuthenticateBearer(t.Context(), tokens.AccessToken)
	require.NoError(t, err)
	require.Equal(t, want, got)

	// They know the user, then the session too.
	s.project(t, u)
	s.exec(t, `insert into members (project_id, user_id, role, added_at) values ('p1', $1, 'admin', now())`, u.ID)
	want.Actor.Projects["p1"] = domain.Admin
	got, err = s.AuthenticateBearer(t.Context(), tokens.AccessToken)
	require.NoError(t, err)
	require.Equal(t, want, got)
	s.exec(t, `insert into sessions (id, user_id, epoch, started_at, expires_at, revision) values ($1, $2, 0, now(), now() + '7 days', 0)`, tokens.SessionID, u.ID)
	got, err = s.AuthenticateBearer(t.Context(), tokens.AccessToken)
	require.NoError(t, err)
	require.Equal(t, want, got)

	for name, change := range map[string]struct{ do, undo, code string }{
		"deactivated":      {`update users set is_active = false`, `update users set is_active = true`, "USER_INACTIVE"},
		"password changed": {`update users set session_epoch = 1`, `update users set session_epoch = 0`, "SESSION_ENDED"},
		"logged out":       {`update sessions set revoked_at = now()`, `update sessions set revoked_at = null`, "SESSION_ENDED"},
		"somebody else's":  {`update sessions set user_id = 'x'`, `update sessions set user_id = '` + u.ID + `'`, "SESSION_ENDED"},
	} {
		s.exec(t, change.do)
		_, err = s.AuthenticateBearer(t.Context(), tokens.AccessToken)
		requireFailure(t, err, domain.Unauthorized, change.code)
		s.exec(t, change.undo)
		_, err = s.AuthenticateBearer(t.Context(), tokens.AccessToken)
		require.NoError(t, err, name)
	}
	_, err = s.AuthenticateBearer(t.Context(), "noise")
	requireFailure(t, err, domain.Unauthorized, "TOKEN_INVALID")
	s.clock.Add(16 * time.Minute)
	_, err = s.AuthenticateBearer(t.Context(), tokens.AccessToken)
	requireFailure(t, err, domain.Unauthorized, "TOKEN_EXPIRED")
}

func TestAuthenticateBearerAheadOfTheReadModels(t *testing.T) {
	t.Parallel()
	s := newTables(t)
	s.register(t, "root@example.org", "")
	u := s.register(t, "anna@example.org", "")
	cli := WithActor(t.Context(), domain.Process("cli"))

	ended := s.login(t, "anna@example.org")
	_, err := s.Logout(t.Context(), ended.RefreshToken, "")
	require.NoError(t, err)
	_, err = s.AuthenticateBearer(t.Context(), ended.AccessToken)
	requireFailure(t, err, domain.Unauthorized, "SESSION_ENDED")

	old := s.login(t, "anna@example.org")
	_, err = s.ResetPassword(cli, u.ID, password)
	require.NoError(t, err)
	_, err = s.AuthenticateBearer(t.Context(), old.AccessToken)
	requireFailure(t, err, domain.Unauthorized, "SESSION_ENDED")

	current := s.login(t, "anna@example.org")
	_, err = s.AuthenticateBearer(t.Context(), current.AccessToken)
	require.NoError(t, err)
	_, err = s.Deactivate(cli, u.ID)
	require.NoError(t, err)
	_, err = s.AuthenticateBearer(t.Context(), current.AccessToken)
	requireFailure(t, err, domain.Unauthorized, "USER_INACTIVE")

	forged, err := s.accessToken(NewID(), current.SessionID, s.Now())
	require.NoError(t, err)
	_, err = s.AuthenticateBearer(t.Context(), forged)
	requireFailure(t, err, domain.Unauthorized, "TOKEN_INVALID")
}

func (s *tables) projectKey(t *testing.T, k readmodels.APIKey, digest string) {
	t.Helper()
	s.exec(t, `insert into api_keys (id, user_id, name, prefix, digest, scopes, expires_at, is_default, created_at, revision)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)`, k.ID, k.UserID, k.Name, k.Prefix, digest, k.Scopes, k.ExpiresAt, k.Default, k.CreatedAt)
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	s := newTables(t)
	s.register(t, "root@example.org", "")
	u := s.register(t, "anna@example.org", domain.Developer)
	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: domain.Developer})
	expires := s.Now().Add(time.Hour)
	issued, receipt, err := s.CreateAPIKey(self, NewAPIKey{Name: " ci ", Scopes: []domain.Permission{"runs:read"}, ExpiresAt: &expires})
	require.NoError(t, err)
	require.Equal(t, readmodels.APIKey{
		ID: issued.View.ID, UserID: u.ID, Name: "ci", Prefix: issued.View.Prefix, Scopes: []domain.Permission{"runs:read"},
		ExpiresAt: &expires, CreatedAt: receipt.At,
	}, issued.View)
	stored := s.history(t, "apiKey-"+issued.View.ID)[0]
	require.NotContains(t, string(stored.Data), issued.Key)
	require.NotContains(t, string(stored.Data), issued.Key[len(issued.View.Prefix)+1:])

	_, err = s.AuthenticateAPIKey(t.Context(), issued.Key)
	requireFailure(t, err, domain.Unauthorized, "API_KEY_INVALID") // not projected yet
	s.projectKey(t, issued.View, stored.Event.(apikey.Created).Digest)
	identity, err := s.AuthenticateAPIKey(t.Context(), issued.Key)
	require.NoError(t, err)
	require.Equal(t, Identity{Actor: domain.Actor{
		Kind: domain.ActorAPIKey, ID: u.ID, KeyID: issued.View.ID, Role: domain.Developer,
		Projects: map[string]domain.Role{}, Scopes: []domain.Permission{"runs:read"},
	}}, identity)

	s.exec(t, `update api_keys set revoked_at = now()`)
	_, err = s.AuthenticateAPIKey(t.Context(), issued.Key)
	requireFailure(t, err, domain.Unauthorized, "API_KEY_INVALID")
	s.exec(t, `update api_keys set revoked_at = null`)
	s.clock.Add(time.Hour)
	_, err = s.AuthenticateAPIKey(t.Context(), issued.Key)
	requireFailure(t, err, domain.Unauthorized, "API_KEY_EXPIRED")
	other, _ := newAPIKey(NewID())
	for _, key := range []string{"", "noise", other} {
		_, err = s.AuthenticateAPIKey(t.Context(), key)
		requireFailure(t, err, domain.Unauthorized, "API_KEY_INVALID")
	}

	_, err = s.Deactivate(WithActor(t.Context(), domain.Process("cli")), u.ID)
	require.NoError(t, err)
	forever, _, err := s.CreateAPIKey(self, NewAPIKey{})
	require.NoError(t, err)
	s.projectKey(t, forever.View, s.apiKeyDigest(forever.Key))
	_, err = s.AuthenticateAPIKey(t.Context(), forever.Key)
	requireFailure(t, err, domain.Unauthorized, "USER_INACTIVE")
}

func TestDefaultAPIKeyIsReplaced(t *testing.T) {
	t.Parallel()
	s := newTables(t)
	u := s.register(t, "root@example.org", "")
	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: domain.Viewer})
	_, err := s.RevokeDefaultAPIKey(self)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	named, _, err := s.CreateAPIKey(self, NewAPIKey{Name: "ci"})
	require.NoError(t, err)
	s.projectKey(t, named.View, "d0")
	first, _, err := s.ReplaceDefaultAPIKey(self, NewAPIKey{})
	require.NoError(t, err)
	require.Equal(t, "default", first.View.Name)
	s.projectKey(t, first.View, "d1")
	second, receipt, err := s.ReplaceDefaultAPIKey(self, NewAPIKey{})
	require.NoError(t, err)
	revoked := s.history(t, "apiKey-"+first.View.ID)
	require.Equal(t, apikey.Revoked{Reason: apikey.ReasonReplaced}, revoked[1].Event)
	require.Equal(t, revoked[1].Position, receipt.Position, "waiting for it waits for both")
	s.projectKey(t, second.View, "d2")
	s.exec(t, `update api_keys set revoked_at = now() where digest = 'd1'`)

	_, err = s.RevokeDefaultAPIKey(self)
	require.NoError(t, err)
	require.Len(t, s.history(t, "apiKey-"+second.View.ID), 2)
	require.Len(t, s.history(t, "apiKey-"+named.View.ID), 1)
	_, err = s.RevokeDefaultAPIKey(self)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND") // the read model still shows it
}

func TestWhoMayTouchAPIKeys(t *testing.T) {
	t.Parallel()
	s := newTables(t)
	s.register(t, "root@example.org", "")
	u := s.register(t, "anna@example.org", "")
	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: domain.Viewer})
	issued, _, err := s.CreateAPIKey(self, NewAPIKey{})
	require.NoError(t, err)
	_, err = s.RevokeAPIKey(as(t.Context(), domain.Developer), issued.View.ID)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	_, err = s.RevokeAPIKey(as(t.Context(), domain.Developer), NewID())
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	_, err = s.APIKeysOf(as(t.Context(), domain.Developer), u.ID)
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	keys, err := s.APIKeysOf(self, u.ID)
	require.NoError(t, err)
	require.Empty(t, keys, "not projected yet")
	_, err = s.RevokeAPIKey(as(t.Context(), domain.Admin), issued.View.ID)
	require.NoError(t, err)
	_, err = s.RevokeAPIKey(self, issued.View.ID)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	_, _, err = s.CreateAPIKey(t.Context(), NewAPIKey{})
	requireFailure(t, err, domain.Unauthorized, "UNAUTHENTICATED")

	scoped := func(scopes ...domain.Permission) context.Context {
		return WithActor(t.Context(), domain.Actor{Kind: domain.ActorAPIKey, ID: u.ID, KeyID: "k", Role: domain.Viewer, Scopes: scopes})
	}
	_, _, err = s.CreateAPIKey(scoped("runs:read"), NewAPIKey{})
	requireFailure(t, err, domain.Forbidden, "SCOPE_MISSING")
	_, _, err = s.CreateAPIKey(scoped("keys:write"), NewAPIKey{Scopes: []domain.Permission{"runs:read"}})
	requireFailure(t, err, domain.Forbidden, "SCOPE_MISSING")
	handed, _, err := s.CreateAPIKey(scoped("keys:write", "runs:read"), NewAPIKey{})
	require.NoError(t, err)
	require.Equal(t, []domain.Permission{"keys:write", "runs:read"}, handed.View.Scopes, "never more than the key that made it")

	once := WithCommandID(self, NewID())
	_, _, err = s.CreateAPIKey(once, NewAPIKey{})
	require.NoError(t, err)
	_, _, err = s.CreateAPIKey(once, NewAPIKey{})
	requireFailure(t, err, domain.Conflict, "API_KEY_ISSUED")
}

func TestMe(t *testing.T) {
	t.Parallel()
	s := newTables(t)
	u := s.register(t, "anna@example.org", "")
	self := WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: domain.Owner})
	me, err := s.Me(self)
	require.NoError(t, err)
	require.Equal(t, "anna@example.org", me.Email)
	require.WithinDuration(t, time.Now(), me.CreatedAt, time.Minute)
	_, err = s.Me(t.Context())
	requireFailure(t, err, domain.Unauthorized, "UNAUTHENTICATED")
	s.project(t, u)
	me, err = s.Me(self)
	require.NoError(t, err)
	require.Equal(t, readmodels.Erased, me.Email, "these read models have no vault")
}
