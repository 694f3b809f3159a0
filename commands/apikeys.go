package commands

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

// NewAPIKey is what a key is asked for with.
type NewAPIKey struct {
	Name      string              `json:"name,omitempty"`
	Scopes    []domain.Permission `json:"scopes,omitempty"`    // absent: everything the user may do
	ExpiresAt *time.Time          `json:"expiresAt,omitempty"` // absent: never
}

// IssuedAPIKey is a new key. Key is shown this once.
type IssuedAPIKey struct {
	Key  string
	View readmodels.APIKey
}

// CreateAPIKey issues a key for the actor.
func (h *Handler) CreateAPIKey(ctx context.Context, n NewAPIKey) (IssuedAPIKey, Receipt, error) {
	return h.issueAPIKey(ctx, n, false)
}

// ReplaceDefaultAPIKey issues the actor's default key in place of the one
// before it, which ends. The new one counts before the old one is gone.
func (h *Handler) ReplaceDefaultAPIKey(ctx context.Context, n NewAPIKey) (IssuedAPIKey, Receipt, error) {
	issued, receipt, err := h.issueAPIKey(ctx, n, true)
	if err != nil {
		return IssuedAPIKey{}, Receipt{}, err
	}
	ended, err := h.revokeDefaults(ctx, issued.View.ID, apikey.ReasonReplaced)
	receipt.Position = max(receipt.Position, ended.Position)
	return issued, receipt, err
}

func (h *Handler) issueAPIKey(ctx context.Context, n NewAPIKey, isDefault bool) (IssuedAPIKey, Receipt, error) {
	actor := ActorFrom(ctx)
	create := apikey.Create{
		KeyID: NewIDFor(ctx, "api key"), UserID: actor.ID, Name: strings.TrimSpace(n.Name), ExpiresAt: n.ExpiresAt, Default: isDefault,
	}
	if create.Name == "" {
		create.Name = apikey.DefaultName
	}
	if n.ExpiresAt != nil {
		at := n.ExpiresAt.UTC().Truncate(time.Microsecond)
		create.ExpiresAt = &at
	}
	var err error
	if create.Scopes, err = scopesFor(actor, n.Scopes); err != nil {
		return IssuedAPIKey{}, Receipt{}, err
	}
	var key string
	key, create.Prefix = newAPIKey(create.KeyID)
	create.Digest = h.apiKeyDigest(key)
	receipt, err := Execute(ctx, h, create)
	if err != nil {
		return IssuedAPIKey{}, Receipt{}, err
	}
	created, _ := receipt.Events[0].(apikey.Created)
	if created.Digest != create.Digest {
		return IssuedAPIKey{}, Receipt{}, domain.Fail(domain.Conflict, "API_KEY_ISSUED",
			"The key was made by an earlier request and cannot be shown again; delete it and make another.")
	}
	return IssuedAPIKey{Key: key, View: readmodels.APIKey{
		ID: created.KeyID, UserID: created.UserID, Name: created.Name, Prefix: created.Prefix, Scopes: created.Scopes,
		ExpiresAt: created.ExpiresAt, Default: created.Default, CreatedAt: receipt.At, Revision: int64(receipt.Revision),
	}}, receipt, nil
}

// scopesFor returns the scopes of a new key: those asked for, which a
// restricted key may only hand on.
func scopesFor(actor domain.Actor, asked []domain.Permission) ([]domain.Permission, error) {
	if actor.Scopes == nil {
		return asked, nil
	}
	if asked == nil {
		return slices.Clone(actor.Scopes), nil
	}
	for _, scope := range asked {
		if !slices.Contains(actor.Scopes, scope) {
			return nil, domain.Fail(domain.Forbidden, "SCOPE_MISSING", "An API key can only make keys with its own scopes.")
		}
	}
	return asked, nil
}

// RevokeAPIKey ends a key: one's own, or for administrators anybody's. Another
// user's key looks like none.
func (h *Handler) RevokeAPIKey(ctx context.Context, keyID string) (Receipt, error) {
	receipt, err := Execute(ctx, h, apikey.Revoke{KeyID: keyID, Reason: apikey.ReasonDeleted})
	if code(err) == "FORBIDDEN" {
		err = domain.Missing()
	}
	return receipt, err
}

// RevokeDefaultAPIKey ends the actor's default key; domain.NotFound without one.
func (h *Handler) RevokeDefaultAPIKey(ctx context.Context) (Receipt, error) {
	receipt, err := h.revokeDefaults(ctx, "", apikey.ReasonDeleted)
	if err == nil && len(receipt.Events) == 0 {
		err = domain.Missing()
	}
	return receipt, err
}

// revokeDefaults ends every default key of the actor but one.
func (h *Handler) revokeDefaults(ctx context.Context, but, reason string) (Receipt, error) {
	actor := ActorFrom(ctx)
	if err := actor.Authorize(domain.Need{Permission: "keys:write", Self: actor.ID}); err != nil {
		return Receipt{}, err
	}
	keys, err := h.Views.APIKeysOf(ctx, actor.ID)
	if err != nil {
		return Receipt{}, err
	}
	var last Receipt
	for _, key := range keys {
		if !key.Default || key.ID == but {
			continue
		}
		receipt, err := Execute(part(ctx), h, apikey.Revoke{KeyID: key.ID, Reason: reason})
		switch {
		case domain.KindOf(err) == domain.NotFound:
		case err != nil:
			return last, err
		default:
			last = receipt
		}
	}
	return last, nil
}

// APIKeysOf lists a user's keys that are not revoked: one's own, or for
// administrators anybody's.
func (h *Handler) APIKeysOf(ctx context.Context, userID string) ([]readmodels.APIKey, error) {
	if err := ActorFrom(ctx).Authorize(domain.Need{Permission: "keys:read", Self: userID}); err != nil {
		return nil, err
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, userID))
	if err != nil {
		return nil, err
	}
	if !u.Exists() {
		return nil, domain.Missing()
	}
	return h.Views.APIKeysOf(ctx, userID)
}
