package projections

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain/run"
)

// column returns one value of each patch, as the array of an unnest.
func column[P, T any](patches []P, value func(P) T) []T {
	values := make([]T, len(patches))
	for i, p := range patches {
		values[i] = value(p)
	}
	return values
}

const runsBegun = `
insert into runs (id, project_id, workflow_id, workflow_version, agent_id, env, trigger, triggered_by, region, queued_at, retries,
	retry_of, has_human, input, config, status, paused, reason_code, reason_message, started_at, ended_at, deadline, updated_at,
	tokens_input, tokens_cache_read, tokens_cache_write, tokens_output, tokens_reasoning, cost_nanos, hidden, provider, output,
	output_from, revision)
select * from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
	$10::timestamptz[], $11::int[], $12::text[], $13::boolean[], $14::text[], $15::text[], $16::text[], $17::boolean[], $18::text[],
	$19::text[], $20::timestamptz[], $21::timestamptz[], $22::timestamptz[], $23::timestamptz[], $24::bigint[], $25::bigint[],
	$26::bigint[], $27::bigint[], $28::bigint[], $29::bigint[], $30::boolean[], $31::text[], $32::text[], $33::text[], $34::bigint[])`

func queueBegun(b *pgx.Batch, p []*runPatch) {
	if len(p) == 0 {
		return
	}
	b.Queue(runsBegun,
		column(p, func(p *runPatch) string { return p.id }),
		column(p, func(p *runPatch) string { return clean(p.queued.ProjectID) }),
		column(p, func(p *runPatch) string { return clean(p.queued.WorkflowID) }),
		column(p, func(p *runPatch) int { return p.queued.WorkflowVersion }),
		column(p, func(p *runPatch) *string { return optional(p.queued.AgentID) }),
		column(p, func(p *runPatch) string { return clean(p.queued.Env) }),
		column(p, func(p *runPatch) string { return clean(p.queued.Trigger) }),
		column(p, func(p *runPatch) string { return clean(p.queued.TriggeredBy) }),
		column(p, func(p *runPatch) string { return clean(p.queued.Region) }),
		column(p, func(p *runPatch) time.Time { return p.queued.At }),
		column(p, func(p *runPatch) int { return p.queued.Retries }),
		column(p, func(p *runPatch) *string { return optional(p.queued.RetryOf) }),
		column(p, func(p *runPatch) bool { return hasHuman(p.queued) }),
		column(p, func(p *runPatch) *string { return payload(p.queued.Input) }),
		column(p, func(p *runPatch) *string { return payload(p.queued.Config) }),
		column(p, func(p *runPatch) string { return *p.status }),
		column(p, func(p *runPatch) bool { return p.paused != nil && *p.paused }),
		column(p, (*runPatch).reasonCode),
		column(p, (*runPatch).reasonMessage),
		column(p, func(p *runPatch) time.Time { return or(p.started, p.queued.At) }),
		column(p, func(p *runPatch) *time.Time { return p.ended }),
		column(p, func(p *runPatch) time.Time { return *p.deadline }),
		column(p, func(p *runPatch) time.Time { return p.updated }),
		column(p, func(p *runPatch) int64 { return p.usage.Input }),
		column(p, func(p *runPatch) int64 { return p.usage.CacheRead }),
		column(p, func(p *runPatch) int64 { return p.usage.CacheWrite }),
		column(p, func(p *runPatch) int64 { return p.usage.Output }),
		column(p, func(p *runPatch) int64 { return p.usage.Reasoning }),
		column(p, func(p *runPatch) int64 { return int64(p.cost) }),
		column(p, func(p *runPatch) bool { return p.hidden }),
		column(p, func(p *runPatch) string { return p.provider }),
		column(p, func(p *runPatch) *string { return p.output }),
		column(p, func(p *runPatch) *string { return p.outputFrom }),
		column(p, func(p *runPatch) int64 { return p.revision }),
	)
}

