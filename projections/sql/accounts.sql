create table users (
	id                  text primary key,
	email_hash          text not null,
	email_sealed        text not null,
	name_sealed         text not null,
	role                text not null,
	is_active           boolean not null default true,
	session_epoch       int not null default 0,
	last_login_at       timestamptz,
	password_changed_at timestamptz not null,
	created_at          timestamptz not null,
	updated_at          timestamptz not null,
	revision            bigint not null
);
create index on users (email_hash);
create index on users (created_at desc, id desc);

create table sessions (
	id                text primary key,
	user_id           text not null,
	epoch             int not null,
	started_at        timestamptz not null,
	last_refreshed_at timestamptz,
	expires_at        timestamptz not null,
	revoked_at        timestamptz,
	revoked_reason    text,
	revision          bigint not null
);
create index on sessions (user_id, started_at desc) where revoked_at is null;

create table api_keys (
	id         text primary key,
	user_id    text not null,
	name       text not null,
	prefix     text not null,
	digest     text not null,
	scopes     text[],
	expires_at timestamptz,
	is_default boolean not null,
	created_at timestamptz not null,
	revoked_at timestamptz,
	revision   bigint not null
);
create index on api_keys (digest);
create index on api_keys (user_id, created_at desc);
