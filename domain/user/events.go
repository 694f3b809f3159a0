package user

import "github.com/sparkops/control-plane/domain"

// Category is the stream category; a user's stream is "user-<id>".
const Category = "user"

// Registered starts a user. Personal text is sealed under the user's own key,
// which is kept outside the log: erasing that key erases the person.
type Registered struct {
	UserID         string      `json:"userId"`
	EmailHash      string      `json:"emailHash"`      // keyed hash, names the emailClaim stream
	EmailSealed    string      `json:"emailSealed"`    // as typed, trimmed
	NameSealed     string      `json:"nameSealed"`     // display name
	PasswordSealed string      `json:"passwordSealed"` // Argon2id hash in PHC form
	Role           domain.Role `json:"role"`
}

// Renamed changes the display name.
type Renamed struct {
	NameSealed string `json:"nameSealed"`
}

// PasswordChanged replaces the password hash and ends all sessions that began
// before it.
type PasswordChanged struct {
	PasswordSealed string `json:"passwordSealed"`
}

// RoleChanged changes the system role.
type RoleChanged struct {
	Role domain.Role `json:"role"`
}

// Deactivated locks the user out; Reactivated lets it in again.
type Deactivated struct{}
type Reactivated struct{}

func (Registered) EventType() string      { return "UserRegistered" }
func (Renamed) EventType() string         { return "UserRenamed" }
func (PasswordChanged) EventType() string { return "UserPasswordChanged" }
func (RoleChanged) EventType() string     { return "UserRoleChanged" }
func (Deactivated) EventType() string     { return "UserDeactivated" }
func (Reactivated) EventType() string     { return "UserReactivated" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Registered](r)
	domain.Register[Renamed](r)
	domain.Register[PasswordChanged](r)
	domain.Register[RoleChanged](r)
	domain.Register[Deactivated](r)
	domain.Register[Reactivated](r)
}
