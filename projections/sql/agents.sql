create table agents (
	id             text primary key,
	project_id     text not null,
	version        int not null,
	name           text not null,
	env            text not null,
	status         text not null,
	health         text not null,
	last_heartbeat timestamptz not null,
	spec           json not null,
	created_at     timestamptz not null,
	updated_at     timestamptz not null,
	revision       bigint not null
);
create index on agents (created_at desc, id desc);
create index on agents (project_id, created_at desc, id desc);

-- What is created in one of these by a command that was under way stays hidden.
create table dead_agent_projects (project_id text primary key);
