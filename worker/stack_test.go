package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"sync"
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
	domaintool "github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
	"github.com/sparkops/control-plane/readmodels/vault"
	"github.com/sparkops/control-plane/worker/llm"
	"github.com/sparkops/control-plane/worker/tool"
)

// newHandler returns a control plane of its own: the embedded event store, a
// database and projections that follow.
func newHandler(t testing.TB) *commands.Handler {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
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
	views, err := readmodels.Open(t.Context(), database, readmodels.Options{Logger: quiet})
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
	h, err := commands.New(commands.Handler{
		Store: store, Views: views, Vault: sealed, Expr: engine, Logger: quiet,
		Secrets: commands.Secrets{JWT: []byte("jwt secret of the tests, long enough"), APIKey: []byte("pepper"), Master: []byte("master")},
	})
	require.NoError(t, err)
	return h
}

var owner = commands.WithActor(context.Background(), domain.Actor{Kind: domain.ActorUser, ID: "u", Role: domain.Owner})

func ptr[T any](v T) *T { return &v }

// A workflow of every kind of node this worker carries out, with a branch and
// credentials, on the real control plane and over real HTTP.
func TestWholeRun(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	models := httptest.NewServer(&llm.Server{APIKey: "k"})
	t.Cleanup(models.Close)
	api := countHits(t, 200)

	projectID, _, err := h.CreateProject(owner, project.Patch{Name: ptr("P")})
	require.NoError(t, err)
	adder, _, err := h.CreateTool(owner, projectID, domaintool.Patch{Name: ptr("Adder"), Kind: ptr("function"), AuthType: ptr("none"), Config: domain.Some(json.RawMessage(`{"builtin":"add"}`))})
	require.NoError(t, err)
	caller, _, err := h.CreateTool(owner, projectID, domaintool.Patch{
		Name: ptr("Caller"), Kind: ptr("api"), AuthType: ptr("bearer"),
		Config:     domain.Some(json.RawMessage(fmt.Sprintf(`{"url":%q,"idempotent":true}`, api.url))),
		AuthConfig: domain.Some(json.RawMessage(`{"token":"t0p"}`)),
	})
	require.NoError(t, err)
	agentID, _, err := h.CreateAgent(owner, projectID, agent.Patch{Name: ptr("Ann"), Runtime: ptr("python"), Model: ptr("gpt-4o"), Provider: ptr("openai"), Temperature: ptr(7.0), Tools: domain.Some([]string{adder})})
	require.NoError(t, err)
	var d workflow.Definition
	require.NoError(t, json.Unmarshal([]byte(fmt.Sprintf(`{
		"nodes":[
			{"id":"think","type":"agent","agent":%q,"prompt":"Add for ${ input.who }."},
			{"id":"check","type":"decision"},
			{"id":"call","type":"tool","tool":%q,"input":{"sum":"${ outputs.think.sum }"}},
			{"id":"never","type":"tool","tool":"builtin:fail"},
			{"id":"also","type":"tool","tool":"builtin:echo","input":{"x":1}},
			{"id":"end","type":"tool","tool":"builtin:echo"}],
		"edges":[{"from":"think","to":"check"},{"from":"check","to":"call","when":"outputs.think.sum == 3"},{"from":"check","to":"never"},
			{"from":"think","to":"also"},{"from":"call","to":"end"},{"from":"never","to":"end"},{"from":"also","to":"end"}]}`, agentID, caller)), &d))
	flow, _, err := h.CreateWorkflow(owner, projectID, workflow.Patch{Name: ptr("Flow"), Definition: &d})
	require.NoError(t, err)

	w := startWorker(t, Config{
		Tasks: h, Clock: time.Now, Models: llm.Models{Simulated: llm.Simulated{}, OpenAI: &llm.OpenAI{BaseURL: models.URL + "/v1", APIKey: "k"}},
		Tools: tool.New(localGuard(t), h.OpenToolAuth, nil),
	})
	id, _, err := h.CreateRun(owner, commands.NewRun{WorkflowID: flow, Input: json.RawMessage(`{"who":"Bob","simulate":{"turns":[{"toolCalls":[{"name":"Adder","arguments":{"a":1,"b":2}}]},{"json":{"sum":3}}]}}`)})
	require.NoError(t, err)
	r := awaitEnd(t, h, id)
	require.Equal(t, run.StatusSucceeded, r.Status(), "%+v", r.StatusReason())
	require.JSONEq(t, `{"call":{"done":true},"also":{"x":1}}`, string(r.Output()))
	require.Equal(t, map[string]int{id + "/call/tool-1": 1}, api.seen())
	never, _ := r.Step("never")
	require.Equal(t, run.StepSkip, never.Status)
	require.Positive(t, r.Cost())
	w.end(t)
}

