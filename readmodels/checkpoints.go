package readmodels

import (
	"context"

	"github.com/sparkops/control-plane/domain"
)

// ProcessCheckpoints keeps how far the processes are, in Postgres. It
// implements pubsub.Checkpoints.
type ProcessCheckpoints struct{ views *Views }

// ProcessCheckpoints returns the checkpoints kept in this database.
func (v *Views) ProcessCheckpoints() ProcessCheckpoints { return ProcessCheckpoints{v} }

type processCheckpoint struct {
	Position int64 `db:"position"`
}

// Load returns the position saved under a name; false when there is none.
func (c ProcessCheckpoints) Load(ctx context.Context, name string) (uint64, bool, error) {
	r, err := row[processCheckpoint](ctx, c.views.infra, `select position from sparkops.process_checkpoints where name = $1`, name)
	if domain.KindOf(err) == domain.NotFound {
		return 0, false, nil
	}
	return uint64(r.Position), err == nil, err
}

const saveCheckpoint = `insert into sparkops.process_checkpoints (name, position) values ($1, $2)
on conflict (name) do update set position = excluded.position, updated_at = clock_timestamp()
where process_checkpoints.position < excluded.position`

// Save keeps a position under a name. It never moves one back: of two nodes
// that run the same process the one ahead counts.
func (c ProcessCheckpoints) Save(ctx context.Context, name string, position uint64) error {
	_, err := c.views.infra.Exec(ctx, saveCheckpoint, name, int64(position))
	return Translate(err)
}
