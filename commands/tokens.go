package commands

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

// Access tokens are JWTs signed with HS256 and nothing else. They name a user
// and a session and no right: what the user may do is looked up at each use.
const (
	tokenIssuer   = "sparkops"
	tokenAudience = "sparkops-api"
	tokenType     = "at+jwt"
	tokenLeeway   = 30 * time.Second
)

// claims of an access token.
type claims struct {
	jwt.RegisteredClaims
	Session string `json:"sid"`
}

// signingKey is one secret of the rotation; ID is what tokens carry as kid.
type signingKey struct {
	id     string
	secret []byte
}

func signingKeys(secrets ...[]byte) []signingKey {
	var keys []signingKey
	for _, secret := range secrets {
		if len(secret) > 0 {
			sum := sha256.Sum256(append([]byte("sparkops kid v1:"), secret...))
			keys = append(keys, signingKey{id: hex.EncodeToString(sum[:8]), secret: secret})
		}
	}
	return keys
}

// accessToken signs a token for a session.
func (h *Handler) accessToken(userID, sessionID string, now time.Time) (string, error) {
	if len(h.Secrets.JWT) == 0 {
		return "", errors.New("sign access token: no secret is configured")
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: tokenIssuer, Audience: jwt.ClaimStrings{tokenAudience}, Subject: userID,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(h.Secrets.AccessTTL)),
		},
		Session: sessionID,
	})
	token.Header["typ"] = tokenType
	token.Header["kid"] = h.keys.signing[0].id
	signed, err := token.SignedString(h.Secrets.JWT)
	if err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	return signed, nil
}

func (h *Handler) parseAccessToken(token string) (claims, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(tokenIssuer), jwt.WithAudience(tokenAudience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding(), jwt.WithTimeFunc(h.Now),
	)
	var c claims
	_, err := parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		for _, key := range h.keys.signing {
			if t.Header["kid"] == key.id && t.Header["typ"] == tokenType {
				return key.secret, nil
			}
		}
		return nil, errors.New("no such key")
	})
	switch {
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return claims{}, domain.Fail(domain.Unauthorized, "TOKEN_EXPIRED", "The access token has expired; refresh it or sign in again.")
	case err != nil || c.Subject == "" || c.Session == "":
		return claims{}, domain.Fail(domain.Unauthorized, "TOKEN_INVALID", "The access token is not valid; sign in again.")
	}
	return c, nil
}

// Identity is who a credential belongs to.
type Identity struct {
	Actor     domain.Actor
	SessionID string // "" for an API key
}

// AuthenticateBearer returns who an access token belongs to, as of now: its
// role, memberships, and whether user and session still count. A read model
// that has not heard of a new user or session yet is made up for from the
// event store. domain.Unauthorized where the token does not count.
func (h *Handler) AuthenticateBearer(ctx context.Context, token string) (Identity, error) {
	c, err := h.parseAccessToken(token)
	if err != nil {
		return Identity{}, err
	}
	u, err := h.standing(ctx, c.Subject, c.Session)
	if err != nil {
		return Identity{}, err
	}
	if err := h.sessionCounts(ctx, c.Session, u); err != nil {
		return Identity{}, err
	}
	return Identity{
		Actor:     domain.Actor{Kind: domain.ActorUser, ID: u.UserID, Role: u.Role, Projects: u.Projects},
		SessionID: c.Session,
	}, nil
}

// AuthenticateAPIKey returns who an API key belongs to, as of now.
// domain.Unauthorized where the key does not count.
func (h *Handler) AuthenticateAPIKey(ctx context.Context, key string) (Identity, error) {
	invalid := domain.Fail(domain.Unauthorized, "API_KEY_INVALID", "The API key is not valid.")
	if checkAPIKey(key) != nil || len(h.Secrets.APIKey) == 0 {
		return Identity{}, invalid
	}
	k, err := h.Views.APIKeyByDigest(ctx, h.apiKeyDigest(key))
	switch {
	case domain.KindOf(err) == domain.NotFound:
		return Identity{}, invalid
	case err != nil:
		return Identity{}, fmt.Errorf("find API key: %w", err)
	case k.RevokedAt != nil:
		return Identity{}, invalid
	case k.ExpiresAt != nil && !h.Now().Before(*k.ExpiresAt):
		return Identity{}, domain.Fail(domain.Unauthorized, "API_KEY_EXPIRED", "The API key has expired.")
	}
	u, err := h.standing(ctx, k.UserID, "")
	if err != nil {
		return Identity{}, err
	}
	return Identity{Actor: domain.Actor{
		Kind: domain.ActorAPIKey, ID: u.UserID, KeyID: k.ID, Role: u.Role, Projects: u.Projects, Scopes: k.Scopes,
	}}, nil
}

// standing returns what is known of an active user.
func (h *Handler) standing(ctx context.Context, userID, sessionID string) (readmodels.Standing, error) {
	known, err := h.Views.Standing(ctx, userID, sessionID)
	switch {
	case err == nil && !known.IsActive:
		return known, errInactive()
	case err == nil:
		return known, nil
	case domain.KindOf(err) != domain.NotFound:
		return known, fmt.Errorf("load user: %w", err)
	}
	u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, userID))
	if err != nil {
		return known, err
	}
	if !u.Exists() {
		return known, domain.Fail(domain.Unauthorized, "TOKEN_INVALID", "The credential belongs to nobody; sign in again.")
	}
	if !u.Active {
		return known, errInactive()
	}
	projects, err := h.Views.MembershipsOf(ctx, userID)
	if err != nil {
		return known, fmt.Errorf("load memberships: %w", err)
	}
	return readmodels.Standing{UserID: u.ID, Role: u.Role, IsActive: true, SessionEpoch: u.Epoch, Projects: projects}, nil
}

// sessionCounts returns nil, or why a session of the user is over.
func (h *Handler) sessionCounts(ctx context.Context, sessionID string, u readmodels.Standing) error {
	if u.SessionUser != nil {
		if *u.SessionUser != u.UserID || u.SessionRevoked || *u.SessionBegan < u.SessionEpoch {
			return errSessionEnded()
		}
		return nil
	}
	stored, _, err := Load[session.Session](ctx, h, domain.StreamName(session.Category, sessionID))
	switch {
	case err != nil:
		return err
	case stored.UserID != u.UserID || stored.Epoch < u.SessionEpoch:
		return errSessionEnded()
	default:
		return stored.Alive(h.Now())
	}
}

func errSessionEnded() error {
	return domain.Fail(domain.Unauthorized, "SESSION_ENDED", "The session has ended; sign in again.")
}