const runsChanged = `
update runs r set
	status = coalesce(p.status, r.status),
	paused = coalesce(p.paused, r.paused),
	reason_code = case when p.unreason then null else coalesce(p.reason_code, r.reason_code) end,
	reason_message = case when p.unreason then null else coalesce(p.reason_message, r.reason_message) end,
	started_at = coalesce(p.started_at, r.started_at),
	ended_at = coalesce(p.ended_at, r.ended_at),
	deadline = coalesce(p.deadline, r.deadline),
	updated_at = p.updated_at,
	tokens_input = r.tokens_input + p.tokens_input,
	tokens_cache_read = r.tokens_cache_read + p.tokens_cache_read,
	tokens_cache_write = r.tokens_cache_write + p.tokens_cache_write,
	tokens_output = r.tokens_output + p.tokens_output,
	tokens_reasoning = r.tokens_reasoning + p.tokens_reasoning,
	cost_nanos = r.cost_nanos + p.cost_nanos,
	hidden = r.hidden or p.hidden,
	provider = coalesce(nullif(p.provider, ''), r.provider),
	output = coalesce(p.output, r.output),
	output_from = coalesce(p.output_from, r.output_from),
	revision = p.revision
from unnest($1::text[], $2::text[], $3::boolean[], $4::boolean[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[],
	$9::timestamptz[], $10::timestamptz[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
	$17::boolean[], $18::text[], $19::text[], $20::text[], $21::bigint[])
	as p (id, status, paused, unreason, reason_code, reason_message, started_at, ended_at, deadline, updated_at, tokens_input,
	tokens_cache_read, tokens_cache_write, tokens_output, tokens_reasoning, cost_nanos, hidden, provider, output, output_from, revision)
where r.id = p.id`

func queueChanged(b *pgx.Batch, p []*runPatch) {
	if len(p) == 0 {
		return
	}
	b.Queue(runsChanged,
		column(p, func(p *runPatch) string { return p.id }),
		column(p, func(p *runPatch) *string { return p.status }),
		column(p, func(p *runPatch) *bool { return p.paused }),
		column(p, func(p *runPatch) bool { return p.unreason }),
		column(p, (*runPatch).reasonCode),
		column(p, (*runPatch).reasonMessage),
		column(p, func(p *runPatch) *time.Time { return p.started }),
		column(p, func(p *runPatch) *time.Time { return p.ended }),
		column(p, func(p *runPatch) *time.Time { return p.deadline }),
		column(p, func(p *runPatch) time.Time { return p.updated }),
		column(p, func(p *runPatch) int64 { return p.usage.Input }),
		column(p, func(p *runPatch) int64 { return p.usage.CacheRead }),
		column(p, func(p *runPatch) int64 { return p.usage.CacheWrite }),
		column(p, func(p *runPatch) int64 { return p.usage.Output }),
		column(p, func(p *runPatch) int64 { return p.usage.Reasoning }),
		column(p, func(p *runPatch) int64 { return int64(p.cost) }),
		column(p, func(p *runPatch) bool { return p.hidden }),
		column(p, func(p *runPatch) string { return p.provider }),
		column(p, func(p *runPatch) *string { return p.output }),
		column(p, func(p *runPatch) *string { return p.outputFrom }),
		column(p, func(p *runPatch) int64 { return p.revision }),
	)
}

const readyHeld = `update run_steps set held = true where run_id = any($1) and state = 'ready'`

// queueHeld withdraws what was ready when a run was paused.
func queueHeld(b *pgx.Batch, changed []*runPatch) {
	paused, _ := split(changed, func(p *runPatch) bool { return p.wasPaused })
	if len(paused) > 0 {
		b.Queue(readyHeld, column(paused, func(p *runPatch) string { return p.id }))
	}
}

