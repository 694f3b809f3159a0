package session

import (
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Category is the stream category. A session is one family of refresh tokens:
// it begins with a login and lives for an absolute time.
const Category = "session"

// Started begins a family with its first refresh token.
type Started struct {
	SessionID string    `json:"sessionId"`
	UserID    string    `json:"userId"`
	TokenHash string    `json:"tokenHash"` // SHA-256 of the opaque refresh token, hex
	ExpiresAt time.Time `json:"expiresAt"` // absolute end of the family

	// Epoch is how often the user's sessions had been ended all at once when
	// the family began: once the user's own count is higher, it is over.
	Epoch int `json:"epoch,omitempty"`
}

// Refreshed records that the token Presented was accepted and Successor issued.
type Refreshed struct {
	Presented string `json:"presented"` // hash
	Successor string `json:"successor"` // hash
}

// Revoked ends the family for good.
type Revoked struct {
	Reason string `json:"reason"` // "logout", "reuse", "password_changed", "deactivated"
}

func (Started) EventType() string   { return "SessionStarted" }
func (Refreshed) EventType() string { return "SessionRefreshed" }
func (Revoked) EventType() string   { return "SessionRevoked" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Started](r)
	domain.Register[Refreshed](r)
	domain.Register[Revoked](r)
}
