package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/run"
	domaintool "github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/egress"
	"github.com/sparkops/control-plane/worker/llm"
	"github.com/sparkops/control-plane/worker/tool"
)

// board is a control plane in memory: the real decisions of package run on
// runs that live in a map, with a clock the test moves.
type board struct {
	t    *testing.T
	expr run.Evaluator

	mu      sync.Mutex
	now     time.Time
	runs    map[string]run.Run
	events  map[string][]domain.Event
	changed chan struct{} // closed and replaced at every change

	// A worker dies at its n-th report: from then on nothing it says arrives.
	// With applied, that report itself still does.
	reports int
	dieAt   int
	applied bool
	dead    map[string]bool

	unavailable int // reports to refuse as if the store were down
	heartbeats  int
}

func newBoard(t *testing.T) *board {
	t.Helper()
	engine, err := expr.New()
	require.NoError(t, err)
	return &board{
		t: t, expr: engine, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
		runs: map[string]run.Run{}, events: map[string][]domain.Event{}, changed: make(chan struct{}), dead: map[string]bool{},
	}
}

func (b *board) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// commit decides under the lock.
func (b *board) commit(cmd commands.Command[run.Run]) (run.Run, []domain.Event, error) {
	_, id, _ := domain.SplitStream(cmd.Stream())
	r := b.runs[id]
	events, err := cmd.Decide(r, b.now)
	if err != nil {
		return r, nil, err
	}
	for _, e := range events {
		r = r.Evolve(e)
	}
	b.runs[id] = r
	b.events[id] = append(b.events[id], events...)
	if len(events) > 0 {
		b.tellLocked()
	}
	return r, events, nil
}

// tellLocked wakes everybody who waits for a change.
func (b *board) tellLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) do(cmd commands.Command[run.Run]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _, err := b.commit(cmd)
	return err
}

// pass moves the clock and decides what is due.
func (b *board) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
	for id := range b.runs {
		_, _, err := b.commit(run.Advance{RunID: id, Expr: b.expr})
		require.NoError(b.t, err)
	}
	b.tellLocked() // what waits for a time looks again
}

// report is the gate of everything a worker reports.
func (b *board) report(t Task, cmd commands.Command[run.Run]) (run.Run, []domain.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unavailable > 0 {
		b.unavailable--
		return run.Run{}, nil, domain.Fail(domain.Unavailable, "STORE_DOWN", "The store does not answer.")
	}
	worker := b.holder(t)
	if worker == "" || b.dead[worker] {
		return run.Run{}, nil, lost()
	}
	b.reports++
	if b.reports == b.dieAt {
		b.dead[worker] = true
		defer b.tellLocked()
		if !b.applied {
			return run.Run{}, nil, lost()
		}
	}
	r, events, err := b.commit(cmd)
	if err == nil && b.dead[worker] {
		return r, nil, lost()
	}
	return r, events, err
}

func (b *board) holder(t Task) string {
	s, _ := b.runs[t.RunID].Step(t.Step)
	if s.Token != t.Token {
		return ""
	}
	return s.Worker
}

func lost() error { return domain.Fail(domain.Conflict, "LEASE_LOST", "Nobody is there.") }

func (b *board) LeaseTasks(ctx context.Context, w commands.Worker, most int, wait time.Duration) ([]Task, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		var tasks []Task
		ids := make([]string, 0, len(b.runs))
		for id := range b.runs {
			ids = append(ids, id)
		}
		sort.Strings(ids)
		for _, id := range ids {
			for _, s := range b.runs[id].Steps() {
				if s.Status != run.StepReady || len(tasks) == most || b.dead[w.ID] {
					continue
				}
				r, events, err := b.commit(run.Lease{RunID: id, Worker: w.ID, Tickets: []run.Ticket{{Step: s.Step, Attempt: s.Attempt}}})
				if err == nil {
					tasks = append(tasks, leased(r, events)...)
				}
			}
		}
		changed := b.changed
		b.mu.Unlock()
		if len(tasks) > 0 {
			return tasks, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C:
			return nil, nil
		case <-changed:
		}
	}
}

