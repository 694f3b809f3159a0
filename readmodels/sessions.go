package readmodels

import (
	"context"
	"time"
)

// Session is one family of refresh tokens: what began with a login.
type Session struct {
	ID              string     `db:"id" json:"id"`
	UserID          string     `db:"user_id" json:"userId"`
	Epoch           int        `db:"epoch" json:"-"` // of the user when it began: over once the user's is higher
	StartedAt       time.Time  `db:"started_at" json:"startedAt"`
	LastRefreshedAt *time.Time `db:"last_refreshed_at" json:"lastRefreshedAt"`
	ExpiresAt       time.Time  `db:"expires_at" json:"expiresAt"`
	RevokedAt       *time.Time `db:"revoked_at" json:"revokedAt"`
	RevokedReason   *string    `db:"revoked_reason" json:"revokedReason"`
	Revision        int64      `db:"revision" json:"-"`
}

const sessionColumns = `id, user_id, epoch, started_at, last_refreshed_at, expires_at, revoked_at, revoked_reason, revision`

const sessionByID = `select ` + sessionColumns + ` from sessions where id = $1`

const sessionsOf = `select ` + sessionColumns + ` from sessions
where user_id = $1 and revoked_at is null and expires_at > $2 order by started_at desc, id desc`

// SessionByID returns one session, ended or not.
func (v *Views) SessionByID(ctx context.Context, id string) (Session, error) {
	return row[Session](ctx, v.pool, sessionByID, id)
}

// SessionsOf returns the user's sessions that are neither revoked nor expired,
// newest first.
func (v *Views) SessionsOf(ctx context.Context, userID string) ([]Session, error) {
	return rows[Session](ctx, v.pool, sessionsOf, userID, v.now())
}
