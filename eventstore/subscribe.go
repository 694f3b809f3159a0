package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/sparkops/control-plane/domain"
)

// SubscribeOptions say what a subscription sees and where it begins.
type SubscribeOptions struct {
	// Categories are those whose streams are seen; none means all but the
	// server's own and Parked.
	Categories []string
	// From is asked at every connect and reconnect for the position after which
	// to go on. fromEnd stands for the end of the log as it is at the first
	// connect. An error of kind domain.Unavailable is tried again, any other
	// ends the subscription.
	From func(ctx context.Context) (after uint64, fromEnd bool, err error)
	Name string // in logs and metrics
}

const (
	// A filtered subscription reports its position after this many events that
	// were looked at.
	searchWindow       = 500
	checkpointInterval = 2

	firstReconnect = 50 * time.Millisecond
	maxReconnect   = 5 * time.Second

	// warnPause is the time between two warnings of one subscription, however
	// often it is lost in between.
	warnPause = 30 * time.Second
)

// Subscribe hands the events of the log to handle, one after the other, and
// reconnects for ever: until ctx ends, which it returns as ctx.Err(), until
// handle fails, whose error it returns, or until the store is closed
// (domain.Unavailable). An event that cannot be decoded ends it with an error.
//
// handle never sees an event at or below the last one it took in this call. A
// bare position says that no event of the categories up to it is still to
// come; it is delivered late, after something beyond it was received, because
// servers report the position of an event that is yet to be written. CaughtUp
// comes when everything stored at some moment was delivered, and again after
// each reconnect.
func (s *Store) Subscribe(ctx context.Context, o SubscribeOptions, handle func(context.Context, Message) error) error {
	filter, err := filterOf(o.Categories)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", o.Name, err)
	}
	inner, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	sub := &subscription{store: s, options: o, filter: filter, handle: handle, decoder: decoder{registry: s.registry}, metrics: s.metrics.subscription(o.Name)}
	err = sub.run(inner)
	switch {
	case ctx.Err() != nil && !isHandlerError(err):
		return ctx.Err()
	case isHandlerError(err):
		var h *handlerError
		errors.As(err, &h)
		return h.err
	default:
		return unavailable(err)
	}
}

// subscription is the state of one Subscribe, used by its goroutine only.
type subscription struct {
	store   *Store
	options SubscribeOptions
	filter  *esdb.SubscriptionFilter
	handle  func(context.Context, Message) error
	decoder decoder
	metrics subscriptionMetrics

	based   bool   // base is known
	base    uint64 // where fromEnd began
	last    uint64 // position of the last message handle took
	pending uint64 // a bare position that is not yet safe to report; 0: none
	alive   bool   // something was received since the last connect
}

func (s *subscription) run(ctx context.Context) error {
	pause := firstReconnect
	var warned time.Time
	for connects := 0; ; connects++ {
		if connects > 0 {
			s.metrics.reconnects.Inc()
		}
		s.alive = false
		err := s.session(ctx)
		if isHandlerError(err) || ctx.Err() != nil || errors.Is(err, errClosed) {
			return err
		}
		if s.alive {
			pause = firstReconnect
		}
		level := slog.LevelDebug
		if time.Since(warned) > warnPause {
			level, warned = slog.LevelWarn, time.Now()
		}
		s.store.logger.Log(ctx, level, "event store: subscription lost, connecting again", "subscription", s.options.Name, "after", s.last, "pause", pause, "error", err)
		if err := sleep(ctx, pause/2+rand.N(pause)); err != nil {
			return err
		}
		pause = min(2*pause, maxReconnect)
	}
}

// sleep waits d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// session is one connection of the subscription: from asking where to go on
// to the end of what it receives.
func (s *subscription) session(ctx context.Context) error {
	after, err := s.start(ctx)
	if err != nil {
		return err
	}
	s.pending = 0
	return s.store.streams.use(ctx, func(ctx context.Context, l *link) error {
		return s.store.follow(ctx, l, after, s.filter, func(e *esdb.SubscriptionEvent) error {
			s.alive = true
			return s.take(ctx, e)
		})
	})
}

// start returns the position after which to go on.
func (s *subscription) start(ctx context.Context) (uint64, error) {
	after, fromEnd, err := s.options.From(ctx)
	if err != nil {
		if domain.KindOf(err) == domain.Unavailable || ctx.Err() != nil {
			return 0, err
		}
		return 0, &handlerError{err}
	}
	if fromEnd && !s.based {
		// The end is made a position at once, or what is written while the
		// connection is lost would be behind the next end.
		if s.base, err = s.store.Head(ctx); err != nil {
			return 0, err
		}
		s.based = true
	}
	if fromEnd {
		after = s.base
	}
	return max(after, s.last), nil
}

