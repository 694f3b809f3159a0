package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

// Runner moves the projections. It is made by New from a literal of its
// exported fields, which nobody changes afterwards.
type Runner struct {
	Store       *eventstore.Store
	DatabaseURL string
	Views       *readmodels.Views     // told at once of what was applied; may be nil
	Projections []Projection          // nil: All()
	Node        string                // name of this node as an owner; "": made up
	Logger      *slog.Logger          // nil: slog.Default()
	Registerer  prometheus.Registerer // nil: no metrics

	builds  builds
	metrics metrics
	led     *led
}

// led is the builds this node leads.
type led struct {
	mu       sync.Mutex
	bySchema map[string]*leader
}

const (
	tick         = time.Second
	sweepEvery   = 30 * time.Second
	controlConns = 8 // one heartbeat per build, and management
)

// New checks the fields of r, fills in defaults and returns a working runner.
// It does not need Postgres yet. The caller closes it after Run and every other
// method have returned.
func New(ctx context.Context, r Runner) (*Runner, error) {
	if r.Store == nil {
		return nil, errors.New("projections: a runner needs an event store")
	}
	if r.Projections == nil {
		r.Projections = All()
	}
	if err := Check(r.Projections); err != nil {
		return nil, err
	}
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	if r.Node == "" {
		host, _ := os.Hostname() // only a name for people
		r.Node = host + "-" + strconv.Itoa(os.Getpid()) + "-" + uuid.NewString()[:8]
	}
	config, err := pgxpool.ParseConfig(r.DatabaseURL)
	if err != nil {
		return nil, errors.New("projections: the database address is no valid Postgres connection string")
	}
	config.MaxConns = controlConns
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = leaseTime
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("projections: open the database: %w", err)
	}
	r.builds = builds{pool}
	r.led = &led{bySchema: map[string]*leader{}}
	if r.metrics, err = newMetrics(r.Registerer); err != nil {
		pool.Close()
		return nil, fmt.Errorf("projections: register metrics: %w", err)
	}
	return &r, nil
}

// Close releases the connections.
func (r *Runner) Close() { r.builds.pool.Close() }

// Run leads every build nobody else leads, and makes those that do not exist,
// until ctx ends. It outlives every outage of Postgres and of the event store;
// after Postgres lost its data it builds everything anew. Any number of nodes
// may run it.
func (r *Runner) Run(ctx context.Context) error {
	var working sync.WaitGroup
	defer working.Wait()
	wake := make(chan struct{}, 1)
	working.Add(1)
	go func() { defer working.Done(); r.listen(ctx, wake) }()
	var swept time.Time
	for failures := 0; ; {
		err := r.manage(ctx, &working)
		if err == nil && time.Since(swept) > sweepEvery {
			swept = time.Now()
			err = r.sweep(ctx)
		}
		pause := tick
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() == nil:
			if failures++; failures == 1 {
				r.Logger.WarnContext(ctx, "projections: the builds cannot be looked after, trying again", "error", err)
			}
			pause = backoff(failures-1, maxOutage)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		case <-wake:
			timer.Stop()
		}
	}
}

const buildsExist = `select to_regclass('sparkops.projections') is not null`

const openBuilds = `
select schema, name, version, state, ` + leased + ` as led
from sparkops.projections where state in ('live', 'building')`

type openBuild struct {
	Schema  string
	Name    string
	Version int
	State   string
	Led     bool
}

// manage makes the builds that do not exist and leads those nobody leads.
func (r *Runner) manage(ctx context.Context, working *sync.WaitGroup) error {
	var exist bool
	if err := r.builds.pool.QueryRow(ctx, buildsExist).Scan(&exist); err != nil {
		return err
	}
	if !exist {
		if err := readmodels.Migrate(ctx, r.DatabaseURL); err != nil {
			return err
		}
	}
	found, err := r.builds.pool.Query(ctx, openBuilds, leaseTime)
	if err != nil {
		return err
	}
	open, err := pgx.CollectRows(found, pgx.RowToStructByPos[openBuild])
	if err != nil {
		return err
	}
	for _, p := range r.Projections {
		if err := r.manageOne(ctx, working, p, open); err != nil {
			return fmt.Errorf("projection %s: %w", p.Name, err)
		}
	}
	return nil
}

func (r *Runner) manageOne(ctx context.Context, working *sync.WaitGroup, p Projection, open []openBuild) error {
	known := false
	for _, b := range open {
		if b.Name != p.Name || b.Version != p.Version {
			continue
		}
		known = true
		if b.Led || r.led.get(b.Schema) != nil {
			continue
		}
		l, ok, err := r.builds.claim(ctx, b.Schema, r.Node)
		if err != nil {
			return err
		}
		if ok {
			r.lead(ctx, working, r.newLeader(p, l, b.State))
		}
	}
	if known {
		return nil
	}
	l, err := r.builds.createFirst(ctx, p, r.Node)
	if err != nil || l.schema == "" {
		return err
	}
	r.lead(ctx, working, r.newLeader(p, l, building))
	return nil
}

// lead starts a leader.
func (r *Runner) lead(ctx context.Context, working *sync.WaitGroup, l *leader) {
	r.Logger.InfoContext(ctx, "projection: leading", "projection", l.p.Name, "schema", l.lease.schema, "state", l.state, "position", l.position)
	r.led.add(l) // at once: the next look at the builds must see it
	working.Add(1)
	go func() {
		defer working.Done()
		_ = r.conduct(ctx, l) // it has said why
	}()
}

// conduct runs a leader to its end and gives the lease back.
func (r *Runner) conduct(ctx context.Context, l *leader) error {
	leading := r.metrics.leading.WithLabelValues(l.p.Name)
	leading.Inc()
	r.led.add(l)
	err := l.run(ctx)
	leading.Dec()
	r.led.remove(l) // before giving it back: then we may take it up again
	if !isLost(err) {
		l.release(ctx)
	}
	return err
}

func (d *led) add(l *leader) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bySchema[l.lease.schema] = l
}

func (d *led) remove(l *leader) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bySchema[l.lease.schema] == l {
		delete(d.bySchema, l.lease.schema)
	}
}

func (d *led) get(schema string) *leader {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bySchema[schema]
}

func (r *Runner) sweep(ctx context.Context) error {
	for _, p := range r.Projections {
		if err := r.builds.sweep(ctx, p); err != nil {
			return fmt.Errorf("projection %s: drop old builds: %w", p.Name, err)
		}
	}
	return nil
}

// listen passes nudges on to the leaders and wakes Run when something about the
// builds changed. Without notifications all of it still happens, later.
func (r *Runner) listen(ctx context.Context, wake chan<- struct{}) {
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		err := r.listenOnce(ctx, wake)
		if time.Since(began) > 10*time.Second {
			failures = 0
		}
		r.Logger.DebugContext(ctx, "projections: the notifications of the database stopped", "error", err)
		if !sleep(ctx, backoff(failures, maxOutage)) {
			return
		}
	}
}

func (r *Runner) listenOnce(ctx context.Context, wake chan<- struct{}) error {
	conn, err := pgx.ConnectConfig(ctx, r.builds.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	if _, err := conn.Exec(ctx, "listen "+buildsChannel+"; listen "+readmodels.NudgeChannel); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if n.Channel == buildsChannel {
			select {
			case wake <- struct{}{}:
			default:
			}
			continue
		}
		if schema, position, ok := readmodels.ParseProgress(n.Payload); ok {
			if l := r.led.get(schema); l != nil {
				l.nudge(position)
			}
		}
	}
}
