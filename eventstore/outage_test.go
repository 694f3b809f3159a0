package eventstore_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
)

func nodeOptions() embedded.Options { return embedded.Options{} }

// behind opens a store on a proxy, with a short time for each call.
func behind(t testing.TB, p *proxy, callTimeout time.Duration) contract {
	t.Helper()
	store, err := eventstore.Open(eventstore.Config{URL: p.url, CallTimeout: callTimeout, Logger: quiet}, testRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return contract{Store: store, category: "test", url: p.url}
}

// Both versions of a lost connection between two calls: nobody notices.
func TestConnectionLostBetweenCalls(t *testing.T) {
	t.Parallel()
	p := newProxy(t, openNode(t, nodeOptions()).Addr())
	c := behind(t, p, 10*time.Second)
	stream := c.stream()
	for i := range 5 {
		c.add(t, stream, eventstore.Revision(i)-1, fmt.Sprint(i))
		p.cut()
		texts, last := c.texts(t, stream, 0)
		require.Len(t, texts, i+1)
		require.Equal(t, eventstore.Revision(i), last)
		p.cut()
	}
	_, err := c.Head(t.Context())
	require.NoError(t, err)
}

// A server that is away for longer than discovery takes leaves the library's
// client dead for good, and some of its callers hanging.
func TestServerAwayAndBack(t *testing.T) {
	t.Parallel()
	p := newProxy(t, openNode(t, nodeOptions()).Addr())
	c := behind(t, p, 10*time.Second)
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a")
	p.set(refuse)
	p.cut()
	for range 2 {
		concurrently(t, 5, func(i int) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var err error
			if i%2 == 0 {
				_, err = c.Read(ctx, stream, 0, func(eventstore.Recorded) error { return nil })
			} else {
				err = c.Ping(ctx)
			}
			require.Equal(t, domain.Unavailable, domain.KindOf(err))
			require.NoError(t, ctx.Err(), "refused connections are reported at once")
		})
		_, err := c.Append(t.Context(), stream, 0, command(), note("b")...)
		require.Contains(t, []domain.Kind{domain.Unavailable, domain.OutcomeUnknown}, domain.KindOf(err))
	}
	_, err := c.Append(t.Context(), stream, 0, command(), note("b")...)
	require.Equal(t, domain.Unavailable, domain.KindOf(err), "nothing can have been stored without a connection")
	p.set(pass)
	c.add(t, stream, 0, "c")
	texts, _ := c.texts(t, stream, 0)
	require.Equal(t, []string{"a", "c"}, texts)
}

// concurrently runs fn n times at once and fails the test when they do not all return.
func concurrently(t *testing.T, n int, fn func(i int)) {
	t.Helper()
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() { fn(i) })
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(t, "callers hang")
	}
}

// Discovery that gets no answer at all is not waited for.
func TestFailedDiscoveryHoldsNobody(t *testing.T) {
	t.Parallel()
	p := newProxy(t, openNode(t, nodeOptions()).Addr())
	p.set(silence)
	c := behind(t, p, 10*time.Second)
	concurrently(t, 5, func(i int) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		var err error
		switch i % 3 {
		case 0:
			err = c.Ping(ctx)
		case 1:
			_, err = c.Append(ctx, c.stream(), eventstore.NoStream, command(), note("a")...)
		case 2:
			_, err = c.Read(ctx, c.stream(), 0, func(eventstore.Recorded) error { return nil })
		}
		require.Equal(t, domain.Unavailable, domain.KindOf(err))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	p.set(pass)
	p.cut()
	require.Eventually(t, func() bool { return c.Ping(t.Context()) == nil }, patience, 10*time.Millisecond)
}

// The answer to an append is lost: the second attempt finds the first one.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	p := newProxy(t, openNode(t, nodeOptions()).Addr())
	c := behind(t, p, 10*time.Second)
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a")
	p.set(deaf)
	go func(swallowed <-chan struct{}) {
		<-swallowed
		p.set(pass)
		p.cut()
	}(p.swallowed())
	appended := c.add(t, stream, 0, "b", "c")
	require.Equal(t, eventstore.Revision(2), appended.Revision)
	texts, last := c.texts(t, stream, 0)
	require.Equal(t, []string{"a", "b", "c"}, texts)
	require.Equal(t, eventstore.Revision(2), last)
}

