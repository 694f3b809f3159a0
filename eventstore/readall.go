package eventstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// ReadAll delivers the events of the log in order that are behind position
// after (0: from the start) and not behind upTo (0: up to the end of the log as
// it is met), of the given categories; none means all but the server's own and
// Parked. Positions are those of events. An error of each ends the read and is
// returned as it is. A read that loses its connection goes on after the last
// event.
func (s *Store) ReadAll(ctx context.Context, after, upTo uint64, categories []string, each func(Recorded) error) error {
	filter, err := filterOf(categories)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if upTo == 0 {
		upTo = math.MaxInt64
	}
	r := &logRead{store: s, last: after, upTo: upTo, categories: categories, filter: filter, decoder: decoder{registry: s.registry}, each: each}
	err = s.resume(ctx, func(progressed func()) error {
		r.progressed = progressed
		return s.streams.use(ctx, func(ctx context.Context, l *link) error {
			if len(categories) > 0 {
				return r.filtered(ctx, l)
			}
			return r.plain(ctx, l)
		})
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return s.finishRead("all", "read the log", err)
}

// filteredSilence is how long a filtered read may hear nothing: a server that
// finds no event of the categories reports its position only now and then.
const filteredSilence = 30 * time.Second

// logRead is one ReadAll.
type logRead struct {
	store      *Store
	last, upTo uint64
	categories []string
	filter     *esdb.SubscriptionFilter
	decoder    decoder
	each       func(Recorded) error
	progressed func()
}

// plain reads everything. The library cannot filter here.
func (r *logRead) plain(ctx context.Context, l *link) error {
	options := esdb.ReadAllOptions{Direction: esdb.Forwards, From: esdb.Start{}}
	if r.last > 0 {
		options.From = esdb.Position{Commit: r.last, Prepare: r.last}
	}
	return r.store.drain(ctx, l, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
		return client.ReadAll(ctx, options, math.MaxUint64)
	}, r.event)
}

// filtered lets the server filter, which only subscriptions can: it is one
// that ends when it has caught up.
func (r *logRead) filtered(ctx context.Context, l *link) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := newWatchdog(max(r.store.callTimeout, filteredSilence), cancel)
	defer dog.stop()
	dog.waiting()
	return r.store.follow(ctx, l, r.last, r.filter, func(e *esdb.SubscriptionEvent) error {
		dog.busy()
		defer dog.waiting()
		switch {
		case e.EventAppeared != nil:
			return r.event(e.EventAppeared.OriginalEvent())
		case e.CaughtUp != nil:
			return errEnough
		case e.CheckPointReached != nil && e.CheckPointReached.Commit < math.MaxInt64 && e.CheckPointReached.Commit > r.upTo:
			return errEnough
		}
		r.progressed()
		return nil
	})
}

func (r *logRead) event(e *esdb.RecordedEvent) error {
	r.progressed()
	switch {
	case e.Position.Commit > r.upTo:
		return errEnough
	case e.Position.Commit <= r.last && r.last > 0, skipped(e, r.categories):
		return nil
	}
	recorded, err := r.decoder.decode(e)
	if err != nil {
		return &handlerError{err}
	}
	if err := r.each(recorded); err != nil {
		return &handlerError{err}
	}
	if r.last = recorded.Position; r.last == r.upTo {
		return errEnough
	}
	return nil
}
