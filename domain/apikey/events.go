package apikey

import (
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Category is the stream category; a key's stream is "apiKey-<id>".
const Category = "apiKey"

// Created issues a key. The key itself is shown once and never stored: Digest
// is its HMAC-SHA-256 under API_KEY_SECRET, hex.
type Created struct {
	KeyID     string              `json:"keyId"`
	UserID    string              `json:"userId"`
	Name      string              `json:"name"`
	Prefix    string              `json:"prefix"` // the visible start of the key, to recognise it by
	Digest    string              `json:"digest"`
	Scopes    []domain.Permission `json:"scopes,omitempty"` // absent: everything the user may do
	ExpiresAt *time.Time          `json:"expiresAt,omitempty"`
	Default   bool                `json:"default,omitempty"` // the key the singular routes act on
}

// Revoked ends a key for good.
type Revoked struct {
	Reason string `json:"reason"` // "deleted", "replaced"
}

func (Created) EventType() string { return "APIKeyCreated" }
func (Revoked) EventType() string { return "APIKeyRevoked" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Created](r)
	domain.Register[Revoked](r)
}
