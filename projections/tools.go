package projections

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/eventstore"
)

const (
	toolCreated = `insert into tools (id, project_id, version, name, kind, auth_type, env, status, auth_sealed, spec, created_at, updated_at, revision)
select $1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11
where not exists (select 1 from dead_tool_projects where project_id = $2)`
	toolUpdated = `update tools set version = $4, name = $5, kind = $6, auth_type = $7, env = $8, status = $9, auth_sealed = $10, spec = $11,
	updated_at = $2, revision = $3 where id = $1`
	toolDeleted = `delete from tools where id = $1`

	projectOfToolsDeleted = `with dead as (insert into dead_tool_projects (project_id) values ($1) on conflict do nothing)
delete from tools where project_id = $1`
)

func applyTool(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case tool.Created:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		s := e.Spec
		b.Queue(toolCreated, id, clean(e.ProjectID), clean(s.Name), clean(s.Kind), clean(s.AuthType), clean(s.Env), clean(s.Status), clean(e.AuthSealed), spec, at, revision)
	case tool.Updated:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		s := e.Spec
		b.Queue(toolUpdated, id, at, revision, e.Version, clean(s.Name), clean(s.Kind), clean(s.AuthType), clean(s.Env), clean(s.Status), clean(e.AuthSealed), spec)
	case tool.Deleted:
		b.Queue(toolDeleted, id)
	default:
		if !ofProject(b, r, projectOfToolsDeleted) {
			return unhandled(r)
		}
	}
	return nil
}
