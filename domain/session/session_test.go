package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/session"
)

var (
	now     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	started = session.Started{SessionID: "s", UserID: "anna", TokenHash: "t0", ExpiresAt: now.Add(7 * 24 * time.Hour), Epoch: 1}
)

func refresh(presented, successor string) session.Refresh {
	return session.Refresh{SessionID: "s", Presented: presented, Successor: successor}
}

func refreshed(presented, successor string) session.Refreshed {
	return session.Refreshed{Presented: presented, Successor: successor}
}

func TestStart(t *testing.T) {
	t.Parallel()
	start := session.Start{SessionID: "s", UserID: "anna", Epoch: 1, TokenHash: "t0", TTL: 7 * 24 * time.Hour}
	domaintest.Given[session.Session](t).When(start, now).Then(started)
	domaintest.Given[session.Session](t, started).When(start, now).ThenError(domain.Conflict, "SESSION_EXISTS")
}

func TestTheFrontendKeepsItsFirstToken(t *testing.T) {
	t.Parallel()
	domaintest.Given[session.Session](t, started, refreshed("t0", "t1"), refreshed("t0", "t2"), refreshed("t0", "t3")).
		When(refresh("t0", "t4"), now).Then(refreshed("t0", "t4"))
}

func TestAnUsedSuccessorEndsItsPredecessorAndSiblings(t *testing.T) {
	t.Parallel()
	given := domaintest.Given[session.Session](t, started, refreshed("t0", "t1"), refreshed("t0", "t2"), refreshed("t1", "t3"))
	for _, stale := range []string{"t0", "t2"} {
		given.When(refresh(stale, "t4"), now).Then(session.Revoked{Reason: session.ReasonReuse})
	}
	given.When(refresh("t1", "t4"), now).Then(refreshed("t1", "t4"))
	given.When(refresh("t3", "t4"), now).Then(refreshed("t3", "t4"))
	given.When(refresh("never", "t4"), now).ThenError(domain.Unauthorized, "REFRESH_INVALID")
}

func TestTheEndOfAFamily(t *testing.T) {
	t.Parallel()
	live := domaintest.Given[session.Session](t, started)
	live.When(refresh("t0", "t1"), started.ExpiresAt.Add(-1)).Then(refreshed("t0", "t1"))
	live.When(refresh("t0", "t1"), started.ExpiresAt).ThenError(domain.Unauthorized, "SESSION_EXPIRED")
	live.When(session.Revoke{SessionID: "s", Reason: session.ReasonLogout}, now).Then(session.Revoked{Reason: "logout"})
	for reason, code := range map[string]string{
		session.ReasonReuse: "REFRESH_REUSED", session.ReasonLogout: "SESSION_ENDED", session.ReasonPassword: "SESSION_ENDED",
	} {
		ended := domaintest.Given[session.Session](t, started, session.Revoked{Reason: reason})
		ended.When(refresh("t0", "t1"), now).ThenError(domain.Unauthorized, code)
		ended.When(refresh("never", "t1"), now).ThenError(domain.Unauthorized, "REFRESH_INVALID")
		ended.When(session.Revoke{SessionID: "s", Reason: session.ReasonLogout}, now).Then()
	}
	none := domaintest.Given[session.Session](t)
	none.When(refresh("t0", "t1"), now).ThenError(domain.Unauthorized, "REFRESH_INVALID")
	none.When(session.Revoke{SessionID: "s"}, now).ThenError(domain.NotFound, "NOT_FOUND")
	require.Equal(t, domain.Unauthorized, domain.KindOf(session.Session{}.Alive(now)))
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	s := domaintest.Fold[session.Session](t, started)
	need := session.Revoke{SessionID: "s"}.Needs(s)
	require.NoError(t, domain.Actor{Kind: domain.ActorUser, ID: "anna", Role: domain.Viewer}.Authorize(need))
	require.Error(t, domain.Actor{Kind: domain.ActorUser, ID: "ben", Role: domain.Viewer}.Authorize(need))
}

// TestFamilyProperty compares the decider with decision 14 of the contract
// written down literally over the whole tree of tokens.
func TestFamilyProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parent := map[string]string{"t0": ""}
		used := map[string]bool{}
		state := session.Session{}.Evolve(started)
		revoked, issued := false, 1
		for range rapid.IntRange(1, 40).Draw(t, "presentations") {
			token := fmt.Sprintf("t%d", rapid.IntRange(0, issued-1).Draw(t, "token"))
			acceptable := !revoked
			for other, from := range parent {
				usedSuccessor := from == token && used[other]
				usedSibling := other != token && token != "t0" && from == parent[token] && used[other]
				if usedSuccessor || usedSibling {
					acceptable = false
				}
			}
			successor := fmt.Sprintf("t%d", issued)
			events, err := refresh(token, successor).Decide(state, now)
			switch {
			case revoked:
				require.Equal(t, domain.Unauthorized, domain.KindOf(err))
				require.Empty(t, events)
			case acceptable:
				require.NoError(t, err)
				require.Equal(t, []domain.Event{refreshed(token, successor)}, events)
				parent[successor], used[token] = token, true
				issued++
			default:
				require.NoError(t, err)
				require.Equal(t, []domain.Event{session.Revoked{Reason: session.ReasonReuse}}, events)
				revoked = true
			}
			for _, event := range events {
				state = state.Evolve(event)
			}
		}
	})
}
