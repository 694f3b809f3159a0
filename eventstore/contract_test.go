package eventstore_test

import (
	"encoding/json"
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
