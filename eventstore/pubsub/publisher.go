package pubsub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// Types of the events in the stream "parked-<process>". They are no events of
// the domain and not registered.
const (
	typeParked   = "ProcessParked"
	typeRedriven = "ProcessRedriven"
)

// MetadataReason is where Watermill's poison queue puts the error of a message.
const MetadataReason = "reason_poisoned"

// publishTimeout bounds Publish, whose interface has no context.
const publishTimeout = 30 * time.Second

// ParkedEvent is an event a process could not handle, as it is parked.
type ParkedEvent struct {
	ID       string              `json:"id"` // of the original event
	Process  string              `json:"process"`
	Stream   string              `json:"stream"`
	Revision eventstore.Revision `json:"revision"`
	Position uint64              `json:"position,string"`
	Type     string              `json:"type"`
	Error    string              `json:"error"`
	At       time.Time           `json:"at"`
	Data     json.RawMessage     `json:"data"` // the original JSON
}

// redriven takes a parked event off the list.
type redriven struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Discarded bool      `json:"discarded,omitempty"`
}

// Publisher parks the events processes could not handle, in one stream per
// process, and gives them back. Its methods may be called from any goroutine.
type Publisher struct {
	store *eventstore.Store
	clock func() time.Time

	mu      sync.Mutex
	shelves map[string]*shelf
}

var _ message.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher; a nil clock is time.Now.
func NewPublisher(store *eventstore.Store, clock func() time.Time) *Publisher {
	if clock == nil {
		clock = time.Now
	}
	return &Publisher{store: store, clock: clock, shelves: map[string]*shelf{}}
}

// Publish parks messages of a Subscriber; topic is the name of the process. An
// event that is parked already is not parked twice.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		event, ok := RecordedFrom(m)
		if !ok {
			return errors.New("park a message: it carries no recorded event")
		}
		// The context of a message that is being given up may have ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(m.Context()), publishTimeout)
		err := p.Park(ctx, topic, event, m.Metadata.Get(MetadataReason))
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// Close does nothing: the store is its owner's.
func (p *Publisher) Close() error { return nil }

// Park parks one event of a process with the text of the error.
func (p *Publisher) Park(ctx context.Context, process string, event eventstore.Recorded, reason string) error {
	parked := ParkedEvent{
		ID: event.ID, Process: process, Stream: event.Stream, Revision: event.Revision, Position: event.Position,
		Type: event.Type, Error: reason, At: p.clock().UTC(), Data: event.Data,
	}
	data, err := json.Marshal(parked)
	if err != nil {
		return fmt.Errorf("park event %s: %w", event.ID, err)
	}
	if len(data) > maxParkedSize {
		// It stays in its own stream; only the copy is left out.
		parked.Data = nil
		if data, err = json.Marshal(parked); err != nil {
			return fmt.Errorf("park event %s: %w", event.ID, err)
		}
	}
	return p.shelf(process).write(ctx, typeParked, event.ID, data, func(s *shelf) bool { return s.parkedNow(event.ID) })
}

// maxParkedSize leaves room for what an append may hold besides.
const maxParkedSize = 900 << 10