// No answer comes within the caller's deadline: that is said, and repeating
// the command later tells what had happened.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	p := newProxy(t, openNode(t, nodeOptions()).Addr())
	c := behind(t, p, 10*time.Second)
	stream, meta := c.stream(), command()
	c.add(t, stream, eventstore.NoStream, "a")
	p.set(deaf)
	lost := p.swallowed()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-lost; cancel() }()
	_, err := c.Append(ctx, stream, 0, meta, note("b")...)
	require.Equal(t, domain.OutcomeUnknown, domain.KindOf(err))
	require.ErrorIs(t, err, context.Canceled)
	p.set(pass)
	p.cut()
	again, err := c.Append(t.Context(), stream, 0, meta, note("b")...)
	require.NoError(t, err)
	require.Equal(t, eventstore.Revision(1), again.Revision)
	texts, _ := c.texts(t, stream, 0)
	require.Equal(t, []string{"a", "b"}, texts)
}

// A first attempt that never arrived, and somebody else who was faster: a
// conflict, not a success.
func TestConflictAfterLostAttempt(t *testing.T) {
	t.Parallel()
	node := openNode(t, nodeOptions())
	p := newProxy(t, node.Addr())
	c := behind(t, p, 300*time.Millisecond)
	direct := contract{Store: openStore(t, node.ConnectionString(), testRegistry()), category: c.category}
	stream := c.stream()
	require.Eventually(t, func() bool {
		_, err := c.Append(t.Context(), stream, eventstore.NoStream, eventstore.Metadata{CommandID: "first"}, note("a")...)
		return err == nil
	}, patience, 10*time.Millisecond)
	p.set(silence)
	failed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		for {
			_, err := c.Append(ctx, stream, 0, eventstore.Metadata{CommandID: "second"}, note("mine")...)
			if kind := domain.KindOf(err); kind != domain.OutcomeUnknown && kind != domain.Unavailable {
				failed <- err
				return
			}
		}
	}()
	direct.add(t, stream, 0, "theirs")
	p.cut()
	p.set(pass)
	var conflict *eventstore.ConflictError
	require.ErrorAs(t, <-failed, &conflict)
	require.Equal(t, eventstore.ConflictError{Stream: stream, Expected: 0, Actual: 1}, *conflict)
	texts, _ := direct.texts(t, stream, 0)
	require.Equal(t, []string{"a", "theirs"}, texts)
}

// A read whose server stops sending ends by itself, and one whose connection
// breaks goes on where it was.
func TestReadsSurvive(t *testing.T) {
	t.Parallel()
	node := openNode(t, nodeOptions())
	p := newProxy(t, node.Addr())
	c := behind(t, p, 20*time.Second)
	direct := contract{Store: openStore(t, node.ConnectionString(), testRegistry()), category: c.category}
	stream := c.stream()
	const count = 3000
	want := make([]string, count)
	for i := range want {
		want[i] = fmt.Sprint(i, strings.Repeat("x", 300))
	}
	for i := 0; i < count; i += 1000 {
		direct.add(t, stream, eventstore.Revision(i)-1, want[i:i+1000]...)
	}
	for name, read := range map[string]func(each func(eventstore.Recorded) error) error{
		"stream": func(each func(eventstore.Recorded) error) error {
			_, err := c.Read(t.Context(), stream, 0, each)
			return err
		},
		"all": func(each func(eventstore.Recorded) error) error { return c.ReadAll(t.Context(), 0, 0, nil, each) },
		"category": func(each func(eventstore.Recorded) error) error {
			return c.ReadAll(t.Context(), 0, 0, []string{c.category}, each)
		},
	} {
		var got []string
		require.NoError(t, read(func(r eventstore.Recorded) error {
			got = append(got, r.Event.(noted).Text)
			if len(got)%1000 == 100 {
				p.cut()
			}
			return nil
		}), name)
		require.Equal(t, want, got, name)
	}
	hasty := behind(t, p, 200*time.Millisecond)
	require.Eventually(t, func() bool { return hasty.Ping(t.Context()) == nil }, patience, 10*time.Millisecond)
	p.set(silence)
	_, err := hasty.Read(t.Context(), stream, 0, func(eventstore.Recorded) error { return nil })
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
}

