package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

// States of a build.
const (
	building = "building"
	live     = "live"
	scratch  = "scratch"
)

const (
	// leaseTime is how long a silent leader keeps a build; another node takes it
	// over within leaseTime and a tick. All times are those of Postgres.
	leaseTime = 5 * time.Second
	// retiredTime is how long a replaced build is kept for queries that began
	// before the switch.
	retiredTime = time.Minute
	// outdatedTime is how long a build of an older version of the program stays
	// after the last node that led it is gone.
	outdatedTime = 10 * time.Minute
)

// lease is the right to move one build.
type lease struct {
	schema   string
	epoch    int64
	position uint64 // of the build when the lease began
}

// errLost says that somebody else moves the build now, or that it is retired.
var errLost = errors.New("another owner moves this build")

// lostCode is raised by sparkops.advance.
const lostCode = "SPF01"

func isLost(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, errLost) || errors.As(err, &pg) && pg.Code == lostCode
}

// builds are the rows of sparkops.projections.
type builds struct {
	pool *pgxpool.Pool
}

const (
	statesOfBuilds = `select state from sparkops.projections where name = $1 and version = $2 and state in ('live', 'building')`
	lockBuilds     = `select pg_advisory_xact_lock(hashtextextended('sparkops projection ' || $1, 0))`
	nextBuild      = `select nextval('sparkops.builds')`
	insertBuild    = `insert into sparkops.projections (schema, name, version, state, epoch, owner, lease_until)
values ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::interval)`
	tellBuilds = `select pg_notify('` + buildsChannel + `', $1)`

	buildsChannel = "sparkops_builds"
)

// create makes the tables of another build, led by owner from the start. Unless
// it is a scratch one it fails with domain.Conflict while one is being made.
func (b builds) create(ctx context.Context, p Projection, state, owner string) (l lease, err error) {
	err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		other, err := lockedBuilds(ctx, tx, p)
		if err != nil {
			return err
		}
		if state == building && slices.Contains(other, building) {
			return domain.Fail(domain.Conflict, "REBUILD_RUNNING", "A build of this projection is being made already.")
		}
		l, err = createTables(ctx, tx, p, state, owner)
		return err
	})
	return l, readmodels.Translate(err)
}

// createFirst makes the first build of a version; the zero lease says that
// another node was faster.
func (b builds) createFirst(ctx context.Context, p Projection, owner string) (l lease, err error) {
	err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		other, err := lockedBuilds(ctx, tx, p)
		if err != nil || len(other) > 0 {
			return err
		}
		l, err = createTables(ctx, tx, p, building, owner)
		return err
	})
	return l, readmodels.Translate(err)
}

// lockedBuilds keeps others from making builds of a projection until the end of
// the transaction, and returns the states of those that are open.
func lockedBuilds(ctx context.Context, tx pgx.Tx, p Projection) ([]string, error) {
	if _, err := tx.Exec(ctx, lockBuilds, p.Name); err != nil {
		return nil, err
	}
	found, err := tx.Query(ctx, statesOfBuilds, p.Name, p.Version)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowTo[string])
}

func createTables(ctx context.Context, tx pgx.Tx, p Projection, state, owner string) (lease, error) {
	var number int64
	if err := tx.QueryRow(ctx, nextBuild).Scan(&number); err != nil {
		return lease{}, err
	}
	l := lease{schema: fmt.Sprintf("%s_v%d_%d", p.Name, p.Version, number), epoch: 1}
	name := pgx.Identifier{l.schema}.Sanitize()
	if _, err := tx.Exec(ctx, "create schema "+name+"; set local search_path = "+name+"; "+p.Schema); err != nil {
		return lease{}, fmt.Errorf("create tables: %w", err)
	}
	_, err := tx.Exec(ctx, insertBuild, l.schema, p.Name, p.Version, state, l.epoch, owner, leaseTime)
	return l, err
}

// leased says that somebody leads a build. A lease from before a restart of
// Postgres says nothing: whoever held it lost its connection.
const leased = `coalesce(lease_until > clock_timestamp() and lease_until >= pg_postmaster_start_time() + $1::interval, false)`

const claimBuild = `
update sparkops.projections
set epoch = epoch + 1, owner = $3, lease_until = clock_timestamp() + $1::interval
where schema = $2 and state in ('live', 'building') and not ` + leased + `
returning epoch, position`

// claim takes over a build nobody leads; false when somebody does.
func (b builds) claim(ctx context.Context, schema, owner string) (lease, bool, error) {
	l := lease{schema: schema}
	var position int64
	err := b.pool.QueryRow(ctx, claimBuild, leaseTime, schema, owner).Scan(&l.epoch, &position)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, false, nil
	}
	l.position = uint64(position)
	return l, err == nil, readmodels.Translate(err)
}

const extendBuild = `update sparkops.projections set lease_until = clock_timestamp() + $3::interval where schema = $1 and epoch = $2`

// extend keeps a lease for another while; errLost when it does not count.
func (b builds) extend(ctx context.Context, l lease) error {
	tag, err := b.pool.Exec(ctx, extendBuild, l.schema, l.epoch, leaseTime)
	if err == nil && tag.RowsAffected() == 0 {
		return errLost
	}
	return readmodels.Translate(err)
}

