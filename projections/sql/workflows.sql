create table workflows (
	id              text primary key,
	project_id      text not null,
	name            text not null,
	status          text not null,
	tags            text[] not null,
	spec            json not null,
	current_version int not null,
	created_at      timestamptz not null,
	updated_at      timestamptz not null,
	revision        bigint not null
);
create index on workflows (created_at desc, id desc);
create index on workflows (project_id, created_at desc, id desc);
create index on workflows using gin (tags);

create table workflow_versions (
	workflow_id    text not null,
	version        int not null,
	status         text not null,
	author_user_id text not null,
	note           text not null,
	definition     json not null,
	created_at     timestamptz not null,
	updated_at     timestamptz not null,
	primary key (workflow_id, version)
);

-- What is created in one of these by a command that was under way stays hidden.
create table dead_workflow_projects (project_id text primary key);