func leased(r run.Run, events []domain.Event) []Task {
	var tasks []Task
	for _, e := range events {
		started, ok := e.(run.StepStarted)
		if !ok {
			continue
		}
		s, _ := r.Step(started.Step)
		n := r.Node(s)
		t := Task{
			RunID: r.ID(), Step: s.Step, Node: s.Node, Type: s.Type, Queue: s.Queue, Attempt: s.Attempt, Token: s.Token,
			Input: r.StepInput(s), NodeSpec: n, Tools: r.Plan().Tools, Details: s.Details,
			LeaseUntil: s.LeaseUntil, CloseBy: s.CloseBy, Run: r.Facts(),
		}
		for _, c := range s.Calls {
			t.Calls = append(t.Calls, *c)
		}
		if a, ok := r.Plan().Agents[n.Agent]; ok {
			t.Agent = &a
		}
		tasks = append(tasks, t)
	}
	return tasks
}

func held(t Task) run.Held {
	return run.Held{RunID: t.RunID, Step: t.Step, Attempt: t.Attempt, Token: t.Token}
}

func (b *board) HeartbeatTask(_ context.Context, t Task, details json.RawMessage) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heartbeats++
	if b.dead[b.holder(t)] {
		return time.Time{}, lost()
	}
	_, _, err := b.commit(run.ExtendLease{Held: held(t), Details: details})
	return time.Time{}, err
}

func (b *board) StartCall(_ context.Context, t Task, c run.Call) error {
	_, _, err := b.report(t, run.StartCall{Held: held(t), Call: c})
	return err
}

func (b *board) FinishCall(_ context.Context, t Task, seq int, result run.CallResult) error {
	_, _, err := b.report(t, run.FinishCall{Held: held(t), Seq: seq, Result: result})
	return err
}

func (b *board) CompleteTask(_ context.Context, t Task, output json.RawMessage, take int) ([]Task, error) {
	r, events, err := b.report(t, run.Complete{Held: held(t), Output: output, Take: take, Expr: b.expr})
	return leased(r, events), err
}

func (b *board) FailTask(_ context.Context, t Task, f run.Failure, retryable bool, retryAfter time.Duration) error {
	_, _, err := b.report(t, run.Fail{Held: held(t), Failure: f, Retryable: retryable, RetryAfter: retryAfter, Expr: b.expr})
	return err
}

func (b *board) ReleaseTask(_ context.Context, t Task) error {
	_, _, err := b.report(t, run.ReleaseLease{Held: held(t), Expr: b.expr})
	return err
}

// queue starts a run.
func (b *board) queue(id string, plan run.Plan, input string) {
	b.t.Helper()
	require.NoError(b.t, b.do(run.Queue{RunID: id, ProjectID: "p", WorkflowID: "w", WorkflowVersion: 1, Env: "dev", Trigger: "manual", Input: json.RawMessage(input), Plan: plan, Expr: b.expr}))
}

func (b *board) run(id string) run.Run {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runs[id]
}

// await waits until a run satisfies a condition.
func (b *board) await(id, what string, is func(run.Run) bool) run.Run {
	b.t.Helper()
	timeout := time.NewTimer(60 * time.Second)
	defer timeout.Stop()
	for {
		b.mu.Lock()
		r, changed := b.runs[id], b.changed
		b.mu.Unlock()
		if is(r) {
			return r
		}
		select {
		case <-changed:
		case <-timeout.C:
			require.FailNow(b.t, "run "+id+" is not "+what, "%s %+v %+v", r.Phase(), r.StatusReason(), r.Steps())
		}
	}
}

func (b *board) ended(id string) run.Run {
	b.t.Helper()
	return b.await(id, "ended", run.Run.Ended)
}

// finished returns the calls that were recorded as finished, in order.
func (b *board) finished(id string) []run.StepCallFinished {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []run.StepCallFinished
	for _, e := range b.events[id] {
		if f, ok := e.(run.StepCallFinished); ok {
			out = append(out, f)
		}
	}
	return out
}