const releaseBuild = `update sparkops.projections set lease_until = null, owner = '' where schema = $1 and epoch = $2`

// release lets another node take over at once.
func (b builds) release(ctx context.Context, l lease) error {
	if _, err := b.pool.Exec(ctx, releaseBuild, l.schema, l.epoch); err != nil {
		return readmodels.Translate(err)
	}
	_, err := b.pool.Exec(ctx, tellBuilds, l.schema)
	return readmodels.Translate(err)
}

const positionOfBuild = `select position from sparkops.projections where schema = $1 and epoch = $2`

// position reads the checkpoint; errLost when the lease does not count.
func (b builds) position(ctx context.Context, l lease) (uint64, error) {
	var position int64
	err := b.pool.QueryRow(ctx, positionOfBuild, l.schema, l.epoch).Scan(&position)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errLost
	}
	return uint64(position), readmodels.Translate(err)
}

const failBuild = `update sparkops.projections set error = $3, error_at = clock_timestamp() where schema = $1 and epoch = $2`

// fail says why a build stands still, for everybody who asks.
func (b builds) fail(ctx context.Context, l lease, cause error) error {
	_, err := b.pool.Exec(ctx, failBuild, l.schema, l.epoch, clean(cause.Error()))
	return readmodels.Translate(err)
}

const (
	lockRows = `select schema, state, position, epoch from sparkops.projections
where name = $1 and version = $2 and state in ('live', 'building') order by schema for update`
	retireLive = `update sparkops.projections set state = 'retired', retired_at = clock_timestamp(), epoch = epoch + 1, lease_until = null, owner = ''
where name = $1 and version = $2 and state = 'live'`
	makeLive   = `update sparkops.projections set state = 'live', updated_at = clock_timestamp() where schema = $1 and epoch = $2`
	tellSwitch = `select pg_notify('` + readmodels.ProgressChannel + `', 'switch')`
)

type buildRow struct {
	Schema   string
	State    string
	Position int64
	Epoch    int64
}

// promote makes a build the live one, unless the present one is ahead of it:
// then it returns how far the build has to come first. In one transaction the
// present one is retired, so that its leader changes nothing any more.
func (b builds) promote(ctx context.Context, p Projection, l lease) (ahead uint64, err error) {
	err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockBuilds, p.Name); err != nil {
			return err
		}
		found, err := tx.Query(ctx, lockRows, p.Name, p.Version)
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(found, pgx.RowToStructByPos[buildRow])
		if err != nil {
			return err
		}
		mine, other := int64(-1), int64(-1)
		for _, r := range all {
			switch {
			case r.Schema == l.schema && r.Epoch == l.epoch && r.State == building:
				mine = r.Position
			case r.Schema == l.schema && r.State == live:
				return nil // done before
			case r.State == live:
				other = r.Position
			}
		}
		if mine < 0 {
			return errLost
		}
		if other > mine {
			ahead = uint64(other)
			return nil
		}
		batch := &pgx.Batch{}
		batch.Queue(retireLive, p.Name, p.Version)
		batch.Queue(makeLive, l.schema, l.epoch)
		batch.Queue(tellSwitch)
		batch.Queue(tellBuilds, l.schema)
		return tx.SendBatch(ctx, batch).Close()
	})
	return ahead, readmodels.Translate(err)
}

const (
	// A build of an older program is given up when its version is not led any
	// more; a scratch one when its verification is gone.
	retireOutdated = `update sparkops.projections o set state = 'retired', retired_at = clock_timestamp(), epoch = epoch + 1
where o.state in ('live', 'building') and o.name = $1 and o.version < $2
  and coalesce(o.lease_until, o.updated_at) < clock_timestamp() - $3::interval
  and exists (select 1 from sparkops.projections n where n.name = $1 and n.version = $2 and n.state = 'live')`
	droppable = `select schema from sparkops.projections
where name = $1 and (state = 'retired' and retired_at < clock_timestamp() - $2::interval
	or state = 'scratch' and lease_until < clock_timestamp() - $2::interval)`
	lockRow   = `select schema from sparkops.projections where schema = $1 and state in ('retired', 'scratch') for update skip locked`
	deleteRow = `delete from sparkops.projections where schema = $1`
)

// sweep drops the tables nobody reads any more.
func (b builds) sweep(ctx context.Context, p Projection) error {
	if _, err := b.pool.Exec(ctx, retireOutdated, p.Name, p.Version, outdatedTime); err != nil {
		return readmodels.Translate(err)
	}
	found, err := b.pool.Query(ctx, droppable, p.Name, retiredTime)
	if err != nil {
		return readmodels.Translate(err)
	}
	schemas, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return readmodels.Translate(err)
	}
	for _, schema := range schemas {
		if err := b.drop(ctx, schema); err != nil {
			return err
		}
	}
	return nil
}

// drop removes a build that is retired or scratch; another node may be at it.
func (b builds) drop(ctx context.Context, schema string) error {
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, lockRow, schema).Scan(&schema)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "drop schema if exists "+pgx.Identifier{schema}.Sanitize()+" cascade"); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, deleteRow, schema)
		return err
	})
	return readmodels.Translate(err)
}
