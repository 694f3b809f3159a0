create table tools (
	id          text primary key,
	project_id  text not null,
	version     int not null,
	name        text not null,
	kind        text not null,
	auth_type   text not null,
	env         text not null,
	status      text not null,
	auth_sealed text not null,
	spec        json not null,
	created_at  timestamptz not null,
	updated_at  timestamptz not null,
	revision    bigint not null
);
create index on tools (created_at desc, id desc);
create index on tools (project_id, created_at desc, id desc);

-- What is created in one of these by a command that was under way stays hidden.
create table dead_tool_projects (project_id text primary key);
