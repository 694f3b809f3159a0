package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// Ender is implemented by states that come to an end after which commands are
// rare. Such streams leave the cache at once.
type Ender interface{ Ended() bool }

// entry remembers one stream up to a revision. Several commands may use it at
// once: each takes a snapshot, works without the lock, and puts back what it
// learned when that is newer. It is in the cache only while it holds events.
type entry[S State[S]] struct {
	mu       sync.Mutex
	state    S
	revision eventstore.Revision
	position uint64
	seen     map[uuid.UUID]span // where the events of each command are, up to revision
	read     time.Time          // when the store was last asked for more
}

// span is the first and last event of one command in the stream.
type span struct{ first, last eventstore.Revision }

// snapshot is what an entry knew at one moment. States are values that never
// change, so it needs no lock. seen is set when the command asked about has
// been carried out before.
type snapshot[S any] struct {
	state    S
	revision eventstore.Revision
	position uint64
	seen     *span
}

// entryOf returns the entry of a stream, an empty one where nothing is
// remembered or where it was remembered as another type of state.
func entryOf[S State[S]](h *Handler, stream string) *entry[S] {
	if cached, ok := h.cache.Get(stream); ok {
		if e, ok := cached.(*entry[S]); ok {
			return e
		}
	}
	return &entry[S]{revision: eventstore.NoStream, seen: map[uuid.UUID]span{}}
}

func (e *entry[S]) snapshot(commandID string) snapshot[S] {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.snapshotLocked(commandID)
}

func (e *entry[S]) snapshotLocked(commandID string) snapshot[S] {
	s := snapshot[S]{state: e.state, revision: e.revision, position: e.position}
	if commandID == "" {
		return s
	}
	if found, ok := e.seen[commandKey(commandID)]; ok {
		s.seen = &found
	}
	return s
}

// readSince returns the state when the store was asked for more after a time.
func (e *entry[S]) readSince(t time.Time) (state S, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state, e.revision != eventstore.NoStream && e.read.After(t)
}

// refresh reads what was written after the remembered revision and returns the
// entry as it is then.
func (e *entry[S]) refresh(ctx context.Context, h *Handler, stream, commandID string) (snapshot[S], error) {
	from, began := e.snapshot(""), time.Now()
	next, seen := from, map[uuid.UUID]span{}
	_, err := h.Store.Read(ctx, stream, from.revision+1, func(r eventstore.Recorded) error {
		next.state = next.state.Evolve(r.Event)
		next.revision, next.position = r.Revision, r.Position
		widen(seen, r.Metadata.CommandID, r.Revision, r.Revision)
		return nil
	})
	if err != nil {
		return from, fmt.Errorf("load stream %s: %w", stream, err)
	}
	defer e.remember(h, stream)
	e.mu.Lock()
	defer e.mu.Unlock()
	if began.After(e.read) {
		e.read = began
	}
	for id, s := range seen {
		widenKey(e.seen, id, s.first, s.last)
	}
	if next.revision > e.revision {
		e.state, e.revision, e.position = next.state, next.revision, next.position
	}
	return e.snapshotLocked(commandID), nil
}

// advance puts back the outcome of an append made on top of base. It is
// dropped when the entry knows something else by now: the next reader reads on.
func (e *entry[S]) advance(h *Handler, stream string, base eventstore.Revision, state S, appended eventstore.Appended, commandID string) {
	defer e.remember(h, stream)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.revision != base {
		return
	}
	e.state, e.revision, e.position = state, appended.Revision, appended.Position
	widen(e.seen, commandID, base+1, appended.Revision)
}

// remember keeps the entry in the cache, or forgets it where it is empty or at
// its end. Of two entries of one stream either may stay: what one of them does
// not know yet costs a conflict and a read.
func (e *entry[S]) remember(h *Handler, stream string) {
	s := e.snapshot("")
	if ender, ok := any(s.state).(Ender); s.revision == eventstore.NoStream || ok && ender.Ended() {
		h.cache.Remove(stream)
		return
	}
	if cached, ok := h.cache.Peek(stream); !ok || cached != any(e) {
		h.cache.Add(stream, e)
	}
}

func widen(seen map[uuid.UUID]span, commandID string, first, last eventstore.Revision) {
	if commandID != "" {
		widenKey(seen, commandKey(commandID), first, last)
	}
}

func widenKey(seen map[uuid.UUID]span, key uuid.UUID, first, last eventstore.Revision) {
	s, ok := seen[key]
	if !ok {
		s = span{first: first, last: last}
	}
	seen[key] = span{first: min(s.first, first), last: max(s.last, last)}
}

// commandKey is a command id in 16 bytes: itself where it is a UUID.
func commandKey(commandID string) uuid.UUID {
	if id, err := uuid.Parse(commandID); err == nil {
		return id
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(commandID))
}

var errReadEnough = errors.New("read far enough")

// original returns the outcome of a command that was carried out before.
func (h *Handler) original(ctx context.Context, stream string, at span) (Receipt, error) {
	receipt := Receipt{Unchanged: true, Revision: eventstore.NoStream}
	_, err := h.Store.Read(ctx, stream, at.first, func(r eventstore.Recorded) error {
		receipt.Events = append(receipt.Events, r.Event)
		receipt.Position, receipt.Revision, receipt.At = r.Position, r.Revision, r.Metadata.At
		if r.Revision >= at.last {
			return errReadEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errReadEnough) {
		return Receipt{}, fmt.Errorf("read the outcome of a repeated command in %s: %w", stream, err)
	}
	if receipt.Revision != at.last {
		return Receipt{}, domain.Fail(domain.Unavailable, "STORE_INCOMPLETE", "The event store did not answer completely; try again.")
	}
	return receipt, nil
}
