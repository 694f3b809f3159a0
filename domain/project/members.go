package project

import (
	"time"

	"github.com/sparkops/control-plane/domain"
)

// checkRole accepts the ranked roles: the others are of the system only.
func checkRole(role domain.Role) error {
	var b domain.Broken
	if role.Level() == 0 {
		b.Add("role", "must be one of %s, %s, %s, %s", domain.Owner, domain.Admin, domain.Developer, domain.Viewer)
	}
	return b.Err()
}

// membersNeed is what changing a member needs: only an owner makes, changes or
// removes an owner.
func membersNeed(p Project, user string, role domain.Role) domain.Need {
	if role == domain.Owner || p.Members[user] == domain.Owner {
		return domain.NeedIn("projects:own", p.ID, p.Exists())
	}
	return domain.NeedIn("projects:admin", p.ID, p.Exists())
}

func errLastOwner() error {
	return domain.Fail(domain.Conflict, "LAST_OWNER", "A project needs an owner; make somebody else owner first.")
}

// AddMember lets a user into the project.
type AddMember struct {
	ProjectID string
	UserID    string
	Role      domain.Role
}

func (c AddMember) Stream() string              { return domain.StreamName(Category, c.ProjectID) }
func (c AddMember) Needs(p Project) domain.Need { return membersNeed(p, c.UserID, c.Role) }

func (c AddMember) Decide(p Project, _ time.Time) ([]domain.Event, error) {
	if !p.Exists() {
		return nil, domain.Missing()
	}
	if err := checkRole(c.Role); err != nil {
		return nil, err
	}
	switch present, member := p.Members[c.UserID]; {
	case member && present == c.Role:
		return nil, nil
	case member:
		return nil, domain.Fail(domain.Conflict, "ALREADY_MEMBER", "The user is a member already, with another role.")
	default:
		return []domain.Event{MemberAdded{UserID: c.UserID, Role: c.Role}}, nil
	}
}

// ChangeMember gives a member another role.
type ChangeMember struct {
	ProjectID string
	UserID    string
	Role      domain.Role
}

func (c ChangeMember) Stream() string              { return domain.StreamName(Category, c.ProjectID) }
func (c ChangeMember) Needs(p Project) domain.Need { return membersNeed(p, c.UserID, c.Role) }

func (c ChangeMember) Decide(p Project, _ time.Time) ([]domain.Event, error) {
	present, member := p.Members[c.UserID]
	if !p.Exists() || !member {
		return nil, domain.Missing()
	}
	if err := checkRole(c.Role); err != nil {
		return nil, err
	}
	switch {
	case present == c.Role:
		return nil, nil
	case p.lastOwner(c.UserID):
		return nil, errLastOwner()
	default:
		return []domain.Event{MemberRoleChanged{UserID: c.UserID, Role: c.Role}}, nil
	}
}

// RemoveMember takes a user out of the project. Members may leave by
// themselves; the last owner cannot.
type RemoveMember struct {
	ProjectID string
	UserID    string
}

func (c RemoveMember) Stream() string { return domain.StreamName(Category, c.ProjectID) }

func (c RemoveMember) Needs(p Project) domain.Need {
	need := membersNeed(p, c.UserID, "")
	need.Self = c.UserID
	return need
}

func (c RemoveMember) Decide(p Project, _ time.Time) ([]domain.Event, error) {
	_, member := p.Members[c.UserID]
	switch {
	case !p.Exists() || !member:
		return nil, domain.Missing()
	case p.lastOwner(c.UserID):
		return nil, errLastOwner()
	default:
		return []domain.Event{MemberRemoved{UserID: c.UserID}}, nil
	}
}
