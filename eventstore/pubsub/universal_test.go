package pubsub_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/pubsub"
)

// wire carries any Watermill message as an event.
type wire struct {
	Payload  []byte            `json:"payload"`
	Metadata map[string]string `json:"metadata"`
}

func (wire) EventType() string { return "TestWire" }

// universal makes the log look like a general Pub/Sub, which Watermill's tests
// need: anybody publishes anything to any topic. The subscribers are ours.
type universal struct {
	store       *eventstore.Store
	checkpoints *memory
	fromStart   bool

	mu        sync.Mutex
	revisions map[string]eventstore.Revision
}

// Messages of one payload are one stream, for they are to stay in order.
func (u *universal) stream(topic string, m *message.Message) string {
	return domain.StreamName(category(topic), "p"+string(m.Payload))
}

func category(topic string) string { return strings.ReplaceAll(topic, "-", "_") }

type universalPublisher struct{ *universal }

func (p universalPublisher) Publish(topic string, messages ...*message.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		data, err := json.Marshal(wire{Payload: m.Payload, Metadata: m.Metadata})
		if err != nil {
			return err
		}
		stream := p.stream(topic, m)
		revision, ok := p.revisions[stream]
		if !ok {
			revision = eventstore.NoStream
		}
		appended, err := p.store.AppendRaw(context.Background(), stream, revision, eventstore.Raw{ID: m.UUID, Type: wire{}.EventType(), Data: data})
		if err != nil {
			return err
		}
		p.revisions[stream] = appended.Revision
	}
	return nil
}

func (p universalPublisher) Close() error { return nil }

// universalSubscriber makes a Subscriber of ours for each Subscribe.
type universalSubscriber struct {
	*universal
	group string

	forwarding sync.WaitGroup

	mu     sync.Mutex
	closed bool
	opened []*pubsub.Subscriber
}

func (s *universalSubscriber) open(topic string) (*pubsub.Subscriber, error) {
	name := s.group + "/" + topic
	if s.group == "" {
		name = uuid.NewString() // each subscriber for itself
	}
	sub, err := pubsub.NewSubscriber(pubsub.Config{
		Store: s.store, Checkpoints: s.checkpoints, Name: name, FromStart: s.fromStart,
		SaveEvery: 10 * time.Millisecond, RetryDelay: time.Millisecond, MaxRetryDelay: 10 * time.Millisecond,
		CloseTimeout: 50 * time.Millisecond, Logger: quiet,
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("closed")
	}
	s.opened = append(s.opened, sub)
	return sub, nil
}

func (s *universalSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub, err := s.open(topic)
	if err != nil {
		return nil, err
	}
	in, err := sub.Subscribe(ctx, category(topic))
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	s.forwarding.Go(func() {
		defer close(out)
		for m := range in {
			unwrap(m)
			select {
			case out <- m:
			case <-m.Context().Done(): // nobody reads, and the subscription has ended
			}
		}
	})
	return out, nil
}

func (s *universalSubscriber) SubscribeInitialize(topic string) error {
	sub, err := s.open(topic)
	if err != nil {
		return err
	}
	return sub.SubscribeInitialize(category(topic))
}

func (s *universalSubscriber) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, sub := range s.opened {
		if err := sub.Close(); err != nil {
			return err
		}
	}
	s.forwarding.Wait()
	return nil
}

// unwrap turns the message of an event into the one that was published.
func unwrap(m *message.Message) {
	r, ok := pubsub.RecordedFrom(m)
	if !ok {
		panic("the message carries no event")
	}
	w := r.Event.(wire)
	m.Payload, m.Metadata = w.Payload, w.Metadata
}

func newUniversal(t *testing.T, fromStart bool) *universal {
	t.Helper()
	registry := domain.NewRegistry()
	domain.Register[wire](registry)
	return &universal{store: openStore(t, openNode(t), registry), checkpoints: newMemory(), fromStart: fromStart, revisions: map[string]eventstore.Revision{}}
}

func (u *universal) pair(group string) (message.Publisher, message.Subscriber) {
	return universalPublisher{u}, &universalSubscriber{universal: u, group: group}
}

// TestUniversal runs Watermill's tests of any Pub/Sub, in both ways to begin;
// with SPARKOPS_TEST_FULL set at their full size, which takes minutes.
// Their own restart of a broker needs one outside; package eventstore has it.
func TestUniversal(t *testing.T) {
	t.Parallel()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	features := tests.Features{
		Persistent: true, GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true,
		ForceShort: os.Getenv("SPARKOPS_TEST_FULL") == "",
	}
	t.Run("one checkpoint per process, from the end", func(t *testing.T) {
		t.Parallel()
		u := newUniversal(t, false)
		features := features
		features.ConsumerGroups = true
		tests.TestPubSub(t, features,
			func(t *testing.T) (message.Publisher, message.Subscriber) { return u.pair("process") },
			func(t *testing.T, group string) (message.Publisher, message.Subscriber) { return u.pair(group) })
	})
	t.Run("from the start", func(t *testing.T) {
		t.Parallel()
		u := newUniversal(t, true)
		features := features
		features.NewSubscriberReceivesOldMessages = true
		tests.TestPubSub(t, features,
			func(t *testing.T) (message.Publisher, message.Subscriber) { return u.pair("") }, nil)
	})
}
