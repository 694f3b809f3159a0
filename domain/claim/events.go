package claim

import "github.com/sparkops/control-plane/domain"

// Categories of reservation streams. A claim is taken by appending to a stream
// that must not exist, so uniqueness holds under any concurrency. The stream's
// id is derived from a keyed hash of the value.
const (
	EmailCategory = "emailClaim" // one user per e-mail address
	SlugCategory  = "slugClaim"  // one project per slug
	OwnerCategory = "ownerClaim" // one first user per system
)

// Taken reserves a value for its holder (a user or project id).
type Taken struct {
	Holder string `json:"holder"`
}

// Released gives a value back; it can be taken again.
type Released struct {
	Holder string `json:"holder"`
}

func (Taken) EventType() string    { return "ClaimTaken" }
func (Released) EventType() string { return "ClaimReleased" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Taken](r)
	domain.Register[Released](r)
}
