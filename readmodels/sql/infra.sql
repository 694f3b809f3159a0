-- What the control plane keeps in Postgres beside the read models. Every
-- statement may be repeated; package readmodels runs them under a lock.
create schema if not exists sparkops;

-- One row per build of a projection. A build lives in a schema of its own:
-- 'building' until it has caught up, then 'live' (read by everybody who knows
-- this version), then 'retired' (dropped a while after its successor took
-- over). 'scratch' builds belong to a verification.
create table if not exists sparkops.projections (
	schema      text primary key,
	name        text not null,
	version     int not null,
	state       text not null check (state in ('building', 'live', 'retired', 'scratch')),
	position    bigint not null default 0,
	epoch       bigint not null default 0,
	owner       text not null default '',
	lease_until timestamptz,
	error       text,
	error_at    timestamptz,
	created_at  timestamptz not null default clock_timestamp(),
	updated_at  timestamptz not null default clock_timestamp(),
	retired_at  timestamptz
) with (fillfactor = 50);
create unique index if not exists projections_live on sparkops.projections (name, version) where state = 'live';
create unique index if not exists projections_building on sparkops.projections (name, version) where state = 'building';
create sequence if not exists sparkops.builds;

-- The last statement of every projection transaction: moves the checkpoint if
-- nobody else did and the epoch still is the caller's, else undoes the batch.
create or replace function sparkops.advance(p_schema text, p_epoch bigint, p_old bigint, p_new bigint)
returns void language plpgsql as $$
begin
	update sparkops.projections
	set position = p_new, updated_at = clock_timestamp(), error = null, error_at = null
	where schema = p_schema and epoch = p_epoch and position = p_old;
	if not found then
		raise exception 'projection build % is moved by another owner', p_schema using errcode = 'SPF01';
	end if;
	perform pg_notify('sparkops_projection', p_schema || ':' || p_new);
end $$;

-- Checkpoints of the processes (package eventstore/pubsub).
create table if not exists sparkops.process_checkpoints (
	name       text primary key,
	position   bigint not null,
	updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- Answers to requests that carried an Idempotency-Key.
create table if not exists sparkops.idempotency (
	actor        text not null,
	key          text not null,
	body_hash    text not null,
	command_id   text not null,
	resource_id  text not null default '',
	status       int not null default 0,
	headers      jsonb,
	body         bytea,
	created_at   timestamptz not null,
	completed_at timestamptz,
	primary key (actor, key)
);
create index if not exists idempotency_created on sparkops.idempotency (created_at);

-- Who is about to lease which ready task. Only spares two workers the same
-- attempt: the lease itself is an event, so losing this table costs nothing.
create unlogged table if not exists sparkops.task_claims (
	run_id   text not null,
	step     text not null,
	position bigint not null,
	worker   text not null,
	until    timestamptz not null,
	primary key (run_id, step)
);
create index if not exists task_claims_until on sparkops.task_claims (until);
