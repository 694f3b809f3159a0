package eventstore

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

var errClosed = errors.New("the store is closed")

// link keeps one client of the library connected. The first who needs it
// starts to connect, everybody waits for that one attempt with their own
// deadline, and a client that lost its server is replaced, never mended: the
// library leaks the old connection when it reconnects by itself, and is dead
// for good when it fails to.
type link struct {
	dialing dialing
	logger  *slog.Logger
	grace   time.Duration // a replaced client may finish its calls for so long; 0: until they end by themselves
	closing chan struct{}
	cutting chan struct{}
	work    sync.WaitGroup // connecting and burying

	mu      sync.Mutex
	closed  bool
	current *connection // nil: connect first
	attempt *attempt    // the connecting that is under way
}

// attempt is one round of discovery.
type attempt struct {
	done chan struct{}
	err  error // after done
}

func newLink(d dialing, logger *slog.Logger, grace time.Duration) *link {
	return &link{dialing: d, logger: logger, grace: grace, closing: make(chan struct{}), cutting: make(chan struct{})}
}

// acquire returns the connection in use, after connecting where there is none.
// The caller owns one use of it and ends that with release.
func (l *link) acquire(ctx context.Context) (*connection, error) {
	l.mu.Lock()
	for {
		if l.closed {
			l.mu.Unlock()
			return nil, errClosed
		}
		if c := l.current; c != nil {
			c.users++
			c.entering++
			l.mu.Unlock()
			return c, nil
		}
		if l.attempt == nil {
			l.attempt = &attempt{done: make(chan struct{})}
			l.work.Add(1)
			go l.connect(l.attempt)
		}
		a := l.attempt
		l.mu.Unlock()
		select {
		case <-a.done:
			if a.err != nil {
				return nil, a.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		l.mu.Lock()
	}
}

func (l *link) connect(a *attempt) {
	defer l.work.Done()
	c, err := l.discover()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempt = nil
	switch {
	case err != nil:
		a.err = err
	case l.closed:
		c.close()
		a.err = errClosed
	default:
		l.current = c
	}
	close(a.done)
}

// discover tries to reach a node as often as the URL says.
func (l *link) discover() (*connection, error) {
	var err error
	for i := range l.dialing.attempts {
		if i > 0 && !l.pause(l.dialing.interval) {
			return nil, errClosed
		}
		var c *connection
		if c, err = l.dial(); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// pause waits; false means that the link is being closed.
func (l *link) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.closing:
		return false
	}
}

// dial makes a client and lets it discover a node once, with nobody else
// waiting in the library: those it would leave behind when it fails.
func (l *link) dial() (*connection, error) {
	c := &connection{link: l, idle: make(chan struct{}), settled: make(chan struct{})}
	config := l.dialing.config
	config.Logger = c.log
	client, err := esdb.NewClient(&config)
	if err != nil {
		return nil, err
	}
	c.client = client
	if _, err := client.GetServerVersion(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// close lets nobody in any more, waits until the connecting under way has
// ended and the last client is closed. Users who do not leave in time are cut off.
func (l *link) close(patience time.Duration) {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.closing)
		if l.current != nil {
			l.current.retireLocked()
		}
	}
	l.mu.Unlock()
	impatient := time.AfterFunc(patience, l.cut)
	defer impatient.Stop()
	l.work.Wait()
}

// cut makes every retired client close now, also under its users.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeOnce(l.cutting)
}
