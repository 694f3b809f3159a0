package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/eventstore/pubsub"
)

// patience is how long a test waits for something that should happen at once.
const patience = 60 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// memory keeps checkpoints, and can be told to fail.
type memory struct {
	mu        sync.Mutex
	positions map[string]uint64
	saves     int
	failure   error
}

func newMemory() *memory { return &memory{positions: map[string]uint64{}} }

func (m *memory) Load(_ context.Context, name string) (uint64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	position, ok := m.positions[name]
	return position, ok, m.failure
}

func (m *memory) Save(_ context.Context, name string, position uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		return m.failure
	}
	m.saves++
	m.positions[name] = max(position, m.positions[name])
	return nil
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure = err
}

func (m *memory) position(name string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.positions[name]
}

type noted struct {
	N int `json:"n"`
}

func (noted) EventType() string { return "TestNoted" }

func openNode(t testing.TB) *embedded.Node {
	t.Helper()
	node, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	return node
}

func openStore(t testing.TB, node *embedded.Node, registry *domain.Registry) *eventstore.Store {
	t.Helper()
	store, err := eventstore.Open(eventstore.Config{URL: node.ConnectionString(), CallTimeout: 20 * time.Second, Logger: quiet}, registry)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// room is a store with checkpoints and the streams of one category.
type room struct {
	*eventstore.Store
	checkpoints *memory
	revisions   map[string]eventstore.Revision
	last        uint64
}

func newRoom(t testing.TB) *room {
	t.Helper()
	registry := domain.NewRegistry()
	domain.Register[noted](registry)
	return &room{Store: openStore(t, openNode(t), registry), checkpoints: newMemory(), revisions: map[string]eventstore.Revision{}}
}

// add appends a note to a stream and returns its position.
func (r *room) add(t testing.TB, stream string, n int) uint64 {
	t.Helper()
	revision, ok := r.revisions[stream]
	if !ok {
		revision = eventstore.NoStream
	}
	meta := eventstore.Metadata{CommandID: uuid.NewString(), CorrelationID: "c" + fmt.Sprint(n)}
	appended, err := r.Append(t.Context(), stream, revision, meta, noted{N: n})
	require.NoError(t, err)
	r.revisions[stream], r.last = appended.Revision, appended.Position
	return appended.Position
}

func (r *room) config() pubsub.Config {
	return pubsub.Config{
		Store: r.Store, Checkpoints: r.checkpoints, Name: "process", FromStart: true, Logger: quiet,
		SaveEvery: time.Millisecond, RetryDelay: time.Millisecond, MaxRetryDelay: 4 * time.Millisecond, CloseTimeout: patience,
	}
}

func open(t testing.TB, c pubsub.Config) *pubsub.Subscriber {
	t.Helper()
	s, err := pubsub.NewSubscriber(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func subscribe(t testing.TB, s *pubsub.Subscriber) <-chan *message.Message {
	t.Helper()
	messages, err := s.Subscribe(t.Context(), pubsub.Topic("note", "other"))
	require.NoError(t, err)
	return messages
}

func receive(t testing.TB, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-messages:
		require.True(t, ok, "the channel is closed")
		return m
	case <-time.After(patience):
		require.FailNow(t, "no message")
		return nil
	}
}

func closed(t testing.TB, messages <-chan *message.Message) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return
			}
			m.Nack()
		case <-timeout:
			require.FailNow(t, "the channel is not closed")
		}
	}
}

// reaches waits for a saved checkpoint.
func (r *room) reaches(t testing.TB, position uint64) {
	t.Helper()
	require.Eventually(t, func() bool { return r.checkpoints.position("process") == position }, patience, time.Millisecond)
}

func TestMessage(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	position := r.add(t, "note-1", 7)
	r.add(t, "elsewhere-1", 8)
	messages := subscribe(t, open(t, r.config()))
	m := receive(t, messages)
	recorded, ok := pubsub.RecordedFrom(m)
	require.True(t, ok)
	require.Equal(t, recorded.ID, m.UUID)
	require.Equal(t, `{"n":7}`, string(m.Payload))
	require.Equal(t, noted{N: 7}, recorded.Event)
	require.Equal(t, position, recorded.Position)
	require.Equal(t, message.Metadata{
		pubsub.MetadataType: "TestNoted", pubsub.MetadataStream: "note-1", pubsub.MetadataPosition: fmt.Sprint(position),
		pubsub.MetadataCorrelation: "c7",
	}, m.Metadata)
	require.NoError(t, m.Context().Err())
	m.Ack()
	<-m.Context().Done()
	r.add(t, "other-1", 9)
	m = receive(t, messages)
	require.Equal(t, `{"n":9}`, string(m.Payload), "both categories of the topic, and no others")
	m.Ack()
	_, ok = pubsub.RecordedFrom(message.NewMessage("x", nil))
	require.False(t, ok)
}

