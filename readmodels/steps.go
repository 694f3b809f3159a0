package readmodels

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

// Step is one step of a run as the API answers it.
type Step struct {
	ID    string `db:"id" json:"id"`
	RunID string `db:"run_id" json:"runId"`
	Step  string `db:"step" json:"step"` // unique in the run
	Node  string `db:"node" json:"node"`
	Idx   int    `db:"idx" json:"idx"`
	Type  string `db:"type" json:"type"`          // the frontend's; an agent node is a prompt
	Kind  string `db:"node_type" json:"nodeType"` // of the workflow definition
	Name  string `db:"name" json:"name"`

	// Status is running, succeeded, failed, skipped, or cancelled when the run
	// ended before the step; with every step asked for also queued. A step whose
	// failed attempt is to be repeated is running.
	Status       string     `db:"status" json:"status"`
	Success      bool       `db:"success" json:"success"` // false for failed and cancelled ones
	Attempt      int        `db:"attempt" json:"attempt"`
	StartedAt    *time.Time `db:"started_at" json:"startedAt"` // null only for steps not started
	EndedAt      *time.Time `db:"ended_at" json:"endedAt"`
	DurationMs   int64      `db:"duration_ms" json:"durationMs"` // so far, while it runs
	ErrorMessage *string    `db:"error_message" json:"errorMessage"`
	ErrorCode    *string    `db:"error_code" json:"errorCode"`
	Worker       string     `db:"worker" json:"worker,omitempty"`

	Request  json.RawMessage `db:"input" json:"request,omitempty"`
	Response json.RawMessage `db:"output" json:"response,omitempty"`

	TokensPrompt     int64        `db:"tokens_prompt" json:"tokensPrompt"`
	TokensCompletion int64        `db:"tokens_completion" json:"tokensCompletion"`
	CostNanos        domain.Nanos `db:"cost_nanos" json:"costNanos"`
	USDCost          float64      `db:"-" json:"usdCost"`
}

// ended marks the states after which nothing more happens to a step.
const stepEnded = `s.state in ('succeeded', 'failed', 'skipped', 'cancelled')`

const stepColumns = `s.run_id || ':' || s.step as id, s.run_id, s.step, s.node, s.idx,
	case s.type when 'agent' then 'prompt' else s.type end as type, s.type as node_type, s.name,
	case when ` + stepEnded + ` then s.state when s.started_at is null then 'queued' else 'running' end as status,
	s.state not in ('failed', 'cancelled') as success, s.attempt, s.started_at,
	case when ` + stepEnded + ` then s.ended_at end as ended_at,
	coalesce(greatest((extract(epoch from case when ` + stepEnded + ` then s.ended_at else $2 end - s.started_at) * 1000)::bigint, 0), 0) as duration_ms,
	case s.state when 'succeeded' then null when 'cancelled' then 'The run ended before the step did.' else s.error_message end as error_message,
	case s.state when 'succeeded' then null when 'cancelled' then 'CANCELLED' else s.error_code end as error_code,
	coalesce(s.worker, '') as worker, s.output,
	coalesce(s.input, case when s.input_from = '["` + run.InputOfRun + `"]' then (select r.input from runs r where r.id = s.run_id)
		when s.input_from is not null then (
		select '{' || string_agg(to_json(o.step)::text || ':' || coalesce(f.output, 'null'), ',' order by o.at) || '}'
		from json_array_elements_text(s.input_from::json) with ordinality as o (step, at)
		left join run_steps f on f.run_id = s.run_id and f.step = o.step) end) as input,
	s.tokens_prompt, s.tokens_completion, s.cost_nanos`

const stepsOfRun = `select ` + stepColumns + ` from run_steps s where s.run_id = $1 and ($3 or s.started_at is not null) order by s.idx, s.step`

// Steps returns the steps of a run that have started, by index; a running one
// with its duration up to now. With all, also those that have not.
func (v *Views) Steps(ctx context.Context, visible Visible, runID string, now time.Time, all bool) ([]Step, error) {
	c := seenRuns(visible)
	c.add("r.id = ?", runID)
	found, err := column[string](ctx, v.pool, "select r.id from runs r"+c.where(), c.args...)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, notFound()
	}
	steps, err := rows[Step](ctx, v.pool, stepsOfRun, runID, now, all)
	for i := range steps {
		steps[i].USDCost = steps[i].CostNanos.USD()
	}
	return steps, err
}
