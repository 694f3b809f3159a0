// Package claim is the stream categories of reservations. Whoever appends
// first to a reservation's stream holds the value, so uniqueness needs no lock
// and no look into a read model.
package claim

import (
	"fmt"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Claim is the fold of a reservation's stream.
type Claim struct {
	Holder string // "" while nobody holds it
}

// Evolve returns the state after an event.
func (c Claim) Evolve(event domain.Event) Claim {
	switch e := event.(type) {
	case Taken:
		c.Holder = e.Holder
	case Released:
		c.Holder = ""
	default:
		panic(fmt.Sprintf("claim: no rule for %T", event))
	}
	return c
}

// Take reserves a value. Category is one of the claim categories and Key the
// keyed hash of the value. Whoever holds it keeps it, but for a holder named in
// Instead, whose claim came to nothing.
type Take struct {
	Category string
	Key      string
	Holder   string
	Instead  string // a present holder to put out; "" for none
}

func (t Take) Stream() string { return domain.StreamName(t.Category, t.Key) }
func (t Take) CreatesStream() {}

// Needs nothing: use-cases that are open to everybody begin with a claim.
func (t Take) Needs(Claim) domain.Need { return domain.Need{Permission: "auth:public"} }

func (t Take) Decide(c Claim, _ time.Time) ([]domain.Event, error) {
	switch c.Holder {
	case t.Holder:
		return nil, nil
	case "":
		return []domain.Event{Taken{Holder: t.Holder}}, nil
	case t.Instead:
		return []domain.Event{Released{Holder: t.Instead}, Taken{Holder: t.Holder}}, nil
	default:
		return nil, domain.Fail(domain.Conflict, "CLAIM_TAKEN", "It is taken already.")
	}
}