const stepsMerged = `
merge into run_steps s
using unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::boolean[],
	$10::int[], $11::text[], $12::int[], $13::timestamptz[], $14::bigint[], $15::text[], $16::timestamptz[], $17::timestamptz[],
	$18::timestamptz[], $19::timestamptz[], $20::timestamptz[], $21::text[], $22::text[], $23::text[], $24::text[], $25::text[],
	$26::bigint[], $27::bigint[], $28::bigint[])
	as p (run_id, step, node, idx, type, name, state, held, released, attempt, queue, priority, not_before, ready_position, worker,
	started_at, ended_at, due_at, close_by, lease, error_code, error_message, input, input_from, output, tokens_prompt,
	tokens_completion, cost_nanos)
on s.run_id = p.run_id and s.step = p.step
when matched then update set
	state = coalesce(p.state, s.state),
	held = case when p.released then coalesce((select r.paused from runs r where r.id = p.run_id), false) else coalesce(p.held, s.held) end,
	attempt = coalesce(p.attempt, s.attempt),
	queue = coalesce(p.queue, s.queue),
	priority = coalesce(p.priority, s.priority),
	not_before = coalesce(p.not_before, s.not_before),
	ready_position = coalesce(p.ready_position, s.ready_position),
	worker = coalesce(p.worker, s.worker),
	started_at = coalesce(s.started_at, p.started_at),
	ended_at = coalesce(p.ended_at, s.ended_at),
	due_at = coalesce(p.due_at, least(p.lease, case when p.lease is not null then coalesce(p.close_by, s.close_by) end), s.due_at),
	close_by = coalesce(p.close_by, s.close_by),
	error_code = coalesce(p.error_code, s.error_code),
	error_message = coalesce(p.error_message, s.error_message),
	input = case when s.input_from is null then coalesce(s.input, p.input) end,
	input_from = case when s.input is null then coalesce(s.input_from, p.input_from) end,
	output = coalesce(p.output, s.output),
	tokens_prompt = s.tokens_prompt + p.tokens_prompt,
	tokens_completion = s.tokens_completion + p.tokens_completion,
	cost_nanos = s.cost_nanos + p.cost_nanos
when not matched and p.state is not null then insert (run_id, step, node, idx, type, name, state, held, attempt, queue, priority, not_before, ready_position,
	worker, started_at, ended_at, due_at, close_by, error_code, error_message, input, input_from, output, tokens_prompt,
	tokens_completion, cost_nanos)
values (p.run_id, p.step, coalesce(p.node, p.step), coalesce(p.idx, 0), coalesce(p.type, ''), coalesce(p.name, p.step),
	p.state,
	case when p.released then coalesce((select r.paused from runs r where r.id = p.run_id), false) else coalesce(p.held, false) end,
	coalesce(p.attempt, 1), p.queue, coalesce(p.priority, 0), p.not_before, p.ready_position, p.worker, p.started_at, p.ended_at,
	coalesce(p.due_at, least(p.lease, p.close_by)), p.close_by, p.error_code, p.error_message, p.input, p.input_from, p.output,
	p.tokens_prompt, p.tokens_completion, p.cost_nanos)`

func queueSteps(b *pgx.Batch, s []*stepPatch) {
	if len(s) == 0 {
		return
	}
	b.Queue(stepsMerged,
		column(s, func(s *stepPatch) string { return s.key.run }),
		column(s, func(s *stepPatch) string { return s.key.step }),
		column(s, func(s *stepPatch) *string { return s.node }),
		column(s, func(s *stepPatch) *int { return s.idx }),
		column(s, func(s *stepPatch) *string { return s.kind }),
		column(s, func(s *stepPatch) *string { return s.name }),
		column(s, func(s *stepPatch) *string { return s.state }),
		column(s, func(s *stepPatch) *bool { return s.held }),
		column(s, func(s *stepPatch) bool { return s.released }),
		column(s, func(s *stepPatch) *int { return s.attempt }),
		column(s, func(s *stepPatch) *string { return s.queue }),
		column(s, func(s *stepPatch) *int { return s.priority }),
		column(s, func(s *stepPatch) *time.Time { return s.notBefore }),
		column(s, func(s *stepPatch) *int64 { return s.readyPosition }),
		column(s, func(s *stepPatch) *string { return s.worker }),
		column(s, func(s *stepPatch) *time.Time { return s.started }),
		column(s, func(s *stepPatch) *time.Time { return s.ended }),
		column(s, func(s *stepPatch) *time.Time { return s.due }),
		column(s, func(s *stepPatch) *time.Time { return s.closeBy }),
		column(s, func(s *stepPatch) *time.Time { return s.lease }),
		column(s, func(s *stepPatch) *string { return s.errorCode }),
		column(s, func(s *stepPatch) *string { return s.errorMessage }),
		column(s, func(s *stepPatch) *string { return s.input }),
		column(s, func(s *stepPatch) *string { return s.inputFrom }),
		column(s, func(s *stepPatch) *string { return s.output }),
		column(s, func(s *stepPatch) int64 { return s.usage.Prompt() }),
		column(s, func(s *stepPatch) int64 { return s.usage.Completion() }),
		column(s, func(s *stepPatch) int64 { return int64(s.cost) }),
	)
}

