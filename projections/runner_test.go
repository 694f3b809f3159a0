package projections_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
)

var everything = readmodels.Visible{All: true}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// addAgent appends the creation of an agent and returns its id and position.
func (p plane) addAgent(t testing.TB, projectID, name string) (id string, position uint64) {
	t.Helper()
	id = newID()
	return id, p.append(t, "agent-"+id, time.Now(), agent.Created{
		AgentID: id, ProjectID: projectID,
		Spec: agent.Spec{Name: name, Runtime: "python", Model: "m", Provider: "p", Env: "dev", Concurrency: 1, Status: "active", Tools: []string{}},
	})
}

func (p plane) agents(t testing.TB) int {
	t.Helper()
	found, err := p.views.Agents(t.Context(), everything, readmodels.AgentFilter{}, readmodels.Page{Size: 1})
	require.NoError(t, err)
	return found.Total
}

// query returns the one value of a query.
func query[T any](t testing.TB, database, sql string, args ...any) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var value T
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}

func exec(t testing.TB, database, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func TestReadsBeforeTheFirstBuildAreUnavailable(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	_, err := p.views.Agents(t.Context(), everything, readmodels.AgentFilter{}, readmodels.Page{})
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	_, position := p.addAgent(t, "p1", "a")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Equal(t, domain.Unavailable, domain.KindOf(p.views.WaitFor(ctx, position, "agents")))

	start(t, p.runner(t, projections.Runner{Views: p.views}))
	p.waitFor(t, position, "agents")
	require.Equal(t, 1, p.agents(t))
}

// A position of events of others is passed on request, although the projection
// never sees them.
func TestWaitForPositionsOfOtherCategories(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	_, before := p.addAgent(t, "p1", "a")
	start(t, p.runner(t, projections.Runner{Views: p.views}))
	p.waitFor(t, before, "agents")
	last := p.append(t, claim.EmailCategory+"-x", time.Now(), claim.Taken{Holder: "h"})
	p.waitFor(t, last)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := p.views.WaitFor(ctx, last+1_000_000, "agents")
	require.Equal(t, domain.Unavailable, domain.KindOf(err), "a position the log has not reached is never passed")
	_, after := p.addAgent(t, "p1", "b")
	p.waitFor(t, after, "agents")
	require.Equal(t, 2, p.agents(t))
}

// The views of another node learn of a commit through Postgres alone.
func TestWaitForOnAnotherNode(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	start(t, p.runner(t, projections.Runner{})) // not connected to these views
	for i := range 5 {
		_, position := p.addAgent(t, "p1", fmt.Sprint(i))
		p.waitFor(t, position, "agents")
		require.Equal(t, i+1, p.agents(t))
	}
	require.Error(t, p.views.WaitFor(t.Context(), 1, "nonsense"))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.views.WaitFor(cancelled, 1<<40, "agents"), context.Canceled)
}

func TestRebuildWhileWriting(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	r := p.runner(t, projections.Runner{Views: p.views})
	start(t, r)
	for i := range 200 {
		p.addAgent(t, "p1", fmt.Sprint(i))
	}
	_, position := p.addAgent(t, "p1", "last")
	p.waitFor(t, position, "agents")
	before := query[string](t, p.database, `select schema from sparkops.projections where name = 'agents' and state = 'live'`)

	// Writers write and read their own writes all along.
	var stop atomic.Bool
	var written atomic.Int64
	var writers sync.WaitGroup
	written.Store(201)
	for range 2 {
		writers.Go(func() {
			for !stop.Load() {
				id, position := p.addAgent(t, "p1", "w")
				p.waitFor(t, position, "agents")
				_, err := p.views.Agent(t.Context(), everything, id)
				if !noError(t, err) {
					return
				}
				written.Add(1)
			}
		})
	}
	var calls []projections.Progress
	err := r.Rebuild(t.Context(), "agents", func(x projections.Progress) { calls = append(calls, x) })
	stop.Store(true)
	writers.Wait()
	require.NoError(t, err)
	require.Zero(t, calls[0].Position)
	require.Positive(t, calls[0].Head)
	for i := 1; i < len(calls); i++ {
		require.GreaterOrEqual(t, calls[i].Position, calls[i-1].Position)
		require.GreaterOrEqual(t, calls[i].Head, calls[i].Position)
	}
	after := query[string](t, p.database, `select schema from sparkops.projections where name = 'agents' and state = 'live'`)
	require.NotEqual(t, before, after)
	require.Equal(t, "retired", query[string](t, p.database, `select state from sparkops.projections where schema = $1`, before))

	_, position = p.addAgent(t, "p1", "after")
	p.waitFor(t, position, "agents")
	require.Equal(t, int(written.Load())+1, p.agents(t))
	report, err := r.Verify(t.Context(), "agents", nil)
	require.NoError(t, err)
	require.Zero(t, report.Total, "%v", report.Differences)
	require.Equal(t, []projections.TableCount{{Table: "agents", Rows: int(written.Load()) + 1}, {Table: "dead_agent_projects"}}, report.Tables)

	require.Equal(t, domain.NotFound, domain.KindOf(r.Rebuild(t.Context(), "nonsense", nil)))
}

