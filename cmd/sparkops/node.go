package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sparkops/control-plane/domain"
	domaintool "github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/http"
	"github.com/sparkops/control-plane/processes"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/worker"
	"github.com/sparkops/control-plane/worker/egress"
	"github.com/sparkops/control-plane/worker/llm"
	"github.com/sparkops/control-plane/worker/tool"
)

// allRoles are what one node can do; any number of nodes may do each.
var allRoles = []string{"api", "projector", "processes", "worker"}

func parseRoles(list []string) ([]string, error) {
	if len(list) == 0 {
		return allRoles, nil
	}
	for _, role := range list {
		if !slices.Contains(allRoles, role) {
			return nil, fmt.Errorf("unknown role %q: one of %s", role, strings.Join(allRoles, ", "))
		}
	}
	return list, nil
}

// node is one running process: its backends and the loops of its roles.
type node struct {
	*backends
	cfg     Config
	name    string // unique among nodes, in leases
	roles   []string
	clock   *clock
	log     *slog.Logger
	metrics *prometheus.Registry
	tools   *tool.Set

	goal     atomic.Pointer[uint64] // where the log ended when the node started; nil until known
	achieved atomic.Bool            // the read models have been there
}

// runNode opens everything, announces the node, runs its roles until the
// context ends or one of them fails, and closes everything in reverse.
func runNode(ctx context.Context, cfg Config, roles []string, embeddedMode bool, announce func(n *node, api net.Listener)) (err error) {
	n := &node{cfg: cfg, roles: roles, clock: &clock{}, log: newLogger(cfg), metrics: newMetrics(), name: nodeName()}
	slog.SetDefault(n.log)
	tuneCollector()
	if cfg.UnsafeTestClock {
		n.log.Warn("UNSAFE_TEST_CLOCK is on: whoever may call POST /debug/clock moves the clock of this process")
	}
	var api net.Listener
	if n.has("api") {
		if api, err = n.listenAPI(embeddedMode); err != nil {
			return err
		}
		defer api.Close()
	}
	cfg.vaultInDir = embeddedMode
	if n.backends, err = openBackends(ctx, cfg, embeddedMode, n.clock.Now, n.log, n.metrics); err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.DrainTimeout)
		defer cancel()
		err = errors.Join(err, n.close(closing))
	}()
	if n.tools, err = n.newTools(); err != nil {
		return err
	}
	return n.run(ctx, api, announce)
}

// gcPercent lets the heap grow to four times what is alive before it is
// collected. What is alive is small (caches are bounded), so on small machines
// the processor is worth more than the memory; GOGC in the environment wins.
const gcPercent = 300

func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

func (n *node) has(role string) bool { return slices.Contains(n.roles, role) }

func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), uuid.NewString()[:8])
}

func (n *node) listenAPI(embeddedMode bool) (net.Listener, error) {
	host := n.cfg.Host
	if host == "" && embeddedMode {
		host = "127.0.0.1"
	}
	byHand := n.cfg.set["PORT"] || !embeddedMode
	l, moved, err := listen(host, n.cfg.Port, byHand, "PORT")
	if moved {
		n.log.Warn("the port is in use, listening on the next free one", "wanted", n.cfg.Port, "address", l.Addr().String())
	}
	return l, err
}

func (n *node) newTools() (*tool.Set, error) {
	allow, err := egress.ParseAllow(strings.Join(n.cfg.EgressAllow, ","))
	if err != nil {
		return nil, fmt.Errorf("EGRESS_ALLOW: %w", err)
	}
	open := func(ctx context.Context, toolID, sealed string) (json.RawMessage, error) {
		text, err := n.vault.Open(ctx, domaintool.Subject(toolID), sealed)
		return json.RawMessage(text), err
	}
	return tool.New(&egress.Guard{Allow: allow}, open, n.clock.Now), nil
}

