package readmodels

import (
	"context"
	"time"

	"github.com/sparkops/control-plane/domain/agent"
)

// Agent is an agent as the API answers it.
type Agent struct {
	AgentRecord
	agent.Spec
}

// AgentRecord is what an agent has besides its definition.
type AgentRecord struct {
	ID            string    `db:"id" json:"id"`
	ProjectID     string    `db:"project_id" json:"projectId"`
	Version       int       `db:"version" json:"version"`
	Health        string    `db:"health" json:"health"`                // healthy, degraded, unhealthy
	LastHeartbeat time.Time `db:"last_heartbeat" json:"lastHeartbeat"` // the creation, without heartbeats
	CreatedAt     time.Time `db:"created_at" json:"createdAt"`
	UpdatedAt     time.Time `db:"updated_at" json:"updatedAt"`
	Revision      int64     `db:"revision" json:"-"`
}

type agentRow struct {
	AgentRecord
	Spec agent.Spec `db:"spec"`
}

func (r agentRow) view() Agent {
	r.Spec.Tools, r.Spec.Metadata = nonNil(r.Spec.Tools), object(r.Spec.Metadata)
	return Agent{r.AgentRecord, r.Spec}
}

const agentColumns = `a.id, a.project_id, a.version, a.health, a.last_heartbeat, a.created_at, a.updated_at, a.revision, a.spec`

// AgentFilter restricts a list of agents; empty fields do not.
type AgentFilter struct {
	ProjectID string
	Env       string
	Health    string
	Status    string
	Search    string // part of the name, without case
}

var agentList = list[agentRow]{
	columns: agentColumns, from: "agents a", at: "a.created_at", id: "a.id",
	key: func(r agentRow) cursor { return cursor{r.CreatedAt, r.ID} },
}

// Agents lists agents, newest first.
func (v *Views) Agents(ctx context.Context, visible Visible, f AgentFilter, p Page) (Result[Agent], error) {
	var c conditions
	c.visible("a.project_id", visible)
	c.equal("a.project_id", f.ProjectID)
	c.equal("a.env", f.Env)
	c.equal("a.health", f.Health)
	c.equal("a.status", f.Status)
	c.contains("a.name", f.Search)
	found, err := agentList.run(ctx, v.pool, c, p)
	return convert(found, agentRow.view), err
}

// Agent returns one agent.
func (v *Views) Agent(ctx context.Context, visible Visible, id string) (Agent, error) {
	var c conditions
	c.add("a.id = ?", id)
	c.visible("a.project_id", visible)
	r, err := row[agentRow](ctx, v.pool, "select "+agentColumns+" from agents a"+c.where(), c.args...)
	return r.view(), err
}

// AgentMetrics sums up the runs of an agent.
type AgentMetrics struct {
	TotalRuns     int64    `db:"total_runs" json:"totalRuns"`
	ActiveRuns    int64    `db:"active_runs" json:"activeRuns"`
	SucceededRuns int64    `db:"succeeded_runs" json:"succeededRuns"`
	FailedRuns    int64    `db:"failed_runs" json:"failedRuns"` // timeouts included
	AvgDurationMs *float64 `db:"avg_duration_ms" json:"avgDurationMs"`
	CostNanos     int64    `db:"cost_nanos" json:"costNanos"`
}

const agentMetrics = `
select count(*) as total_runs,
       count(*) filter (where status in ('queued', 'running')) as active_runs,
       count(*) filter (where status = 'succeeded') as succeeded_runs,
       count(*) filter (where status in ('failed', 'timeout')) as failed_runs,
       (avg(extract(epoch from ended_at - started_at) * 1000) filter (where status = 'succeeded'))::float8 as avg_duration_ms,
       coalesce(sum(cost_nanos), 0)::bigint as cost_nanos
from runs where agent_id = $1`

// AgentMetrics returns the figures of an agent the caller sees.
func (v *Views) AgentMetrics(ctx context.Context, visible Visible, id string) (AgentMetrics, error) {
	if _, err := v.Agent(ctx, visible, id); err != nil {
		return AgentMetrics{}, err
	}
	return row[AgentMetrics](ctx, v.pool, agentMetrics, id)
}
