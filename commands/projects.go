package commands

import (
	"context"
	"encoding/hex"
	"strings"
	"unicode"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/user"
)

// CreateProject makes a project that the actor owns and returns its id.
func (h *Handler) CreateProject(ctx context.Context, p project.Patch) (string, Receipt, error) {
	actor := ActorFrom(ctx)
	create := project.Create{ProjectID: NewIDFor(ctx, "project"), OwnerUserID: actor.ID, Patch: p}
	// Nothing is reserved for a project that will not be.
	if err := actor.Authorize(create.Needs(project.Project{})); err != nil {
		return "", Receipt{}, err
	}
	spec := p.On(project.Default())
	if err := spec.Check(); err != nil {
		return "", Receipt{}, err
	}
	var err error
	if create.Slug, err = h.reserveSlug(ctx, spec.Name, create.ProjectID); err != nil {
		return "", Receipt{}, err
	}
	receipt, err := Execute(ctx, h, create)
	return create.ProjectID, receipt, err
}

// UpdateProject changes some fields.
func (h *Handler) UpdateProject(ctx context.Context, id string, p project.Patch) (Receipt, error) {
	return Execute(ctx, h, project.Update{ProjectID: id, Patch: p})
}

// DeleteProject takes a project out of lists. Its slug stays reserved, so that
// no link ever leads to another project.
func (h *Handler) DeleteProject(ctx context.Context, id string) (Receipt, error) {
	return Execute(ctx, h, project.Delete{ProjectID: id})
}

// Invitee names a user by id or by e-mail address.
type Invitee struct {
	UserID string `json:"userId,omitempty"`
	Email  string `json:"email,omitempty"`
}

// AddMember lets a user into a project and returns the user's id. A user
// nobody knows is domain.Invalid.
func (h *Handler) AddMember(ctx context.Context, projectID string, who Invitee, role domain.Role) (string, Receipt, error) {
	// Who may not add anybody learns nothing about who exists.
	if err := permit(ctx, h, project.AddMember{ProjectID: projectID, Role: role}); err != nil {
		return "", Receipt{}, err
	}
	field, id := "userId", who.UserID
	if id == "" && who.Email != "" {
		field = "email"
		held, _, err := Load[claim.Claim](ctx, h, domain.StreamName(claim.EmailCategory, h.EmailHash(who.Email)))
		if err != nil {
			return "", Receipt{}, err
		}
		id = held.Holder
	}
	known := false
	if id != "" {
		u, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, id))
		if err != nil {
			return "", Receipt{}, err
		}
		known = u.Exists()
	}
	if !known {
		return "", Receipt{}, domain.InvalidFields([]domain.Field{{Field: field, Message: "must name a registered user"}})
	}
	receipt, err := Execute(ctx, h, project.AddMember{ProjectID: projectID, UserID: id, Role: role})
	return id, receipt, err
}

// ChangeMember gives a member another role.
func (h *Handler) ChangeMember(ctx context.Context, projectID, userID string, role domain.Role) (Receipt, error) {
	return Execute(ctx, h, project.ChangeMember{ProjectID: projectID, UserID: userID, Role: role})
}

// RemoveMember takes a user out of a project.
func (h *Handler) RemoveMember(ctx context.Context, projectID, userID string) (Receipt, error) {
	return Execute(ctx, h, project.RemoveMember{ProjectID: projectID, UserID: userID})
}

// reserveSlug reserves a slug for a project: made of its name, with as much of
// a suffix as it takes to be the only one. The tries follow from name and id,
// so repeating it finds the slug it reserved before.
func (h *Handler) reserveSlug(ctx context.Context, name, projectID string) (string, error) {
	base, suffix := slugOf(name), hex.EncodeToString(mac(h.keys.slug, "suffix of "+projectID))
	for _, digits := range []int{0, 4, 8, 16, 32} {
		slug := base
		if digits > 0 {
			slug += "-" + suffix[:digits]
		}
		take := claim.Take{Category: claim.SlugCategory, Key: hex.EncodeToString(mac(h.keys.slug, slug)), Holder: projectID}
		switch holder, err := h.take(ctx, take); {
		case err != nil:
			return "", err
		case holder == projectID:
			return slug, nil
		}
	}
	return "", domain.Fail(domain.Conflict, "SLUG_TAKEN", "There are too many projects of this name; choose another.")
}

// slugOf makes the readable part of a slug: small Latin letters and digits,
// with single dashes between, at most 48 of them.
func slugOf(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	slug := strings.Join(words, "-")
	if len(slug) > 48 {
		slug = strings.TrimRight(slug[:48], "-")
	}
	if slug == "" {
		return "project"
	}
	return slug
}

// inProject decides whether the actor may make something in a project that
// must exist.
func (h *Handler) inProject(ctx context.Context, p domain.Permission, projectID string) error {
	if projectID == "" {
		return domain.InvalidFields([]domain.Field{{Field: "projectId", Message: "is required"}})
	}
	if err := ActorFrom(ctx).Authorize(domain.NeedIn(p, projectID, true)); err != nil {
		return err
	}
	present, _, err := Load[project.Project](ctx, h, domain.StreamName(project.Category, projectID))
	if err == nil && !present.Exists() {
		err = domain.Missing()
	}
	return err
}
