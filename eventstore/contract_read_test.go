package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

func checkRead(t *testing.T, c contract) {
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a", "b", "c")
	for from, want := range map[eventstore.Revision][]string{0: {"a", "b", "c"}, 1: {"b", "c"}, 2: {"c"}} {
		texts, last := c.texts(t, stream, from)
		require.Equal(t, want, texts)
		require.Equal(t, eventstore.Revision(2), last)
	}
	texts, last := c.texts(t, stream, 3)
	require.Empty(t, texts)
	require.Equal(t, eventstore.Revision(2), last, "nothing new: the revision the caller already had")
}

func checkMetadata(t *testing.T, c contract) {
	id := uuid.NewString()
	stream := domain.StreamName(c.category, id)
	meta := eventstore.Metadata{
		CorrelationID: uuid.NewString(), CausationID: uuid.NewString(), CommandID: uuid.NewString(),
		Actor:     eventstore.ActorRef{Kind: domain.ActorAPIKey, ID: "u1", KeyID: "k1"},
		ProjectID: "p1", At: time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC), BodyHash: "abc",
	}
	appended, err := c.Append(t.Context(), stream, eventstore.NoStream, meta, noted{Text: "a", N: 1}, noted{Text: "b"})
	require.NoError(t, err)
	var got []eventstore.Recorded
	_, err = c.Read(t.Context(), stream, 0, func(r eventstore.Recorded) error {
		got = append(got, r)
		return nil
	})
	require.NoError(t, err)
	require.Len(t, got, 2)
	got[0].Position = 0
	want := eventstore.Recorded{
		ID: eventstore.EventID(meta.CommandID, 0), Stream: stream, Category: c.category, StreamID: id, Type: "TestNoted",
		Revision: 0, Time: meta.At, Event: noted{Text: "a", N: 1}, Metadata: meta, Data: json.RawMessage(`{"text":"a","n":1}`),
	}
	require.Equal(t, want, got[0])
	want.ID, want.Revision, want.Position = eventstore.EventID(meta.CommandID, 1), 1, appended.Position
	want.Event, want.Data = noted{Text: "b"}, json.RawMessage(`{"text":"b"}`)
	require.Equal(t, want, got[1])
}

func checkBackwards(t *testing.T, c contract) {
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a", "b", "c")
	for n, want := range map[int][]string{0: nil, 1: {"c"}, 2: {"c", "b"}, 9: {"c", "b", "a"}} {
		var texts []string
		require.NoError(t, c.ReadBackwards(t.Context(), stream, n, func(r eventstore.Recorded) error {
			texts = append(texts, r.Event.(noted).Text)
			return nil
		}))
		require.Equal(t, want, texts)
	}
	require.NoError(t, c.ReadBackwards(t.Context(), c.stream(), 5, func(eventstore.Recorded) error { return errors.New("nothing is there") }))
}

func checkMissing(t *testing.T, c contract) {
	texts, last := c.texts(t, c.stream(), 0)
	require.Empty(t, texts)
	require.Equal(t, eventstore.NoStream, last)
	_, last = c.texts(t, c.stream(), 7)
	require.Equal(t, eventstore.NoStream, last)
}

func checkReadStops(t *testing.T, c contract) {
	stream, enough := c.stream(), errors.New("enough")
	c.add(t, stream, eventstore.NoStream, "a", "b", "c")
	seen := 0
	last, err := c.Read(t.Context(), stream, 0, func(eventstore.Recorded) error {
		if seen++; seen == 2 {
			return enough
		}
		return nil
	})
	require.Equal(t, enough, err, "an error of the caller comes back as it is")
	require.Zero(t, last)
	require.Equal(t, 2, seen)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Read(ctx, stream, 0, func(eventstore.Recorded) error { return nil })
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Append(ctx, stream, 2, command(), note("d")...)
	require.Equal(t, domain.Unavailable, domain.KindOf(err), "nothing was sent")
}

func checkUnregistered(t *testing.T, c contract) {
	newer := testRegistry()
	domain.Register[remark](newer)
	ahead := openStore(t, c.url, newer)
	stream := c.stream()
	_, err := ahead.Append(t.Context(), stream, eventstore.NoStream, command(), noted{Text: "a"}, remark{}, noted{Text: "b"})
	require.NoError(t, err)
	var seen []domain.Event
	see := func(r eventstore.Recorded) error { seen = append(seen, r.Event); return nil }
	last, err := c.Read(t.Context(), stream, 0, see)
	require.ErrorIs(t, err, domain.ErrUnknownEvent)
	require.Zero(t, last)
	err = c.ReadAll(t.Context(), 0, 0, []string{c.category}, see)
	require.ErrorIs(t, err, domain.ErrUnknownEvent)
	err = c.Subscribe(t.Context(), eventstore.SubscribeOptions{Categories: []string{c.category}, From: fromStart}, func(_ context.Context, m eventstore.Message) error {
		if m.Event != nil {
			seen = append(seen, m.Event.Event)
		}
		return nil
	})
	require.ErrorIs(t, err, domain.ErrUnknownEvent)
	require.Equal(t, []domain.Event{noted{Text: "a"}, noted{Text: "a"}, noted{Text: "a"}}, seen)
}