// The checkpoint stays before the first event that was not acked, whatever is
// done behind it.
func TestCheckpointIsContiguous(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	const streams = 20 // more than lanes, so that some event is behind none of the first one's
	first := r.add(t, "note-0", 0)
	for i := 1; i < streams; i++ {
		r.add(t, fmt.Sprintf("note-%d", i), i)
	}
	config := r.config()
	config.CloseTimeout = time.Millisecond
	s := open(t, config)
	messages := subscribe(t, s)
	acked := 0
	for held := false; !held || acked == 0; {
		m := receive(t, messages)
		if recorded, _ := pubsub.RecordedFrom(m); recorded.Position == first {
			held = true
			continue
		}
		m.Ack()
		<-m.Context().Done()
		acked++
	}
	require.NoError(t, s.Close())
	require.Zero(t, r.checkpoints.position("process"), "%d events behind the first are done, it is not", acked)

	messages = subscribe(t, open(t, config))
	for range streams {
		receive(t, messages).Ack()
	}
	r.reaches(t, r.last)
}

// With handlers that fail at random each stream stays in order, nothing is
// lost, and the checkpoint ends at the end.
func TestOrderPerStreamDespiteFailures(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	const streams, each = 12, 25
	for n := range each {
		for i := range streams {
			r.add(t, fmt.Sprintf("note-%d", i), n)
		}
	}
	config := r.config()
	config.Lanes, config.Buffer = 4, 2
	messages := subscribe(t, open(t, config))
	seen := map[string][]int{}
	for total := 0; total < streams*each; {
		m := receive(t, messages)
		recorded, _ := pubsub.RecordedFrom(m)
		if rand.N(10) == 0 {
			m.Nack()
			continue
		}
		seen[recorded.Stream] = append(seen[recorded.Stream], recorded.Event.(noted).N)
		total++
		m.Ack()
	}
	require.Len(t, seen, streams)
	for stream, numbers := range seen {
		for i, n := range numbers {
			require.Equal(t, i, n, stream)
		}
	}
	r.reaches(t, r.last)
}

func TestNackComesAgainLater(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.add(t, "note-1", 1)
	config := r.config()
	config.RetryDelay, config.MaxRetryDelay = 20*time.Millisecond, 40*time.Millisecond
	messages := subscribe(t, open(t, config))
	began := time.Now()
	for i := range 4 {
		m := receive(t, messages)
		want := ""
		if i > 0 {
			want = fmt.Sprint(i)
		}
		require.Equal(t, want, m.Metadata.Get(pubsub.MetadataRedeliveries))
		m.Nack()
		<-m.Context().Done()
	}
	receive(t, messages).Ack()
	require.GreaterOrEqual(t, time.Since(began), (20+40+40+40)*time.Millisecond)
	r.reaches(t, r.last)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := pubsub.NewSubscriber(pubsub.Config{Name: "x"})
	require.Error(t, err)
	r := newRoom(t)
	config := r.config()
	s := open(t, config)
	messages, err := s.Subscribe(t.Context(), "no-category")
	require.NoError(t, err)
	closed(t, messages)
	require.ErrorContains(t, s.Err(), "no category")
}

// Under Watermill's router nothing is left behind. (Not parallel: it counts
// goroutines.)
func TestRouter(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Run("run", func(t *testing.T) {
		r := newRoom(t)
		const count = 200
		for i := range count {
			r.add(t, fmt.Sprintf("note-%d", i%10), i)
		}
		router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
		require.NoError(t, err)
		s, err := pubsub.NewSubscriber(r.config())
		require.NoError(t, err)
		var mu sync.Mutex
		seen := map[int]int{}
		router.AddConsumerHandler("process", pubsub.Topic("note"), s, func(m *message.Message) error {
			recorded, _ := pubsub.RecordedFrom(m)
			mu.Lock()
			defer mu.Unlock()
			n := recorded.Event.(noted).N
			if seen[n]++; n%50 == 0 && seen[n] < 3 {
				return errors.New("try again")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- router.Run(ctx) }()
		r.reaches(t, r.last)
		cancel()
		require.NoError(t, <-ended)
		require.Len(t, seen, count)
		require.Equal(t, 3, seen[50])
		require.Equal(t, 1, seen[51])
	})
	goleak.VerifyNone(t, ignore)
}
