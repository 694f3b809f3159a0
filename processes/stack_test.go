package processes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
	"github.com/sparkops/control-plane/readmodels/vault"
)

const patience = time.Minute

// stack is an event store, a database, projections and a handler, with a clock
// that can be moved.
type stack struct {
	*commands.Handler
	dev    context.Context // an owner
	offset atomic.Int64    // of the clock
}

func newStack(t *testing.T) *stack {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s := &stack{}
	clock := func() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }
	node, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	store, err := eventstore.Open(eventstore.Config{URL: node.ConnectionString(), CallTimeout: 30 * time.Second, Logger: quiet}, catalog.Registry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	keys, err := vault.DirStore(t.TempDir())
	require.NoError(t, err)
	sealed, err := vault.New(keys, []byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	database := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), database))
	views, err := readmodels.Open(t.Context(), database, readmodels.Options{Logger: quiet, Clock: clock})
	require.NoError(t, err)
	t.Cleanup(views.Close)
	runner, err := projections.New(t.Context(), projections.Runner{Store: store, DatabaseURL: database, Views: views, Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(runner.Close)
	moving, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = runner.Run(moving) })
	t.Cleanup(func() { stop(); running.Wait() })
	engine, err := expr.New()
	require.NoError(t, err)
	s.Handler, err = commands.New(commands.Handler{
		Store: store, Views: views, Vault: sealed, Expr: engine, Clock: clock, Logger: quiet,
		Secrets: commands.Secrets{JWT: []byte("jwt secret of the tests, long enough"), APIKey: []byte("pepper"), Master: []byte("master")},
	})
	require.NoError(t, err)
	s.dev = commands.WithActor(context.Background(), domain.Actor{Kind: domain.ActorUser, ID: "u", Role: domain.Owner})
	return s
}

// service runs the processes until stop is called.
func (s *stack) service(t *testing.T, change ...func(*Service)) (*Service, func()) {
	t.Helper()
	c := Service{Handler: s.Handler, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&c)
	}
	service, err := New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(patience):
			require.FailNow(t, "the service does not stop")
		}
	})
	t.Cleanup(stop)
	return service, stop
}

// leads waits until a service leads and its processes have subscribed.
func (s *stack) leads(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, found, err := s.Views.ProcessCheckpoints().Load(context.Background(), "runs")
		return err == nil && found
	}, patience, 5*time.Millisecond)
}

func (s *stack) newProject(t *testing.T) string {
	t.Helper()
	name := "P"
	id, _, err := s.CreateProject(s.dev, project.Patch{Name: &name})
	require.NoError(t, err)
	return id
}

func (s *stack) newAgent(t *testing.T, projectID string) string {
	t.Helper()
	name, runtime, model, provider := "Ann", "python", "gpt-4o", "openai"
	id, _, err := s.CreateAgent(s.dev, projectID, agent.Patch{Name: &name, Runtime: &runtime, Model: &model, Provider: &provider})
	require.NoError(t, err)
	return id
}

func (s *stack) newWorkflow(t *testing.T, projectID, definition string) string {
	t.Helper()
	var d workflow.Definition
	require.NoError(t, json.Unmarshal([]byte(definition), &d))
	name := "Flow"
	id, _, err := s.CreateWorkflow(s.dev, projectID, workflow.Patch{Name: &name, Definition: &d})
	require.NoError(t, err)
	return id
}

func (s *stack) start(t *testing.T, workflowID, agentID string) string {
	t.Helper()
	id, _, err := s.CreateRun(s.dev, commands.NewRun{WorkflowID: workflowID, AgentID: agentID})
	require.NoError(t, err)
	return id
}

// await waits until a run satisfies a condition.
func (s *stack) await(t *testing.T, id string, is func(run.Run) bool) run.Run {
	t.Helper()
	var r run.Run
	require.Eventually(t, func() bool {
		var err error
		r, _, err = commands.Load[run.Run](context.Background(), s.Handler, domain.StreamName(run.Category, id))
		return err == nil && is(r)
	}, patience, 5*time.Millisecond)
	return r
}

func is(status run.Status) func(run.Run) bool {
	return func(r run.Run) bool { return r.Status() == status }
}