// Close while everything is busy: everybody returns, nothing panics, and what
// was answered is stored.
func TestCloseWhileBusy(t *testing.T) {
	t.Parallel()
	node := openNode(t, nodeOptions())
	checker := contract{Store: openStore(t, node.ConnectionString(), testRegistry()), category: "test"}
	store, err := eventstore.Open(eventstore.Config{URL: node.ConnectionString(), Logger: quiet}, testRegistry())
	require.NoError(t, err)
	c := contract{Store: store, category: "test"}
	var work sync.WaitGroup
	started := make(chan struct{}, 100)
	for range 16 {
		work.Go(func() {
			stream, stored := c.stream(), eventstore.NoStream
			for {
				appended, err := c.Append(context.Background(), stream, stored, command(), note("a")...)
				if err != nil {
					require.Equal(t, domain.Unavailable, domain.KindOf(err), "calls under way are waited for")
					break
				}
				if stored = appended.Revision; stored == 0 {
					started <- struct{}{}
				}
			}
			_, last := checker.texts(t, stream, 0)
			require.Equal(t, stored, last)
		})
	}
	for range 4 {
		work.Go(func() {
			err := c.Subscribe(context.Background(), eventstore.SubscribeOptions{From: fromStart}, func(context.Context, eventstore.Message) error { return nil })
			require.Equal(t, domain.Unavailable, domain.KindOf(err))
		})
		work.Go(func() {
			for {
				if err := c.ReadAll(context.Background(), 0, 0, nil, func(eventstore.Recorded) error { return nil }); err != nil {
					require.Equal(t, domain.Unavailable, domain.KindOf(err))
					return
				}
			}
		})
	}
	for range 16 {
		<-started
	}
	concurrently(t, 3, func(int) { require.NoError(t, store.Close()) })
	work.Wait()
	require.Equal(t, domain.Unavailable, domain.KindOf(c.Ping(t.Context())))
	err = c.Subscribe(t.Context(), eventstore.SubscribeOptions{From: fromStart}, func(context.Context, eventstore.Message) error { return nil })
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
}

// The disk of the server is full: the caller learns that, and only writing fails.
func TestStorageFull(t *testing.T) {
	t.Parallel()
	options := embedded.Options{Dir: t.TempDir(), MinFreeBytes: 1, DiskFree: func() (uint64, error) { return 0, nil }}
	c := contract{Store: openStore(t, openNode(t, options).ConnectionString(), testRegistry()), category: "test"}
	_, err := c.Append(t.Context(), c.stream(), eventstore.NoStream, command(), note("a")...)
	require.Equal(t, domain.StorageFull, domain.KindOf(err))
	require.NoError(t, c.Ping(t.Context()))
}

// Losing the server again and again with callers at work leaves nothing
// behind, neither while the store lives nor after Close. (Not parallel: it
// counts goroutines.)
func TestNoLeaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Run("cycles", func(t *testing.T) {
		p := newProxy(t, openNode(t, nodeOptions()).Addr())
		c := behind(t, p, 5*time.Second)
		f := follow(t, c.Store, fromStart, c.category)
		cycle := func() {
			concurrently(t, 16, func(i int) {
				stream := c.stream()
				for n := range 10 {
					_, err := c.Append(t.Context(), stream, eventstore.Revision(n)-1, command(), note("a")...)
					if err != nil {
						return
					}
					if i == 0 && n == 5 {
						p.cut()
					}
				}
			})
			p.set(refuse)
			p.cut()
			concurrently(t, 5, func(int) { _ = c.Ping(t.Context()) })
			f.mu.Lock()
			caughtUp := f.caughtUp
			f.mu.Unlock()
			p.set(pass)
			require.Eventually(t, func() bool { return c.Ping(t.Context()) == nil }, patience, 10*time.Millisecond)
			f.await(t, func() bool { return f.caughtUp > caughtUp })
		}
		cycle()
		before := runtime.NumGoroutine()
		for range 10 {
			cycle()
		}
		require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+8 }, patience, 10*time.Millisecond,
			"goroutines grow from %d to %d", before, runtime.NumGoroutine())
	})
	goleak.VerifyNone(t, ignore)
}