func checkRaw(t *testing.T, c contract) {
	stream, id := c.stream(), uuid.NewString()
	raw := eventstore.Raw{ID: id, Type: "AnythingAtAll", Data: json.RawMessage(`{"k":[1]}`), Metadata: json.RawMessage(`{"commandId":"x"}`)}
	appended, err := c.AppendRaw(t.Context(), stream, eventstore.NoStream, raw)
	require.NoError(t, err)
	again, err := c.AppendRaw(t.Context(), stream, eventstore.NoStream, raw)
	require.NoError(t, err)
	require.Equal(t, appended, again)
	var got []eventstore.Recorded
	last, err := c.ReadRaw(t.Context(), stream, 0, func(r eventstore.Recorded) error {
		got = append(got, r)
		return nil
	})
	require.NoError(t, err)
	require.Zero(t, last)
	require.Len(t, got, 1)
	require.Equal(t, id, got[0].ID)
	require.Equal(t, "AnythingAtAll", got[0].Type)
	require.Equal(t, raw.Data, got[0].Data)
	require.Equal(t, "x", got[0].Metadata.CommandID)
	require.Nil(t, got[0].Event)
	for _, bad := range []eventstore.Raw{{ID: "x", Type: "A"}, {ID: id}, {ID: id, Type: "$x"}} {
		_, err = c.AppendRaw(t.Context(), stream, 0, bad)
		require.Error(t, err)
	}
}

func checkReadAll(t *testing.T, c contract) {
	one, two := c.stream(), c.stream()
	var positions []uint64
	for i := range 4 {
		positions = append(positions,
			c.add(t, one, eventstore.Revision(i)-1, fmt.Sprint("one", i)).Position,
			c.add(t, two, eventstore.Revision(i)-1, fmt.Sprint("two", i)).Position)
	}
	other := domain.StreamName(c.category+"x", "1")
	c.add(t, other, eventstore.NoStream, "a category that has ours as a prefix")
	all := []string{"one0", "two0", "one1", "two1", "one2", "two2", "one3", "two3"}
	for _, m := range []struct {
		after, upTo uint64
		want        []string
	}{
		{0, 0, all},
		{positions[2], 0, all[3:]},
		{0, positions[2], all[:3]},
		{positions[2], positions[5], all[3:6]},
		{positions[7], 0, nil},
		{positions[7], positions[7], nil},
	} {
		var texts []string
		require.NoError(t, c.ReadAll(t.Context(), m.after, m.upTo, []string{c.category}, func(r eventstore.Recorded) error {
			texts = append(texts, r.Event.(noted).Text)
			return nil
		}))
		require.Equal(t, m.want, texts)
	}
	for _, category := range []string{"", "a-b", "$ce"} {
		require.Error(t, c.ReadAll(t.Context(), 0, 0, []string{category}, func(eventstore.Recorded) error { return nil }))
	}
}

func checkReadEverything(t *testing.T, c contract) {
	stream := c.stream()
	first := c.add(t, stream, eventstore.NoStream, "a")
	parked := domain.StreamName(eventstore.Parked, c.category)
	_, err := c.AppendRaw(t.Context(), parked, eventstore.NoStream, eventstore.Raw{ID: uuid.NewString(), Type: "Foreign", Data: json.RawMessage(`{}`)})
	require.NoError(t, err)
	last := c.add(t, stream, 0, "b")
	var texts []string
	require.NoError(t, c.ReadAll(t.Context(), first.Position, last.Position, nil, func(r eventstore.Recorded) error {
		if r.Stream == stream {
			texts = append(texts, r.Event.(noted).Text)
		}
		require.NotEqual(t, parked, r.Stream)
		return nil
	}))
	require.Equal(t, []string{"b"}, texts)
}

func checkHead(t *testing.T, c contract) {
	appended := c.add(t, c.stream(), eventstore.NoStream, "a")
	head, err := c.Head(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, head, appended.Position)
}
