package readmodels

import (
	"context"

	"github.com/sparkops/control-plane/domain"
)

// Standing is what the read models know of who sends a credential, read at
// once: each request asks for it.
type Standing struct {
	UserID       string                 `db:"id"`
	Role         domain.Role            `db:"role"`
	IsActive     bool                   `db:"is_active"`
	SessionEpoch int                    `db:"session_epoch"` // sessions that began in an earlier one are over
	Projects     map[string]domain.Role `db:"projects"`      // memberships; never nil

	// Of the session asked for; SessionUser is nil where it is not known.
	SessionUser    *string `db:"session_user_id"`
	SessionBegan   *int    `db:"session_began"` // the user's epoch then
	SessionRevoked bool    `db:"session_revoked"`
}

const standing = `select u.id, u.role, u.is_active, u.session_epoch,
	coalesce((select json_object_agg(m.project_id, m.role) from members m where m.user_id = u.id), '{}') as projects,
	s.user_id as session_user_id, s.epoch as session_began, s.revoked_at is not null as session_revoked
from users u left join sessions s on s.id = $2
where u.id = $1`

// Standing returns the standing of a user and, unless sessionID is "", of a
// session; domain.NotFound while the user is not projected.
func (v *Views) Standing(ctx context.Context, userID, sessionID string) (Standing, error) {
	return row[Standing](ctx, v.pool, standing, userID, sessionID)
}
