package projections

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/eventstore"
)

const (
	agentCreated = `insert into agents (id, project_id, version, name, env, status, health, last_heartbeat, spec, created_at, updated_at, revision)
select $1, $2, 1, $3, $4, $5, 'healthy', $7, $6, $7, $7, $8
where not exists (select 1 from dead_agent_projects where project_id = $2)`
	agentUpdated = `update agents set version = $4, name = $5, env = $6, status = $7, spec = $8, updated_at = $2, revision = $3 where id = $1`
	agentDeleted = `delete from agents where id = $1`

	projectOfAgentsDeleted = `with dead as (insert into dead_agent_projects (project_id) values ($1) on conflict do nothing)
delete from agents where project_id = $1`
)

func applyAgent(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case agent.Created:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		b.Queue(agentCreated, id, clean(e.ProjectID), clean(e.Spec.Name), clean(e.Spec.Env), clean(e.Spec.Status), spec, at, revision)
	case agent.Updated:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		b.Queue(agentUpdated, id, at, revision, e.Version, clean(e.Spec.Name), clean(e.Spec.Env), clean(e.Spec.Status), spec)
	case agent.Deleted:
		b.Queue(agentDeleted, id)
	default:
		if !ofProject(b, r, projectOfAgentsDeleted) {
			return unhandled(r)
		}
	}
	return nil
}
