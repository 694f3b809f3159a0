package pubsub_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/pubsub"
)

var noon = time.Date(2025, 1, 2, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

// parkedStream returns the types and ids in the stream of a process.
func parkedStream(t *testing.T, r *room, process string) (types, ids []string) {
	t.Helper()
	_, err := r.ReadRaw(t.Context(), domain.StreamName(eventstore.Parked, process), 0, func(e eventstore.Recorded) error {
		types, ids = append(types, e.Type), append(ids, e.ID)
		return nil
	})
	require.NoError(t, err)
	return types, ids
}

func events(t *testing.T, r *room, stream string) []eventstore.Recorded {
	t.Helper()
	var all []eventstore.Recorded
	_, err := r.Read(t.Context(), stream, 0, func(e eventstore.Recorded) error {
		all = append(all, e)
		return nil
	})
	require.NoError(t, err)
	return all
}

func TestParkAndRedrive(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	for i := range 3 {
		r.add(t, "note-1", i)
	}
	recorded := events(t, r, "note-1")
	p := pubsub.NewPublisher(r.Store, atNoon)
	for _, e := range recorded {
		require.NoError(t, p.Park(t.Context(), "billing", e, "cannot be billed"))
		require.NoError(t, p.Park(t.Context(), "billing", e, "cannot be billed"), "parking twice stores once")
	}
	parked, err := p.Parked(t.Context(), "billing")
	require.NoError(t, err)
	require.Len(t, parked, 3)
	require.Equal(t, pubsub.ParkedEvent{
		ID: recorded[1].ID, Process: "billing", Stream: "note-1", Revision: 1, Position: recorded[1].Position, Type: "TestNoted",
		Error: "cannot be billed", At: noon, Data: json.RawMessage(`{"n":1}`),
	}, parked[1])

	// Redriving one hands out the event as it was recorded.
	var handled []eventstore.Recorded
	take := func(_ context.Context, e eventstore.Recorded) error { handled = append(handled, e); return nil }
	n, err := p.Redrive(t.Context(), "billing", []string{recorded[1].ID}, take)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, recorded[1:2], handled)

	// A handler that fails leaves its event parked, and those behind it.
	failure := errors.New("still not")
	n, err = p.Redrive(t.Context(), "billing", nil, func(context.Context, eventstore.Recorded) error { return failure })
	require.Equal(t, failure, err)
	require.Zero(t, n)

	// Somebody else, who has not seen any of this, sees the same.
	other := pubsub.NewPublisher(r.Store, atNoon)
	require.NoError(t, other.Discard(t.Context(), "billing", recorded[0].ID))
	require.Equal(t, domain.NotFound, domain.KindOf(other.Discard(t.Context(), "billing", recorded[0].ID)))
	require.NoError(t, other.Park(t.Context(), "billing", recorded[1], "again"), "what was redriven may be parked anew")
	parked, err = p.Parked(t.Context(), "billing")
	require.NoError(t, err)
	require.Len(t, parked, 2)
	require.Equal(t, recorded[2].ID, parked[0].ID)
	require.Equal(t, recorded[1].ID, parked[1].ID)
	n, err = p.Redrive(t.Context(), "billing", nil, take)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	parked, err = other.Parked(t.Context(), "billing")
	require.NoError(t, err)
	require.Empty(t, parked)

	types, ids := parkedStream(t, r, "billing")
	require.Equal(t, strings.Fields("ProcessParked ProcessParked ProcessParked ProcessRedriven ProcessRedriven ProcessParked ProcessRedriven ProcessRedriven"), types)
	unique := map[string]bool{}
	for _, id := range ids {
		unique[id] = true
	}
	require.Len(t, unique, len(ids))
	parked, err = p.Parked(t.Context(), "unknown")
	require.NoError(t, err)
	require.Empty(t, parked)
}

// Several nodes that park the same events at the same time store each once.
func TestParkConcurrently(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	for i := range 5 {
		r.add(t, "note-1", i)
	}
	recorded := events(t, r, "note-1")
	var nodes errgroup.Group
	for range 4 {
		p := pubsub.NewPublisher(r.Store, nil)
		nodes.Go(func() error {
			for _, e := range recorded {
				if err := p.Park(t.Context(), "billing", e, "no"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, nodes.Wait())
	types, _ := parkedStream(t, r, "billing")
	require.Len(t, types, len(recorded))
}

// The publisher takes what the subscriber delivers, as Watermill's poison queue
// hands it over.
func TestPublish(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.add(t, "note-1", 1)
	p := pubsub.NewPublisher(r.Store, nil)
	m := receive(t, subscribe(t, open(t, r.config())))
	m.Metadata.Set(pubsub.MetadataReason, "poison")
	require.NoError(t, p.Publish("process", m))
	m.Ack()
	r.reaches(t, r.last)
	parked, err := p.Parked(t.Context(), "process")
	require.NoError(t, err)
	require.Len(t, parked, 1)
	require.Equal(t, m.UUID, parked[0].ID)
	require.Equal(t, "poison", parked[0].Error)
	require.Error(t, p.Publish("process", message.NewMessage("x", nil)))
	require.NoError(t, p.Close())
}

// An event as large as an event can be is parked without its copy.
func TestParkLargeEvent(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	large := eventstore.Recorded{ID: "6f5de5a0-3a0f-4a55-9a3d-0a8a7f0f7e11", Stream: "note-1", Type: "TestNoted", Data: json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)}
	p := pubsub.NewPublisher(r.Store, nil)
	require.NoError(t, p.Park(t.Context(), "billing", large, "too large"))
	parked, err := p.Parked(t.Context(), "billing")
	require.NoError(t, err)
	require.Len(t, parked, 1)
	require.Equal(t, json.RawMessage("null"), parked[0].Data)
	_, err = p.Redrive(t.Context(), "billing", nil, func(context.Context, eventstore.Recorded) error { return nil })
	require.ErrorContains(t, err, "not at note-1/0")
}
