package apikey_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/domaintest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestCreate(t *testing.T) {
	t.Parallel()
	later := now.Add(time.Hour)
	none := domaintest.Given[apikey.APIKey](t)
	create := apikey.Create{KeyID: "k1", UserID: "anna", Name: " ci ", Prefix: "sk_ab", Digest: "d",
		Scopes: []domain.Permission{"runs:read", "runs:write"}, ExpiresAt: &later}
	created := apikey.Created{KeyID: "k1", UserID: "anna", Name: "ci", Prefix: "sk_ab", Digest: "d",
		Scopes: []domain.Permission{"runs:read", "runs:write"}, ExpiresAt: &later}
	none.When(create, now).Then(created)
	none.When(create, later).ThenInvalid("expiresAt")
	domaintest.Given[apikey.APIKey](t, created).When(create, now).ThenError(domain.Conflict, "API_KEY_EXISTS")

	create.Name, create.Scopes = "", []domain.Permission{"runs:read", "runs:read", "runs:fly"}
	none.When(create, now).ThenInvalid("name", "scopes[1]", "scopes[2]")
	create.Name, create.Scopes = "x", []domain.Permission{}
	none.When(create, now).ThenInvalid("scopes")
	none.When(apikey.Create{KeyID: "k1", UserID: "anna", Name: "x", Default: true}, now).
		Then(apikey.Created{KeyID: "k1", UserID: "anna", Name: "x", Default: true})
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	created := apikey.Created{KeyID: "k1", UserID: "anna", Name: "ci"}
	revoke := apikey.Revoke{KeyID: "k1", Reason: apikey.ReasonDeleted}
	domaintest.Given[apikey.APIKey](t, created).When(revoke, now).Then(apikey.Revoked{Reason: "deleted"})
	domaintest.Given[apikey.APIKey](t).When(revoke, now).ThenError(domain.NotFound, "NOT_FOUND")
	domaintest.Given[apikey.APIKey](t, created, apikey.Revoked{Reason: "replaced"}).When(revoke, now).ThenError(domain.NotFound, "NOT_FOUND")

	key := domaintest.Fold[apikey.APIKey](t, created)
	viewer := domain.Actor{Kind: domain.ActorUser, ID: "anna", Role: domain.Viewer}
	require.NoError(t, viewer.Authorize(revoke.Needs(key)))
	viewer.ID = "ben"
	require.Equal(t, domain.Forbidden, domain.KindOf(viewer.Authorize(revoke.Needs(key))))
}
