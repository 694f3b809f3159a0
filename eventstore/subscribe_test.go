package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

func fromStart(context.Context) (uint64, bool, error) { return 0, false, nil }
func fromEnd(context.Context) (uint64, bool, error)   { return 0, true, nil }

func after(position uint64) func(context.Context) (uint64, bool, error) {
	return func(context.Context) (uint64, bool, error) { return position, false, nil }
}

// follower collects what a subscription delivers.
type follower struct {
	mu       sync.Mutex
	changed  chan struct{} // closed at each change
	texts    []string
	messages []eventstore.Message
	caughtUp int
	done     chan error
	stop     context.CancelFunc
}

func follow(t *testing.T, store *eventstore.Store, from func(context.Context) (uint64, bool, error), categories ...string) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{changed: make(chan struct{}), done: make(chan error, 1), stop: cancel}
	go func() {
		f.done <- store.Subscribe(ctx, eventstore.SubscribeOptions{Categories: categories, From: from, Name: t.Name()}, f.take)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-f.done:
		case <-time.After(patience):
			t.Error("the subscription does not end")
		}
	})
	return f
}

func (f *follower) take(_ context.Context, m eventstore.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = append(f.messages, m)
	if m.Event != nil {
		f.texts = append(f.texts, m.Event.Event.(noted).Text)
	}
	if m.CaughtUp {
		f.caughtUp++
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// await waits until what was delivered satisfies the condition.
func (f *follower) await(t *testing.T, condition func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		ok, changed := condition(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			f.mu.Lock()
			defer f.mu.Unlock()
			require.FailNow(t, "the subscription did not deliver", "texts %v, caught up %d times", f.texts, f.caughtUp)
		}
	}
}

// want waits for exactly these texts.
func (f *follower) want(t *testing.T, texts ...string) {
	t.Helper()
	f.await(t, func() bool { return len(f.texts) >= len(texts) })
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Equal(t, texts, f.texts)
}

func checkSubscribeStart(t *testing.T, c contract) {
	one, two := c.stream(), c.stream()
	c.add(t, one, eventstore.NoStream, "a", "b")
	f := follow(t, c.Store, fromStart, c.category)
	f.await(t, func() bool { return f.caughtUp == 1 })
	f.want(t, "a", "b")
	c.add(t, two, eventstore.NoStream, "c")
	c.add(t, one, 1, "d")
	f.want(t, "a", "b", "c", "d")
	last := uint64(0)
	for _, m := range f.messages {
		kinds := 0
		if m.Event != nil {
			kinds++
			require.Equal(t, m.Event.Position, m.Position)
		}
		if m.CaughtUp {
			kinds++
			require.Zero(t, m.Position)
		} else {
			require.Greater(t, m.Position, last, "positions grow")
			last = m.Position
		}
		require.LessOrEqual(t, kinds, 1)
	}
}

func checkSubscribeAfter(t *testing.T, c contract) {
	stream := c.stream()
	first := c.add(t, stream, eventstore.NoStream, "a")
	c.add(t, stream, 0, "b")
	f := follow(t, c.Store, after(first.Position), c.category)
	f.want(t, "b")
	c.add(t, stream, 1, "c")
	f.want(t, "b", "c")
}

func checkSubscribeEnd(t *testing.T, c contract) {
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a")
	f := follow(t, c.Store, fromEnd, c.category)
	f.await(t, func() bool { return f.caughtUp == 1 })
	c.add(t, stream, 0, "b")
	f.want(t, "b")
}

// A subscription of a category nothing happens in moves on all the same.
func checkBarePositions(t *testing.T, c contract) {
	f := follow(t, c.Store, fromEnd, c.category)
	f.await(t, func() bool { return f.caughtUp == 1 })
	noise := domain.StreamName(c.category+"x", "1")
	texts := make([]string, 100)
	bare := 0
	for i := 0; bare == 0; i++ {
		require.Less(t, i, 200, "no bare position after 20,000 events")
		c.add(t, noise, eventstore.Revision(100*i)-1, texts...)
		f.mu.Lock()
		bare = len(f.messages) - f.caughtUp
		f.mu.Unlock()
	}
	// It can be taken up again from there.
	f.mu.Lock()
	var position uint64
	for _, m := range f.messages {
		require.Nil(t, m.Event)
		position = max(position, m.Position)
	}
	f.mu.Unlock()
	require.Less(t, position, uint64(1)<<62)
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a")
	again := follow(t, c.Store, after(position), c.category)
	again.want(t, "a")
	f.want(t, "a")
}

func checkSubscribeEnds(t *testing.T, c contract) {
	c.add(t, c.stream(), eventstore.NoStream, "a", "b")
	options := eventstore.SubscribeOptions{Categories: []string{c.category}, From: fromStart, Name: "ends"}
	failure := errors.New("handler failed")
	seen := 0
	err := c.Subscribe(t.Context(), options, func(_ context.Context, m eventstore.Message) error {
		seen++
		return failure
	})
	require.Equal(t, failure, err, "the error of the handler comes back as it is")
	require.Equal(t, 1, seen)

	ctx, cancel := context.WithCancel(t.Context())
	err = c.Subscribe(ctx, options, func(_ context.Context, m eventstore.Message) error {
		if m.CaughtUp {
			cancel()
		}
		return nil
	})
	require.Equal(t, context.Canceled, err)

	lostCheckpoint := errors.New("somebody else owns the checkpoint")
	options.From = func(context.Context) (uint64, bool, error) { return 0, false, lostCheckpoint }
	err = c.Subscribe(t.Context(), options, func(context.Context, eventstore.Message) error { return nil })
	require.Equal(t, lostCheckpoint, err)

	asked := 0
	options.From = func(context.Context) (uint64, bool, error) {
		if asked++; asked < 3 {
			return 0, false, domain.Fail(domain.Unavailable, "DATABASE", "The database is away.")
		}
		return 0, false, nil
	}
	err = c.Subscribe(t.Context(), options, func(context.Context, eventstore.Message) error { return failure })
	require.Equal(t, failure, err)
	require.Equal(t, 3, asked, "a database that is away is asked again")

	options.Categories = []string{"a-b"}
	require.Error(t, c.Subscribe(t.Context(), options, func(context.Context, eventstore.Message) error { return nil }))
}

func checkSubscribeParked(t *testing.T, c contract) {
	f := follow(t, c.Store, fromEnd)
	f.await(t, func() bool { return f.caughtUp == 1 })
	parked := domain.StreamName(eventstore.Parked, c.category)
	_, err := c.AppendRaw(t.Context(), parked, eventstore.NoStream, eventstore.Raw{ID: uuid.NewString(), Type: "Foreign", Data: json.RawMessage(`{}`)})
	require.NoError(t, err)
	c.add(t, c.stream(), eventstore.NoStream, "a")
	f.want(t, "a")
}

// More subscriptions than one connection carries do not starve each other.
func TestManySubscriptions(t *testing.T) {
	t.Parallel()
	node := openNode(t, nodeOptions())
	c := contract{Store: openStore(t, node.ConnectionString(), testRegistry()), category: "many"}
	var followers []*follower
	for range 170 {
		followers = append(followers, follow(t, c.Store, fromStart, c.category))
	}
	for i := range 3 {
		c.add(t, c.stream(), eventstore.NoStream, fmt.Sprint(i))
	}
	for _, f := range followers {
		f.want(t, "0", "1", "2")
	}
	require.NoError(t, c.Ping(t.Context()))
}
