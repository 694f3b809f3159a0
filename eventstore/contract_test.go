package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
)

// patience is how long a test waits for something that should happen at once.
const patience = 60 * time.Second

// clusterVariable holds the URL of a cluster the contract is checked on too.
const clusterVariable = "SPARKOPS_TEST_EVENTSTORE_URL"

// quiet keeps the logs of broken connections out of the tests' output.
var quiet = slog.New(slog.DiscardHandler)

// noted is the event the tests store.
type noted struct {
	Text string `json:"text"`
	N    int    `json:"n,omitempty"`
}

func (noted) EventType() string { return "TestNoted" }

// remark is one no registry of the tests but its own knows.
type remark struct{}

func (remark) EventType() string { return "TestRemark" }

func testRegistry() *domain.Registry {
	r := domain.NewRegistry()
	domain.Register[noted](r)
	return r
}

func openNode(t testing.TB, o embedded.Options) *embedded.Node {
	t.Helper()
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	o.Logger = quiet
	node, err := embedded.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	return node
}

func openStore(t testing.TB, url string, registry *domain.Registry) *eventstore.Store {
	t.Helper()
	store, err := eventstore.Open(eventstore.Config{URL: url, CallTimeout: 20 * time.Second, Logger: quiet}, registry)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// bench of one contract case: a store, and a category nobody else uses.
type contract struct {
	*eventstore.Store
	category string
	url      string
}

func (c contract) stream() string { return domain.StreamName(c.category, uuid.NewString()) }

func note(texts ...string) []domain.Event {
	events := make([]domain.Event, len(texts))
	for i, text := range texts {
		events[i] = noted{Text: text}
	}
	return events
}

func command() eventstore.Metadata {
	return eventstore.Metadata{CommandID: uuid.NewString(), At: time.Now().UTC()}
}

// add appends notes under a new command and fails the test when it cannot.
func (c contract) add(t testing.TB, stream string, expected eventstore.Revision, texts ...string) eventstore.Appended {
	t.Helper()
	appended, err := c.Append(t.Context(), stream, expected, command(), note(texts...)...)
	require.NoError(t, err)
	return appended
}

// texts reads a stream and returns what was noted in it.
func (c contract) texts(t testing.TB, stream string, from eventstore.Revision) ([]string, eventstore.Revision) {
	t.Helper()
	var texts []string
	last, err := c.Read(t.Context(), stream, from, func(r eventstore.Recorded) error {
		texts = append(texts, r.Event.(noted).Text)
		return nil
	})
	require.NoError(t, err)
	return texts, last
}

// TestContract checks what this package promises and what it relies on, on the
// embedded node and on the cluster whose URL is in the environment. The names
// follow the sections of the protocol.
func TestContract(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		run  func(*testing.T, contract)
	}{
		{"2 discovery/ping", checkPing},
		{"4.1 append/positions and revisions", checkAppend},
		{"4.1 append/atomic", checkAtomic},
		{"4.1 append/size", checkSize},
		{"4.1 append/refused input", checkRefusedInput},
		{"4.2 expected revision/matrix", checkMatrix},
		{"4.2 expected revision/idempotency", checkIdempotency},
		{"5 reading/stream", checkRead},
		{"5 reading/metadata", checkMetadata},
		{"5 reading/backwards", checkBackwards},
		{"5 reading/missing", checkMissing},
		{"5 reading/stopped by its caller", checkReadStops},
		{"5 reading/unregistered type", checkUnregistered},
		{"5 reading/raw", checkRaw},
		{"5.1 all/order and bounds", checkReadAll},
		{"5.1 all/without categories", checkReadEverything},
		{"5.1 all/head", checkHead},
		{"6 subscription/from the start", checkSubscribeStart},
		{"6 subscription/from a position", checkSubscribeAfter},
		{"6 subscription/from the end", checkSubscribeEnd},
		{"6 subscription/bare positions", checkBarePositions},
		{"6 subscription/ends", checkSubscribeEnds},
		{"6 subscription/parked", checkSubscribeParked},
	}
	targets := map[string]string{"embedded": openNode(t, embedded.Options{}).ConnectionString()}
	if url := os.Getenv(clusterVariable); url != "" {
		targets["cluster"] = url
	}
	for target, url := range targets {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			store := openStore(t, url, testRegistry())
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					category := "test" + strings.ReplaceAll(uuid.NewString(), "-", "")
					c.run(t, contract{Store: store, category: category, url: url})
				})
			}
		})
	}
}

func checkPing(t *testing.T, c contract) {
	require.NoError(t, c.Ping(t.Context()))
}

