package vault

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgresStore is the table vault.keys.
type postgresStore struct {
	pool  *pgxpool.Pool
	ready atomic.Bool
}

// PostgresStore keeps keys in the schema "vault" of the pool's database, which
// it creates at first use; a role that may not create it finds it made
// beforehand. The pool stays the caller's.
//
// Unlike the read models beside it this schema is primary data: it is not
// rebuilt from the event log, and the log's personal text is lost with it. Back
// it up, and do not drop it with the read models. After Erase the wrapped key is
// in no row any more, but may stay in dead rows until autovacuum, in the
// write-ahead log and in backups for as long as you keep those.
func PostgresStore(pool *pgxpool.Pool) Store { return &postgresStore{pool: pool} }

const vaultExists = `select to_regclass('vault.keys') is not null`

// "create … if not exists" is not safe against itself: the lock is.
const vaultLock = `select pg_advisory_xact_lock(hashtextextended('sparkops vault schema', 0))`

const vaultSchema = `
create schema if not exists vault;
create table if not exists vault.keys (
	subject    text primary key,
	key_id     text not null,
	wrapped    bytea,
	created_at timestamptz not null default now(),
	erased_at  timestamptz,
	check ((wrapped is null) = (erased_at is not null))
);
comment on schema vault is 'Primary data: the keys of personal text in the event log. Back it up; nothing can rebuild it.'`

func (s *postgresStore) prepare(ctx context.Context) error {
	if s.ready.Load() {
		return nil
	}
	var exists bool
	err := s.pool.QueryRow(ctx, vaultExists).Scan(&exists)
	if err == nil && !exists {
		err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, vaultLock); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, vaultSchema)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("create key store: %w", err)
	}
	s.ready.Store(true)
	return nil
}

const selectKey = `select subject, key_id, wrapped, erased_at is not null as erased from vault.keys where subject = $1`

func (s *postgresStore) Get(ctx context.Context, subject string) (Record, error) {
	if err := s.prepare(ctx); err != nil {
		return Record{}, err
	}
	rows, _ := s.pool.Query(ctx, selectKey, subject) // CollectExactlyOneRow returns the error
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Record])
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, ErrNoKey
	}
	if err != nil {
		return Record{}, fmt.Errorf("read key: %w", err)
	}
	return r, nil
}

const insertKey = `insert into vault.keys (subject, key_id, wrapped) values ($1, $2, $3) on conflict (subject) do nothing`

func (s *postgresStore) PutIfAbsent(ctx context.Context, r Record) (Record, error) {
	if err := s.prepare(ctx); err != nil {
		return Record{}, err
	}
	tag, err := s.pool.Exec(ctx, insertKey, r.Subject, r.KeyID, r.Wrapped) // waits for one in flight
	if err != nil {
		return Record{}, fmt.Errorf("write key: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return r, nil
	}
	return s.Get(ctx, r.Subject) // rows are never deleted
}

const replaceKey = `update vault.keys set key_id = $4, wrapped = $5
where subject = $1 and key_id = $2 and wrapped = $3 and erased_at is null`

func (s *postgresStore) Replace(ctx context.Context, old, new Record) (bool, error) {
	if err := s.prepare(ctx); err != nil {
		return false, err
	}
	tag, err := s.pool.Exec(ctx, replaceKey, old.Subject, old.KeyID, old.Wrapped, new.KeyID, new.Wrapped)
	if err != nil {
		return false, fmt.Errorf("write key: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const eraseKey = `insert into vault.keys (subject, key_id, wrapped, erased_at) values ($1, '', null, now())
on conflict (subject) do update set key_id = '', wrapped = null, erased_at = now() where vault.keys.erased_at is null`

func (s *postgresStore) Erase(ctx context.Context, subject string) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, eraseKey, subject); err != nil {
		return fmt.Errorf("erase key: %w", err)
	}
	return nil
}

const listKeys = `select subject from vault.keys where erased_at is null order by subject collate "C"`

func (s *postgresStore) List(ctx context.Context) ([]string, error) {
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	rows, _ := s.pool.Query(ctx, listKeys) // CollectRows returns the error
	subjects, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return subjects, nil
}