// Parked returns the events of a process that are parked now, oldest first.
func (p *Publisher) Parked(ctx context.Context, process string) ([]ParkedEvent, error) {
	s := p.shelf(process)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refreshLocked(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(s.parked), nil
}

// Redrive hands parked events of a process to handle again, in the order they
// were parked, and takes each off the list that it took. No ids means all. It
// returns how many were handled, and stops at the first error, which leaves
// that event parked.
func (p *Publisher) Redrive(ctx context.Context, process string, ids []string, handle func(context.Context, eventstore.Recorded) error) (int, error) {
	parked, err := p.Parked(ctx, process)
	if err != nil {
		return 0, err
	}
	handled := 0
	for _, event := range parked {
		if len(ids) > 0 && !slices.Contains(ids, event.ID) {
			continue
		}
		recorded, err := p.original(ctx, event)
		if err != nil {
			return handled, err
		}
		if err := handle(ctx, recorded); err != nil {
			return handled, err
		}
		if err := p.unpark(ctx, process, event.ID, false); err != nil {
			return handled, err
		}
		handled++
	}
	return handled, nil
}

// Discard takes a parked event off the list unhandled. An event that is not
// parked is domain.NotFound.
func (p *Publisher) Discard(ctx context.Context, process, id string) error {
	parked, err := p.Parked(ctx, process)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(parked, func(e ParkedEvent) bool { return e.ID == id }) {
		return domain.Fail(domain.NotFound, "NOT_PARKED", "No such event is parked.")
	}
	return p.unpark(ctx, process, id, true)
}

func (p *Publisher) unpark(ctx context.Context, process, id string, discarded bool) error {
	data, err := json.Marshal(redriven{ID: id, At: p.clock().UTC(), Discarded: discarded})
	if err != nil {
		return fmt.Errorf("unpark event %s: %w", id, err)
	}
	return p.shelf(process).write(ctx, typeRedriven, id, data, func(s *shelf) bool { return !s.parkedNow(id) })
}

// original reads a parked event where it was recorded.
func (p *Publisher) original(ctx context.Context, parked ParkedEvent) (eventstore.Recorded, error) {
	var found *eventstore.Recorded
	enough := errors.New("enough")
	_, err := p.store.Read(ctx, parked.Stream, parked.Revision, func(r eventstore.Recorded) error {
		if r.ID == parked.ID {
			found = &r
		}
		return enough
	})
	switch {
	case err != nil && !errors.Is(err, enough):
		return eventstore.Recorded{}, err
	case found == nil:
		return eventstore.Recorded{}, fmt.Errorf("redrive: event %s is not at %s/%d any more", parked.ID, parked.Stream, parked.Revision)
	}
	return *found, nil
}

func (p *Publisher) shelf(process string) *shelf {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelves[process]
	if s == nil {
		s = &shelf{store: p.store, stream: domain.StreamName(eventstore.Parked, process), revision: eventstore.NoStream, entries: map[string]int{}}
		p.shelves[process] = s
	}
	return s
}

// shelf is what is known of one parked stream.
type shelf struct {
	store  *eventstore.Store
	stream string

	// I/O is done under the lock: each shelf is written by one at a time.
	mu       sync.Mutex
	revision eventstore.Revision
	parked   []ParkedEvent
	entries  map[string]int // how many events of the stream are about an id
}

func (s *shelf) parkedNow(id string) bool {
	return slices.ContainsFunc(s.parked, func(e ParkedEvent) bool { return e.ID == id })
}

// write appends an event about the original id, unless the stream already says
// so. Its own id follows from that id and how often it was parked before, so
// that two writers who say the same say it once.
func (s *shelf) write(ctx context.Context, eventType, id string, data []byte, already func(*shelf) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.refreshLocked(ctx); err != nil {
			return err
		}
		if already(s) {
			return nil
		}
		key := fmt.Sprintf("%s/%s/%d", s.stream, id, s.entries[id])
		_, err := s.store.AppendRaw(ctx, s.stream, s.revision, eventstore.Raw{
			ID: uuid.NewSHA1(parkedSpace, []byte(key)).String(), Type: eventType, Data: data,
		})
		var conflict *eventstore.ConflictError
		if err == nil || !errors.As(err, &conflict) {
			return err
		}
	}
}

var parkedSpace = uuid.MustParse("3f1d6a0e-52c7-5f0b-8a55-0b6d6c1e9d44")

// refreshLocked reads what was written since the last time.
func (s *shelf) refreshLocked(ctx context.Context) error {
	_, err := s.store.ReadRaw(ctx, s.stream, s.revision+1, func(r eventstore.Recorded) error {
		switch r.Type {
		case typeParked:
			var event ParkedEvent
			if err := json.Unmarshal(r.Data, &event); err != nil {
				return fmt.Errorf("read parked event %d of %s: %w", r.Revision, s.stream, err)
			}
			s.parked = append(s.parked, event)
			s.entries[event.ID]++
		case typeRedriven:
			var event redriven
			if err := json.Unmarshal(r.Data, &event); err != nil {
				return fmt.Errorf("read parked event %d of %s: %w", r.Revision, s.stream, err)
			}
			s.parked = slices.DeleteFunc(s.parked, func(e ParkedEvent) bool { return e.ID == event.ID })
			s.entries[event.ID]++
		}
		s.revision = r.Revision
		return nil
	})
	return err
}
