package commands

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

// Tokens is what a login or refresh answers.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"` // bearer
	ExpiresIn    int    `json:"expires_in"` // seconds the access token lives

	UserID    string `json:"-"`
	SessionID string `json:"-"`
}

func errCredentials() error {
	return domain.Fail(domain.Unauthorized, "INVALID_CREDENTIALS", "The e-mail address or the password is wrong.")
}

func errInactive() error {
	return domain.Fail(domain.Unauthorized, "USER_INACTIVE", "The account is deactivated.")
}

// Login begins a session. An unknown address and a wrong password cost the
// same work and get the same answer; only who knows the password learns that
// an account is deactivated. The event store alone is asked, so an account can
// be used as soon as it is made.
func (h *Handler) Login(ctx context.Context, email, password string) (Tokens, Receipt, error) {
	held, _, err := Load[claim.Claim](ctx, h, domain.StreamName(claim.EmailCategory, h.EmailHash(email)))
	if err != nil {
		return Tokens{}, Receipt{}, err
	}
	id := held.Holder
	if id == "" {
		id = decoySubject
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, id))
	if err != nil {
		return Tokens{}, Receipt{}, err
	}
	right, err := h.passwordOf(ctx, u, password)
	switch {
	case err != nil:
		return Tokens{}, Receipt{}, err
	case !right:
		return Tokens{}, Receipt{}, errCredentials()
	case !u.Active:
		return Tokens{}, Receipt{}, errInactive()
	}
	ctx = WithActor(unnamed(ctx), domain.Actor{Kind: domain.ActorUser, ID: u.ID, Role: u.Role})
	sessionID := NewID()
	refresh := newRefreshToken(sessionID)
	receipt, err := Execute(ctx, h, session.Start{
		SessionID: sessionID, UserID: u.ID, Epoch: u.Epoch, TokenHash: tokenHash(refresh), TTL: h.Secrets.RefreshTTL,
	})
	if err != nil {
		return Tokens{}, Receipt{}, err
	}
	tokens, err := h.tokens(u.ID, sessionID, refresh)
	return tokens, receipt, err
}

func (h *Handler) tokens(userID, sessionID, refresh string) (Tokens, error) {
	access, err := h.accessToken(userID, sessionID, h.Now())
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{
		AccessToken: access, RefreshToken: refresh, TokenType: "bearer", ExpiresIn: int(h.Secrets.AccessTTL / time.Second),
		UserID: userID, SessionID: sessionID,
	}, nil
}

// decoySubject owns a password nobody has. It is opened and compared for
// addresses nobody registered.
const decoySubject = "decoy"

type decoy struct {
	mu     sync.Mutex
	sealed string
}

func (h *Handler) decoyHash(ctx context.Context) (string, error) {
	h.decoy.mu.Lock()
	sealed := h.decoy.sealed
	h.decoy.mu.Unlock()
	if sealed != "" {
		return sealed, nil
	}
	hashed, err := h.hashPassword(ctx, NewID()+NewID())
	if err != nil {
		return "", err
	}
	if sealed, err = h.seal(ctx, decoySubject, hashed); err != nil {
		return "", err
	}
	h.decoy.mu.Lock()
	defer h.decoy.mu.Unlock()
	h.decoy.sealed = sealed
	return sealed, nil
}

// passwordOf reports whether a password is the user's, false for no user.
func (h *Handler) passwordOf(ctx context.Context, u user.User, password string) (bool, error) {
	subject, sealed := u.ID, u.PasswordSealed
	if !u.Exists() {
		var err error
		if subject = decoySubject; sealed == "" {
			if sealed, err = h.decoyHash(ctx); err != nil {
				return false, err
			}
		}
	}
	hashed, err := h.open(ctx, subject, sealed)
	if err != nil {
		return false, err
	}
	if hashed == readmodels.Erased {
		return false, nil
	}
	right, err := h.verifyPassword(ctx, password, hashed)
	return right && u.Exists(), err
}

