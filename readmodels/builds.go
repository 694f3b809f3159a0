package readmodels

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Versions names every projection and the version of its tables that the
// queries of this package are written for. Package projections builds exactly
// these; raising a number makes it build anew beside the old one.
var Versions = map[string]int{
	"accounts":  1,
	"agents":    1,
	"projects":  1,
	"runs":      1,
	"tools":     1,
	"workflows": 1,
}

// Build is one row of sparkops.projections: a projection's tables in a schema
// of their own and how far they are.
type Build struct {
	Schema     string     `db:"schema" json:"schema"`
	Name       string     `db:"name" json:"name"`
	Version    int        `db:"version" json:"version"`
	State      string     `db:"state" json:"state"` // building, live, retired, scratch
	Position   int64      `db:"position" json:"position"`
	Epoch      int64      `db:"epoch" json:"epoch"`
	Owner      string     `db:"owner" json:"owner"` // node that moves it, "" for none
	Led        bool       `db:"led" json:"led"`     // the owner's lease has not run out
	LeaseUntil *time.Time `db:"lease_until" json:"leaseUntil"`
	Error      *string    `db:"error" json:"error"` // why it stands still, null while it does not
	ErrorAt    *time.Time `db:"error_at" json:"errorAt"`
	CreatedAt  time.Time  `db:"created_at" json:"createdAt"`
	UpdatedAt  time.Time  `db:"updated_at" json:"updatedAt"`
	RetiredAt  *time.Time `db:"retired_at" json:"retiredAt"`
}

const buildsSQL = `
select schema, name, version, state, position, epoch, owner, coalesce(lease_until > clock_timestamp(), false) as led,
       lease_until, error, error_at, created_at, updated_at, retired_at
from sparkops.projections order by name, version, created_at, schema`

// Builds returns every build of every projection, by name.
func (v *Views) Builds(ctx context.Context) ([]Build, error) { return BuildsIn(ctx, v.infra) }

// BuildsIn returns every build of every projection in a database, by name.
func BuildsIn(ctx context.Context, pool *pgxpool.Pool) ([]Build, error) {
	return rows[Build](ctx, pool, buildsSQL)
}

const liveSQL = `select name, version, schema, position from sparkops.projections where state = 'live'`

type liveRow struct {
	Name     string `db:"name"`
	Version  int    `db:"version"`
	Schema   string `db:"schema"`
	Position int64  `db:"position"`
}

// builds returns where queries go, reading it the first time.
func (v *Views) builds(ctx context.Context) (*liveBuilds, error) {
	if live := v.live.Load(); live != nil {
		return live, nil
	}
	if err := v.Refresh(ctx); err != nil {
		return nil, err
	}
	return v.live.Load(), nil
}

// Refresh reads which builds are live and how far they are. Views does so by
// itself on every switch; it is exported for programs that switch one and want
// to read from it at once.
func (v *Views) Refresh(ctx context.Context) error {
	v.refresh.Lock()
	defer v.refresh.Unlock()
	before := v.hub.reached()
	found, err := rows[liveRow](ctx, v.infra, liveSQL)
	if err != nil {
		return err
	}
	positions, schemas := map[string]int64{}, map[string]string{}
	for _, r := range found {
		if Versions[r.Name] == r.Version {
			schemas[r.Name], positions[r.Name] = r.Schema, r.Position
		}
	}
	path := searchPath(schemas)
	if old := v.live.Load(); old == nil || old.path != path {
		v.live.Store(&liveBuilds{path: path, schemas: schemas})
		if old != nil {
			v.pool.Reset()
			v.queues.wakeAll() // while a build is made nobody is told of its tasks
			v.log.InfoContext(ctx, "read models switched", "search_path", path)
		}
	}
	v.hub.set(schemas, positions, before) // after the switch: who waited reads the new build
	return nil
}

// searchPath lists the schemas by projection name; the program's own comes
// last, so that there is always one.
func searchPath(schemas map[string]string) string {
	var path []string
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		path = append(path, pgx.Identifier{schemas[name]}.Sanitize())
	}
	return strings.Join(append(path, "sparkops"), ", ")
}