func awaitEnd(t testing.TB, h *commands.Handler, id string) run.Run {
	t.Helper()
	var r run.Run
	require.Eventually(t, func() bool {
		var err error
		r, _, err = commands.Load[run.Run](context.Background(), h, domain.StreamName(run.Category, id))
		return err == nil && r.Ended()
	}, time.Minute, 2*time.Millisecond)
	return r
}

// Cancelling a run ends a call under way, and the worker's late result changes
// nothing.
func TestCancelWins(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	projectID, _, err := h.CreateProject(owner, project.Patch{Name: ptr("P")})
	require.NoError(t, err)
	d := workflow.Definition{Nodes: []workflow.Node{{ID: "s", Type: workflow.NodeTool, Tool: "builtin:sleep", Input: json.RawMessage(`{"duration":"1h"}`)}}}
	flow, _, err := h.CreateWorkflow(owner, projectID, workflow.Patch{Name: ptr("Flow"), Definition: &d})
	require.NoError(t, err)
	w := startWorker(t, Config{Tasks: h, Clock: time.Now, Heartbeat: 20 * time.Millisecond})
	id, _, err := h.CreateRun(owner, commands.NewRun{WorkflowID: flow})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.active.Load() == 1 }, time.Minute, time.Millisecond)
	_, err = h.CancelRun(owner, id, "enough")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.active.Load() == 0 }, time.Minute, time.Millisecond)
	require.Equal(t, run.StatusCancelled, awaitEnd(t, h, id).Status())
}

// Two workers share the runs; each step is carried out once.
func TestTwoWorkersShare(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	tools := localTools(t)
	projectID, _, err := h.CreateProject(owner, project.Patch{Name: ptr("P")})
	require.NoError(t, err)
	node := func(id string) workflow.Node {
		return workflow.Node{ID: id, Type: workflow.NodeTool, Tool: "builtin:counter", Input: json.RawMessage(`{"name":"steps"}`)}
	}
	d := workflow.Definition{Nodes: []workflow.Node{node("a"), node("b"), node("c")}, Edges: []workflow.Edge{{From: "a", To: "b"}, {From: "b", To: "c"}}}
	flow, _, err := h.CreateWorkflow(owner, projectID, workflow.Patch{Name: ptr("Flow"), Definition: &d})
	require.NoError(t, err)
	for _, id := range []string{"one", "two"} {
		startWorker(t, Config{Tasks: h, ID: id, Tools: tools, Clock: time.Now})
	}
	const runs = 50
	var ids []string
	for range runs {
		id, _, err := h.CreateRun(owner, commands.NewRun{WorkflowID: flow})
		require.NoError(t, err)
		ids = append(ids, id)
	}
	for _, id := range ids {
		require.Equal(t, run.StatusSucceeded, awaitEnd(t, h, id).Status())
	}
	require.Equal(t, int64(3*runs), tools.Count("steps"))
}

// BenchmarkNoopRuns measures runs of three steps that do nothing, end to end.
func BenchmarkNoopRuns(b *testing.B) {
	h := newHandler(b)
	projectID, _, err := h.CreateProject(owner, project.Patch{Name: ptr("P")})
	require.NoError(b, err)
	d := workflow.Definition{Nodes: []workflow.Node{noop("a"), noop("b"), noop("c")}, Edges: []workflow.Edge{{From: "a", To: "b"}, {From: "b", To: "c"}}}
	flow, _, err := h.CreateWorkflow(owner, projectID, workflow.Patch{Name: ptr("Flow"), Definition: &d})
	require.NoError(b, err)
	w, err := New(Config{Tasks: h, Models: llm.Models{Simulated: llm.Simulated{}}, Tools: tool.New(localGuard(b), nil, nil), Slots: 64, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	ids := make(chan string, b.N)
	b.ResetTimer()
	var starters sync.WaitGroup
	for range 16 {
		starters.Go(func() {
			for range (b.N + 15) / 16 {
				id, _, err := h.CreateRun(owner, commands.NewRun{WorkflowID: flow})
				if err != nil {
					b.Error(err)
					return
				}
				select {
				case ids <- id:
				default:
				}
			}
		})
	}
	starters.Wait()
	for range b.N {
		awaitEnd(b, h, <-ids)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
	cancel()
	require.NoError(b, <-ended)
}
