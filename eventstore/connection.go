package eventstore

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// settleTime bounds how long a failing call waits for others to get past the
// library's connection lookup. That takes microseconds.
const settleTime = time.Second

// connection is one client of the library with the count of its users, so that
// it is closed after the last of them. (A call that meets a closed client
// panics in the library.)
type connection struct {
	link   *link
	client *esdb.Client

	// Under link.mu:
	retired  bool          // no new users
	users    int           // calls and streams
	entering int           // those of them that have yet to ask the library for its connection
	idle     chan struct{} // closed when retired and without users
	settled  chan struct{} // closed when retired and nobody is entering
}

// panicError is a panic of the library: "send on closed channel" when a client
// had to be closed under its callers, "unreachable code" on answers it does
// not know.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("client library panicked: %v", e.value) }

func recovered(err *error) {
	if value := recover(); value != nil {
		*err = &panicError{value: value, stack: debug.Stack()}
	}
}

// retire takes the connection out of use. Its client is closed when its users
// are gone or their grace has passed.
func (c *connection) retire() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.retireLocked()
}

func (c *connection) retireLocked() {
	if c.retired {
		return
	}
	c.retired = true
	if c.link.current == c {
		c.link.current = nil
	}
	c.signalLocked()
	c.link.work.Add(1)
	go c.bury()
}

func (c *connection) bury() {
	defer c.link.work.Done()
	var expired <-chan time.Time
	if c.link.grace > 0 {
		timer := time.NewTimer(c.link.grace)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-c.idle:
	case <-expired:
		c.link.logger.Warn("event store: closing a connection under calls that do not end")
	case <-c.link.cutting:
	}
	c.close()
}

// close never fails in the library.
func (c *connection) close() { _ = c.client.Close() }

// signalLocked tells those who wait for the end of users or entries.
func (c *connection) signalLocked() {
	if c.retired && c.entering == 0 {
		closeOnce(c.settled)
	}
	if c.retired && c.users == 0 {
		closeOnce(c.idle)
	}
}

// closeOnce closes a channel that is only closed under link.mu.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}

// log is the library's logger, and our hook into its error handling: it logs a
// failed call before it tells its state machine to reconnect. Anybody who asks
// the machine for a connection after that would make it discover a node, drop
// the old connection without closing it and, without success, never answer
// again. So the connection is retired here, in the goroutine of the failed
// call, and the machine is told only when nobody is on the way to it.
func (c *connection) log(level, format string, args ...any) {
	if format == "unexpected exception: %v" && len(args) == 1 {
		if err, ok := args[0].(error); ok && status.Code(err) == codes.Unavailable {
			c.retire()
			timer := time.NewTimer(settleTime)
			defer timer.Stop()
			select {
			case <-c.settled:
			case <-timer.C:
			}
		}
	}
	if c.link.logger.Enabled(context.Background(), slogLevel(level)) {
		c.link.logger.Log(context.Background(), slogLevel(level), "event store client: "+fmt.Sprintf(format, args...))
	}
}

// visit is one call on a connection and the context it runs under.
type visit struct {
	context.Context
	conn    *connection
	entered atomic.Bool
	ended   atomic.Bool // by its goroutine or by the caller who gave up, whoever was first
	keep    bool        // a success leaves the use with the caller
	result  chan error
}

// Deadline is asked by the library right after it got its connection: from
// then on the call depends on gRPC alone, which respects its context.
func (v *visit) Deadline() (time.Time, bool) {
	v.enter()
	return v.Context.Deadline()
}

// enter notes that the call is past the lookup, and reports whether it was not before.
func (v *visit) enter() bool {
	if !v.entered.CompareAndSwap(false, true) {
		return false
	}
	c := v.conn
	c.link.mu.Lock()
	c.entering--
	c.signalLocked()
	c.link.mu.Unlock()
	return true
}

func (c *connection) release() {
	c.link.mu.Lock()
	c.users--
	c.signalLocked()
	c.link.mu.Unlock()
}

// run makes one call and takes over the use of the connection; with keep set
// and without an error the use stays with the caller. It returns when ctx
// ends even where the library does not: fn must not touch what its caller
// reads in that case other than by way of a nil error.
func (c *connection) run(ctx context.Context, keep bool, fn func(context.Context, *esdb.Client) error) error {
	v := &visit{Context: ctx, conn: c, keep: keep, result: make(chan error, 1)}
	go v.run(fn)
	select {
	case err := <-v.result:
		return blame(ctx, err)
	case <-ctx.Done():
	}
	if !v.ended.CompareAndSwap(false, true) {
		return blame(ctx, <-v.result)
	}
	if !v.entered.Load() {
		time.AfterFunc(settleTime, v.stuck)
	}
	return context.Cause(ctx)
}

// stuck gives up on a client that does not even look up its connection.
func (v *visit) stuck() {
	if !v.entered.Load() {
		v.conn.retire()
	}
}

// blame replaces gRPC's word for a context that ended by the reason it ended for.
func blame(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if code := status.Code(err); code == codes.Canceled || code == codes.DeadlineExceeded {
		return context.Cause(ctx)
	}
	return err
}

func (v *visit) run(fn func(context.Context, *esdb.Client) error) {
	err := v.try(fn)
	v.enter()
	first := v.ended.CompareAndSwap(false, true)
	if !first || !v.keep || err != nil {
		v.conn.release()
	}
	if first {
		v.result <- err
	}
}

func (v *visit) try(fn func(context.Context, *esdb.Client) error) (err error) {
	defer recovered(&err)
	return fn(v, v.conn.client)
}
