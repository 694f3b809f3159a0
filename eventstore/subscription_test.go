package eventstore

import (
	"context"
	"encoding/json"
	"math"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

type happened struct{}

func (happened) EventType() string { return "TestHappened" }

func happenings() *domain.Registry {
	r := domain.NewRegistry()
	domain.Register[happened](r)
	return r
}

// script feeds a subscription with what servers are known to send and returns
// what it delivers: an event as its position, a bare position as its negative,
// CaughtUp as 0.
func script(t *testing.T, categories []string, events ...*esdb.SubscriptionEvent) []int64 {
	t.Helper()
	m := newMetrics()
	var got []int64
	s := &subscription{
		options: SubscribeOptions{Categories: categories, Name: "test"}, decoder: decoder{registry: happenings()}, metrics: m.subscription("test"),
		handle: func(_ context.Context, m Message) error {
			switch {
			case m.Event != nil:
				require.Equal(t, m.Position, m.Event.Position)
				got = append(got, int64(m.Position))
			case m.CaughtUp:
				got = append(got, 0)
			default:
				got = append(got, -int64(m.Position))
			}
			return nil
		},
	}
	for _, e := range events {
		require.NoError(t, s.take(t.Context(), e))
	}
	return got
}

func event(stream, eventType string, position uint64) *esdb.SubscriptionEvent {
	recorded := &esdb.RecordedEvent{
		EventID: uuid.New(), EventType: eventType, StreamID: stream, Data: []byte(`{}`),
		Position: esdb.Position{Commit: position, Prepare: position},
	}
	return &esdb.SubscriptionEvent{EventAppeared: &esdb.ResolvedEvent{Event: recorded}}
}

func ours(position uint64) *esdb.SubscriptionEvent { return event("test-1", "TestHappened", position) }

func checkpointAt(position uint64) *esdb.SubscriptionEvent {
	return &esdb.SubscriptionEvent{CheckPointReached: &esdb.Position{Commit: position, Prepare: position}}
}

var caughtUp = &esdb.SubscriptionEvent{CaughtUp: &esdb.Subscription{}}

func TestWhatSubscriptionsDeliver(t *testing.T) {
	t.Parallel()
	category := []string{"test"}
	for name, c := range map[string]struct {
		categories []string
		sent       []*esdb.SubscriptionEvent
		want       []int64
	}{
		"events":                        {category, []*esdb.SubscriptionEvent{ours(1), ours(5), caughtUp, ours(9)}, []int64{1, 5, 0, 9}},
		"duplicates after a slow phase": {category, []*esdb.SubscriptionEvent{ours(1), ours(5), ours(5), ours(1), ours(6)}, []int64{1, 5, 6}},
		"a checkpoint is kept back until something is behind it": {
			category, []*esdb.SubscriptionEvent{ours(1), checkpointAt(10), caughtUp, checkpointAt(20), ours(30)}, []int64{1, 0, -10, -20, 30}},
		"a checkpoint at the end of the log, where the next event is written": {
			category, []*esdb.SubscriptionEvent{ours(1), checkpointAt(10), caughtUp, ours(10), ours(12)}, []int64{1, 0, 10, 12}},
		"a checkpoint at an event that was delivered": {category, []*esdb.SubscriptionEvent{ours(10), checkpointAt(10), ours(12)}, []int64{10, 12}},
		"a checkpoint before anything was looked at":  {category, []*esdb.SubscriptionEvent{checkpointAt(math.MaxUint64), caughtUp, ours(3)}, []int64{0, 3}},
		"checkpoints that go back":                    {category, []*esdb.SubscriptionEvent{checkpointAt(10), checkpointAt(5), checkpointAt(20)}, []int64{-10}},
		"a tombstone":                                 {category, []*esdb.SubscriptionEvent{ours(1), event("test-2", "$streamDeleted", 5), ours(9)}, []int64{1, -5, 9}},
		"fell behind":                                 {category, []*esdb.SubscriptionEvent{{FellBehind: &esdb.Subscription{}}, ours(1)}, []int64{1}},
		"links whose target is gone":                  {category, []*esdb.SubscriptionEvent{{EventAppeared: &esdb.ResolvedEvent{}}, ours(1)}, []int64{1}},
		"everything but what is not ours": {
			nil, []*esdb.SubscriptionEvent{ours(1), event("$$test-1", "$metadata", 2), event("parked-x", "Foreign", 3), ours(4)}, []int64{1, -3, 4}},
		"parked, to those who ask": {
			[]string{Parked}, []*esdb.SubscriptionEvent{event("parked-x", "TestHappened", 3)}, []int64{3}},
	} {
		require.Equal(t, c.want, script(t, c.categories, c.sent...), name)
	}
}

func TestStartOfSubscription(t *testing.T) {
	t.Parallel()
	s := &subscription{options: SubscribeOptions{From: func(context.Context) (uint64, bool, error) { return 7, false, nil }}}
	after, err := s.start(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(7), after)
	s.last = 12
	after, err = s.start(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(12), after, "never behind what was handled")
	s.options.From = func(context.Context) (uint64, bool, error) { return 0, true, nil }
	s.based, s.base = true, 5
	after, err = s.start(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(12), after)
	s.last = 0
	after, err = s.start(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(5), after, "the end is where it was at the first connect")
}

func TestMetadataOfOthers(t *testing.T) {
	t.Parallel()
	d := decoder{registry: happenings()}
	recorded := &esdb.RecordedEvent{EventType: "TestHappened", StreamID: "nodash", Data: []byte(`{}`)}
	r, err := d.decode(recorded)
	require.NoError(t, err)
	require.Equal(t, Metadata{}, r.Metadata)
	require.Equal(t, "nodash", r.Category)
	require.Empty(t, r.StreamID)
	recorded.UserMetadata = []byte(`{"commandId":"a","of":{"others":1}}`)
	r, err = d.decode(recorded)
	require.NoError(t, err)
	require.Equal(t, Metadata{CommandID: "a"}, r.Metadata)
	recorded.UserMetadata = []byte(`not json`)
	_, err = d.decode(recorded)
	require.Error(t, err)
}

// The keys of the metadata are stored for ever.
func TestMetadataKeys(t *testing.T) {
	t.Parallel()
	stored, err := json.Marshal(Metadata{
		CorrelationID: "c", CausationID: "d", CommandID: "e", Actor: ActorRef{Kind: domain.ActorAPIKey, ID: "f", KeyID: "g"}, ProjectID: "h", BodyHash: "i",
	})
	require.NoError(t, err)
	require.JSONEq(t, `{"$correlationId":"c","$causationId":"d","commandId":"e","actor":{"kind":"apiKey","id":"f","keyId":"g"},"projectId":"h","at":"0001-01-01T00:00:00Z","bodyHash":"i"}`, string(stored))
}

// Event ids are what makes repeating a command safe: they never change.
func TestEventID(t *testing.T) {
	t.Parallel()
	const command = "0190f3f6-7d3a-7c44-9d0b-1f2e3d4c5b6a"
	require.Equal(t, uuid.NewSHA1(uuid.MustParse(command), []byte("0")).String(), EventID(command, 0))
	require.Equal(t, uuid.NewSHA1(uuid.MustParse(command), []byte("12")).String(), EventID(command, 12))
	require.Equal(t, "14e76168-548c-5cbd-a33d-802949dff532", EventID("not a uuid", 0))
}
