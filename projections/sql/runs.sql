-- Payloads are JSON kept as text: they are given back as they came, and no
-- payload a worker sends can be refused by a stricter parser.
create table runs (
	id                 text primary key,
	project_id         text not null,
	workflow_id        text not null,
	workflow_version   int not null,
	agent_id           text,
	env                text not null,
	trigger            text not null,
	triggered_by       text not null,
	region             text not null,
	status             text not null,
	paused             boolean not null,
	reason_code        text,
	reason_message     text,
	queued_at          timestamptz not null,
	started_at         timestamptz not null, -- of queueing, until a worker took a step
	ended_at           timestamptz,
	deadline           timestamptz not null,
	updated_at         timestamptz not null,
	tokens_input       bigint not null,
	tokens_cache_read  bigint not null,
	tokens_cache_write bigint not null,
	tokens_output      bigint not null,
	tokens_reasoning   bigint not null,
	cost_nanos         bigint not null,
	retries            int not null,
	retry_of           text,
	has_human          boolean not null,
	hidden             boolean not null,
	provider           text not null,
	input              text,
	output             text,
	output_from        text, -- instead of output: JSON list of the steps whose outputs make it
	config             text,
	revision           bigint not null
) with (fillfactor = 80);
create index on runs (started_at desc, id desc);
create index on runs (project_id, started_at desc, id desc);
create index on runs (workflow_id, started_at desc, id desc);
create index on runs (agent_id, started_at desc, id desc);
create index on runs (deadline) where status in ('queued', 'running') and not paused;
create index on runs (status, started_at desc, id desc);
create index on runs (retry_of) where retry_of is not null;

-- A step is also the task a worker leases (while it is ready) and a timer
-- (while it is open), so that each event touches one row.
create table run_steps (
	run_id            text not null,
	step              text not null,
	node              text not null,
	idx               int not null,
	type              text not null,
	name              text not null,
	state             text not null, -- ready, running, waiting, succeeded, failed, skipped, cancelled
	held              boolean not null, -- ready, but its run is paused
	attempt           int not null,
	queue             text,
	priority          int not null,
	not_before        timestamptz,
	ready_position    bigint,
	worker            text,
	started_at        timestamptz, -- first
	ended_at          timestamptz, -- of the last attempt that ended
	due_at            timestamptz, -- while open: when the time changes something about it
	close_by          timestamptz,
	error_code        text,
	error_message     text,
	input             text,
	input_from        text, -- instead of input: JSON list of the steps whose outputs make it
	output            text,
	tokens_prompt     bigint not null,
	tokens_completion bigint not null,
	cost_nanos        bigint not null,
	primary key (run_id, step)
) with (fillfactor = 80);
create index on run_steps (queue, priority desc, not_before, ready_position) where state = 'ready' and not held;
create index on run_steps (due_at) where (state in ('running', 'waiting') or state = 'ready' and not held);

create table workflow_counters (
	workflow_id     text primary key,
	total           bigint not null,
	succeeded       bigint not null,
	failed          bigint not null,
	cancelled       bigint not null,
	timed_out       bigint not null,
	duration_ms_sum bigint not null, -- of the succeeded ones
	last_run_at     timestamptz
) with (fillfactor = 50);

create table dead_projects (project_id text primary key);