// take handles what was received.
func (s *subscription) take(ctx context.Context, e *esdb.SubscriptionEvent) error {
	switch {
	case e.EventAppeared != nil:
		return s.event(ctx, e.EventAppeared.OriginalEvent())
	case e.CheckPointReached != nil:
		return s.checkpoint(ctx, e.CheckPointReached.Commit)
	case e.CaughtUp != nil:
		return s.deliver(ctx, Message{CaughtUp: true})
	}
	return nil
}

func (s *subscription) event(ctx context.Context, e *esdb.RecordedEvent) error {
	if e == nil || e.Position.Commit <= s.last && s.last > 0 {
		return nil
	}
	if skipped(e, s.options.Categories) {
		s.pending = e.Position.Commit // of an event that exists, and better than any before
		return nil
	}
	if err := s.flush(ctx, e.Position.Commit); err != nil {
		return err
	}
	r, err := s.decoder.decode(e)
	if err != nil {
		return &handlerError{fmt.Errorf("subscription %s: %w", s.options.Name, err)}
	}
	return s.deliver(ctx, Message{Event: &r, Position: r.Position})
}

// checkpoint keeps a position back until something later is received: newer
// servers may name the end of the log, where the next event will be, so that
// going on after it would lose that event. Before anything was looked at they
// may even name the highest number there is.
func (s *subscription) checkpoint(ctx context.Context, position uint64) error {
	if position >= math.MaxInt64 || position <= s.last {
		return nil
	}
	if err := s.flush(ctx, position); err != nil {
		return err
	}
	s.pending = max(s.pending, position)
	return nil
}

// flush reports the position kept back, now that something at next was received.
func (s *subscription) flush(ctx context.Context, next uint64) error {
	if s.pending == 0 || s.pending <= s.last || s.pending >= next {
		return nil
	}
	position := s.pending
	s.pending = 0
	return s.deliver(ctx, Message{Position: position})
}

func (s *subscription) deliver(ctx context.Context, m Message) error {
	if err := s.handle(ctx, m); err != nil {
		return &handlerError{err}
	}
	if !m.CaughtUp {
		s.last = m.Position
		s.metrics.position.Set(float64(m.Position))
	}
	return nil
}

// follow opens a subscription on a link and hands over what it receives until
// it ends, which it always does with an error.
func (s *Store) follow(ctx context.Context, l *link, after uint64, filter *esdb.SubscriptionFilter, each func(*esdb.SubscriptionEvent) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	options := esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: filter, MaxSearchWindow: searchWindow, CheckpointInterval: checkpointInterval}
	if after > 0 {
		options.From = esdb.Position{Commit: after, Prepare: after}
	}
	c, err := l.acquire(ctx)
	if err != nil {
		return &notSentError{err}
	}
	// The confirmation of the server is part of opening and comes at once.
	opening := time.AfterFunc(2*s.callTimeout, func() { cancel(errStalled) })
	var sub *esdb.Subscription
	err = c.run(ctx, true, func(ctx context.Context, client *esdb.Client) (err error) {
		sub, err = client.SubscribeToAll(ctx, options)
		return err
	})
	opening.Stop()
	if err != nil {
		if brokenConnection(err) {
			c.retire()
		}
		return err
	}
	defer c.release()
	defer func() { _ = sub.Close() }() // never fails
	for {
		e, err := next(sub)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if brokenConnection(err) {
				c.retire()
			}
			return err
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// next waits for the next message. Being dropped is an error, of which the
// library would tell again and again without waiting.
func next(sub *esdb.Subscription) (e *esdb.SubscriptionEvent, err error) {
	defer recovered(&err)
	e = sub.Recv()
	if e.SubscriptionDropped != nil {
		return nil, e.SubscriptionDropped.Error
	}
	return e, nil
}

// filterOf makes the server's filter: prefixes of stream names, or everything
// but the server's own streams.
func filterOf(categories []string) (*esdb.SubscriptionFilter, error) {
	if len(categories) == 0 {
		return &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Regex: `^[^\$].*`}, nil
	}
	prefixes := make([]string, len(categories))
	for i, category := range categories {
		if category == "" || strings.ContainsAny(category, "-$") {
			return nil, fmt.Errorf("%q is no category", category)
		}
		prefixes[i] = category + "-"
	}
	return &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: prefixes}, nil
}

// skipped reports whether an event that passed the filter is not delivered.
func skipped(e *esdb.RecordedEvent, categories []string) bool {
	if isSystemType(e.EventType) || strings.HasPrefix(e.StreamID, "$") {
		return true
	}
	return len(categories) == 0 && strings.HasPrefix(e.StreamID, Parked+"-")
}