// run starts the loops of the roles under one errgroup. The API stops first,
// then the worker gives back what it holds, so that nothing new begins while
// the rest drains.
func (n *node) run(ctx context.Context, api net.Listener, announce func(*node, net.Listener)) error {
	group, ctx := errgroup.WithContext(ctx)
	if n.failed != nil {
		group.Go(func() error {
			select {
			case err := <-n.failed:
				return err
			case <-ctx.Done():
				return nil
			}
		})
	}
	runner, err := projections.New(ctx, projections.Runner{
		Store: n.store, DatabaseURL: n.databaseURL, Views: n.views, Node: n.name, Logger: n.log, Registerer: n.metrics,
	})
	if err != nil {
		return err
	}
	defer runner.Close()
	if n.has("projector") {
		group.Go(func() error { return runner.Run(ctx) })
	}
	if n.has("processes") {
		p, err := processes.New(processes.Service{Handler: n.handler, Logger: n.log, Registerer: n.metrics})
		if err != nil {
			return err
		}
		group.Go(n.once(ctx, p.Run))
	}
	if n.has("worker") {
		w, err := n.newWorker()
		if err != nil {
			return err
		}
		n.backends.worker.Store(w)
		group.Go(n.once(ctx, w.Run))
	}
	if api != nil {
		server, err := n.newServer(runner)
		if err != nil {
			return err
		}
		group.Go(func() error { return server.Run(ctx, api) })
	}
	announce(n, api)
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (n *node) newWorker() (*worker.Worker, error) {
	models := llm.Models{Simulated: &llm.Simulated{}}
	if n.cfg.OpenAIBaseURL != "" || n.cfg.OpenAIAPIKey != "" {
		client := &llm.OpenAI{BaseURL: n.cfg.OpenAIBaseURL, APIKey: n.cfg.OpenAIAPIKey, Clock: n.clock.Now}
		if client.BaseURL == "" {
			client.BaseURL = "https://api.openai.com/v1"
		}
		if err := client.Check(); err != nil {
			return nil, fmt.Errorf("OPENAI_BASE_URL: %w", err)
		}
		models.OpenAI = client
	}
	return worker.New(worker.Config{
		Tasks: n.handler, Models: models, Tools: n.tools, ID: n.name,
		Queues: n.cfg.WorkerQueues, Slots: n.cfg.WorkerSlots, Drain: n.cfg.DrainTimeout,
		Clock: n.clock.Now, Logger: n.log, Registerer: n.metrics,
	})
}

func (n *node) newServer(runner *projections.Runner) (*http.Server, error) {
	config := http.Config{
		Handler: n.handler, Views: n.views, Projections: runner,
		CORSOrigins: n.cfg.CORSOrigins, TrustedProxies: n.cfg.TrustedProxies,
		Limits:   http.Limits{PerMinute: n.cfg.RatePerMinute, Burst: n.cfg.RateBurst},
		TestTool: n.testTool,
		Ready: map[string]func(context.Context) error{
			"eventstore": n.store.Ping, "postgres": n.views.Ping, "projections": n.projectionsReady,
		},
		Version: buildVersion(), DrainTimeout: n.cfg.DrainTimeout,
		Logger: n.log, Registerer: n.metrics, Gatherer: n.metrics,
	}
	if n.cfg.UnsafeTestClock {
		config.AdvanceClock = n.clock.Advance
	}
	return http.New(config)
}

// testTool carries out one call of a tool outside any run.
func (n *node) testTool(ctx context.Context, toolID string, input json.RawMessage) (json.RawMessage, error) {
	plan, err := n.handler.ToolPlan(ctx, toolID)
	if err != nil {
		return nil, err
	}
	output, err := n.tools.Try(ctx, toolID, plan, tool.Call{Key: uuid.NewString(), Arguments: input})
	var failure *tool.Error
	if errors.As(err, &failure) {
		return nil, domain.Fail(domain.Conflict, failure.Code, "%s", failure.Message)
	}
	return output, err
}

// once returns a loop that begins when the read models it works from are there.
func (n *node) once(ctx context.Context, run func(context.Context) error) func() error {
	return func() error {
		if n.awaitReady(ctx, func() {}) != nil {
			return nil
		}
		return run(ctx)
	}
}

// projectionsReady fails while a read model is missing, because it is built for
// the first time or after Postgres lost it, stands still, or has not caught up
// since the node started. A rebuild beside a live build does not matter.
func (n *node) projectionsReady(ctx context.Context) error {
	builds, err := n.views.Builds(ctx)
	if err != nil {
		return err
	}
	live := map[string]bool{}
	for _, b := range builds {
		if b.State != "live" || b.Version != readmodels.Versions[b.Name] {
			continue
		}
		live[b.Name] = true
		if b.Error != nil {
			return domain.Fail(domain.Unavailable, "PROJECTION_STOPPED", "The projection %s stands still; see GET /api/v1/projections.", b.Name)
		}
	}
	for _, name := range projectionNames() {
		if !live[name] {
			return domain.Fail(domain.Unavailable, "PROJECTION_BUILDING", "The projection %s is being built.", name)
		}
	}
	return n.caughtUp(ctx)
}

// catchUpPatience is how long one look waits for the read models.
const catchUpPatience = 500 * time.Millisecond

// caughtUp fails until the read models have once shown all that the log held
// when the node started: what was acknowledged before a crash is found after it.
func (n *node) caughtUp(ctx context.Context) error {
	if n.achieved.Load() {
		return nil
	}
	if n.goal.Load() == nil {
		head, err := n.store.Head(ctx)
		if err != nil {
			return err
		}
		n.goal.CompareAndSwap(nil, &head)
	}
	wait, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	if err := n.views.WaitFor(wait, *n.goal.Load(), projectionNames()...); err != nil {
		return err
	}
	n.achieved.Store(true)
	return nil
}

// readyInterval is how often awaitReady looks, progressEvery how often it says
// that it still waits.
const (
	readyInterval = 50 * time.Millisecond
	progressEvery = 5 * time.Second
)

// awaitReady returns when the read models are ready, or with the context's
// error; it calls waiting now and then until then.
func (n *node) awaitReady(ctx context.Context, waiting func()) error {
	ticker := time.NewTicker(readyInterval)
	defer ticker.Stop()
	for said := time.Now(); n.projectionsReady(ctx) != nil; {
		if time.Since(said) >= progressEvery {
			said = time.Now()
			waiting()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// logProgress says how far the read models are.
func (n *node) logProgress(ctx context.Context) {
	head, err := n.store.Head(ctx)
	if err != nil {
		n.log.Warn("read models are not ready", "error", err)
		return
	}
	builds, err := n.views.Builds(ctx)
	if err != nil {
		n.log.Warn("read models are not ready", "error", err)
		return
	}
	for _, b := range builds {
		if head > 0 && b.State != "retired" {
			n.log.Info("building read models", "projection", b.Name, "percent", 100*float64(b.Position)/float64(head))
		}
	}
}
