package eventstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// Read delivers the events of a stream in order, beginning with revision from.
// It returns the last revision it delivered; without any it is NoStream where
// the stream does not exist, else from-1. An error of each ends the read and
// is returned as it is; the revision is then that of the last event each took.
// A read that loses its connection goes on after the last event.
func (s *Store) Read(ctx context.Context, stream string, from Revision, each func(Recorded) error) (Revision, error) {
	return s.read(ctx, stream, from, &decoder{registry: s.registry}, each)
}

// ReadRaw is Read without decoding: Event is nil.
func (s *Store) ReadRaw(ctx context.Context, stream string, from Revision, each func(Recorded) error) (Revision, error) {
	return s.read(ctx, stream, from, &decoder{}, each)
}

func (s *Store) read(ctx context.Context, stream string, from Revision, d *decoder, each func(Recorded) error) (Revision, error) {
	last := max(from, 0) - 1
	err := s.resume(ctx, func(progressed func()) error {
		options := esdb.ReadStreamOptions{Direction: esdb.Forwards, From: esdb.Revision(uint64(last + 1))}
		return s.drain(ctx, s.calls, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
			return client.ReadStream(ctx, stream, options, math.MaxUint64)
		}, func(e *esdb.RecordedEvent) error {
			progressed()
			if Revision(e.EventNumber) <= last || isSystemType(e.EventType) {
				return nil
			}
			r, err := d.decode(e)
			if err != nil {
				return &handlerError{err}
			}
			if err := each(r); err != nil {
				return &handlerError{err}
			}
			last = r.Revision
			return nil
		})
	})
	if err != nil && causeOf(err) == missing && !isHandlerError(err) {
		last, err = NoStream, nil
	}
	return last, s.finishRead("stream", "read "+stream, err)
}

// ReadBackwards delivers at most n events of a stream, the last one first. A
// stream that does not exist has none.
func (s *Store) ReadBackwards(ctx context.Context, stream string, n int, each func(Recorded) error) error {
	if n <= 0 {
		return nil
	}
	d := decoder{registry: s.registry}
	left, next := n, esdb.StreamPosition(esdb.End{})
	err := s.resume(ctx, func(progressed func()) error {
		if left == 0 {
			return nil
		}
		options := esdb.ReadStreamOptions{Direction: esdb.Backwards, From: next}
		return s.drain(ctx, s.calls, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
			return client.ReadStream(ctx, stream, options, uint64(left))
		}, func(e *esdb.RecordedEvent) error {
			progressed()
			r, err := d.decode(e)
			if err != nil {
				return &handlerError{err}
			}
			if err := each(r); err != nil {
				return &handlerError{err}
			}
			left--
			if e.EventNumber == 0 {
				left = 0
			} else {
				next = esdb.Revision(e.EventNumber - 1)
			}
			return nil
		})
	})
	if err != nil && causeOf(err) == missing && !isHandlerError(err) {
		err = nil
	}
	return s.finishRead("backwards", "read "+stream+" backwards", err)
}

// Head returns the position of the last event in $all, 0 where there is none.
func (s *Store) Head(ctx context.Context) (uint64, error) {
	var head uint64
	options := esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}
	err := s.resume(ctx, func(func()) error {
		return s.drain(ctx, s.calls, func(ctx context.Context, client *esdb.Client) (*esdb.ReadStream, error) {
			return client.ReadAll(ctx, options, 1)
		}, func(e *esdb.RecordedEvent) error {
			head = e.Position.Commit
			return nil
		})
	})
	return head, s.finishRead("head", "read the head of the log", err)
}

// handlerError marks an error that is not the connection's.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

func isHandlerError(err error) bool {
	var h *handlerError
	return errors.As(err, &h)
}

// finishRead counts a read and translates its error.
func (s *Store) finishRead(kind, what string, err error) error {
	s.metrics.read(kind, err)
	var h *handlerError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &h):
		return h.err
	}
	return readFailure(what, err)
}

// resume runs a read again when its connection was lost, once for each time it
// made progress.
func (s *Store) resume(ctx context.Context, once func(progressed func()) error) error {
	for failures := 0; ; failures++ {
		err := once(func() { failures = 0 })
		if err == nil || isHandlerError(err) || failures > 0 || ctx.Err() != nil || unconnected(err) {
			return err
		}
		if c := causeOf(err); c != refused && c != lost {
			return err
		}
	}
}

// errStalled ends a read whose server went silent.
var errStalled = errors.New("the event store stopped sending")

// drain opens a read and hands over what it receives. It ends when the server
// sends nothing for longer than a call may take; the time spent in each does
// not count.
func (s *Store) drain(ctx context.Context, l *link, open func(context.Context, *esdb.Client) (*esdb.ReadStream, error), each func(*esdb.RecordedEvent) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := newWatchdog(s.callTimeout, cancel)
	defer dog.stop()
	dog.waiting()
	c, err := l.acquire(ctx)
	if err != nil {
		return &notSentError{err}
	}
	var stream *esdb.ReadStream
	err = c.run(ctx, true, func(ctx context.Context, client *esdb.Client) (err error) {
		stream, err = open(ctx, client)
		return err
	})
	if err != nil {
		if brokenConnection(err) {
			c.retire()
		}
		return err
	}
	defer c.release()
	defer stream.Close()
	for {
		e, err := receive(stream)
		switch {
		case err == io.EOF:
			return nil
		case err != nil && ctx.Err() != nil:
			err = context.Cause(ctx)
			fallthrough
		case err != nil:
			if brokenConnection(err) {
				c.retire()
			}
			return err
		}
		if e == nil {
			continue
		}
		dog.busy()
		if err := each(e); err != nil {
			return err
		}
		dog.waiting()
	}
}

func receive(stream *esdb.ReadStream) (e *esdb.RecordedEvent, err error) {
	defer recovered(&err)
	resolved, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return resolved.OriginalEvent(), nil
}

func isSystemType(eventType string) bool { return len(eventType) > 0 && eventType[0] == '$' }

// watchdog cancels a read that waits for the server too long. It looks a few
// times per period, so that receiving an event costs no timer.
type watchdog struct {
	steps  atomic.Uint64 // odd while waiting
	timer  *time.Timer
	period time.Duration
	cancel context.CancelCauseFunc
	// Only used by the timer:
	seen  uint64
	looks int // since the wait seen began
}

const looksPerPeriod = 4

func newWatchdog(period time.Duration, cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{period: period, cancel: cancel}
	w.timer = time.AfterFunc(math.MaxInt64, w.look)
	w.timer.Reset(period / looksPerPeriod)
	return w
}

func (w *watchdog) waiting() { w.steps.Store(w.steps.Load() | 1) }
func (w *watchdog) busy()    { w.steps.Store((w.steps.Load() | 1) + 1) }
func (w *watchdog) stop()    { w.timer.Stop() }

func (w *watchdog) look() {
	now := w.steps.Load()
	if now%2 == 0 || now != w.seen {
		w.seen, w.looks = now, 0
	}
	if w.looks++; w.looks > looksPerPeriod {
		w.cancel(fmt.Errorf("no answer within %v: %w", w.period, errStalled))
		return
	}
	w.timer.Reset(w.period / looksPerPeriod)
}