const stepsCancelled = `
update run_steps s set state = 'cancelled', held = false, ended_at = p.ended_at
from unnest($1::text[], $2::timestamptz[]) as p (run_id, ended_at)
where s.run_id = p.run_id and s.state in ('ready', 'running', 'waiting')`

// queueEnded closes what was still open in runs that ended.
func queueEnded(b *pgx.Batch, ended []*runPatch) {
	if len(ended) == 0 {
		return
	}
	b.Queue(stepsCancelled,
		column(ended, func(p *runPatch) string { return p.id }),
		column(ended, func(p *runPatch) time.Time { return *p.ended }))
}

const workflowCounted = `
insert into workflow_counters as c (workflow_id, total, succeeded, failed, cancelled, timed_out, duration_ms_sum, last_run_at)
select workflow_id, sum(begun), sum((status = 'succeeded')::int), sum((status = 'failed')::int), sum((status = 'cancelled')::int),
	sum((status = 'timeout')::int), coalesce(sum(duration) filter (where status = 'succeeded'), 0), max(queued_at)
from (
	select workflow_id, 1 as begun, '' as status, 0 as duration, queued_at from runs where id = any($1)
	union all
	select workflow_id, 0, status, (extract(epoch from ended_at - started_at) * 1000)::bigint, queued_at from runs where id = any($2)
) t
group by workflow_id
on conflict (workflow_id) do update set
	total = c.total + excluded.total,
	succeeded = c.succeeded + excluded.succeeded,
	failed = c.failed + excluded.failed,
	cancelled = c.cancelled + excluded.cancelled,
	timed_out = c.timed_out + excluded.timed_out,
	duration_ms_sum = c.duration_ms_sum + excluded.duration_ms_sum,
	last_run_at = greatest(c.last_run_at, excluded.last_run_at)`

func queueCounters(b *pgx.Batch, begun, ended []*runPatch) {
	if len(begun)+len(ended) == 0 {
		return
	}
	b.Queue(workflowCounted,
		column(begun, func(p *runPatch) string { return p.id }),
		column(ended, func(p *runPatch) string { return p.id }))
}

// Workers read the live build only, so only that wakes them.
const tasksReady = `
select pg_notify('sparkops_tasks', queue) from (
	select distinct s.queue
	from unnest($1::text[], $2::text[]) as p (run_id, step)
	join run_steps s on s.run_id = p.run_id and s.step = p.step
	where s.state = 'ready' and not s.held and s.queue is not null
) q
where exists (select 1 from sparkops.projections where schema = current_schema() and state = 'live')`

func queueReady(b *pgx.Batch, steps []*stepPatch) {
	ready, _ := split(steps, func(s *stepPatch) bool { return s.state != nil && *s.state == string(run.StepReady) })
	if len(ready) == 0 {
		return
	}
	b.Queue(tasksReady,
		column(ready, func(s *stepPatch) string { return s.key.run }),
		column(ready, func(s *stepPatch) string { return s.key.step }))
}

func (p *runPatch) reasonCode() *string {
	if p.reason == nil {
		return nil
	}
	code := clean(p.reason.Code)
	return &code
}

func (p *runPatch) reasonMessage() *string {
	if p.reason == nil {
		return nil
	}
	message := clean(p.reason.Message)
	return &message
}

// hasHuman reports whether a person takes part in the run.
func hasHuman(q *run.Queued) bool {
	for _, n := range q.Plan.Definition.Nodes {
		if n.Type == "human" {
			return true
		}
	}
	return false
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
