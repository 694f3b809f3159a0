package readmodels

import (
	"context"
	"time"

	"github.com/sparkops/control-plane/domain/tool"
)

// Tool is a tool as the API answers it, without its credentials.
type Tool struct {
	ToolRecord
	tool.Spec
}

// ToolRecord is what a tool has besides its definition.
type ToolRecord struct {
	ID         string    `db:"id" json:"id"`
	ProjectID  string    `db:"project_id" json:"projectId"`
	Version    int       `db:"version" json:"version"`
	CreatedAt  time.Time `db:"created_at" json:"createdAt"`
	UpdatedAt  time.Time `db:"updated_at" json:"updatedAt"`
	AuthSealed string    `db:"auth_sealed" json:"-"` // "" without credentials
	Revision   int64     `db:"revision" json:"-"`
}

type toolRow struct {
	ToolRecord
	Spec tool.Spec `db:"spec"`
}

func (r toolRow) view() Tool {
	r.Spec.Scopes, r.Spec.Config = nonNil(r.Spec.Scopes), object(r.Spec.Config)
	return Tool{r.ToolRecord, r.Spec}
}

const toolColumns = `t.id, t.project_id, t.version, t.created_at, t.updated_at, t.auth_sealed, t.revision, t.spec`

// ToolFilter restricts a list of tools; empty fields do not.
type ToolFilter struct {
	ProjectID string
	Kind      string
	AuthType  string
	Env       string
	Status    string
	Search    string // part of the name, without case
}

var toolList = list[toolRow]{
	columns: toolColumns, from: "tools t", at: "t.created_at", id: "t.id",
	key: func(r toolRow) cursor { return cursor{r.CreatedAt, r.ID} },
}

// Tools lists tools, newest first.
func (v *Views) Tools(ctx context.Context, visible Visible, f ToolFilter, p Page) (Result[Tool], error) {
	var c conditions
	c.visible("t.project_id", visible)
	c.equal("t.project_id", f.ProjectID)
	c.equal("t.kind", f.Kind)
	c.equal("t.auth_type", f.AuthType)
	c.equal("t.env", f.Env)
	c.equal("t.status", f.Status)
	c.contains("t.name", f.Search)
	found, err := toolList.run(ctx, v.pool, c, p)
	return convert(found, toolRow.view), err
}

// Tool returns one tool.
func (v *Views) Tool(ctx context.Context, visible Visible, id string) (Tool, error) {
	var c conditions
	c.add("t.id = ?", id)
	c.visible("t.project_id", visible)
	r, err := row[toolRow](ctx, v.pool, "select "+toolColumns+" from tools t"+c.where(), c.args...)
	return r.view(), err
}
