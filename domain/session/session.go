// Package session is the stream category of logins. A session is one family
// of refresh tokens.
//
// Tokens rotate: each acceptance issues a successor. A client may keep sending
// the token it presented first, as long as none of its successors was used:
// then both client and server agree that no successor arrived. Once a
// successor was used, the token (and its other successors) can only come from
// a second party, and the family ends.
package session

import (
	"fmt"
	"maps"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Session is the fold of one family.
type Session struct {
	ID        string
	UserID    string
	Epoch     int // of the user when the family began
	ExpiresAt time.Time
	Revoked   string // the reason; "" while it lives

	// Latest is the token that was used last, "" before the first use, and
	// Tokens every token ever issued: true for those that may become the
	// latest, the present successors of Latest.
	Latest string
	Tokens map[string]bool
}

// Evolve returns the state after an event.
func (s Session) Evolve(event domain.Event) Session {
	switch e := event.(type) {
	case Started:
		s.ID, s.UserID, s.Epoch, s.ExpiresAt = e.SessionID, e.UserID, e.Epoch, e.ExpiresAt
		s.Tokens = map[string]bool{e.TokenHash: true}
	case Refreshed:
		tokens := make(map[string]bool, len(s.Tokens)+1)
		maps.Copy(tokens, s.Tokens)
		if e.Presented != s.Latest {
			for hash := range tokens {
				tokens[hash] = false
			}
			s.Latest = e.Presented
		}
		tokens[e.Successor] = true
		s.Tokens = tokens
	case Revoked:
		s.Revoked = e.Reason
	default:
		panic(fmt.Sprintf("session: no rule for %T", event))
	}
	return s
}

// Alive returns nil, or why the session no longer counts at a time.
func (s Session) Alive(now time.Time) error {
	switch {
	case s.ID == "":
		return domain.Fail(domain.Unauthorized, "SESSION_UNKNOWN", "Sign in again.")
	case s.Revoked == ReasonReuse:
		return ErrReused()
	case s.Revoked != "":
		return domain.Fail(domain.Unauthorized, "SESSION_ENDED", "The session has ended; sign in again.")
	case !now.Before(s.ExpiresAt):
		return domain.Fail(domain.Unauthorized, "SESSION_EXPIRED", "The session has expired; sign in again.")
	default:
		return nil
	}
}

// The reasons a family is revoked for.
const (
	ReasonLogout      = "logout"
	ReasonReuse       = "reuse"
	ReasonPassword    = "password_changed"
	ReasonDeactivated = "deactivated"
)

// ErrReused is the answer to whoever presents a token of a family that was
// revoked because of reuse.
func ErrReused() error {
	return domain.Fail(domain.Unauthorized, "REFRESH_REUSED", "The refresh token was used already; sign in again.")
}

// Start begins a family.
type Start struct {
	SessionID string
	UserID    string
	Epoch     int
	TokenHash string
	TTL       time.Duration // absolute life of the family
}

func (c Start) Stream() string            { return domain.StreamName(Category, c.SessionID) }
func (c Start) Needs(Session) domain.Need { return domain.Need{Permission: "auth:public"} }
func (c Start) CreatesStream()            {}

func (c Start) Decide(s Session, now time.Time) ([]domain.Event, error) {
	if s.ID != "" {
		return nil, domain.Fail(domain.Conflict, "SESSION_EXISTS", "The session exists already.")
	}
	return []domain.Event{Started{
		SessionID: c.SessionID, UserID: c.UserID, TokenHash: c.TokenHash, ExpiresAt: now.Add(c.TTL), Epoch: c.Epoch,
	}}, nil
}

// Refresh presents a token and asks for a successor. A reuse is decided as the
// event Revoked, so that it is stored: the caller looks at the events.
type Refresh struct {
	SessionID string
	Presented string // hash
	Successor string // hash
}

func (c Refresh) Stream() string            { return domain.StreamName(Category, c.SessionID) }
func (c Refresh) Needs(Session) domain.Need { return domain.Need{Permission: "auth:public"} }

func (c Refresh) Decide(s Session, now time.Time) ([]domain.Event, error) {
	current, issued := s.Tokens[c.Presented]
	if !issued {
		// Not a token of this family: no reason to end it.
		return nil, domain.Fail(domain.Unauthorized, "REFRESH_INVALID", "The refresh token is not valid; sign in again.")
	}
	if err := s.Alive(now); err != nil {
		return nil, err
	}
	if !current && c.Presented != s.Latest {
		return []domain.Event{Revoked{Reason: ReasonReuse}}, nil
	}
	return []domain.Event{Refreshed{Presented: c.Presented, Successor: c.Successor}}, nil
}

// Revoke ends the family. A family that has ended stays as it is.
type Revoke struct {
	SessionID string
	Reason    string
}

func (c Revoke) Stream() string { return domain.StreamName(Category, c.SessionID) }

func (c Revoke) Needs(s Session) domain.Need {
	return domain.Need{Permission: "users:write", Self: s.UserID}
}

func (c Revoke) Decide(s Session, _ time.Time) ([]domain.Event, error) {
	switch {
	case s.ID == "":
		return nil, domain.Missing()
	case s.Revoked != "":
		return nil, nil
	default:
		return []domain.Event{Revoked{Reason: c.Reason}}, nil
	}
}