func checkAppend(t *testing.T, c contract) {
	stream := c.stream()
	first := c.add(t, stream, eventstore.NoStream, "a", "b")
	require.Equal(t, eventstore.Revision(1), first.Revision)
	second := c.add(t, stream, 1, "c")
	require.Equal(t, eventstore.Revision(2), second.Revision)
	require.Greater(t, second.Position, first.Position)
	var positions []uint64
	_, err := c.Read(t.Context(), stream, 0, func(r eventstore.Recorded) error {
		positions = append(positions, r.Position)
		return nil
	})
	require.NoError(t, err)
	require.Len(t, positions, 3)
	require.Less(t, positions[0], positions[1], "each event of an append has its own position")
	require.Equal(t, first.Position, positions[1], "an append answers with its last event")
	require.Equal(t, second.Position, positions[2])
}

func checkAtomic(t *testing.T, c contract) {
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a")
	_, err := c.Append(t.Context(), stream, eventstore.NoStream, command(), note("b", "c")...)
	require.Error(t, err)
	texts, last := c.texts(t, stream, 0)
	require.Equal(t, []string{"a"}, texts)
	require.Zero(t, last)
}

func checkSize(t *testing.T, c contract) {
	stream := c.stream()
	_, err := c.Append(t.Context(), stream, eventstore.NoStream, command(), noted{Text: strings.Repeat("x", 1<<20)})
	require.Equal(t, domain.TooLarge, domain.KindOf(err))
	half := strings.Repeat("x", 1<<19)
	_, err = c.Append(t.Context(), stream, eventstore.NoStream, command(), note(half, half)...)
	require.Equal(t, domain.TooLarge, domain.KindOf(err), "the limit is on the whole append")
	// Just below the limit the server agrees.
	meta := command()
	encoded, err := json.Marshal(meta)
	require.NoError(t, err)
	room := 1<<20 - len(encoded) - 2*len("TestNoted") - len(`{"text":""}`)
	_, err = c.Append(t.Context(), stream, eventstore.NoStream, meta, noted{Text: strings.Repeat("x", room)})
	require.NoError(t, err)
	_, err = c.Append(t.Context(), stream, 0, meta, noted{Text: strings.Repeat("x", room+1)})
	require.Equal(t, domain.TooLarge, domain.KindOf(err))
}

func checkRefusedInput(t *testing.T, c contract) {
	_, err := c.Append(t.Context(), c.stream(), eventstore.NoStream, command())
	require.ErrorContains(t, err, "no events")
	_, err = c.Append(t.Context(), "", eventstore.NoStream, command(), note("a")...)
	require.Error(t, err)
	_, err = c.Append(t.Context(), "$settings", eventstore.NoStream, command(), note("a")...)
	require.Error(t, err)
	_, err = c.Append(t.Context(), c.stream(), -2, command(), note("a")...)
	require.Error(t, err)
	_, err = c.Append(t.Context(), c.stream(), eventstore.NoStream, command(), remark{})
	require.ErrorIs(t, err, domain.ErrUnknownEvent)
}

func checkMatrix(t *testing.T, c contract) {
	for _, m := range []struct {
		name     string
		events   int // in the stream before
		expected eventstore.Revision
		actual   eventstore.Revision // of the conflict, when conflicts
		ok       bool
	}{
		{name: "new stream, none expected", events: 0, expected: eventstore.NoStream, ok: true},
		{name: "new stream, 0 expected", events: 0, expected: 0, actual: eventstore.NoStream},
		{name: "existing, none expected", events: 3, expected: eventstore.NoStream, actual: 2},
		{name: "existing, older expected", events: 3, expected: 1, actual: 2},
		{name: "existing, last expected", events: 3, expected: 2, ok: true},
		{name: "existing, later expected", events: 3, expected: 3, actual: 2},
	} {
		stream := c.stream()
		if m.events > 0 {
			c.add(t, stream, eventstore.NoStream, make([]string, m.events)...)
		}
		appended, err := c.Append(t.Context(), stream, m.expected, command(), note("new")...)
		if m.ok {
			require.NoError(t, err, m.name)
			require.Equal(t, m.expected+1, appended.Revision, m.name)
			continue
		}
		var conflict *eventstore.ConflictError
		require.ErrorAs(t, err, &conflict, m.name)
		require.Equal(t, eventstore.ConflictError{Stream: stream, Expected: m.expected, Actual: m.actual}, *conflict, m.name)
		_, last := c.texts(t, stream, 0)
		require.Equal(t, eventstore.Revision(m.events)-1, last, m.name)
	}
}

func checkIdempotency(t *testing.T, c contract) {
	stream, meta := c.stream(), command()
	first, err := c.Append(t.Context(), stream, eventstore.NoStream, meta, note("a", "b")...)
	require.NoError(t, err)
	c.add(t, stream, 1, "c")
	again, err := c.Append(t.Context(), stream, eventstore.NoStream, meta, note("a", "b")...)
	require.NoError(t, err, "the same command at the same revision is the same append")
	require.Equal(t, first, again)
	_, err = c.Append(t.Context(), stream, eventstore.NoStream, meta, note("a", "b", "d")...)
	var conflict *eventstore.ConflictError
	require.ErrorAs(t, err, &conflict, "more events than the first time are another append")
	texts, _ := c.texts(t, stream, 0)
	require.Equal(t, []string{"a", "b", "c"}, texts)
}

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
