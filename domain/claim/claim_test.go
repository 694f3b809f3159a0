package claim_test

import (
	"testing"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/domaintest"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	take := claim.Take{Category: claim.EmailCategory, Key: "k", Holder: "anna"}
	free := domaintest.Given[claim.Claim](t)
	held := domaintest.Given[claim.Claim](t, claim.Taken{Holder: "anna"})
	other := domaintest.Given[claim.Claim](t, claim.Taken{Holder: "ben"})
	freed := domaintest.Given[claim.Claim](t, claim.Taken{Holder: "ben"}, claim.Released{Holder: "ben"})

	free.When(take, now).Then(claim.Taken{Holder: "anna"})
	freed.When(take, now).Then(claim.Taken{Holder: "anna"})
	held.When(take, now).Then()
	other.When(take, now).ThenError(domain.Conflict, "CLAIM_TAKEN")
	take.Instead = "ben"
	other.When(take, now).Then(claim.Released{Holder: "ben"}, claim.Taken{Holder: "anna"})
	take.Instead = "cleo"
	other.When(take, now).ThenError(domain.Conflict, "CLAIM_TAKEN")
}