const (
	waiting = `{"nodes":[{"id":"w","type":"wait","duration":"1h"}]}`
	short   = `{"nodes":[{"id":"w","type":"wait","duration":"50ms"}]}`
	working = `{"nodes":[{"id":"step","type":"tool","tool":"builtin:noop","retry":{"jitter":"none"}}]}`
)

// Runs whose project, workflow or agent is deleted are cancelled; others go on.
func TestDeletionsCancelRuns(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.service(t)
	s.leads(t)
	one, two := s.newProject(t), s.newProject(t)
	ann, bob := s.newAgent(t, two), s.newAgent(t, two)
	doomed, kept := s.newWorkflow(t, two, waiting), s.newWorkflow(t, two, waiting)
	byProject := s.start(t, s.newWorkflow(t, one, waiting), "")
	byWorkflow, byAgent, untouched := s.start(t, doomed, bob), s.start(t, kept, ann), s.start(t, kept, bob)

	_, err := s.DeleteProject(s.dev, one)
	require.NoError(t, err)
	_, err = s.DeleteWorkflow(s.dev, doomed)
	require.NoError(t, err)
	_, err = s.DeleteAgent(s.dev, ann)
	require.NoError(t, err)
	for id, reason := range map[string]string{byProject: "The project was deleted.", byWorkflow: "The workflow was deleted.", byAgent: "The agent was deleted."} {
		r := s.await(t, id, is(run.StatusCancelled))
		require.Contains(t, r.StatusReason().Message, reason)
	}
	require.False(t, s.await(t, untouched, run.Run.Exists).Ended())
	events, err := s.History(s.dev, byProject, commands.HistoryQuery{Limit: 100})
	require.NoError(t, err)
	cancelled := events[len(events)-1]
	require.Equal(t, "RunCancelled", cancelled.Type)
	require.Equal(t, eventstore.ActorRef{Kind: domain.ActorProcess, ID: "process.runs"}, cancelled.Metadata.Actor)
}

func TestTimersEndWaits(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.service(t)
	flow := s.newWorkflow(t, s.newProject(t), short)
	var ids []string
	for range 20 {
		ids = append(ids, s.start(t, flow, ""))
	}
	for _, id := range ids {
		s.await(t, id, is(run.StatusSucceeded))
	}
}

// A worker that never comes back loses its lease, and the step is tried again;
// a run that is out of time is ended.
func TestTimersFindLostWorkers(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.service(t)
	flow := s.newWorkflow(t, s.newProject(t), working)
	id := s.start(t, flow, "")
	ctx := commands.WithActor(context.Background(), domain.Process("worker"))
	lease := func(worker string) commands.Task {
		var tasks []commands.Task
		require.Eventually(t, func() bool {
			var err error
			tasks, err = s.LeaseTasks(ctx, commands.Worker{ID: worker, Queues: []string{workflow.DefaultQueue}}, 1, time.Second)
			return err == nil && len(tasks) == 1
		}, patience, time.Millisecond)
		return tasks[0]
	}
	lost := lease("lost")
	s.offset.Add(int64(31 * time.Second))
	r := s.await(t, id, func(r run.Run) bool { step, _ := r.Step("step"); return step.Attempt == 2 })
	step, _ := r.Step("step")
	require.Equal(t, run.CodeLeaseExpired, step.Failure.Code)
	s.offset.Add(int64(2 * time.Second))
	next := lease("next")
	_, err := s.CompleteTask(ctx, lost, json.RawMessage(`{"late":true}`), 0)
	require.Equal(t, domain.Conflict, domain.KindOf(err), "the lost worker's result is refused")
	_, err = s.CompleteTask(ctx, next, json.RawMessage(`{}`), 0)
	require.NoError(t, err)
	s.await(t, id, is(run.StatusSucceeded))

	late := s.start(t, flow, "")
	s.offset.Add(int64(2 * time.Hour))
	s.await(t, late, run.Run.Ended)
}

