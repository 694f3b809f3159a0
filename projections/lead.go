package projections

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

const (
	maxBatch   = 500                    // events in one transaction
	fillTime   = 20 * time.Millisecond  // what a batch waits for more events while catching up
	idleCommit = 200 * time.Millisecond // a position without events is written this late
	queueSize  = 2 * maxBatch           // decoded events read ahead

	firstPause       = 100 * time.Millisecond
	maxOutage        = 2 * time.Second  // pause while a dependency is down
	maxFailure       = 30 * time.Second // pause after an event that cannot be applied
	disconnectedTime = 2 * time.Second  // to say goodbye to Postgres
)

// leader moves one build under one lease. It is used by one goroutine, but for
// nudge.
type leader struct {
	runner *Runner
	p      Projection
	lease  lease
	state  string // building, live or scratch
	nudges chan uint64

	position uint64    // checkpoint, as committed
	failedTo uint64    // end of a batch that failed: up to there events go one by one
	tried    time.Time // to make the build live
	analyzed bool      // so that queries on the new tables are planned well

	once    bool                  // stop when the build is live
	observe func(position uint64) // told of every checkpoint; may be nil
}

func (r *Runner) newLeader(p Projection, l lease, state string) *leader {
	return &leader{runner: r, p: p, lease: l, state: state, nudges: make(chan uint64, 1), position: l.position}
}

// run moves the build until ctx ends, the lease is lost or, with once, the build
// is live; then it returns nil. It survives every outage, and tries again what
// cannot be applied.
func (l *leader) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beating sync.WaitGroup
	beating.Go(func() { l.beat(ctx, cancel) })
	err := l.retry(ctx)
	cancel(nil)
	beating.Wait()
	return err
}

// retry follows the log again and again.
func (l *leader) retry(ctx context.Context) error {
	log := l.runner.Logger.With("projection", l.p.Name, "schema", l.lease.schema)
	for outages, failures := 0, 0; ; {
		before := l.position
		err := l.follow(ctx)
		if l.position != before {
			outages, failures = 0, 0
		}
		var pause time.Duration
		switch {
		case err == nil:
			return nil
		case isLost(err), isLost(context.Cause(ctx)):
			log.InfoContext(ctx, "projection: somebody else leads now", "position", l.position)
			return errLost
		case ctx.Err() != nil:
			return ctx.Err()
		case readmodels.Unreachable(err) || domain.KindOf(err) == domain.Unavailable:
			pause = backoff(outages, maxOutage)
			if outages++; outages == 1 {
				log.WarnContext(ctx, "projection: a dependency is down, trying again", "position", l.position, "error", err)
			}
		default:
			pause = backoff(failures, maxFailure)
			failures++
			log.ErrorContext(ctx, "projection: stands still", "position", l.position, "error", err, "again_in", pause)
			l.failed(ctx, err)
		}
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// failed says that the build stands still, where others look.
func (l *leader) failed(ctx context.Context, cause error) {
	l.runner.metrics.failed.WithLabelValues(l.p.Name).Set(1)
	if err := l.runner.builds.fail(ctx, l.lease, cause); err != nil && ctx.Err() == nil {
		l.runner.Logger.WarnContext(ctx, "projection: the failure could not be recorded", "schema", l.lease.schema, "error", err)
	}
}

// beat keeps the lease while the build is led.
func (l *leader) beat(ctx context.Context, cancel context.CancelCauseFunc) {
	for failures := 0; sleep(ctx, leaseTime/4); {
		err := l.runner.builds.extend(ctx, l.lease)
		switch {
		case err == nil:
			failures = 0
		case isLost(err):
			cancel(errLost)
			return
		case ctx.Err() == nil:
			if failures++; failures == 1 {
				l.runner.Logger.WarnContext(ctx, "projection: the lease could not be extended, trying again", "schema", l.lease.schema, "error", err)
			}
		}
	}
}

func (l *leader) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectedTime)
	defer cancel()
	if err := l.runner.builds.release(ctx, l.lease); err != nil {
		l.runner.Logger.WarnContext(ctx, "projection: the lease could not be given back", "schema", l.lease.schema, "error", err)
	}
}

func backoff(n int, most time.Duration) time.Duration {
	return min(firstPause<<min(n, 16), most)
}

// follow connects to both sides and applies events until something fails.
func (l *leader) follow(ctx context.Context) error {
	conn, err := l.runner.connect(ctx, l.lease.schema)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer disconnect(ctx, conn)
	if l.position, err = l.runner.builds.position(ctx, l.lease); err != nil {
		return fmt.Errorf("read the checkpoint: %w", err)
	}
	if err := l.sameLog(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan eventstore.Message, queueSize)
	var subscribed error
	go func() {
		defer close(messages)
		subscribed = l.subscribe(ctx, messages)
	}()
	ended, err := l.apply(ctx, conn, messages)
	cancel()
	for range messages { // until the subscription has ended
	}
	if ended {
		err = subscribed
	}
	return err
}