// Refresh takes a refresh token for a new access token and a successor. Any
// number of refreshes with the same token at the same moment succeed; a token
// whose successor was used ends the family: domain.Unauthorized REFRESH_REUSED.
func (h *Handler) Refresh(ctx context.Context, token string) (Tokens, Receipt, error) {
	invalid := domain.Fail(domain.Unauthorized, "REFRESH_INVALID", "The refresh token is not valid; sign in again.")
	id, ok := sessionOfRefreshToken(token)
	if !ok {
		return Tokens{}, Receipt{}, invalid
	}
	s, _, err := Load[session.Session](ctx, h, domain.StreamName(session.Category, id))
	if err != nil {
		return Tokens{}, Receipt{}, err
	}
	if _, issued := s.Tokens[tokenHash(token)]; !issued {
		return Tokens{}, Receipt{}, invalid
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, s.UserID))
	if err != nil {
		return Tokens{}, Receipt{}, err
	}
	ctx = WithActor(unnamed(ctx), domain.Actor{Kind: domain.ActorUser, ID: s.UserID, Role: u.Role})
	if err := h.endWithUser(ctx, s, u); err != nil {
		return Tokens{}, Receipt{}, err
	}
	successor := newRefreshToken(id)
	receipt, err := h.rotate(ctx, session.Refresh{SessionID: id, Presented: tokenHash(token), Successor: tokenHash(successor)})
	if err != nil {
		return Tokens{}, Receipt{}, err
	}
	for _, event := range receipt.Events {
		if _, revoked := event.(session.Revoked); revoked {
			return Tokens{}, receipt, session.ErrReused()
		}
	}
	tokens, err := h.tokens(s.UserID, id, successor)
	return tokens, receipt, err
}

// endWithUser ends a session that its user's present state no longer allows.
func (h *Handler) endWithUser(ctx context.Context, s session.Session, u user.User) error {
	reason, failure := session.ReasonPassword, errSessionEnded()
	switch {
	case !u.Active:
		reason, failure = session.ReasonDeactivated, errInactive()
	case u.Epoch == s.Epoch:
		return nil
	}
	if s.Alive(h.Now()) == nil {
		if _, err := Execute(ctx, h, session.Revoke{SessionID: s.ID, Reason: reason}); err != nil {
			return err
		}
	}
	return failure
}

// rotate executes a refresh, and again for as long as others are faster: each
// round at least one of them is done.
func (h *Handler) rotate(ctx context.Context, refresh session.Refresh) (Receipt, error) {
	for {
		receipt, err := Execute(ctx, h, refresh)
		if code(err) != "CONCURRENT_UPDATE" || ctx.Err() != nil {
			return receipt, err
		}
	}
}

// Logout ends the session of a refresh token or, without one, the session the
// caller is signed in by. A token nobody issued and a session that has ended
// already are no error.
func (h *Handler) Logout(ctx context.Context, refreshToken, sessionID string) (Receipt, error) {
	ctx = unnamed(ctx)
	if refreshToken != "" {
		id, ok := sessionOfRefreshToken(refreshToken)
		if !ok {
			return Receipt{Unchanged: true}, nil
		}
		s, _, err := Load[session.Session](ctx, h, domain.StreamName(session.Category, id))
		if err != nil {
			return Receipt{}, err
		}
		if _, issued := s.Tokens[tokenHash(refreshToken)]; !issued {
			return Receipt{Unchanged: true}, nil
		}
		// Whoever has the token may end what it is good for.
		ctx = WithActor(ctx, domain.Actor{Kind: domain.ActorUser, ID: s.UserID})
		sessionID = id
	}
	if sessionID == "" {
		return Receipt{Unchanged: true}, nil
	}
	return Execute(ctx, h, session.Revoke{SessionID: sessionID, Reason: session.ReasonLogout})
}

// Me returns the account of whoever asks, also with an API key that is
// restricted to other things.
func (h *Handler) Me(ctx context.Context) (readmodels.User, error) {
	actor := ActorFrom(ctx)
	actor.Scopes = nil
	if err := actor.Authorize(domain.Need{Permission: "auth:self"}); err != nil {
		return readmodels.User{}, err
	}
	seen, err := h.Views.UserByID(ctx, actor.ID)
	if domain.KindOf(err) != domain.NotFound {
		return seen, err
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, actor.ID))
	if err != nil {
		return readmodels.User{}, err
	}
	if !u.Exists() {
		return readmodels.User{}, domain.Missing()
	}
	made, _ := timeOf(u.ID)
	return h.account(ctx, u, made)
}

