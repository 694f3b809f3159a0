package http

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

// apiKeyRoutes adds the credentials of programs. The singular calls under
// /auth act on a user's default key and speak snake_case.
func (s *Server) apiKeyRoutes() {
	register(s, operation{
		id: "replace-default-api-key", method: http.MethodPost, path: "/auth/api-key", tag: "api keys", status: http.StatusCreated,
		summary: "Issue the default API key, in place of the one before", permission: "auth:self", once: true,
	}, s.replaceDefaultKey)
	register(s, operation{
		id: "delete-default-api-key", method: http.MethodDelete, path: "/auth/api-key", tag: "api keys",
		summary: "End the default API key", permission: "auth:self",
	}, s.deleteDefaultKey)
	register(s, operation{
		id: "list-api-keys", method: http.MethodGet, path: "/api-keys", tag: "api keys", reads: []string{"accounts"},
		summary: "List API keys, the own ones or, for administrators, those of a user", permission: "auth:self",
	}, s.listKeys)
	register(s, operation{
		id: "create-api-key", method: http.MethodPost, path: "/api-keys", tag: "api keys", status: http.StatusCreated,
		summary: "Issue an API key; it is shown this once", permission: "auth:self", once: true,
	}, s.createKey)
	register(s, operation{
		id: "delete-api-key", method: http.MethodDelete, path: "/api-keys/{id}", tag: "api keys",
		summary: "End an API key", permission: "auth:self",
	}, s.deleteKey)
}

// DefaultKeyInput asks for the default key.
type DefaultKeyInput struct {
	Body *DefaultKeyRequest
}

// DefaultKeyRequest says what the default key may do; nothing in it is needed.
type DefaultKeyRequest struct {
	Name      string              `json:"name,omitempty"`
	Scopes    []domain.Permission `json:"scopes,omitempty" doc:"Permissions of the key; absent: everything its user may do."`
	ExpiresAt *time.Time          `json:"expires_at,omitempty"`
}

// DefaultKey is a new default key; api_key is shown this once.
type DefaultKey struct {
	APIKey    string          `json:"api_key"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Prefix    string          `json:"prefix"`
	CreatedAt time.Time       `json:"created_at"`
	User      readmodels.User `json:"user"`
}

func (s *Server) replaceDefaultKey(ctx context.Context, in *DefaultKeyInput) (*Saved[DefaultKey], error) {
	asked := domain.Or(in.Body, DefaultKeyRequest{})
	issued, receipt, err := s.handler.ReplaceDefaultAPIKey(ctx, commands.NewAPIKey(asked))
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "accounts")
	me, err := s.handler.Me(ctx)
	view := issued.View
	return &Saved[DefaultKey]{written, DefaultKey{
		APIKey: issued.Key, ID: view.ID, Name: view.Name, Prefix: view.Prefix, CreatedAt: view.CreatedAt, User: me,
	}}, err
}

func (s *Server) deleteDefaultKey(ctx context.Context, _ *Writing) (*Saved[Said], error) {
	receipt, err := s.handler.RevokeDefaultAPIKey(ctx)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "accounts")
	return &Saved[Said]{written, Said{"The API key has ended."}}, nil
}

// KeysInput selects API keys.
type KeysInput struct {
	Reading
	UserID string `query:"user_id" doc:"Another user's keys, for administrators."`
}

func (s *Server) listKeys(ctx context.Context, in *KeysInput) (*Plain[Items[readmodels.APIKey]], error) {
	found, err := s.handler.APIKeysOf(ctx, cmp.Or(in.UserID, actorOf(ctx).ID))
	if err != nil {
		return nil, err
	}
	return itemsOf(found), nil
}

// KeyInput asks for a key.
type KeyInput struct {
	Body *commands.NewAPIKey
}

// IssuedKey is a new key; apiKey is shown this once.
type IssuedKey struct {
	Secret string `json:"apiKey"`
	readmodels.APIKey
}

func (s *Server) createKey(ctx context.Context, in *KeyInput) (*Saved[IssuedKey], error) {
	issued, receipt, err := s.handler.CreateAPIKey(ctx, domain.Or(in.Body, commands.NewAPIKey{}))
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "accounts")
	written.Location = prefix + "/api-keys/" + issued.View.ID
	return &Saved[IssuedKey]{written, IssuedKey{issued.Key, issued.View}}, nil
}

func (s *Server) deleteKey(ctx context.Context, in *ChangeOne) (*Saved[Gone], error) {
	receipt, err := s.handler.RevokeAPIKey(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "accounts")
	return &Saved[Gone]{written, Gone{in.ID.ID, true}}, nil
}
