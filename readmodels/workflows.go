package readmodels

import (
	"context"
	"time"

	"github.com/sparkops/control-plane/domain/workflow"
)

// Workflow is a workflow as the API answers it. Definition, the graph of the
// newest version, is set in answers of one workflow only: lists leave it out.
type Workflow struct {
	WorkflowRecord
	workflow.Spec
	Definition *workflow.Definition `json:"definition,omitempty"`
}

// WorkflowRecord is what a workflow has besides its definition.
type WorkflowRecord struct {
	ID             string            `db:"id" json:"id"`
	ProjectID      string            `db:"project_id" json:"projectId"`
	CurrentVersion int               `db:"current_version" json:"currentVersion"`
	Versions       []WorkflowVersion `db:"versions" json:"versions"` // ascending, never null
	AvgDurationMs  *float64          `db:"avg_duration_ms" json:"avgDurationMs"`
	SuccessRate    *float64          `db:"success_rate" json:"successRate"` // 0 to 1; null before a run ended
	LastRunAt      *time.Time        `db:"last_run_at" json:"lastRunAt"`
	CreatedAt      time.Time         `db:"created_at" json:"createdAt"`
	UpdatedAt      time.Time         `db:"updated_at" json:"updatedAt"`
	Revision       int64             `db:"revision" json:"-"`
}

// WorkflowVersion is one version of a workflow's graph. Definition is set only
// where one version is asked for.
type WorkflowVersion struct {
	Version      int                    `db:"version" json:"version"`
	Status       workflow.VersionStatus `db:"status" json:"status"`
	AuthorUserID string                 `db:"author_user_id" json:"authorUserId"`
	Note         string                 `db:"note" json:"note,omitempty"`
	CreatedAt    time.Time              `db:"created_at" json:"createdAt"`
	UpdatedAt    time.Time              `db:"updated_at" json:"updatedAt"`
	Definition   *workflow.Definition   `db:"definition" json:"definition,omitempty"`
}

type workflowRow struct {
	WorkflowRecord
	Spec workflow.Spec `db:"spec"`
}

func (r workflowRow) view() Workflow {
	r.Spec.Tags, r.Versions = nonNil(r.Spec.Tags), nonNil(r.Versions)
	for i := range r.Versions {
		r.Versions[i].CreatedAt, r.Versions[i].UpdatedAt = r.Versions[i].CreatedAt.UTC(), r.Versions[i].UpdatedAt.UTC()
	}
	return Workflow{WorkflowRecord: r.WorkflowRecord, Spec: r.Spec}
}

// The figures come from counters the runs projection keeps: averages over
// succeeded runs, the rate over runs that ended and were not cancelled.
const workflowFigures = `
	s.duration_ms_sum::float8 / nullif(s.succeeded, 0) as avg_duration_ms,
	s.succeeded::float8 / nullif(s.succeeded + s.failed + s.timed_out, 0) as success_rate,
	s.last_run_at`

const workflowColumns = `w.id, w.project_id, w.current_version, w.created_at, w.updated_at, w.revision, w.spec,` + workflowFigures + `,
	(select json_agg(json_build_object('version', v.version, 'status', v.status, 'authorUserId', v.author_user_id,
		'note', v.note, 'createdAt', v.created_at, 'updatedAt', v.updated_at) order by v.version)
	 from workflow_versions v where v.workflow_id = w.id) as versions`

const workflowTables = `workflows w left join workflow_counters s on s.workflow_id = w.id`

// WorkflowFilter restricts a list of workflows; empty fields do not.
type WorkflowFilter struct {
	ProjectID string
	Status    string
	Tags      []string // workflows that have all of them
	Search    string   // part of the name, without case
}

var workflowList = list[workflowRow]{
	columns: workflowColumns, from: workflowTables, at: "w.created_at", id: "w.id",
	key: func(r workflowRow) cursor { return cursor{r.CreatedAt, r.ID} },
}