func noError(t testing.TB, err error) bool {
	if err != nil {
		t.Errorf("unexpected error: %v", err)
	}
	return err == nil
}

// A rebuild that is broken off is finished by whoever runs.
func TestRebuildIsFinishedByAnotherNode(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	stop := start(t, p.runner(t, projections.Runner{Views: p.views}))
	for i := range 20 {
		p.addAgent(t, "p1", fmt.Sprint(i))
	}
	_, position := p.addAgent(t, "p1", "last")
	p.waitFor(t, position)
	stop()
	before := query[string](t, p.database, `select schema from sparkops.projections where name = 'agents' and state = 'live'`)

	ctx, cancel := context.WithCancel(t.Context())
	other := p.runner(t, projections.Runner{})
	err := other.Rebuild(ctx, "agents", func(projections.Progress) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "building", query[string](t, p.database, `select state from sparkops.projections where name = 'agents' and state <> 'live'`))
	require.Equal(t, domain.Conflict, domain.KindOf(other.Rebuild(t.Context(), "agents", nil)))

	start(t, p.runner(t, projections.Runner{Views: p.views}))
	require.Eventually(t, func() bool {
		return before != query[string](t, p.database, `select schema from sparkops.projections where name = 'agents' and state = 'live'`)
	}, patience, 20*time.Millisecond)
	_, position = p.addAgent(t, "p1", "after")
	p.waitFor(t, position)
	require.Equal(t, 22, p.agents(t))
}

// Two nodes: one moves each projection, the other takes over.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	stopA := start(t, p.runner(t, projections.Runner{Views: p.views, Node: "a"}))
	_, position := p.addAgent(t, "p1", "1")
	p.waitFor(t, position)
	start(t, p.runner(t, projections.Runner{Node: "b"}))
	_, position = p.addAgent(t, "p1", "2")
	p.waitFor(t, position)
	require.Equal(t, []string{"a"}, owners(t, p.database))

	stopA() // gives its leases back
	_, position = p.addAgent(t, "p1", "3")
	p.waitFor(t, position)
	require.Eventually(t, func() bool { o := owners(t, p.database); return len(o) == 1 && o[0] == "b" }, patience, 10*time.Millisecond)
	require.Equal(t, 3, p.agents(t))
}

func owners(t testing.TB, database string) []string {
	t.Helper()
	return query[[]string](t, database, `select array_agg(distinct owner order by owner) from sparkops.projections where state = 'live'`)
}

// A projection whose DDL or events fail says so, keeps its place, and goes on
// when the cause is gone. Events before the bad one are applied.
func TestFailingEventStopsLoudly(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	all := projections.All()
	var broken atomic.Bool
	broken.Store(true)
	for i := range all {
		if all[i].Name == "agents" {
			good := all[i].New
			all[i].New = func() projections.Applier { return &poisoned{Applier: good(), broken: &broken} }
		}
	}
	r := p.runner(t, projections.Runner{Views: p.views, Projections: all})
	start(t, r)
	_, position := p.addAgent(t, "p1", "good")
	p.waitFor(t, position, "agents")
	p.addAgent(t, "p1", "also good")
	_, bad := p.addAgent(t, "p1", "poison")
	_, last := p.addAgent(t, "p1", "later")
	exactly := fmt.Sprintf("position %d)", bad) // first the batch is blamed, then the event
	require.Eventually(t, func() bool {
		lag, err := r.Lag(t.Context())
		require.NoError(t, err)
		return lag[1].State == "failed" && strings.Contains(*lag[1].Error, exactly)
	}, patience, 20*time.Millisecond)
	lag, err := r.Lag(t.Context())
	require.NoError(t, err)
	require.Equal(t, "agents", lag[1].Name)
	require.Contains(t, *lag[1].Error, "apply AgentCreated (event 0 of agent-")
	require.Equal(t, 2, p.agents(t))
	require.EqualValues(t, 2, lag[1].Events)

	broken.Store(false)
	p.waitFor(t, last, "agents")
	require.Equal(t, 4, p.agents(t))
	require.Eventually(t, func() bool {
		lag, err := r.Lag(t.Context())
		require.NoError(t, err)
		return lag[1].State == "live" && lag[1].Error == nil && lag[1].Events == 0
	}, patience, 20*time.Millisecond)
}

