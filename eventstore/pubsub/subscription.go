package pubsub

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// Keys of the metadata of messages. The correlation id is where Watermill's
// own middleware looks for it.
const (
	MetadataCorrelation  = "correlation_id"
	MetadataType         = "event_type"
	MetadataStream       = "stream"
	MetadataPosition     = "position"
	MetadataRedeliveries = "redeliveries" // missing on the first delivery
)

// finalSave bounds the last save of a subscription.
const finalSave = 5 * time.Second

var laneSeed = maphash.MakeSeed()

// subscription is one Subscribe: a reader that deals events to lanes, the
// lanes, and a saver.
type subscription struct {
	config     *Config
	categories []string
	start      uint64
	out        chan *message.Message
	ended      chan struct{}
	lanes      []chan delivery
	frontier   frontier
	saved      uint64

	// reading ends when nothing new is to be delivered; handling, the parent of
	// the messages' contexts, when handlers are no longer waited for.
	reading     context.Context
	stop        context.CancelFunc
	handling    context.Context
	abandon     context.CancelFunc
	lostControl chan error // at most one: the checkpoint is somebody else's
}

// delivery is an event on its way through a lane.
type delivery struct {
	event  *eventstore.Recorded
	number int // in the frontier
}

func newSubscription(ctx context.Context, c *Config, categories []string, start uint64) *subscription {
	s := &subscription{
		config: c, categories: categories, start: start, saved: start,
		out: make(chan *message.Message), ended: make(chan struct{}), lanes: make([]chan delivery, c.Lanes), lostControl: make(chan error, 1),
	}
	s.frontier.position = start
	for i := range s.lanes {
		s.lanes[i] = make(chan delivery, c.Buffer)
	}
	s.reading, s.stop = context.WithCancel(ctx)
	s.handling, s.abandon = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// run delivers until the subscription is stopped (nil) or cannot go on.
func (s *subscription) run() error {
	defer s.abandon()
	var workers sync.WaitGroup
	for _, lane := range s.lanes {
		workers.Go(func() { s.work(lane) })
	}
	saver := make(chan struct{})
	go func() {
		defer close(saver)
		s.saveRegularly()
	}()
	err := s.config.Store.Subscribe(s.reading, eventstore.SubscribeOptions{
		Categories: s.categories, From: s.from, Name: s.config.Name,
	}, s.receive)
	stopped := s.reading.Err() != nil
	s.stop()
	impatient := time.AfterFunc(s.config.CloseTimeout, s.abandon)
	defer impatient.Stop()
	workers.Wait()
	<-saver
	s.saveFinally()
	select {
	case lost := <-s.lostControl:
		return lost
	default:
	}
	if stopped || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// from reads the checkpoint at each connect: somebody may have moved it.
func (s *subscription) from(ctx context.Context) (uint64, bool, error) {
	position, found, err := s.config.Checkpoints.Load(ctx, s.config.Name)
	if err != nil {
		return 0, false, unavailable(err)
	}
	if !found {
		position = s.start
	}
	return position, false, nil
}

// receive deals a message of the log to the lane of its stream.
func (s *subscription) receive(ctx context.Context, m eventstore.Message) error {
	switch {
	case m.CaughtUp:
		return nil
	case m.Event == nil:
		s.frontier.pass(m.Position)
		return nil
	}
	lane := s.lanes[maphash.String(laneSeed, m.Event.Stream)%uint64(len(s.lanes))]
	select {
	case lane <- delivery{event: m.Event, number: s.frontier.begin(m.Position)}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work delivers the events of one lane, one after the other.
func (s *subscription) work(lane <-chan delivery) {
	for {
		// A stopped lane takes no more of what waits in it.
		if s.reading.Err() != nil {
			return
		}
		select {
		case <-s.reading.Done():
			return
		case d := <-lane:
			if !s.deliver(d.event) {
				return
			}
			s.frontier.done(d.number)
		}
	}
}

// deliver hands out an event until it is acked. It returns false when the
// subscription ended before.
func (s *subscription) deliver(event *eventstore.Recorded) bool {
	delay := s.config.RetryDelay
	for redeliveries := 0; ; redeliveries++ {
		acked, answered := s.offer(event, redeliveries)
		if acked || !answered {
			return acked
		}
		if !pause(s.reading, delay) {
			return false
		}
		delay = min(2*delay, s.config.MaxRetryDelay)
	}
}

// offer hands out an event once. answered is false when the subscription ended
// before an answer.
func (s *subscription) offer(event *eventstore.Recorded, redeliveries int) (acked, answered bool) {
	ctx, cancel := context.WithCancel(context.WithValue(s.handling, recordedKey{}, event))
	defer cancel()
	m := newMessage(ctx, event, redeliveries)
	select {
	case s.out <- m:
	case <-s.reading.Done():
		return false, false
	}
	select {
	case <-m.Acked():
		return true, true
	case <-m.Nacked():
		return false, true
	case <-s.handling.Done():
	}
	// The answer may have come at the same moment.
	select {
	case <-m.Acked():
		return true, true
	default:
		return false, false
	}
}

func newMessage(ctx context.Context, event *eventstore.Recorded, redeliveries int) *message.Message {
	m := message.NewMessageWithContext(ctx, event.ID, message.Payload(event.Data))
	m.Metadata[MetadataType] = event.Type
	m.Metadata[MetadataStream] = event.Stream
	m.Metadata[MetadataPosition] = strconv.FormatUint(event.Position, 10)
	if event.Metadata.CorrelationID != "" {
		m.Metadata[MetadataCorrelation] = event.Metadata.CorrelationID
	}
	if redeliveries > 0 {
		m.Metadata[MetadataRedeliveries] = strconv.Itoa(redeliveries)
	}
	return m
}

// pause waits; false means that ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// saveRegularly keeps the frontier, at most once in the configured time.
func (s *subscription) saveRegularly() {
	for pause(s.reading, s.config.SaveEvery) {
		if err := s.save(s.reading); err != nil {
			s.lostControl <- err
			s.stop()
			return
		}
	}
}

// saveFinally keeps the frontier when all lanes have ended.
func (s *subscription) saveFinally() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.reading), finalSave)
	defer cancel()
	if err := s.save(ctx); err != nil {
		select {
		case s.lostControl <- err:
		default:
		}
	}
}

// save keeps the frontier where it has moved. Its error is final; others are
// logged, for the next save makes up for it.
func (s *subscription) save(ctx context.Context) error {
	position := s.frontier.reached()
	if position == s.saved {
		return nil
	}
	err := s.config.Checkpoints.Save(ctx, s.config.Name, position)
	switch {
	case err == nil:
		s.saved = position
	case domain.KindOf(err) == domain.Conflict:
		return fmt.Errorf("the checkpoint of %s was taken over: %w", s.config.Name, err)
	case ctx.Err() == nil:
		s.config.Logger.Warn("checkpoint not saved", "process", s.config.Name, "position", position, "error", err)
	}
	return nil
}
