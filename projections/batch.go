package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

// work is what one transaction will do.
type work struct {
	events   []eventstore.Recorded
	position uint64
}

// apply turns messages into transactions. A single event that comes when all
// others are applied is applied at once; under load a batch takes what gathered
// while the one before was written. It returns nil when the work is done, and
// true when the subscription ended.
func (l *leader) apply(ctx context.Context, conn *pgx.Conn, messages <-chan eventstore.Message) (ended bool, err error) {
	applier := l.p.New()
	caughtUp := false
	var idle <-chan time.Time
	var w work
	for {
		late := false
		select {
		case m, open := <-messages:
			if !open {
				return true, nil
			}
			caughtUp = w.take(m) || caughtUp
			ended = !l.gather(ctx, messages, &w, &caughtUp)
		case <-idle:
			late = true
		case position := <-l.nudges:
			err = l.pass(ctx, conn, position)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return false, err
		}
		// A position without events need not be written each time.
		if len(w.events) > 0 || w.position > l.position && (late || caughtUp && l.state == building) {
			if err := l.commit(ctx, conn, applier, w); err != nil {
				return false, err
			}
			clear(w.events)
			w = work{events: w.events[:0]}
		}
		if done, err := l.finish(ctx, conn, caughtUp, len(messages)); done || err != nil {
			return false, err
		}
		if ended {
			return true, nil
		}
		if idle = nil; w.position > l.position {
			idle = time.After(idleCommit)
		}
	}
}

// take adds a message; it reports whether it says that all was delivered.
func (w *work) take(m eventstore.Message) (caughtUp bool) {
	if m.Event != nil {
		w.events = append(w.events, *m.Event)
	}
	w.position = max(w.position, m.Position)
	return m.CaughtUp
}

// gather takes what is there, and while catching up a little of what comes. It
// returns false when the subscription ended.
func (l *leader) gather(ctx context.Context, messages <-chan eventstore.Message, w *work, caughtUp *bool) bool {
	limit := maxBatch
	if l.position < l.failedTo {
		limit = 1
	}
	var full <-chan time.Time
	for len(w.events) < limit {
		select {
		case m, open := <-messages:
			if !open {
				return false
			}
			*caughtUp = w.take(m) || *caughtUp
			continue
		default:
		}
		if *caughtUp || len(w.events) == 0 {
			return true
		}
		if full == nil {
			timer := time.NewTimer(fillTime)
			defer timer.Stop()
			full = timer.C
		}
		select {
		case m, open := <-messages:
			if !open {
				return false
			}
			*caughtUp = w.take(m) || *caughtUp
		case <-full:
			return true
		case <-ctx.Done():
			return true
		}
	}
	return true
}

const advance = `select sparkops.advance($1, $2, $3, $4)`

// commit applies the events and moves the checkpoint, in one round trip and one
// transaction: Postgres runs a batch without begin as one.
func (l *leader) commit(ctx context.Context, conn *pgx.Conn, applier Applier, w work) error {
	began := time.Now()
	batch := &pgx.Batch{}
	for _, r := range w.events {
		if err := applier.Apply(batch, r); err != nil {
			l.failedTo = w.position
			return fmt.Errorf("apply %s (event %d of %s, position %d): %w", r.Type, r.Revision, r.Stream, r.Position, err)
		}
	}
	applier.Flush(batch)
	position := max(l.position, w.position)
	batch.Queue(advance, l.lease.schema, l.lease.epoch, int64(l.position), int64(position))
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		if !isLost(err) && !readmodels.Unreachable(err) && len(w.events) > 0 {
			l.failedTo = w.position
			err = fmt.Errorf("apply %s: %w", describe(w.events), err)
		}
		return err
	}
	l.runner.metrics.applied(l.p.Name, l.state, len(w.events), position, time.Since(began))
	l.moved(position)
	return nil
}

func (l *leader) moved(position uint64) {
	l.position = position
	if l.state == live && l.runner.Views != nil {
		l.runner.Views.Applied(l.lease.schema, position)
	}
	if l.observe != nil {
		l.observe(position)
	}
}

// describe names the events of a failed batch.
func describe(events []eventstore.Recorded) string {
	first, last := events[0], events[len(events)-1]
	if len(events) == 1 {
		return fmt.Sprintf("%s (event %d of %s, position %d)", first.Type, first.Revision, first.Stream, first.Position)
	}
	return fmt.Sprintf("%d events from position %d to %d", len(events), first.Position, last.Position)
}
