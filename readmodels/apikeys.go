package readmodels

import (
	"context"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// APIKey is what may be shown of a key.
type APIKey struct {
	ID        string              `db:"id" json:"id"`
	UserID    string              `db:"user_id" json:"userId"`
	Name      string              `db:"name" json:"name"`
	Prefix    string              `db:"prefix" json:"prefix"`
	Scopes    []domain.Permission `db:"scopes" json:"scopes"` // null: everything the user may do
	ExpiresAt *time.Time          `db:"expires_at" json:"expiresAt"`
	Default   bool                `db:"is_default" json:"default"`
	CreatedAt time.Time           `db:"created_at" json:"createdAt"`
	RevokedAt *time.Time          `db:"revoked_at" json:"revokedAt"`
	Digest    string              `db:"digest" json:"-"`
	Revision  int64               `db:"revision" json:"-"`
}

const apiKeyColumns = `id, user_id, name, prefix, scopes, expires_at, is_default, created_at, revoked_at, digest, revision`

const apiKeyByDigest = `select ` + apiKeyColumns + ` from api_keys where digest = $1 order by created_at desc limit 1`

const apiKeyByID = `select ` + apiKeyColumns + ` from api_keys where id = $1`

const apiKeysOf = `select ` + apiKeyColumns + ` from api_keys
where user_id = $1 and revoked_at is null order by created_at desc, id desc`

// APIKeyByDigest returns the key with that digest, also a revoked or expired
// one: the caller decides whether it counts.
func (v *Views) APIKeyByDigest(ctx context.Context, digest string) (APIKey, error) {
	return row[APIKey](ctx, v.pool, apiKeyByDigest, digest)
}

// APIKeyByID returns one key, revoked or not.
func (v *Views) APIKeyByID(ctx context.Context, id string) (APIKey, error) {
	return row[APIKey](ctx, v.pool, apiKeyByID, id)
}

// APIKeysOf returns the user's keys that are not revoked, newest first.
func (v *Views) APIKeysOf(ctx context.Context, userID string) ([]APIKey, error) {
	return rows[APIKey](ctx, v.pool, apiKeysOf, userID)
}
