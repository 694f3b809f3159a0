package readmodels

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/project"
)

// Project is a project as the API answers it.
type Project struct {
	ProjectRecord
	project.Spec
}

// ProjectRecord is what a project has besides its definition.
type ProjectRecord struct {
	ID          string    `db:"id" json:"id"`
	Slug        string    `db:"slug" json:"slug"`
	OwnerUserID string    `db:"owner_user_id" json:"ownerUserId"`
	CreatedAt   time.Time `db:"created_at" json:"createdAt"`
	UpdatedAt   time.Time `db:"updated_at" json:"updatedAt"`
	Revision    int64     `db:"revision" json:"-"`
}

type projectRow struct {
	ProjectRecord
	Spec project.Spec `db:"spec"`
}

func (r projectRow) view() Project {
	r.Spec.Settings, r.Spec.Metadata = object(r.Spec.Settings), object(r.Spec.Metadata)
	return Project{r.ProjectRecord, r.Spec}
}

const projectColumns = `p.id, p.slug, p.owner_user_id, p.created_at, p.updated_at, p.revision, p.spec`

// ProjectFilter restricts a list of projects; empty fields do not.
type ProjectFilter struct {
	Status string
	Search string // part of the name, without case
}

var projectList = list[projectRow]{
	columns: projectColumns, from: "projects p", at: "p.created_at", id: "p.id",
	key: func(r projectRow) cursor { return cursor{r.CreatedAt, r.ID} },
}

// Projects lists projects, newest first.
func (v *Views) Projects(ctx context.Context, visible Visible, f ProjectFilter, p Page) (Result[Project], error) {
	var c conditions
	c.visible("p.id", visible)
	c.equal("p.status", f.Status)
	c.contains("p.name", f.Search)
	found, err := projectList.run(ctx, v.pool, c, p)
	return convert(found, projectRow.view), err
}

// Project returns one project.
func (v *Views) Project(ctx context.Context, visible Visible, id string) (Project, error) {
	var c conditions
	c.add("p.id = ?", id)
	c.visible("p.id", visible)
	r, err := row[projectRow](ctx, v.pool, "select "+projectColumns+" from projects p"+c.where(), c.args...)
	return r.view(), err
}

// Member is one member of a project.
type Member struct {
	ProjectID   string      `db:"project_id" json:"projectId"`
	UserID      string      `db:"user_id" json:"userId"`
	Email       string      `db:"-" json:"email"`
	Name        string      `db:"-" json:"name"`
	Role        domain.Role `db:"role" json:"role"`
	AddedAt     time.Time   `db:"added_at" json:"addedAt"`
	EmailSealed *string     `db:"email_sealed" json:"-"` // null while the account is not projected
	NameSealed  *string     `db:"name_sealed" json:"-"`
}

const members = `select m.project_id, m.user_id, m.role, m.added_at, u.email_sealed, u.name_sealed
from members m left join users u on u.id = m.user_id`

// Members returns the members of a project, in the order they were added;
// domain.NotFound when the project is none the caller sees.
func (v *Views) Members(ctx context.Context, visible Visible, projectID string) ([]Member, error) {
	if _, err := v.Project(ctx, visible, projectID); err != nil {
		return nil, err
	}
	found, err := rows[Member](ctx, v.pool, members+` where m.project_id = $1 order by m.added_at, m.user_id`, projectID)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if err := v.openMember(ctx, &found[i]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Member returns one member of a project.
func (v *Views) Member(ctx context.Context, visible Visible, projectID, userID string) (Member, error) {
	var c conditions
	c.add("m.project_id = ? and m.user_id = ?", projectID, userID)
	c.visible("m.project_id", visible)
	m, err := row[Member](ctx, v.pool, members+c.where(), c.args...)
	if err != nil {
		return Member{}, err
	}
	return m, v.openMember(ctx, &m)
}

func (v *Views) openMember(ctx context.Context, m *Member) (err error) {
	m.Email, m.Name = Erased, Erased
	if m.EmailSealed == nil || m.NameSealed == nil {
		return nil
	}
	if m.Email, err = v.unseal(ctx, m.UserID, *m.EmailSealed); err != nil {
		return err
	}
	m.Name, err = v.unseal(ctx, m.UserID, *m.NameSealed)
	return err
}

// contains adds a search for part of a text, without case, unless it is empty.
func (c *conditions) contains(column, part string) {
	if part != "" {
		escaped := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(part)
		c.add(column+" ilike ?", "%"+escaped+"%")
	}
}

// object returns {} where a free-form object is absent.
func object(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return json.RawMessage("{}")
	}
	return raw
}