// account is a user as the API answers it, without the read model.
func (h *Handler) account(ctx context.Context, u user.User, at time.Time) (readmodels.User, error) {
	email, err := h.open(ctx, u.ID, u.EmailSealed)
	if err != nil {
		return readmodels.User{}, err
	}
	name, err := h.open(ctx, u.ID, u.NameSealed)
	if err != nil {
		return readmodels.User{}, err
	}
	return readmodels.User{
		ID: u.ID, Email: email, Name: name, Role: u.Role, IsActive: u.Active, IsSuperuser: u.Role == domain.Owner, IsVerified: true,
		CreatedAt: at, UpdatedAt: at,
	}, nil
}

// ChangePassword replaces the actor's own password and ends all its sessions.
func (h *Handler) ChangePassword(ctx context.Context, current, next string) (Receipt, error) {
	actor := ActorFrom(ctx)
	if err := actor.Authorize(domain.Need{Permission: "users:write", Self: actor.ID}); err != nil {
		return Receipt{}, err
	}
	if err := user.CheckPassword("newPassword", next); err != nil {
		return Receipt{}, err
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, actor.ID))
	if err != nil {
		return Receipt{}, err
	}
	right, err := h.passwordOf(ctx, u, current)
	if err != nil {
		return Receipt{}, err
	}
	if !right {
		return Receipt{}, domain.InvalidFields([]domain.Field{{Field: "currentPassword", Message: "is not your present password"}})
	}
	return h.setPassword(ctx, u.ID, u.PasswordSealed, next)
}

// ResetPassword gives a user a new password on behalf of an administrator and
// ends all its sessions.
func (h *Handler) ResetPassword(ctx context.Context, userID, next string) (Receipt, error) {
	if err := user.CheckPassword("password", next); err != nil {
		return Receipt{}, err
	}
	if err := permit(ctx, h, user.ChangePassword{UserID: userID}); err != nil {
		return Receipt{}, err
	}
	return h.setPassword(ctx, userID, "", next)
}

func (h *Handler) setPassword(ctx context.Context, userID, verified, next string) (Receipt, error) {
	hashed, err := h.hashPassword(ctx, next)
	if err != nil {
		return Receipt{}, err
	}
	sealed, err := h.seal(ctx, userID, hashed)
	if err != nil {
		return Receipt{}, err
	}
	return Execute(ctx, h, user.ChangePassword{UserID: userID, Verified: verified, PasswordSealed: sealed})
}

// Rename changes a display name, one's own or, for administrators, anybody's.
func (h *Handler) Rename(ctx context.Context, userID, name string) (Receipt, error) {
	if err := user.CheckName(name); err != nil {
		return Receipt{}, err
	}
	if err := permit(ctx, h, user.Rename{UserID: userID}); err != nil {
		return Receipt{}, err
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, userID))
	if err != nil {
		return Receipt{}, err
	}
	rename := user.Rename{UserID: userID, NameSealed: u.NameSealed}
	if present, err := h.open(ctx, userID, u.NameSealed); err != nil {
		return Receipt{}, err
	} else if present != name {
		if rename.NameSealed, err = h.seal(ctx, userID, name); err != nil {
			return Receipt{}, err
		}
	}
	return Execute(ctx, h, rename)
}

// ChangeRole gives a user another system role.
func (h *Handler) ChangeRole(ctx context.Context, userID string, role domain.Role) (Receipt, error) {
	return Execute(ctx, h, user.ChangeRole{UserID: userID, Role: role, By: ActorFrom(ctx).ID})
}

// Deactivate locks a user out at once; Reactivate lets it in again.
func (h *Handler) Deactivate(ctx context.Context, userID string) (Receipt, error) {
	return Execute(ctx, h, user.Deactivate{UserID: userID, By: ActorFrom(ctx).ID})
}

// Reactivate lets a deactivated user in again. Its old sessions stay over.
func (h *Handler) Reactivate(ctx context.Context, userID string) (Receipt, error) {
	return Execute(ctx, h, user.Reactivate{UserID: userID})
}

// permit decides whether the actor may run a command and its stream exists,
// before anything is sealed under the key of a name that may be nobody's.
func permit[S interface {
	State[S]
	Exists() bool
}](ctx context.Context, h *Handler, cmd Command[S]) error {
	state, _, err := Load[S](ctx, h, cmd.Stream())
	if err != nil {
		return fmt.Errorf("check permission: %w", err)
	}
	err = ActorFrom(ctx).Authorize(cmd.Needs(state))
	if err == nil && !state.Exists() {
		return domain.Missing()
	}
	return err
}
