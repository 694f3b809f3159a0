// Package user is the stream category of accounts. Personal text (e-mail, name,
// password hash) is sealed before it gets here.
package user

import (
	"fmt"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// User is the fold of a user's stream.
type User struct {
	ID             string
	EmailHash      string
	EmailSealed    string
	NameSealed     string
	PasswordSealed string
	Role           domain.Role
	Active         bool
	Epoch          int // how often all sessions were ended: those that began in an earlier one are over
}

// Exists reports whether there is such a user.
func (u User) Exists() bool { return u.ID != "" }

// Evolve returns the state after an event.
func (u User) Evolve(event domain.Event) User {
	switch e := event.(type) {
	case Registered:
		u = User{
			ID: e.UserID, EmailHash: e.EmailHash, EmailSealed: e.EmailSealed, NameSealed: e.NameSealed,
			PasswordSealed: e.PasswordSealed, Role: e.Role, Active: true,
		}
	case Renamed:
		u.NameSealed = e.NameSealed
	case PasswordChanged:
		u.PasswordSealed = e.PasswordSealed
		u.Epoch++
	case RoleChanged:
		u.Role = e.Role
	case Deactivated:
		u.Active = false
		u.Epoch++
	case Reactivated:
		u.Active = true
	default:
		panic(fmt.Sprintf("user: no rule for %T", event))
	}
	return u
}

// Create starts a user whose e-mail address was claimed for it. Role is
// settled by the use-case.
type Create struct {
	UserID         string
	EmailHash      string
	EmailSealed    string
	NameSealed     string
	PasswordSealed string
	Role           domain.Role
}

func (c Create) Stream() string         { return domain.StreamName(Category, c.UserID) }
func (c Create) Needs(User) domain.Need { return domain.Need{Permission: "auth:public"} }
func (c Create) CreatesStream()         {}

func (c Create) Decide(u User, _ time.Time) ([]domain.Event, error) {
	if u.Exists() {
		return nil, ErrEmailTaken()
	}
	return []domain.Event{Registered(c)}, nil
}

// ErrEmailTaken is the answer to whoever registers a claimed address.
func ErrEmailTaken() error {
	return domain.Fail(domain.Conflict, "EMAIL_TAKEN", "There is an account with this e-mail address already.")
}

// Rename changes the display name.
type Rename struct {
	UserID     string
	NameSealed string
}

func (c Rename) Stream() string { return domain.StreamName(Category, c.UserID) }

func (c Rename) Needs(u User) domain.Need {
	return domain.Need{Permission: "users:write", Self: u.ID}
}

func (c Rename) Decide(u User, _ time.Time) ([]domain.Event, error) {
	switch {
	case !u.Exists():
		return nil, domain.Missing()
	case c.NameSealed == u.NameSealed:
		return nil, nil
	default:
		return []domain.Event{Renamed{NameSealed: c.NameSealed}}, nil
	}
}

// ChangePassword replaces the password and ends all sessions. Verified is the
// sealed hash the old password was checked against: when it is no longer the
// present one, somebody else changed the password meanwhile. An administrator
// leaves it empty.
type ChangePassword struct {
	UserID         string
	Verified       string
	PasswordSealed string
}

func (c ChangePassword) Stream() string { return domain.StreamName(Category, c.UserID) }

// Needs the user itself where the old password was checked, else a role.
func (c ChangePassword) Needs(u User) domain.Need {
	if c.Verified != "" {
		return domain.Need{Permission: "users:write", Self: u.ID}
	}
	return domain.Need{Permission: manage(u.Role)}
}

func (c ChangePassword) Decide(u User, _ time.Time) ([]domain.Event, error) {
	switch {
	case !u.Exists():
		return nil, domain.Missing()
	case c.PasswordSealed == u.PasswordSealed:
		return nil, nil
	case c.Verified != "" && c.Verified != u.PasswordSealed:
		return nil, domain.Fail(domain.Conflict, "PASSWORD_CHANGED", "The password was changed meanwhile.")
	default:
		return []domain.Event{PasswordChanged{PasswordSealed: c.PasswordSealed}}, nil
	}
}

// manage is the permission to administer users of any of the given roles: only
// an owner touches owners.
func manage(roles ...domain.Role) domain.Permission {
	for _, role := range roles {
		if role == domain.Owner {
			return "users:own"
		}
	}
	return "users:write"
}

// ChangeRole gives the user another system role. Nobody changes their own, so
// a system with an owner keeps one.
type ChangeRole struct {
	UserID string
	Role   domain.Role
	By     string // user id of who asks
}

func (c ChangeRole) Stream() string { return domain.StreamName(Category, c.UserID) }

func (c ChangeRole) Needs(u User) domain.Need {
	return domain.Need{Permission: manage(u.Role, c.Role)}
}

func (c ChangeRole) Decide(u User, _ time.Time) ([]domain.Event, error) {
	if !u.Exists() {
		return nil, domain.Missing()
	}
	var b domain.Broken
	b.OneOf("role", string(c.Role), Roles...)
	if err := b.Err(); err != nil {
		return nil, err
	}
	switch {
	case c.Role == u.Role:
		return nil, nil
	case c.By == u.ID:
		return nil, domain.Fail(domain.Conflict, "OWN_ACCOUNT", "You cannot change your own role.")
	default:
		return []domain.Event{RoleChanged{Role: c.Role}}, nil
	}
}

// Deactivate locks the user out and ends all sessions.
type Deactivate struct {
	UserID string
	By     string // user id of who asks
}

func (c Deactivate) Stream() string           { return domain.StreamName(Category, c.UserID) }
func (c Deactivate) Needs(u User) domain.Need { return domain.Need{Permission: manage(u.Role)} }

func (c Deactivate) Decide(u User, _ time.Time) ([]domain.Event, error) {
	switch {
	case !u.Exists():
		return nil, domain.Missing()
	case !u.Active:
		return nil, nil
	case c.By == u.ID:
		return nil, domain.Fail(domain.Conflict, "OWN_ACCOUNT", "You cannot deactivate your own account.")
	default:
		return []domain.Event{Deactivated{}}, nil
	}
}

// Reactivate lets the user in again.
type Reactivate struct{ UserID string }

func (c Reactivate) Stream() string           { return domain.StreamName(Category, c.UserID) }
func (c Reactivate) Needs(u User) domain.Need { return domain.Need{Permission: manage(u.Role)} }

func (c Reactivate) Decide(u User, _ time.Time) ([]domain.Event, error) {
	switch {
	case !u.Exists():
		return nil, domain.Missing()
	case u.Active:
		return nil, nil
	default:
		return []domain.Event{Reactivated{}}, nil
	}
}