// recording is the simulated provider with a list of the keys it was called
// with.
type recording struct {
	llm.Simulated
	mu   sync.Mutex
	keys []string
	asks []llm.Request
}

func (p *recording) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	p.mu.Lock()
	p.keys = append(p.keys, r.Key)
	p.asks = append(p.asks, r)
	p.mu.Unlock()
	return p.Simulated.Complete(ctx, r)
}

func (p *recording) called() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.keys...)
}

// started is a worker that runs.
type started struct {
	*Worker
	stop context.CancelFunc
	done chan error
}

func startWorker(t *testing.T, c Config) *started {
	t.Helper()
	if c.Models.Simulated == nil {
		c.Models.Simulated = llm.Simulated{}
	}
	if c.Tools == nil {
		c.Tools = localTools(t)
	}
	if c.Clock == nil {
		if b, ok := c.Tasks.(*board); ok {
			c.Clock = b.clock
		}
	}
	c.Logger = slog.New(slog.DiscardHandler)
	w, err := New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &started{Worker: w, stop: cancel, done: make(chan error, 1)}
	go func() { s.done <- w.Run(ctx) }()
	t.Cleanup(func() { s.end(t) })
	return s
}

// end stops the worker and waits for it.
func (s *started) end(t *testing.T) {
	t.Helper()
	s.stop()
	select {
	case err := <-s.done:
		s.done <- err
		require.NoError(t, err)
	case <-time.After(60 * time.Second):
		require.FailNow(t, "the worker does not stop")
	}
}

func localGuard(t testing.TB) *egress.Guard {
	t.Helper()
	allow, err := egress.ParseAllow("127.0.0.0/8")
	require.NoError(t, err)
	return &egress.Guard{Allow: allow}
}

func localTools(t *testing.T) *tool.Set {
	t.Helper()
	return tool.New(localGuard(t), func(context.Context, string, string) (json.RawMessage, error) {
		return nil, errors.New("no credentials here")
	}, nil)
}

func toolPlan(name string, config map[string]any) run.ToolPlan {
	raw, _ := json.Marshal(config)
	return run.ToolPlan{Version: 1, Spec: domaintool.Spec{Name: name, Kind: "custom", Config: raw, Status: "active"}}
}

func agentPlan(tools ...string) run.AgentPlan {
	return run.AgentPlan{Version: 1, Spec: agent.Spec{Name: "a", Model: "gpt-4o", Provider: "openai", Temperature: 7, PromptSummary: "You help.", Tools: tools}}
}

// agentRun is a plan of one agent node.
func agentRun(n workflow.Node, a run.AgentPlan, tools map[string]run.ToolPlan) run.Plan {
	n.ID, n.Type, n.Agent = "step", workflow.NodeAgent, "a1"
	return run.Plan{
		Definition: workflow.Definition{Nodes: []workflow.Node{n}},
		Agents:     map[string]run.AgentPlan{"a1": a}, Tools: tools,
	}
}

func toolRun(toolRef string, tools map[string]run.ToolPlan) run.Plan {
	return run.Plan{Definition: workflow.Definition{Nodes: []workflow.Node{{ID: "step", Type: workflow.NodeTool, Tool: toolRef}}}, Tools: tools}
}

// hits is an HTTP server that counts requests by their idempotency key.
type hits struct {
	url    string
	mu     sync.Mutex
	byKey  map[string]int
	status int
}

func countHits(t *testing.T, status int) *hits {
	t.Helper()
	h := &hits{byKey: map[string]int{}, status: status}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.byKey[r.Header.Get("Idempotency-Key")]++
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(h.status)
		_, _ = w.Write([]byte(`{"done":true}`))
	}))
	t.Cleanup(s.Close)
	h.url = s.URL
	return h
}

func (h *hits) seen() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]int{}
	for k, n := range h.byKey {
		out[k] = n
	}
	return out
}
