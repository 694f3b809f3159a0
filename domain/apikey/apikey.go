package apikey

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// APIKey is the fold of a key's stream.
type APIKey struct {
	ID        string
	UserID    string
	Scopes    []domain.Permission // nil: everything the user may do
	ExpiresAt *time.Time
	Default   bool
	Revoked   bool
}

// Evolve returns the state after an event.
func (k APIKey) Evolve(event domain.Event) APIKey {
	switch e := event.(type) {
	case Created:
		k.ID, k.UserID, k.Scopes, k.ExpiresAt, k.Default = e.KeyID, e.UserID, e.Scopes, e.ExpiresAt, e.Default
	case Revoked:
		k.Revoked = true
	default:
		panic(fmt.Sprintf("apikey: no rule for %T", event))
	}
	return k
}

// The reasons a key is revoked for.
const (
	ReasonDeleted  = "deleted"
	ReasonReplaced = "replaced"
)

// DefaultName is the name of a key nobody named.
const DefaultName = "default"

// Create issues a key whose secret was made by the caller.
type Create struct {
	KeyID     string
	UserID    string
	Name      string
	Prefix    string
	Digest    string
	Scopes    []domain.Permission // nil: unrestricted
	ExpiresAt *time.Time
	Default   bool
}

func (c Create) Stream() string { return domain.StreamName(Category, c.KeyID) }
func (c Create) CreatesStream() {}

func (c Create) Needs(APIKey) domain.Need {
	return domain.Need{Permission: "keys:write", Self: c.UserID}
}

func (c Create) Decide(k APIKey, now time.Time) ([]domain.Event, error) {
	if k.ID != "" {
		return nil, domain.Fail(domain.Conflict, "API_KEY_EXISTS", "The API key exists already.")
	}
	name := strings.TrimSpace(c.Name)
	var b domain.Broken
	b.Name("name", name)
	for i, scope := range c.Scopes {
		if _, known := domain.Grants[scope]; !known || slices.Contains(c.Scopes[:i], scope) {
			b.Add(fmt.Sprintf("scopes[%d]", i), "must be a known permission, named once")
		}
	}
	if c.Scopes != nil && len(c.Scopes) == 0 {
		b.Add("scopes", "must name at least one permission, or be left out")
	}
	if c.ExpiresAt != nil && !c.ExpiresAt.After(now) {
		b.Add("expiresAt", "must be in the future")
	}
	if err := b.Err(); err != nil {
		return nil, err
	}
	return []domain.Event{Created{
		KeyID: c.KeyID, UserID: c.UserID, Name: name, Prefix: c.Prefix, Digest: c.Digest,
		Scopes: slices.Clone(c.Scopes), ExpiresAt: c.ExpiresAt, Default: c.Default,
	}}, nil
}

// Revoke ends a key. A revoked key is gone: revoking it again finds nothing.
type Revoke struct {
	KeyID  string
	Reason string
}

func (c Revoke) Stream() string { return domain.StreamName(Category, c.KeyID) }

func (c Revoke) Needs(k APIKey) domain.Need {
	return domain.Need{Permission: "keys:write", Self: k.UserID}
}

func (c Revoke) Decide(k APIKey, _ time.Time) ([]domain.Event, error) {
	if k.ID == "" || k.Revoked {
		return nil, domain.Missing()
	}
	return []domain.Event{Revoked{Reason: c.Reason}}, nil
}
