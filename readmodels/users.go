package readmodels

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
)

// Erased stands for personal text whose key was erased.
const Erased = "[erased]"

// User is a person's account. Its JSON is the answer of /auth/me.
type User struct {
	ID                string      `db:"id" json:"id"`
	Email             string      `db:"-" json:"email"`
	Name              string      `db:"-" json:"name"`
	Role              domain.Role `db:"role" json:"role"`
	IsActive          bool        `db:"is_active" json:"is_active"`
	IsSuperuser       bool        `db:"is_superuser" json:"is_superuser"` // owner of the system
	IsVerified        bool        `db:"is_verified" json:"is_verified"`   // no proof of an address is asked for, so every account counts as verified
	LastLoginAt       *time.Time  `db:"last_login_at" json:"last_login_at"`
	CreatedAt         time.Time   `db:"created_at" json:"created_at"`
	UpdatedAt         time.Time   `db:"updated_at" json:"updated_at"`
	EmailHash         string      `db:"email_hash" json:"-"`
	EmailSealed       string      `db:"email_sealed" json:"-"`
	NameSealed        string      `db:"name_sealed" json:"-"`
	PasswordChangedAt time.Time   `db:"password_changed_at" json:"-"`
	SessionEpoch      int         `db:"session_epoch" json:"-"` // sessions that began in an earlier one are over
	Revision          int64       `db:"revision" json:"-"`
}

const userColumns = `u.id, u.role, u.is_active, u.role = 'owner' as is_superuser, true as is_verified, u.last_login_at,
	u.created_at, u.updated_at, u.email_hash, u.email_sealed, u.name_sealed,
	u.password_changed_at, u.session_epoch, u.revision`

const userByID = `select ` + userColumns + ` from users u where u.id = $1`

const userByEmailHash = `select ` + userColumns + ` from users u where u.email_hash = $1 order by u.created_at limit 1`

// UserByID returns one user.
func (v *Views) UserByID(ctx context.Context, id string) (User, error) {
	return v.user(ctx, userByID, id)
}

// UserByEmailHash returns the user whose e-mail has that keyed hash.
func (v *Views) UserByEmailHash(ctx context.Context, hash string) (User, error) {
	return v.user(ctx, userByEmailHash, hash)
}

func (v *Views) user(ctx context.Context, sql, arg string) (User, error) {
	u, err := row[User](ctx, v.pool, sql, arg)
	if err != nil {
		return User{}, err
	}
	return u, v.open(ctx, &u)
}

// UserFilter restricts a list of users; empty fields do not.
type UserFilter struct {
	Role   domain.Role
	Active *bool
}

var userList = list[User]{
	columns: userColumns, from: "users u", at: "u.created_at", id: "u.id",
	key: func(u User) cursor { return cursor{u.CreatedAt, u.ID} },
}

// Users lists accounts, newest first.
func (v *Views) Users(ctx context.Context, f UserFilter, p Page) (Result[User], error) {
	var c conditions
	c.equal("u.role", string(f.Role))
	if f.Active != nil {
		c.add("u.is_active = ?", *f.Active)
	}
	result, err := userList.run(ctx, v.pool, c, p)
	if err != nil {
		return result, err
	}
	for i := range result.Items {
		if err := v.open(ctx, &result.Items[i]); err != nil {
			return Result[User]{}, err
		}
	}
	return result, nil
}

// open fills in a user's personal text.
func (v *Views) open(ctx context.Context, u *User) (err error) {
	if u.Email, err = v.unseal(ctx, u.ID, u.EmailSealed); err != nil {
		return err
	}
	u.Name, err = v.unseal(ctx, u.ID, u.NameSealed)
	return err
}

// unseal opens a person's text; "[erased]" for an erased person.
func (v *Views) unseal(ctx context.Context, subject, sealed string) (string, error) {
	if v.options.Vault == nil {
		return Erased, nil
	}
	text, err := v.options.Vault(ctx, subject, sealed)
	switch {
	case err == nil:
		return text, nil
	case v.options.Erased != nil && v.options.Erased(err), domain.KindOf(err) == domain.NotFound:
		return Erased, nil
	default:
		return "", fmt.Errorf("open personal text: %w", Translate(err))
	}
}

const membershipsOf = `select project_id, role from members where user_id = $1`

// MembershipsOf returns the user's role by project id; never nil.
func (v *Views) MembershipsOf(ctx context.Context, userID string) (map[string]domain.Role, error) {
	found, err := v.pool.Query(ctx, membershipsOf, userID)
	if err != nil {
		return nil, Translate(err)
	}
	roles := map[string]domain.Role{}
	var project, role string
	_, err = pgx.ForEachRow(found, []any{&project, &role}, func() error {
		roles[project] = domain.Role(role)
		return nil
	})
	return roles, Translate(err)
}