// Workflows lists workflows, newest first.
func (v *Views) Workflows(ctx context.Context, visible Visible, f WorkflowFilter, p Page) (Result[Workflow], error) {
	var c conditions
	c.visible("w.project_id", visible)
	c.equal("w.project_id", f.ProjectID)
	c.equal("w.status", f.Status)
	if len(f.Tags) > 0 {
		c.add("w.tags @> ?", f.Tags)
	}
	c.contains("w.name", f.Search)
	found, err := workflowList.run(ctx, v.pool, c, p)
	return convert(found, workflowRow.view), err
}

// Workflow returns one workflow with the graph of its newest version.
func (v *Views) Workflow(ctx context.Context, visible Visible, id string) (Workflow, error) {
	var c conditions
	c.add("w.id = ?", id)
	c.visible("w.project_id", visible)
	r, err := row[workflowRow](ctx, v.pool, "select "+workflowColumns+" from "+workflowTables+c.where(), c.args...)
	if err != nil {
		return Workflow{}, err
	}
	w := r.view()
	newest, err := row[WorkflowVersion](ctx, v.pool, workflowVersion, id, w.CurrentVersion)
	w.Definition = newest.Definition
	return w, err
}

const workflowVersion = `select version, status, author_user_id, note, created_at, updated_at, definition
from workflow_versions where workflow_id = $1 and version = $2`

// WorkflowVersion returns one version with its graph.
func (v *Views) WorkflowVersion(ctx context.Context, visible Visible, id string, version int) (WorkflowVersion, error) {
	if err := v.seesWorkflow(ctx, visible, id); err != nil {
		return WorkflowVersion{}, err
	}
	return row[WorkflowVersion](ctx, v.pool, workflowVersion, id, version)
}

const workflowVersions = `select version, status, author_user_id, note, created_at, updated_at, null::json as definition
from workflow_versions where workflow_id = $1 order by version`

// WorkflowVersions returns the versions of a workflow, ascending, without
// their graphs.
func (v *Views) WorkflowVersions(ctx context.Context, visible Visible, id string) ([]WorkflowVersion, error) {
	if err := v.seesWorkflow(ctx, visible, id); err != nil {
		return nil, err
	}
	return rows[WorkflowVersion](ctx, v.pool, workflowVersions, id)
}

func (v *Views) seesWorkflow(ctx context.Context, visible Visible, id string) error {
	var c conditions
	c.add("w.id = ?", id)
	c.visible("w.project_id", visible)
	found, err := column[string](ctx, v.pool, "select w.id from workflows w"+c.where(), c.args...)
	if err == nil && len(found) == 0 {
		return notFound()
	}
	return err
}

// WorkflowAnalytics sums up the runs of a workflow.
type WorkflowAnalytics struct {
	AvgDurationMs *float64   `db:"avg_duration_ms" json:"avgDurationMs"`
	SuccessRate   *float64   `db:"success_rate" json:"successRate"` // 0 to 1
	TotalRuns     int64      `db:"total_runs" json:"totalRuns"`
	SucceededRuns int64      `db:"succeeded_runs" json:"succeededRuns"`
	FailedRuns    int64      `db:"failed_runs" json:"failedRuns"` // timeouts included
	CancelledRuns int64      `db:"cancelled_runs" json:"cancelledRuns"`
	LastRunAt     *time.Time `db:"last_run_at" json:"lastRunAt"`
}

const workflowAnalytics = `select ` + workflowFigures + `, coalesce(s.total, 0) as total_runs,
	coalesce(s.succeeded, 0) as succeeded_runs, coalesce(s.failed + s.timed_out, 0) as failed_runs,
	coalesce(s.cancelled, 0) as cancelled_runs
from ` + workflowTables

// WorkflowAnalytics returns the figures of one workflow.
func (v *Views) WorkflowAnalytics(ctx context.Context, visible Visible, id string) (WorkflowAnalytics, error) {
	var c conditions
	c.add("w.id = ?", id)
	c.visible("w.project_id", visible)
	return row[WorkflowAnalytics](ctx, v.pool, workflowAnalytics+c.where(), c.args...)
}