// Of two nodes one leads; when it goes, the other takes over and misses
// nothing.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	_, stopFirst := s.service(t)
	s.leads(t)
	second, _ := s.service(t)
	projectID := s.newProject(t)
	flow := s.newWorkflow(t, projectID, waiting)
	before := s.start(t, flow, "")
	stopFirst()
	_, err := s.DeleteWorkflow(s.dev, flow)
	require.NoError(t, err)
	s.await(t, before, is(run.StatusCancelled))
	s.await(t, s.start(t, s.newWorkflow(t, projectID, short), ""), is(run.StatusSucceeded))
	_, err = second.Parked(t.Context(), "nobody")
	require.Equal(t, domain.NotFound, domain.KindOf(err))
}

// The lead ends with the connection that holds it; the node stands again.
func TestLeadIsLostWithItsConnection(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.service(t)
	s.leads(t)
	const kill = `select count(pg_terminate_backend(pid)) from pg_locks
		where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())
		and (classid::bigint << 32 | objid::bigint) = $1`
	var killed int
	require.NoError(t, s.Views.Pool().QueryRow(t.Context(), kill, leadLock).Scan(&killed))
	require.Equal(t, 1, killed)
	s.await(t, s.start(t, s.newWorkflow(t, s.newProject(t), short), ""), is(run.StatusSucceeded))
}

// broken is a command that fails until it is repaired.
type broken struct {
	project  string
	repaired *atomic.Bool
	done     chan string
}

func (b broken) Do(context.Context, *commands.Handler) error {
	if !b.repaired.Load() {
		return errors.New("a bug")
	}
	b.done <- b.project
	return nil
}

// What cannot be handled is parked, later events go on, and it can be handled
// again.
func TestParking(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	var repaired atomic.Bool
	handled := make(chan string, 10)
	var poisoned atomic.Pointer[string]
	p := Process{Name: "runs", Categories: []string{project.Category}, On: func(e eventstore.Recorded) []Command {
		if _, ok := e.Event.(project.Deleted); !ok {
			return nil
		}
		b := broken{project: e.StreamID, repaired: &repaired, done: handled}
		if poison := poisoned.Load(); poison == nil || *poison != e.StreamID {
			fine := atomic.Bool{}
			fine.Store(true)
			b.repaired = &fine
		}
		return []Command{b}
	}}
	service, _ := s.service(t, func(c *Service) { c.Processes = []Process{p} })
	s.leads(t)
	bad, good := s.newProject(t), s.newProject(t)
	poisoned.Store(&bad)
	for _, id := range []string{bad, good} {
		_, err := s.DeleteProject(s.dev, id)
		require.NoError(t, err)
	}
	require.Equal(t, good, receive(t, handled))
	require.Eventually(t, func() bool {
		events, err := service.Parked(t.Context(), "runs")
		return err == nil && len(events) == 1 && events[0].Stream == "project-"+bad && events[0].Error == "a bug"
	}, patience, 10*time.Millisecond)

	n, err := service.Redrive(t.Context(), "runs", nil)
	require.EqualError(t, err, "a bug")
	require.Zero(t, n)
	repaired.Store(true)
	n, err = service.Redrive(t.Context(), "runs", nil)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, bad, receive(t, handled))
	events, err := service.Parked(t.Context(), "runs")
	require.NoError(t, err)
	require.Empty(t, events)
}

func receive(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(patience):
		require.FailNow(t, "nothing was handled")
		return ""
	}
}

// An event that comes again changes nothing.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	projectID := s.newProject(t)
	flow := s.newWorkflow(t, projectID, waiting)
	id := s.start(t, flow, "")
	_, err := s.DeleteWorkflow(s.dev, flow)
	require.NoError(t, err)
	var deleted eventstore.Recorded
	_, err = s.Store.Read(t.Context(), "workflow-"+flow, 0, func(r eventstore.Recorded) error { deleted = r; return nil })
	require.NoError(t, err)
	service, err := New(Service{Handler: s.Handler, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for range 3 {
		result, err := service.carryOut(t.Context(), Runs(), deleted, func(_ context.Context, cause error) error { return fmt.Errorf("parked: %w", cause) })
		require.NoError(t, err)
		require.Equal(t, done, result)
	}
	events, err := s.History(s.dev, id, commands.HistoryQuery{Limit: 100})
	require.NoError(t, err)
	count := 0
	for _, e := range events {
		if e.Type == "RunCancelled" {
			count++
		}
	}
	require.Equal(t, 1, count)
}
