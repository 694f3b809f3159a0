create table projects (
	id            text primary key,
	slug          text not null,
	owner_user_id text not null,
	name          text not null,
	status        text not null,
	spec          json not null,
	created_at    timestamptz not null,
	updated_at    timestamptz not null,
	revision      bigint not null
);
create index on projects (created_at desc, id desc);

create table members (
	project_id text not null,
	user_id    text not null,
	role       text not null,
	added_at   timestamptz not null,
	primary key (project_id, user_id)
);
create index on members (user_id);
