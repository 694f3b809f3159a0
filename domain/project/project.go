package project

import (
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Project is the fold of a project's stream.
type Project struct {
	ID      string
	Spec    Spec
	Members map[string]domain.Role // by user id
	Deleted bool
}

// Exists reports whether there is such a project, not deleted.
func (p Project) Exists() bool { return p.ID != "" && !p.Deleted }

// Evolve returns the state after an event.
func (p Project) Evolve(event domain.Event) Project {
	switch e := event.(type) {
	case Created:
		p.ID, p.Spec = e.ProjectID, e.Spec
		p.Members = map[string]domain.Role{e.OwnerUserID: domain.Owner}
	case Updated:
		p.Spec = e.Spec
	case Deleted:
		p.Deleted = true
	case MemberAdded:
		p.Members = withMember(p.Members, e.UserID, e.Role)
	case MemberRoleChanged:
		p.Members = withMember(p.Members, e.UserID, e.Role)
	case MemberRemoved:
		p.Members = maps.Clone(p.Members)
		delete(p.Members, e.UserID)
	default:
		panic(fmt.Sprintf("project: no rule for %T", event))
	}
	return p
}

func withMember(members map[string]domain.Role, user string, role domain.Role) map[string]domain.Role {
	next := make(map[string]domain.Role, len(members)+1)
	maps.Copy(next, members)
	next[user] = role
	return next
}

// lastOwner reports whether a member is the only owner.
func (p Project) lastOwner(user string) bool {
	if p.Members[user] != domain.Owner {
		return false
	}
	for other, role := range p.Members {
		if other != user && role == domain.Owner {
			return false
		}
	}
	return true
}

// Create starts a project under a slug that was reserved for it.
type Create struct {
	ProjectID   string
	OwnerUserID string
	Slug        string
	Patch       Patch
}

func (c Create) Stream() string { return domain.StreamName(Category, c.ProjectID) }

// Needs asks for a role in the system: there is no project yet.
func (c Create) Needs(Project) domain.Need { return domain.Need{Permission: "projects:write"} }
func (c Create) CreatesStream()            {}

func (c Create) Decide(p Project, _ time.Time) ([]domain.Event, error) {
	if p.ID != "" {
		return nil, domain.Fail(domain.Conflict, "PROJECT_EXISTS", "The project exists already.")
	}
	spec := c.Patch.On(Default())
	if err := spec.Check(); err != nil {
		return nil, err
	}
	return []domain.Event{Created{ProjectID: c.ProjectID, OwnerUserID: c.OwnerUserID, Slug: c.Slug, Spec: spec}}, nil
}

// Update changes some fields.
type Update struct {
	ProjectID string
	Patch     Patch
}

func (c Update) Stream() string { return domain.StreamName(Category, c.ProjectID) }

func (c Update) Needs(p Project) domain.Need {
	return domain.NeedIn("projects:write", p.ID, p.Exists())
}

func (c Update) Decide(p Project, _ time.Time) ([]domain.Event, error) {
	if !p.Exists() {
		return nil, domain.Missing()
	}
	spec := c.Patch.On(p.Spec)
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if reflect.DeepEqual(spec, p.Spec) {
		return nil, nil
	}
	return []domain.Event{Updated{Spec: spec}}, nil
}

// Delete takes the project and everything in it out of lists.
type Delete struct{ ProjectID string }

func (c Delete) Stream() string { return domain.StreamName(Category, c.ProjectID) }

func (c Delete) Needs(p Project) domain.Need {
	return domain.NeedIn("projects:admin", p.ID, p.Exists())
}

func (c Delete) Decide(p Project, _ time.Time) ([]domain.Event, error) {
	if !p.Exists() {
		return nil, domain.Missing()
	}
	return []domain.Event{Deleted{}}, nil
}