// errOtherLog says that the checkpoint is of another log.
var errOtherLog = errors.New("the read models are ahead of the event log: they belong to another log; rebuild the projection")

func (l *leader) sameLog(ctx context.Context) error {
	if l.position == 0 {
		return nil
	}
	head, err := l.runner.Store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the end of the log: %w", err)
	}
	if head < l.position {
		return fmt.Errorf("checkpoint %d, end of the log %d: %w", l.position, head, errOtherLog)
	}
	return nil
}

func (l *leader) subscribe(ctx context.Context, messages chan<- eventstore.Message) error {
	after := l.position
	return l.runner.Store.Subscribe(ctx, eventstore.SubscribeOptions{
		Categories: l.p.Categories,
		Name:       l.lease.schema,
		// What was received is either committed or still in the queue, and the
		// store goes on after what it handed over.
		From: func(context.Context) (uint64, bool, error) { return after, false, nil },
	}, func(ctx context.Context, m eventstore.Message) error {
		select {
		case messages <- m:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

var errFound = errors.New("there is an event")

// pass moves the checkpoint to a position somebody waits for, if no event of
// the build's categories lies in between. The log may have grown there by
// events of others only, of which the subscription says nothing.
func (l *leader) pass(ctx context.Context, conn *pgx.Conn, position uint64) error {
	if position <= l.position {
		return nil
	}
	head, err := l.runner.Store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the end of the log: %w", err)
	}
	if position = min(position, head); position <= l.position {
		return nil
	}
	err = l.runner.Store.ReadAll(ctx, l.position, position, l.p.Categories, func(eventstore.Recorded) error { return errFound })
	switch {
	case errors.Is(err, errFound):
		return nil // the subscription brings it
	case err != nil:
		return fmt.Errorf("look for events up to position %d: %w", position, err)
	}
	return l.commit(ctx, conn, l.p.New(), work{position: position})
}

// retryPromotion is how often a build that never gets a quiet moment tries to
// become live.
const retryPromotion = 50 * time.Millisecond

// finish makes a build that has caught up the live one. It returns true when
// that was all there is to do.
func (l *leader) finish(ctx context.Context, conn *pgx.Conn, caughtUp bool, queued int) (done bool, err error) {
	if l.state != building || !caughtUp || queued > 0 && time.Since(l.tried) < retryPromotion {
		return false, nil
	}
	l.tried = time.Now()
	if !l.analyzed && l.position > 0 {
		if err := analyze(ctx, conn); err != nil {
			return false, fmt.Errorf("gather statistics: %w", err)
		}
		l.analyzed = true
	}
	for {
		ahead, err := l.runner.builds.promote(ctx, l.p, l.lease)
		if err != nil {
			return false, fmt.Errorf("make the build live: %w", err)
		}
		if ahead == 0 {
			break
		}
		if err := l.pass(ctx, conn, ahead); err != nil {
			return false, err
		}
		if l.position < ahead {
			return false, nil // events are still to come
		}
	}
	l.state = live
	l.runner.Logger.InfoContext(ctx, "projection: build is live", "projection", l.p.Name, "schema", l.lease.schema, "position", l.position)
	if l.runner.Views != nil {
		if err := l.runner.Views.Refresh(ctx); err != nil {
			l.runner.Logger.WarnContext(ctx, "projection: the switch is not followed yet", "error", err)
		}
	}
	return l.once, nil
}

// analyze lets Postgres gather statistics about the tables of a build.
func analyze(ctx context.Context, conn *pgx.Conn) error {
	found, err := conn.Query(ctx, `select quote_ident(tablename) from pg_tables where schemaname = current_schema()`)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "analyze "+strings.Join(tables, ", "))
	return err
}

// nudge asks the leader to look whether it has passed a position. It may be
// called from any goroutine and does not wait.
func (l *leader) nudge(position uint64) {
	select {
	case l.nudges <- position:
	default: // it is looking; who still waits asks again
	}
}

// connect opens a connection whose tables are those of one build.
func (r *Runner) connect(ctx context.Context, schema string) (*pgx.Conn, error) {
	config := r.builds.pool.Config().ConnConfig
	config.RuntimeParams["search_path"] = pgx.Identifier{schema}.Sanitize()
	config.RuntimeParams["application_name"] = "sparkops projection " + schema
	// A batch lost in a crash of Postgres is lost with its checkpoint, and
	// applied again.
	config.RuntimeParams["synchronous_commit"] = "off"
	// Plans are made while tables are empty and must still hold when they are
	// not: every row is found by an index.
	config.RuntimeParams["enable_seqscan"] = "off"
	config.RuntimeParams["enable_hashjoin"] = "off"
	config.RuntimeParams["enable_mergejoin"] = "off"
	config.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	config.RuntimeParams["jit"] = "off"
	return pgx.ConnectConfig(ctx, config)
}

func disconnect(ctx context.Context, conn *pgx.Conn) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectedTime)
	defer cancel()
	_ = conn.Close(closing) // it is given up either way
}

// sleep waits for d; false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