// poisoned fails in Postgres on an agent named poison.
type poisoned struct {
	projections.Applier
	broken *atomic.Bool
}

func (a *poisoned) Apply(b *pgx.Batch, r eventstore.Recorded) error {
	if e, ok := r.Event.(agent.Created); ok && e.Spec.Name == "poison" && a.broken.Load() {
		b.Queue(`select 1 / 0`)
	}
	return a.Applier.Apply(b, r)
}

// What Postgres lost is built again, by a runner that is running or a new one.
func TestEverythingIsBuiltAgainAfterPostgresLostItsData(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	r := p.runner(t, projections.Runner{Views: p.views})
	start(t, r)
	projectID := newID()
	p.append(t, "project-"+projectID, time.Now(), project.Created{ProjectID: projectID, OwnerUserID: "u", Slug: "s", Spec: project.Spec{Name: "P", Status: "active"}})
	_, position := p.addAgent(t, projectID, "a")
	p.waitFor(t, position)
	exec(t, p.database, `do $$ declare s text; begin
		for s in select schema from sparkops.projections loop execute 'drop schema ' || quote_ident(s) || ' cascade'; end loop;
		drop schema sparkops cascade; end $$`)
	require.Eventually(t, func() bool {
		found, err := p.views.Project(t.Context(), everything, projectID)
		return err == nil && found.Name == "P"
	}, patience, 20*time.Millisecond)
	_, position = p.addAgent(t, projectID, "b")
	p.waitFor(t, position)
	require.Equal(t, 2, p.agents(t))
}

// Every connection to Postgres breaks again and again; nothing is lost or
// applied twice.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	r := p.runner(t, projections.Runner{Views: p.views})
	start(t, r)
	for round := range 4 {
		for i := range 20 {
			_, position := p.addAgent(t, "p1", fmt.Sprint(i))
			if i == 10 {
				p.waitFor(t, position, "agents")
				exec(t, p.database, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
			}
		}
		_, position := p.addAgent(t, "p1", "last")
		p.waitFor(t, position, "agents")
		require.Eventually(t, func() bool {
			found, err := p.views.Agents(t.Context(), everything, readmodels.AgentFilter{}, readmodels.Page{Size: 1})
			return err == nil && found.Total == (round+1)*21
		}, patience, 10*time.Millisecond)
	}
	report, err := r.Verify(t.Context(), "agents", nil)
	require.NoError(t, err)
	require.Zero(t, report.Total)
}

func TestVerifyFindsDifferences(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	r := p.runner(t, projections.Runner{Views: p.views})
	start(t, r)
	_, err := r.Verify(t.Context(), "nonsense", nil)
	require.Equal(t, domain.NotFound, domain.KindOf(err))
	gone, _ := p.addAgent(t, "p1", "gone")
	changed, position := p.addAgent(t, "p1", "changed")
	p.waitFor(t, position, "agents")
	schema := query[string](t, p.database, `select schema from sparkops.projections where name = 'agents' and state = 'live'`)
	exec(t, p.database, `delete from `+schema+`.agents where id = $1`, gone)
	exec(t, p.database, `update `+schema+`.agents set name = 'tampered' where id = $1`, changed)
	var calls []projections.Progress
	report, err := r.Verify(t.Context(), "agents", func(x projections.Progress) { calls = append(calls, x) })
	require.NoError(t, err)
	require.Equal(t, schema, report.Schema)
	require.Equal(t, position, report.Position)
	require.Equal(t, 3, report.Total)
	sides := map[string]int{}
	for _, d := range report.Differences {
		require.Equal(t, "agents", d.Table)
		sides[d.Side]++
	}
	require.Equal(t, map[string]int{"live": 1, "replayed": 2}, sides)
	require.Equal(t, projections.Progress{Position: position, Head: position}, calls[len(calls)-1])
	require.Zero(t, query[int](t, p.database, `select count(*) from sparkops.projections where state = 'scratch'`))
}
