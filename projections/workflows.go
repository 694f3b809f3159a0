package projections

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
)

const (
	workflowCreated = `insert into workflows (id, project_id, name, status, tags, spec, current_version, created_at, updated_at, revision)
select $1, $2, $3, $4, $5, $6, 1, $7, $7, $8
where not exists (select 1 from dead_workflow_projects where project_id = $2)`
	workflowUpdated = `update workflows set name = $4, status = $5, tags = $6, spec = $7, updated_at = $2, revision = $3 where id = $1`
	workflowDeleted = `with gone as (delete from workflow_versions where workflow_id = $1) delete from workflows where id = $1`

	// Only where there is the workflow: it may be deleted with its project.
	versionAdded = `with w as (
	update workflows set current_version = $2, updated_at = $6, revision = $7 where id = $1 returning id
)
insert into workflow_versions (workflow_id, version, status, author_user_id, note, definition, created_at, updated_at)
select id, $2, 'draft', $3, $4, $5, $6, $6 from w`
	versionStatus = `with w as (
	update workflows set updated_at = $2, revision = $3 where id = $1
)
update workflow_versions set status = $5, updated_at = $2 where workflow_id = $1 and version = $4`

	projectOfWorkflowsDeleted = `with dead as (
	insert into dead_workflow_projects (project_id) values ($1) on conflict do nothing
), versions as (
	delete from workflow_versions where workflow_id in (select id from workflows where project_id = $1)
)
delete from workflows where project_id = $1`
)

func applyWorkflow(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case workflow.Created:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		graph, err := document(e.Definition)
		if err != nil {
			return fmt.Errorf("write the graph: %w", err)
		}
		b.Queue(workflowCreated, id, clean(e.ProjectID), clean(e.Spec.Name), clean(e.Spec.Status), cleanAll(e.Spec.Tags), spec, at, revision)
		b.Queue(versionAdded, id, 1, clean(e.AuthorUserID), "", graph, at, revision)
	case workflow.Updated:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		b.Queue(workflowUpdated, id, at, revision, clean(e.Spec.Name), clean(e.Spec.Status), cleanAll(e.Spec.Tags), spec)
	case workflow.VersionAdded:
		graph, err := document(e.Definition)
		if err != nil {
			return fmt.Errorf("write the graph: %w", err)
		}
		b.Queue(versionAdded, id, e.Version, clean(e.AuthorUserID), clean(e.Note), graph, at, revision)
	case workflow.VersionReleased:
		b.Queue(versionStatus, id, at, revision, e.Version, string(workflow.Released))
	case workflow.VersionDeprecated:
		b.Queue(versionStatus, id, at, revision, e.Version, string(workflow.Deprecated))
	case workflow.Deleted:
		b.Queue(workflowDeleted, id)
	default:
		if !ofProject(b, r, projectOfWorkflowsDeleted) {
			return unhandled(r)
		}
	}
	return nil
}
