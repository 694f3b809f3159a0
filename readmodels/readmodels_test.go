package readmodels_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

const patience = 30 * time.Second

// clock is a clock tests move.
type clock struct{ now atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Unix(c.now.Load(), 0) }
func (c *clock) forward(d time.Duration) { c.now.Add(int64(d / time.Second)) }

type bench struct {
	database string
	views    *readmodels.Views
	clock    *clock
	conn     *pgx.Conn
}

func newBench(t testing.TB) bench {
	t.Helper()
	b := bench{database: pgtest.Database(t), clock: &clock{}}
	b.clock.now.Store(1_800_000_000)
	require.NoError(t, readmodels.Migrate(t.Context(), b.database))
	b.views = open(t, b.database, readmodels.Options{Clock: b.clock.Now})
	var err error
	b.conn, err = pgx.Connect(t.Context(), b.database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.conn.Close(context.Background()) })
	return b
}

func open(t testing.TB, database string, o readmodels.Options) *readmodels.Views {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	views, err := readmodels.Open(t.Context(), database, o)
	require.NoError(t, err)
	t.Cleanup(views.Close)
	return views
}

func (b bench) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := b.conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// build adds a live build of the tools projection with one tool in it.
func (b bench) build(t testing.TB, schema, toolID string, version int) {
	t.Helper()
	b.exec(t, `create schema `+schema)
	b.exec(t, `create table `+schema+`.tools (id text, project_id text, version int, name text, kind text, auth_type text, env text, status text,
		auth_sealed text, spec json, created_at timestamptz, updated_at timestamptz, revision bigint)`)
	b.exec(t, `insert into `+schema+`.tools values ($1, 'p', 1, 'n', 'k', 'a', 'e', 's', '', '{"name":"n"}', now(), now(), 1)`, toolID)
	b.exec(t, `update sparkops.projections set state = 'retired' where name = 'tools' and version = $1 and state = 'live'`, version)
	b.exec(t, `insert into sparkops.projections (schema, name, version, state, position) values ($1, 'tools', $2, 'live', 10)`, schema, version)
}

func TestMigrateMayBeRepeatedAndRunTwiceAtOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	var nodes sync.WaitGroup
	for range 4 {
		nodes.Go(func() {
			if err := readmodels.Migrate(context.Background(), database); err != nil {
				t.Errorf("migrate: %v", err)
			}
		})
	}
	nodes.Wait()
	require.NoError(t, readmodels.Migrate(t.Context(), database))
}

// Queries started after a switch read the new build; another version's build
// is none of this program's business.
func TestQueriesFollowTheLiveBuild(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	version := readmodels.Versions["tools"]
	all := readmodels.Visible{All: true}
	_, err := b.views.Tool(t.Context(), all, "one")
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	var e *domain.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "READ_MODEL_BUILDING", e.Code)

	b.build(t, "tools_a", "one", version)
	b.exec(t, `select pg_notify($1, 'switch')`, readmodels.ProgressChannel)
	require.Eventually(t, func() bool { _, err := b.views.Tool(t.Context(), all, "one"); return err == nil }, patience, time.Millisecond)
	b.build(t, "tools_b", "two", version)
	require.NoError(t, b.views.Refresh(t.Context()))
	_, err = b.views.Tool(t.Context(), all, "two")
	require.NoError(t, err)
	_, err = b.views.Tool(t.Context(), all, "one")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	b.build(t, "tools_other", "three", version+1)
	require.NoError(t, b.views.Refresh(t.Context()))
	_, err = b.views.Tool(t.Context(), all, "two")
	require.NoError(t, err)

	builds, err := b.views.Builds(t.Context())
	require.NoError(t, err)
	require.Len(t, builds, 3)
	require.Equal(t, []any{"tools_a", "retired", int64(10), false}, []any{builds[0].Schema, builds[0].State, builds[0].Position, builds[0].Led})
	require.NotNil(t, builds[1].CreatedAt)
}

