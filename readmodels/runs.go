package readmodels

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Run is a run as the API answers it.
type Run struct {
	ID              string  `db:"id" json:"id"`
	ProjectID       string  `db:"project_id" json:"projectId"`
	WorkflowID      string  `db:"workflow_id" json:"workflowId"`
	WorkflowVersion int     `db:"workflow_version" json:"workflowVersion"`
	AgentID         *string `db:"agent_id" json:"agentId"` // null, never ""
	Env             string  `db:"env" json:"env"`
	Trigger         string  `db:"trigger" json:"trigger"`
	TriggeredBy     string  `db:"triggered_by" json:"triggeredBy"`
	Region          string  `db:"region" json:"region"`

	// Status is one of the frontend's six; Phase is the precise state: paused,
	// waiting (for nothing but the time), else the status.
	Status       string  `db:"status" json:"status"`
	Phase        string  `db:"phase" json:"phase"`
	StatusReason *Reason `db:"-" json:"statusReason"`
	ErrorMessage *string `db:"-" json:"errorMessage"`

	QueuedAt   time.Time  `db:"queued_at" json:"queuedAt"`
	StartedAt  time.Time  `db:"started_at" json:"startedAt"` // of queueing, until a worker took it
	EndedAt    *time.Time `db:"ended_at" json:"endedAt"`
	DurationMs *int64     `db:"duration_ms" json:"durationMs"` // null until it ended
	Deadline   time.Time  `db:"deadline" json:"deadline"`
	UpdatedAt  time.Time  `db:"updated_at" json:"updatedAt"`

	TokensPrompt     int64        `db:"-" json:"tokensPrompt"`
	TokensCompletion int64        `db:"-" json:"tokensCompletion"`
	Usage            domain.Usage `db:"-" json:"usage"`
	USDCost          float64      `db:"-" json:"usdCost"`
	CostNanos        domain.Nanos `db:"cost_nanos" json:"costNanos"`

	Retries        int         `db:"retries" json:"retries"`
	RetryOf        *string     `db:"retry_of" json:"retryOf"`
	HasHumanInLoop bool        `db:"has_human" json:"hasHumanInLoop"`
	Metadata       RunMetadata `db:"-" json:"metadata"`

	// The payloads are set in answers of one run only: lists leave them out.
	Input  json.RawMessage `db:"input" json:"input,omitempty"`
	Output json.RawMessage `db:"output" json:"output,omitempty"`
	Config json.RawMessage `db:"config" json:"config,omitempty"`

	Revision int64 `db:"revision" json:"-"`
}

// Reason says why a run is in its state.
type Reason struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// RunMetadata says by what a run was carried out.
type RunMetadata struct {
	Provider string `json:"provider,omitempty"` // of its model calls; "simulated" for the built-in one
}

// runRow is Run with the columns it is computed from.
type runRow struct {
	Run
	ReasonCode    *string `db:"reason_code"`
	ReasonMessage *string `db:"reason_message"`
	Provider      string  `db:"provider"`
	Input5        int64   `db:"tokens_input"`
	CacheRead     int64   `db:"tokens_cache_read"`
	CacheWrite    int64   `db:"tokens_cache_write"`
	Output5       int64   `db:"tokens_output"`
	Reasoning     int64   `db:"tokens_reasoning"`
}

func (r runRow) view() Run {
	run := r.Run
	run.Usage = domain.Usage{Input: r.Input5, CacheRead: r.CacheRead, CacheWrite: r.CacheWrite, Output: r.Output5, Reasoning: r.Reasoning}
	run.TokensPrompt, run.TokensCompletion = run.Usage.Prompt(), run.Usage.Completion()
	run.USDCost = run.CostNanos.USD()
	run.Metadata.Provider = r.Provider
	if r.ReasonCode != nil && r.ReasonMessage != nil {
		run.StatusReason = &Reason{Code: *r.ReasonCode, Message: *r.ReasonMessage}
		if run.Status != "cancelled" {
			run.ErrorMessage = r.ReasonMessage
		}
	}
	return run
}

// An active run waits when nothing but the time will change it.
const runPhase = `case
	when r.status not in ('queued', 'running') then r.status
	when r.paused then 'paused'
	when exists (select 1 from run_steps s where s.run_id = r.id and s.state = 'waiting')
	 and not exists (select 1 from run_steps s where s.run_id = r.id and s.state in ('ready', 'running')) then 'waiting'
	else r.status
	end as phase`

