package readmodels

import (
	"context"
	"time"
)

// Request is one request made with an Idempotency-Key, and its answer once
// there is one.
type Request struct {
	Actor       string              `db:"actor"`
	Key         string              `db:"key"`
	BodyHash    string              `db:"body_hash"`
	CommandID   string              `db:"command_id"`
	ResourceID  string              `db:"resource_id"`
	Status      int                 `db:"status"` // 0: not answered yet
	Headers     map[string][]string `db:"headers"`
	Body        []byte              `db:"body"`
	CreatedAt   time.Time           `db:"created_at"`
	CompletedAt *time.Time          `db:"completed_at"`
}

// Answered reports whether the answer is known.
func (r Request) Answered() bool { return r.CompletedAt != nil }

// KeyLife is how long a key is remembered.
const KeyLife = 24 * time.Hour

const requestColumns = `actor, key, body_hash, command_id, resource_id, status, headers, body, created_at, completed_at`

const reserveKey = `
insert into sparkops.idempotency (actor, key, body_hash, command_id, resource_id, created_at)
values ($1, $2, $3, $4, $5, $6)
on conflict (actor, key) do update
set body_hash = excluded.body_hash, command_id = excluded.command_id, resource_id = excluded.resource_id,
    status = 0, headers = null, body = null, created_at = excluded.created_at, completed_at = null
where idempotency.created_at <= $7
returning ` + requestColumns

// Reserve remembers a request before it is carried out. fresh is true when the
// key is new, or was last used KeyLife ago; otherwise the earlier request comes
// back, answered or not, and its BodyHash tells whether it was the same one.
func (v *Views) Reserve(ctx context.Context, r Request) (earlier Request, fresh bool, err error) {
	now := v.now()
	for {
		made, err := rows[Request](ctx, v.infra, reserveKey, r.Actor, r.Key, r.BodyHash, r.CommandID, r.ResourceID, now, now.Add(-KeyLife))
		if err != nil {
			return Request{}, false, err
		}
		if len(made) == 1 {
			return made[0], true, nil
		}
		found, err := rows[Request](ctx, v.infra, lookupKey, r.Actor, r.Key)
		if err != nil || len(found) == 1 {
			return first(found), false, err
		}
		// Forgotten between the two statements: it is free again.
	}
}

const completeKey = `update sparkops.idempotency
set status = $3, resource_id = $4, headers = $5, body = $6, completed_at = $7
where actor = $1 and key = $2 and command_id = $8`

// Complete keeps the answer of a reserved request. It changes nothing when the
// key belongs to another command by now.
func (v *Views) Complete(ctx context.Context, r Request) error {
	_, err := v.infra.Exec(ctx, completeKey, r.Actor, r.Key, r.Status, r.ResourceID, r.Headers, r.Body, v.now(), r.CommandID)
	return Translate(err)
}

const lookupKey = `select ` + requestColumns + ` from sparkops.idempotency where actor = $1 and key = $2`

// Lookup returns the request made with a key; domain.NotFound without one.
func (v *Views) Lookup(ctx context.Context, actor, key string) (Request, error) {
	return row[Request](ctx, v.infra, lookupKey+` and created_at > $3`, actor, key, v.now().Add(-KeyLife))
}

// Forget frees a key whose request came to no answer worth keeping, so that
// the same request may be tried again.
func (v *Views) Forget(ctx context.Context, actor, key, commandID string) error {
	_, err := v.infra.Exec(ctx, `delete from sparkops.idempotency where actor = $1 and key = $2 and command_id = $3 and completed_at is null`, actor, key, commandID)
	return Translate(err)
}

// Purge removes keys older than KeyLife and returns how many. Somebody calls it
// now and then.
func (v *Views) Purge(ctx context.Context) (int64, error) {
	tag, err := v.infra.Exec(ctx, `delete from sparkops.idempotency where created_at <= $1`, v.now().Add(-KeyLife))
	return tag.RowsAffected(), Translate(err)
}

func first[T any](s []T) T {
	var zero T
	if len(s) == 0 {
		return zero
	}
	return s[0]
}
