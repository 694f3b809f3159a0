package projections

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// bench is a runner on a database without an event store behind it.
func bench(t testing.TB) *Runner {
	t.Helper()
	database := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), database))
	store, err := eventstore.Open(eventstore.Config{URL: "esdb://127.0.0.1:1?tls=false", Logger: slog.New(slog.DiscardHandler)}, catalog.Registry())
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	r, err := New(t.Context(), Runner{Store: store, DatabaseURL: database, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

func created(id string, position uint64) eventstore.Recorded {
	return eventstore.Recorded{
		Stream: "agent-" + id, Category: "agent", StreamID: id, Type: "AgentCreated", Position: position, Time: time.Now(),
		Event: agent.Created{AgentID: id, ProjectID: "p", Spec: agent.Spec{Name: id, Metadata: json.RawMessage("{\"nul\":\"\\u0000\",\"bad\":\"\xff\"}")}},
	}
}

// A node that slept through the end of its lease and wakes in the middle of a
// batch changes nothing: neither rows nor the checkpoint.
func TestAPausedOwnerChangesNothing(t *testing.T) {
	t.Parallel()
	r := bench(t)
	p, err := byName(r.Projections, "agents")
	require.NoError(t, err)
	begun, err := r.builds.create(t.Context(), p, building, "old")
	require.NoError(t, err)
	_, taken, err := r.builds.claim(t.Context(), begun.schema, "new")
	require.NoError(t, err)
	require.False(t, taken, "the lease has not run out")

	conn, err := r.connect(t.Context(), begun.schema)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	old := r.newLeader(p, begun, building)
	require.NoError(t, old.commit(t.Context(), conn, p.New(), work{events: []eventstore.Recorded{created("a", 10)}, position: 10}))

	_, err = r.builds.pool.Exec(t.Context(), `update sparkops.projections set lease_until = clock_timestamp() - interval '1 second'`)
	require.NoError(t, err)
	next, taken, err := r.builds.claim(t.Context(), begun.schema, "new")
	require.NoError(t, err)
	require.True(t, taken)
	require.Equal(t, lease{schema: begun.schema, epoch: 2, position: 10}, next)

	err = old.commit(t.Context(), conn, p.New(), work{events: []eventstore.Recorded{created("b", 20)}, position: 20})
	require.True(t, isLost(err), "%v", err)
	require.ErrorIs(t, r.builds.extend(t.Context(), begun), errLost)
	_, err = r.builds.position(t.Context(), begun)
	require.ErrorIs(t, err, errLost)
	require.NoError(t, r.builds.fail(t.Context(), begun, err), "says nothing about a build of another")
	_, err = r.builds.promote(t.Context(), p, begun)
	require.ErrorIs(t, err, errLost)
	require.Equal(t, []string{"a"}, ids(t, conn))

	// The new owner goes on from the checkpoint; its own batch counts once.
	heir := r.newLeader(p, next, building)
	require.NoError(t, heir.commit(t.Context(), conn, p.New(), work{events: []eventstore.Recorded{created("b", 20)}, position: 20}))
	heir.position = 10
	err = heir.commit(t.Context(), conn, p.New(), work{events: []eventstore.Recorded{created("c", 20)}, position: 20})
	require.True(t, isLost(err), "the checkpoint has moved: %v", err)
	require.Equal(t, []string{"a", "b"}, ids(t, conn))
	position, err := r.builds.position(t.Context(), next)
	require.NoError(t, err)
	require.EqualValues(t, 20, position)
}

func ids(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	found, err := conn.Query(t.Context(), `select id from agents order by id`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(found, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

// A build never becomes live while the live one is ahead of it, and the switch
// fences the old one off.
func TestPromotion(t *testing.T) {
	t.Parallel()
	r := bench(t)
	p, err := byName(r.Projections, "agents")
	require.NoError(t, err)
	first, err := r.builds.createFirst(t.Context(), p, "node")
	require.NoError(t, err)
	again, err := r.builds.createFirst(t.Context(), p, "node")
	require.NoError(t, err)
	require.Zero(t, again, "another node was faster")
	ahead, err := r.builds.promote(t.Context(), p, first)
	require.NoError(t, err)
	require.Zero(t, ahead)
	_, err = r.builds.pool.Exec(t.Context(), `update sparkops.projections set position = 70 where schema = $1`, first.schema)
	require.NoError(t, err)

	second, err := r.builds.create(t.Context(), p, building, "node")
	require.NoError(t, err)
	ahead, err = r.builds.promote(t.Context(), p, second)
	require.NoError(t, err)
	require.EqualValues(t, 70, ahead)
	_, err = r.builds.pool.Exec(t.Context(), `update sparkops.projections set position = 70 where schema = $1`, second.schema)
	require.NoError(t, err)
	ahead, err = r.builds.promote(t.Context(), p, second)
	require.NoError(t, err)
	require.Zero(t, ahead)
	require.ErrorIs(t, r.builds.extend(t.Context(), first), errLost)
	require.NoError(t, r.builds.extend(t.Context(), second))

	// What was replaced stays a while, then goes with its tables.
	require.NoError(t, r.builds.sweep(t.Context(), p))
	require.Equal(t, 2, agentSchemas(t, r))
	_, err = r.builds.pool.Exec(t.Context(), `update sparkops.projections set retired_at = retired_at - interval '1 hour' where state = 'retired'`)
	require.NoError(t, err)
	require.NoError(t, r.builds.sweep(t.Context(), p))
	require.Equal(t, 1, agentSchemas(t, r))
	_, taken, err := r.builds.claim(t.Context(), first.schema, "node")
	require.NoError(t, err)
	require.False(t, taken)
}

func agentSchemas(t *testing.T, r *Runner) (n int) {
	t.Helper()
	require.NoError(t, r.builds.pool.QueryRow(t.Context(), `select count(*) from information_schema.schemata where schema_name like 'agents_v%'`).Scan(&n))
	return n
}

// A newer program builds its version beside the old one, which goes once
// nobody leads it any more.
func TestOldVersionsAreKeptWhileTheyAreLed(t *testing.T) {
	t.Parallel()
	r := bench(t)
	v1, err := byName(r.Projections, "agents")
	require.NoError(t, err)
	v2 := v1
	v2.Version++
	old, err := r.builds.createFirst(t.Context(), v1, "old")
	require.NoError(t, err)
	_, err = r.builds.promote(t.Context(), v1, old)
	require.NoError(t, err)
	fresh, err := r.builds.createFirst(t.Context(), v2, "new")
	require.NoError(t, err)
	require.NotZero(t, fresh)
	_, err = r.builds.promote(t.Context(), v2, fresh)
	require.NoError(t, err)
	require.NoError(t, r.builds.extend(t.Context(), old), "the old program is not disturbed")

	require.NoError(t, r.builds.sweep(t.Context(), v2))
	require.NoError(t, r.builds.extend(t.Context(), old))
	_, err = r.builds.pool.Exec(t.Context(), `update sparkops.projections set lease_until = lease_until - interval '1 hour' where schema = $1`, old.schema)
	require.NoError(t, err)
	require.NoError(t, r.builds.sweep(t.Context(), v2))
	require.ErrorIs(t, r.builds.extend(t.Context(), old), errLost)
	require.NoError(t, r.builds.extend(t.Context(), fresh))
}

func TestCheckFindsForgottenEvents(t *testing.T) {
	t.Parallel()
	p, err := byName(All(), "agents")
	require.NoError(t, err)
	p.Categories = append(p.Categories, "tool")
	require.ErrorIs(t, Check([]Projection{p}), errUnhandled)
	p.Categories = []string{"nonsense"}
	require.ErrorContains(t, Check([]Projection{p}), "nonsense")
	p.Version = 0
	require.ErrorContains(t, Check([]Projection{p}), "version")
}