const runColumns = `r.id, r.project_id, r.workflow_id, r.workflow_version, r.agent_id, r.env, r.trigger, r.triggered_by, r.region,
	r.status, ` + runPhase + `, r.reason_code, r.reason_message, r.queued_at, r.started_at, r.ended_at,
	(extract(epoch from r.ended_at - r.started_at) * 1000)::bigint as duration_ms, r.deadline, r.updated_at,
	r.tokens_input, r.tokens_cache_read, r.tokens_cache_write, r.tokens_output, r.tokens_reasoning, r.cost_nanos,
	r.retries, r.retry_of, r.has_human, r.provider, r.revision`

const (
	runPayloads = `, r.input, coalesce(r.output, case when r.output_from is not null then (
		select '{' || string_agg(to_json(o.step)::text || ':' || coalesce(s.output, 'null'), ',' order by o.at) || '}'
		from json_array_elements_text(r.output_from::json) with ordinality as o (step, at)
		left join run_steps s on s.run_id = r.id and s.step = o.step) end) as output, r.config`
	runNoPayloads = `, null::text as input, null::text as output, null::text as config`
)

// RunFilter restricts a list of runs; empty fields do not.
type RunFilter struct {
	ProjectID   string
	WorkflowID  string
	AgentID     string
	Status      string // one of RunStatuses or a synonym of RunStatus
	Env         string
	Trigger     string
	TriggeredBy string
	RetryOf     string
}

// RunStatuses are the values of Run.Status.
var RunStatuses = []string{"queued", "running", "succeeded", "failed", "cancelled", "timeout"}

// RunStatus returns the status a filter value stands for: pending is queued,
// completed is succeeded, any other stands for itself.
func RunStatus(filter string) string {
	switch filter {
	case "pending":
		return "queued"
	case "completed":
		return "succeeded"
	default:
		return filter
	}
}

var runList = list[runRow]{
	columns: runColumns + runNoPayloads, from: "runs r", at: "r.started_at", id: "r.id",
	key: func(r runRow) cursor { return cursor{r.StartedAt, r.ID} },
}

// Runs lists runs by start, newest first, without their payloads and without
// hidden ones.
func (v *Views) Runs(ctx context.Context, visible Visible, f RunFilter, p Page) (Result[Run], error) {
	c := seenRuns(visible)
	c.equal("r.project_id", f.ProjectID)
	c.equal("r.workflow_id", f.WorkflowID)
	c.equal("r.agent_id", f.AgentID)
	c.equal("r.status", RunStatus(f.Status))
	c.equal("r.env", f.Env)
	c.equal("r.trigger", f.Trigger)
	c.equal("r.triggered_by", f.TriggeredBy)
	c.equal("r.retry_of", f.RetryOf)
	found, err := runList.run(ctx, v.pool, c, p)
	return convert(found, runRow.view), err
}

// Run returns one run.
func (v *Views) Run(ctx context.Context, visible Visible, id string) (Run, error) {
	c := seenRuns(visible)
	c.add("r.id = ?", id)
	r, err := row[runRow](ctx, v.pool, "select "+runColumns+runPayloads+" from runs r"+c.where(), c.args...)
	return r.view(), err
}

// seenRuns selects the runs the caller may see: not those of other projects,
// hidden ones, or those of a deleted project.
func seenRuns(visible Visible) conditions {
	var c conditions
	c.visible("r.project_id", visible)
	c.add("not r.hidden")
	c.add("r.project_id not in (select project_id from dead_projects)")
	return c
}

// RunsOf names what runs belong to; exactly one field is set.
type RunsOf struct {
	ProjectID  string
	WorkflowID string
	AgentID    string // as the run's own agent
}

// ActiveRunsOf returns the ids of the queued and running runs of a project, a
// workflow or an agent, also when that was deleted meanwhile.
func (v *Views) ActiveRunsOf(ctx context.Context, of RunsOf) ([]string, error) {
	var c conditions
	c.equal("r.project_id", of.ProjectID)
	c.equal("r.workflow_id", of.WorkflowID)
	c.equal("r.agent_id", of.AgentID)
	if len(c.terms) == 0 {
		return []string{}, nil
	}
	c.add("r.status in ('queued', 'running')")
	return column[string](ctx, v.pool, "select r.id from runs r"+c.where()+" order by r.id", c.args...)
}