// Who waits across a switch is only told when its queries see the new build.
func TestWaitForAcrossASwitch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	version := readmodels.Versions["tools"]
	b.build(t, "tools_a", "one", version)
	require.NoError(t, b.views.Refresh(t.Context()))
	require.NoError(t, b.views.WaitFor(t.Context(), 10, "tools"))
	waiting := make(chan error, 1)
	go func() { waiting <- b.views.WaitFor(context.Background(), 50, "tools") }()
	b.views.Applied("tools_a", 49)
	b.views.Applied("tools_b", 70) // not live yet, as far as these views know
	select {
	case err := <-waiting:
		t.Fatalf("released too early: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	b.build(t, "tools_b", "two", version)
	b.exec(t, `update sparkops.projections set position = 70 where schema = 'tools_b'`)
	require.NoError(t, <-waiting) // found by the poll: nobody has notified
	_, err := b.views.Tool(t.Context(), readmodels.Visible{All: true}, "two")
	require.NoError(t, err)
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build(t, "tools_a", "one", readmodels.Versions["tools"])
	require.NoError(t, b.views.Refresh(t.Context()))

	// Many wait for different positions; each is released by its own.
	const waiters = 500
	var released atomic.Int64
	var done sync.WaitGroup
	for i := range waiters {
		done.Go(func() {
			if err := b.views.WaitFor(context.Background(), uint64(100+i), "tools"); err != nil {
				t.Errorf("wait: %v", err)
			}
			released.Add(1)
		})
	}
	b.exec(t, `update sparkops.projections set position = $1 where schema = 'tools_a'`, 100+waiters/2-1)
	b.views.Applied("tools_a", 100+waiters/2-1)
	require.Eventually(t, func() bool { return released.Load() == waiters/2 }, patience, time.Millisecond)
	b.exec(t, `update sparkops.projections set position = 99999 where schema = 'tools_a'`)
	b.exec(t, `select pg_notify($1, 'tools_a:99999')`, readmodels.ProgressChannel) // as another node does
	done.Wait()
	b.views.Applied("tools_a", 5) // positions never go back
	require.NoError(t, b.views.WaitFor(t.Context(), 99999, "tools"))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := b.views.WaitFor(ctx, 1, "tools", "agents")
	require.Equal(t, domain.Unavailable, domain.KindOf(err), "agents has no live build")
	require.NoError(t, b.views.WaitFor(t.Context(), 0, "agents"))
	require.NoError(t, b.views.WaitFor(t.Context(), 7))

	closing := make(chan error, 1)
	go func() { closing <- b.views.WaitFor(context.Background(), 1<<40, "tools") }()
	b.views.Close()
	require.Equal(t, domain.Unavailable, domain.KindOf(<-closing))
	require.Equal(t, domain.Unavailable, domain.KindOf(b.views.WaitFor(t.Context(), 1<<40, "tools")))
	require.Equal(t, domain.Unavailable, domain.KindOf(b.views.Ping(t.Context())))
}

// After a crash of Postgres the end of what was applied may be gone: whoever
// waits for that waits until it is applied again.
func TestPositionsLostInACrash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build(t, "tools_a", "one", readmodels.Versions["tools"])
	b.exec(t, `update sparkops.projections set position = 20`)
	require.NoError(t, b.views.Refresh(t.Context()))
	require.NoError(t, b.views.WaitFor(t.Context(), 20, "tools"))
	b.exec(t, `update sparkops.projections set position = 15`)
	require.NoError(t, b.views.Refresh(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Equal(t, domain.Unavailable, domain.KindOf(b.views.WaitFor(ctx, 20, "tools")))
	b.exec(t, `update sparkops.projections set position = 20`)
	require.NoError(t, b.views.WaitFor(t.Context(), 20, "tools"))
}

// Whoever waits for a position no event of the projection lies at asks its
// leader, not more often than needed.
func TestWaitersNudge(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build(t, "tools_a", "one", readmodels.Versions["tools"])
	b.exec(t, `listen `+readmodels.NudgeChannel)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	for i := range 50 {
		done.Go(func() { _ = b.views.WaitFor(ctx, uint64(1000+i), "tools") })
	}
	require.Eventually(t, func() bool {
		n, err := b.conn.WaitForNotification(t.Context())
		require.NoError(t, err)
		schema, position, ok := readmodels.ParseProgress(n.Payload)
		require.True(t, ok)
		require.Equal(t, "tools_a", schema)
		return position == 1049 // the highest wanted
	}, patience, time.Millisecond)
	cancel()
	done.Wait()
}

func TestIdempotencyRecords(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, v := t.Context(), b.views
	request := readmodels.Request{Actor: "u", Key: "k", BodyHash: "h", CommandID: "c1", ResourceID: "r"}
	_, err := v.Lookup(ctx, "u", "k")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	made, fresh, err := v.Reserve(ctx, request)
	require.NoError(t, err)
	require.True(t, fresh)
	require.False(t, made.Answered())

	other := request
	other.BodyHash, other.CommandID = "other", "c2"
	earlier, fresh, err := v.Reserve(ctx, other)
	require.NoError(t, err)
	require.False(t, fresh)
	require.Equal(t, []any{"h", "c1", "r", false}, []any{earlier.BodyHash, earlier.CommandID, earlier.ResourceID, earlier.Answered()})
	_, fresh, err = v.Reserve(ctx, readmodels.Request{Actor: "u2", Key: "k", BodyHash: "h", CommandID: "c3"})
	require.NoError(t, err)
	require.True(t, fresh, "keys are each actor's own")

	answer := made
	answer.Status, answer.Headers, answer.Body = 201, map[string][]string{"Etag": {`"0"`}}, []byte(`{"id":"r"}`)
	stale := answer
	stale.CommandID, stale.Status = "c9", 500
	require.NoError(t, v.Complete(ctx, answer))
	require.NoError(t, v.Complete(ctx, stale), "another command's answer changes nothing")
	require.NoError(t, v.Forget(ctx, "u", "k", "c1"), "an answered key stays")
	earlier, fresh, err = v.Reserve(ctx, request)
	require.NoError(t, err)
	require.False(t, fresh)
	require.True(t, earlier.Answered())
	require.Equal(t, []any{201, map[string][]string{"Etag": {`"0"`}}, `{"id":"r"}`}, []any{earlier.Status, earlier.Headers, string(earlier.Body)})
	found, err := v.Lookup(ctx, "u", "k")
	require.NoError(t, err)
	require.Equal(t, earlier, found)

	require.NoError(t, v.Forget(ctx, "u2", "k", "c3"))
	_, err = v.Lookup(ctx, "u2", "k")
	require.Equal(t, domain.NotFound, domain.KindOf(err))

	b.clock.forward(readmodels.KeyLife)
	_, err = v.Lookup(ctx, "u", "k")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	earlier, fresh, err = v.Reserve(ctx, other)
	require.NoError(t, err)
	require.True(t, fresh)
	require.False(t, earlier.Answered())
	b.clock.forward(readmodels.KeyLife)
	n, err := v.Purge(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

// Of many requests with one key exactly one is the first.
func TestReserveIsExclusive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var fresh atomic.Int64
	var done sync.WaitGroup
	for i := range 20 {
		done.Go(func() {
			_, first, err := b.views.Reserve(context.Background(), readmodels.Request{Actor: "u", Key: "k", CommandID: fmt.Sprint(i)})
			if err != nil {
				t.Errorf("reserve: %v", err)
			}
			if first {
				fresh.Add(1)
			}
		})
	}
	done.Wait()
	require.EqualValues(t, 1, fresh.Load())
}

func TestProcessCheckpoints(t *testing.T) {
	t.Parallel()
	c := newBench(t).views.ProcessCheckpoints()
	_, found, err := c.Load(t.Context(), "runs")
	require.NoError(t, err)
	require.False(t, found)
	for _, position := range []uint64{5, 9, 7} {
		require.NoError(t, c.Save(t.Context(), "runs", position))
	}
	position, found, err := c.Load(t.Context(), "runs")
	require.NoError(t, err)
	require.True(t, found)
	require.EqualValues(t, 9, position, "never back")
}

// With Postgres away every call is Unavailable, soon, and nothing needs to be
// opened again when it is back.
func TestPostgresIsAway(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	away := "postgres://u:secret@" + address + "/db?sslmode=disable"
	require.Equal(t, domain.Unavailable, domain.KindOf(readmodels.Migrate(t.Context(), away)))
	v := open(t, away, readmodels.Options{})
	_, err = v.Projects(t.Context(), readmodels.Visible{All: true}, readmodels.ProjectFilter{}, readmodels.Page{})
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	require.Equal(t, domain.Unavailable, domain.KindOf(v.Ping(t.Context())))
	_, _, err = v.Reserve(t.Context(), readmodels.Request{Actor: "u", Key: "k"})
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	_, err = v.Builds(t.Context())
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	require.NotContains(t, errorText(err), "secret")

	_, err = readmodels.Open(t.Context(), "postgres://u:secret@host:nonsense/db", readmodels.Options{})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}

func errorText(err error) string {
	var texts []string
	for ; err != nil; err = errors.Unwrap(err) {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "\n")
}

// Connections a server dropped are made anew without a failed query in between
// for longer than it takes.
func TestConnectionsAreMadeAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build(t, "tools_a", "one", readmodels.Versions["tools"])
	require.NoError(t, b.views.Refresh(t.Context()))
	all := readmodels.Visible{All: true}
	_, err := b.views.Tool(t.Context(), all, "one")
	require.NoError(t, err)
	b.exec(t, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	require.Eventually(t, func() bool {
		_, err := b.views.Tool(t.Context(), all, "one")
		if err != nil {
			require.Equal(t, domain.Unavailable, domain.KindOf(err))
		}
		return err == nil
	}, patience, time.Millisecond)
	b.exec(t, `update sparkops.projections set position = 77 where schema = 'tools_a'`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, b.views.WaitFor(ctx, 77, "tools"))
}

func TestVisibleTo(t *testing.T) {
	t.Parallel()
	require.Equal(t, readmodels.Visible{All: true}, readmodels.VisibleTo(domain.Actor{Kind: domain.ActorUser, Role: domain.Admin}))
	require.Equal(t, readmodels.Visible{All: true}, readmodels.VisibleTo(domain.Process("x")))
	require.Equal(t, readmodels.Visible{Projects: []string{"p"}}, readmodels.VisibleTo(domain.Actor{Kind: domain.ActorUser, Role: domain.Developer, Projects: map[string]domain.Role{"p": domain.Viewer}}))
	require.Equal(t, readmodels.Visible{Projects: []string{}}, readmodels.VisibleTo(domain.Actor{}))
	require.Equal(t, "queued", readmodels.RunStatus("pending"))
	require.Equal(t, "succeeded", readmodels.RunStatus("completed"))
	require.Equal(t, "running", readmodels.RunStatus("running"))
}

func TestErasedPeople(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(t, `create schema accounts_a`)
	b.exec(t, `create table accounts_a.users as select 'u'::text as id, 'viewer'::text as role, true as is_active, null::timestamptz as last_login_at, now() as created_at,
		now() as updated_at, ''::text as email_hash, 'e'::text as email_sealed, 'n'::text as name_sealed, 
		now() as password_changed_at, 0 as session_epoch, 0::bigint as revision`)
	b.exec(t, `insert into sparkops.projections (schema, name, version, state) values ('accounts_a', 'accounts', $1, 'live')`, readmodels.Versions["accounts"])
	erased, broken := errors.New("erased"), errors.New("broken")
	var failure error
	v := open(t, b.database, readmodels.Options{
		Vault:  func(context.Context, string, string) (string, error) { return "", failure },
		Erased: func(err error) bool { return errors.Is(err, erased) },
	})
	failure = erased
	u, err := v.UserByID(t.Context(), "u")
	require.NoError(t, err)
	require.Equal(t, []string{"[erased]", "[erased]"}, []string{u.Email, u.Name})
	failure = broken
	_, err = v.UserByID(t.Context(), "u")
	require.ErrorIs(t, err, broken)
	require.Empty(t, domain.KindOf(err))
	require.NoError(t, b.views.Refresh(t.Context()))
	u, err = b.views.UserByID(t.Context(), "u")
	require.NoError(t, err)
	require.Equal(t, "[erased]", u.Name, "without a vault")
}
