package projections

import (
	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/eventstore"
)

// Personal text stays sealed: who reads opens it.
func applyAccount(b *pgx.Batch, r eventstore.Recorded) error {
	switch r.Event.(type) {
	case user.Registered, user.Renamed, user.PasswordChanged, user.RoleChanged, user.Deactivated, user.Reactivated:
		return applyUser(b, r)
	case session.Started, session.Refreshed, session.Revoked:
		return applySession(b, r)
	case apikey.Created, apikey.Revoked:
		return applyAPIKey(b, r)
	default:
		return unhandled(r)
	}
}

const (
	userRegistered = `insert into users (id, email_hash, email_sealed, name_sealed, role, password_changed_at, created_at, updated_at, revision)
values ($1, $2, $3, $4, $5, $6, $6, $6, $7)`
	userRenamed         = `update users set name_sealed = $4, updated_at = $2, revision = $3 where id = $1`
	userPasswordChanged = `update users set password_changed_at = $2, session_epoch = session_epoch + 1, updated_at = $2, revision = $3 where id = $1`
	userRoleChanged     = `update users set role = $4, updated_at = $2, revision = $3 where id = $1`
	userDeactivated     = `update users set is_active = false, session_epoch = session_epoch + 1, updated_at = $2, revision = $3 where id = $1`
	userReactivated     = `update users set is_active = true, updated_at = $2, revision = $3 where id = $1`
	userLoggedIn        = `update users set last_login_at = greatest(last_login_at, $2) where id = $1`
)

func applyUser(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case user.Registered:
		b.Queue(userRegistered, id, clean(e.EmailHash), clean(e.EmailSealed), clean(e.NameSealed), clean(string(e.Role)), at, revision)
	case user.Renamed:
		b.Queue(userRenamed, id, at, revision, clean(e.NameSealed))
	case user.PasswordChanged:
		b.Queue(userPasswordChanged, id, at, revision)
	case user.RoleChanged:
		b.Queue(userRoleChanged, id, at, revision, clean(string(e.Role)))
	case user.Deactivated:
		b.Queue(userDeactivated, id, at, revision)
	case user.Reactivated:
		b.Queue(userReactivated, id, at, revision)
	default:
		return unhandled(r)
	}
	return nil
}

const (
	sessionStarted = `insert into sessions (id, user_id, epoch, started_at, expires_at, revision)
values ($1, $2, $3, $4, $5, $6)`
	sessionRefreshed = `update sessions set last_refreshed_at = $2, revision = $3 where id = $1`
	sessionRevoked   = `update sessions set revoked_at = $2, revoked_reason = $4, revision = $3 where id = $1`
)

func applySession(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case session.Started:
		b.Queue(sessionStarted, id, clean(e.UserID), e.Epoch, at, e.ExpiresAt, revision)
		b.Queue(userLoggedIn, clean(e.UserID), at)
	case session.Refreshed:
		b.Queue(sessionRefreshed, id, at, revision)
	case session.Revoked:
		b.Queue(sessionRevoked, id, at, revision, clean(e.Reason))
	default:
		return unhandled(r)
	}
	return nil
}

const (
	apiKeyCreated = `insert into api_keys (id, user_id, name, prefix, digest, scopes, expires_at, is_default, created_at, revision)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	apiKeyRevoked = `update api_keys set revoked_at = $2, revision = $3 where id = $1`
)

func applyAPIKey(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case apikey.Created:
		b.Queue(apiKeyCreated, id, clean(e.UserID), clean(e.Name), clean(e.Prefix), clean(e.Digest), scopes(e.Scopes), e.ExpiresAt, e.Default, at, revision)
	case apikey.Revoked:
		b.Queue(apiKeyRevoked, id, at, revision)
	default:
		return unhandled(r)
	}
	return nil
}

// scopes keeps nil (unrestricted) apart from empty (nothing).
func scopes(permissions []domain.Permission) []string {
	if permissions == nil {
		return nil
	}
	texts := make([]string, len(permissions))
	for i, p := range permissions {
		texts[i] = clean(string(p))
	}
	return texts
}
