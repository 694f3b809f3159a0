package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// Checkpoints keeps the position of each process.
type Checkpoints interface {
	// Load returns the position saved under a name; false where there is none.
	Load(ctx context.Context, name string) (uint64, bool, error)
	// Save keeps a position. An error of kind domain.Conflict says that the
	// name is somebody else's now and ends the subscription; any other is tried
	// again.
	Save(ctx context.Context, name string, position uint64) error
}

// Config describes the subscriber of one process. Store, Checkpoints and Name
// are required.
type Config struct {
	Store       *eventstore.Store
	Checkpoints Checkpoints
	Name        string // of the process and its checkpoint
	FromStart   bool   // a process never seen before starts at the start of the log

	Lanes     int           // streams handled side by side; default 16
	Buffer    int           // events that wait in each lane; default 16
	SaveEvery time.Duration // at most one Save in that time; default 500 ms
	// A nacked event comes again after RetryDelay (default 100 ms), then after
	// twice that and so on up to MaxRetryDelay (default 30 s).
	RetryDelay    time.Duration
	MaxRetryDelay time.Duration
	// CloseTimeout is how long handlers may take to ack what they have when the
	// subscription ends; default 5 s.
	CloseTimeout time.Duration
	Logger       *slog.Logger // default slog.Default()
}

func (c *Config) setDefaults() error {
	if c.Store == nil || c.Checkpoints == nil || c.Name == "" {
		return errors.New("new subscriber: Store, Checkpoints and Name are required")
	}
	if c.Lanes <= 0 {
		c.Lanes = 16
	}
	if c.Buffer <= 0 {
		c.Buffer = 16
	}
	for duration, value := range map[*time.Duration]time.Duration{
		&c.SaveEvery: 500 * time.Millisecond, &c.RetryDelay: 100 * time.Millisecond,
		&c.MaxRetryDelay: 30 * time.Second, &c.CloseTimeout: 5 * time.Second,
	} {
		if *duration <= 0 {
			*duration = value
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Subscriber is the message.Subscriber of one process. It has one subscription
// at a time, because it has one checkpoint.
type Subscriber struct {
	config Config

	mu      sync.Mutex
	closed  bool
	current *subscription // nil when there is none
	lastErr error
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber checks the configuration and connects to nothing.
func NewSubscriber(c Config) (*Subscriber, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	return &Subscriber{config: c}, nil
}

// Topic is the topic of the events of some categories.
func Topic(categories ...string) string { return strings.Join(categories, ",") }

// SubscribeInitialize fixes where the process starts, where that is not known
// yet: whatever is written after it returned will be delivered.
func (s *Subscriber) SubscribeInitialize(string) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.CloseTimeout+30*time.Second)
	defer cancel()
	_, err := s.start(ctx)
	return err
}

// start returns the position after which to begin.
func (s *Subscriber) start(ctx context.Context) (uint64, error) {
	position, found, err := s.config.Checkpoints.Load(ctx, s.config.Name)
	if err != nil {
		return 0, fmt.Errorf("load the checkpoint of %s: %w", s.config.Name, err)
	}
	if found {
		return position, nil
	}
	if !s.config.FromStart {
		if position, err = s.config.Store.Head(ctx); err != nil {
			return 0, err
		}
	}
	if err := s.config.Checkpoints.Save(ctx, s.config.Name, position); err != nil {
		return 0, fmt.Errorf("save the first checkpoint of %s: %w", s.config.Name, err)
	}
	return position, nil
}

// Subscribe delivers the events of the categories the topic lists, separated
// by commas, behind the checkpoint of the process. It returns when the start
// position is known and kept. The channel is closed when ctx ends, at Close,
// or when the subscription cannot go on: then Err says why.
//
// A message's payload is the stored JSON, its UUID the event's id; RecordedFrom
// returns the decoded event. Its context ends with Ack, Nack and the subscription.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	start, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe %s: the subscriber is closed", s.config.Name)
	}
	if s.current != nil {
		return nil, fmt.Errorf("subscribe %s: there is a subscription already", s.config.Name)
	}
	s.lastErr = nil
	s.current = newSubscription(ctx, &s.config, strings.Split(topic, ","), start)
	go s.run(s.current)
	return s.current.out, nil
}

func (s *Subscriber) run(sub *subscription) {
	err := sub.run()
	if err != nil {
		s.config.Logger.Error("process stopped", "process", s.config.Name, "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.lastErr = nil, err
	close(sub.out)
	close(sub.ended)
}

// Err returns why the last subscription ended by itself: nil when there is one,
// or when it was ended by its context or Close.
func (s *Subscriber) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastErr
}

// Close ends the subscription, waits for its handlers as long as the
// configuration says, keeps the last checkpoint and closes the channel. It may
// be called repeatedly.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	sub := s.current
	s.mu.Unlock()
	if sub != nil {
		sub.stop()
		<-sub.ended
	}
	return nil
}

type recordedKey struct{}

// RecordedFrom returns the event a message of a Subscriber carries.
func RecordedFrom(m *message.Message) (eventstore.Recorded, bool) {
	r, ok := m.Context().Value(recordedKey{}).(*eventstore.Recorded)
	if !ok {
		return eventstore.Recorded{}, false
	}
	return *r, true
}

// unavailable makes the store ask for the checkpoint again.
func unavailable(err error) error {
	failure := domain.Fail(domain.Unavailable, "CHECKPOINTS_UNAVAILABLE", "The checkpoints cannot be read; try again.")
	failure.Cause = err
	return failure
}
