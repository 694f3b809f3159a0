package embedded_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// subscriber reads a subscription message by message.
type subscriber struct {
	t      testing.TB
	call   streams.Streams_ReadClient
	cancel context.CancelFunc
}

// subscribe opens a subscription and takes its confirmation.
func (w *wire) subscribe(request *streams.ReadReq) *subscriber {
	w.t.Helper()
	ctx, cancel := context.WithCancel(testContext(w.t))
	w.t.Cleanup(cancel)
	call, err := w.streams.Read(ctx, subscribing(request))
	require.NoError(w.t, err)
	s := &subscriber{t: w.t, call: call, cancel: cancel}
	id := s.next().GetConfirmation().GetSubscriptionId()
	_, err = uuid.Parse(id)
	require.NoError(w.t, err)
	return s
}

func (s *subscriber) next() *streams.ReadResp {
	s.t.Helper()
	message, err := s.call.Recv()
	require.NoError(s.t, err)
	return message
}

// expect reads messages and compares them with descriptions: an event's type, "caught_up", or "checkpoint N".
func (s *subscriber) expect(want ...string) {
	s.t.Helper()
	for i, description := range want {
		require.Equal(s.t, description, describe(s.t, s.next()), "message %d of %v", i, want)
	}
}

func describe(tb testing.TB, message *streams.ReadResp) string {
	tb.Helper()
	switch content := message.GetContent().(type) {
	case *streams.ReadResp_Event:
		return toEvent(tb, message).kind
	case *streams.ReadResp_CaughtUp_:
		return "caught_up"
	case *streams.ReadResp_Checkpoint_:
		require.Equal(tb, content.Checkpoint.GetCommitPosition(), content.Checkpoint.GetPreparePosition())
		return fmt.Sprintf("checkpoint %d", content.Checkpoint.GetCommitPosition())
	default:
		return fmt.Sprintf("%T", content)
	}
}

func (s *subscriber) ended() error {
	s.t.Helper()
	for {
		if _, err := s.call.Recv(); err != nil {
			return err
		}
	}
}

// TestSection61Sequence: confirmation, events after the given point, caught_up, live events.
func TestSection61Sequence(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0, 1)...)
	w.mustAppend("other", noStream, events(5)...)
	w.mustAppend("s", 1, events(2)...)
	all := w.read(allRead(fromStart, false, everything))
	table := []struct {
		name    string
		request *streams.ReadReq
		backlog []string
	}{
		{"stream from start", streamRead("s", fromStart, false, 0), []string{"type-0", "type-1", "type-2"}},
		{"stream from revision, exclusive", streamRead("s", 0, false, 0), []string{"type-1", "type-2"}},
		{"stream from its last revision", streamRead("s", 2, false, 0), nil},
		{"stream from end", streamRead("s", fromEnd, false, 0), nil},
		{"all from start", allRead(fromStart, false, 0), []string{"type-0", "type-1", "type-5", "type-2"}},
		{"all from position, exclusive", allRead(int64(all[1].position), false, 0), []string{"type-5", "type-2"}},
		{"all from the last position", allRead(int64(all[3].position), false, 0), nil},
		{"all from zero", allRead(0, false, 0), []string{"type-0", "type-1", "type-5", "type-2"}},
		{"all from end", allRead(fromEnd, false, 0), nil},
	}
	var subscribers []*subscriber
	for _, row := range table {
		s := w.subscribe(row.request)
		s.expect(append(row.backlog, "caught_up")...)
		subscribers = append(subscribers, s)
	}
	w.mustAppend("s", 2, events(3, 4)...)
	for _, s := range subscribers {
		s.expect("type-3", "type-4")
		s.cancel()
		require.Equal(t, codes.Canceled, status.Code(s.ended()))
	}
}

// TestSection61MissingStream is confirmed and caught up at once, and sees the stream from its first event.
func TestSection61MissingStream(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	for _, from := range []int64{fromStart, fromEnd} {
		stream := "missing-" + uuid.NewString()
		s := w.subscribe(streamRead(stream, from, false, 0))
		s.expect("caught_up")
		w.mustAppend(stream, noStream, events(0, 1)...)
		s.expect("type-0", "type-1")
	}
	s := w.subscribe(streamRead("later", 1, false, 0))
	s.expect("caught_up")
	w.mustAppend("later", noStream, events(0, 1, 2)...)
	s.expect("type-2")
}

// TestSection61CreateWhileSubscribing starts subscriptions and appends at the same time: nothing is missed, nothing
// comes twice.
func TestSection61CreateWhileSubscribing(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	for round := range 200 {
		stream := fmt.Sprintf("race-%d", round)
		from := allRead(fromStart, false, 0)
		if last := w.read(allRead(fromEnd, true, 1)); len(last) > 0 {
			from = allRead(int64(last[0].position), false, 0)
		}
		appended := make(chan error, 1)
		go func() {
			for i := range 3 {
				if _, _, err := w.append(stream, expectation(i-1), events(i)...); err != nil {
					appended <- err
					return
				}
			}
			appended <- nil
		}()
		ofStream, ofAll := w.subscribe(streamRead(stream, fromStart, false, 0)), w.subscribe(from)
		for _, s := range []*subscriber{ofStream, ofAll} {
			for want := uint64(0); want < 3; {
				if message := s.next(); message.GetEvent() != nil {
					require.Equal(t, want, toEvent(t, message).revision)
					want++
				} else {
					require.NotNil(t, message.GetCaughtUp())
				}
			}
			s.cancel()
		}
		require.NoError(t, <-appended)
	}
}

// TestSection61HiddenEvents are skipped by a subscription that catches up.
func TestSection61HiddenEvents(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0, 1, 2, 3)...)
	w.setMetadata("s", `{"$tb":2}`)
	w.subscribe(streamRead("s", fromStart, false, 0)).expect("type-2", "type-3", "caught_up")
	_, _, err := w.delete("s", anyRevision)
	require.NoError(t, err)
	s := w.subscribe(streamRead("s", fromStart, false, 0))
	s.expect("caught_up")
	w.mustAppend("s", anyRevision, events(4)...)
	s.expect("type-4")
}

// TestSection43TombstoneEndsSubscriptions: live subscribers receive the tombstone, then the call ends.
func TestSection43TombstoneEndsSubscriptions(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0)...)
	ofStream, ofAll := w.subscribe(streamRead("s", fromStart, false, 0)), w.subscribe(allRead(fromStart, false, 0))
	ofStream.expect("type-0", "caught_up")
	ofAll.expect("type-0", "caught_up")
	_, _, err := w.tombstone("s", 0)
	require.NoError(t, err)
	ofStream.expect("$streamDeleted")
	err = ofStream.ended()
	requireFault(t, err, ofStream.call.Trailer(), codes.FailedPrecondition,
		map[string]string{"exception": "stream-deleted", "stream-name": "s"})
	ofAll.expect("$streamDeleted")
	w.mustAppend("t", noStream, events(1)...)
	ofAll.expect("type-1")
}

// TestSection61Checkpoints counts considered events, not matching ones, and names events that exist.
func TestSection61Checkpoints(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	for i := range 10 {
		w.mustAppend("s", expectation(i-1), events(i)...)
	}
	all := positions(w.read(allRead(fromStart, false, everything)))
	at := func(i int) string { return fmt.Sprintf("checkpoint %d", all[i]) }
	filter := func(window, multiplier uint32, prefixes ...string) *streams.ReadReq {
		return filtered(allRead(fromStart, false, 0), filterOn{byType: true, prefixes: prefixes, window: window, multiplier: multiplier})
	}
	nothing := w.subscribe(filter(2, 2, "none"))
	nothing.expect(at(3), at(7), at(9), "caught_up")
	some := w.subscribe(filter(4, 1, "type-3", "type-9"))
	some.expect("type-3", at(3), at(7), "type-9", at(9), "caught_up")
	wide := w.subscribe(filter(0, 1, "none"))
	wide.expect(at(9), "caught_up")

	for i := 10; i < 16; i++ {
		w.mustAppend("s", expectation(i-1), events(i)...)
	}
	all = positions(w.read(allRead(fromStart, false, everything)))
	nothing.expect(at(13))
	some.expect(at(13))
	w.mustAppend("s", 15, events(3)...)
	some.expect("type-3")
	w.mustAppend("s", 16, events(17)...)
	all = positions(w.read(allRead(fromStart, false, everything)))
	nothing.expect(at(17))
	some.expect(at(17))
}

// TestSection62NoCheckpointWithoutEvents: an empty log, or one from its end, gives no checkpoint before an event.
func TestSection62NoCheckpointWithoutEvents(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	filter := filterOn{byType: true, prefixes: []string{"none"}, window: 1, multiplier: 1}
	empty := w.subscribe(filtered(allRead(fromStart, false, 0), filter))
	empty.expect("caught_up")
	position := w.mustAppend("s", noStream, events(0)...)
	empty.expect(fmt.Sprintf("checkpoint %d", position))
	end := w.subscribe(filtered(allRead(fromEnd, false, 0), filter))
	end.expect("caught_up")
	again := w.subscribe(filtered(allRead(int64(position), false, 0), filter))
	again.expect("caught_up")
	position = w.mustAppend("s", 0, events(1)...)
	for _, s := range []*subscriber{empty, end, again} {
		s.expect(fmt.Sprintf("checkpoint %d", position))
	}
}

// TestSection62EndOfLogIsNotAnEvent: a subscription from the position where the next event will be receives it.
func TestSection62EndOfLogIsNotAnEvent(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, twin := dial(t, openNode(t, embedded.Options{Now: clock.Now})), dial(t, openNode(t, embedded.Options{Now: clock.Now}))
	w.mustAppend("s", noStream, events(0)...)
	twin.mustAppend("s", noStream, events(0)...)
	end := twin.mustAppend("s", 0, events(1)...)
	s := w.subscribe(allRead(int64(end), false, 0))
	s.expect("caught_up")
	require.Equal(t, end, w.mustAppend("s", 0, events(1)...))
	s.expect("type-1")
	w.subscribe(allRead(int64(end), false, 0)).expect("caught_up")
}

// TestSection62ResumeFromCheckpoint: resuming after any checkpoint misses no matching event.
func TestSection62ResumeFromCheckpoint(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	for i := range 40 {
		w.mustAppend("s", expectation(i-1), event{id: numbered(i), kind: fmt.Sprintf("k%d-%d", i%3, i)})
	}
	filter := filterOn{byType: true, prefixes: []string{"k0"}, window: 3, multiplier: 1}
	s := w.subscribe(filtered(allRead(fromStart, false, 0), filter))
	var delivered []string
	checkpoints := map[uint64]int{} // position -> events delivered before
	for {
		message := s.next()
		if message.GetCaughtUp() != nil {
			break
		}
		if checkpoint := message.GetCheckpoint(); checkpoint != nil {
			checkpoints[checkpoint.GetCommitPosition()] = len(delivered)
		} else {
			delivered = append(delivered, toEvent(t, message).kind)
		}
	}
	require.Len(t, delivered, 14)
	require.Len(t, checkpoints, 14)
	for position, before := range checkpoints {
		resumed := w.subscribe(filtered(allRead(int64(position), false, 0), filter))
		for _, want := range delivered[before:] {
			message := resumed.next()
			for message.GetCheckpoint() != nil {
				message = resumed.next()
			}
			require.Equal(t, want, describe(t, message))
		}
		resumed.cancel()
	}
}

// TestSection61SlowConsumer lets a subscriber stop reading while the log moves far beyond what is kept in memory. It
// goes back to catching up, gets everything once and in order, is told again that it caught up, and slows nobody.
func TestSection61SlowConsumer(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	w := dial(t, node)
	slow := dial(t, node, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	ofAll, ofStream := slow.subscribe(allRead(fromStart, false, 0)), slow.subscribe(streamRead("s", fromStart, false, 0))
	quick := w.subscribe(allRead(fromStart, false, 0))
	for _, s := range []*subscriber{ofAll, ofStream, quick} {
		s.expect("caught_up")
	}
	const appends, size = 20, 50
	payload := string(make([]byte, 10<<10))
	for i := range appends {
		batch := make([]event, size)
		for j := range batch {
			batch[j] = event{id: numbered(i*size + j), kind: "e", data: payload}
		}
		w.mustAppend("s", expectation(i*size-1), batch...)
		for range size {
			quick.expect("e")
		}
	}
	w.mustAppend("s", anyRevision, event{id: uuid.New(), kind: "last"})
	for _, s := range []*subscriber{ofAll, ofStream} {
		caughtUp, last := false, false
		for want := uint64(0); !caughtUp || !last; {
			message := s.next()
			if message.GetCaughtUp() != nil {
				caughtUp = true
				continue
			}
			received := toEvent(t, message)
			require.Equal(t, want, received.revision)
			last = received.kind == "last"
			want++
		}
	}
}

// TestSection61ManySubscribers each receive everything, from whatever point they start.
func TestSection61ManySubscribers(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{Dir: t.TempDir()})
	const subscribers, total = 40, 400
	done := make(chan error, subscribers)
	for i := range subscribers {
		request := allRead(fromStart, false, 0)
		if i%2 == 1 {
			request = streamRead("s", fromStart, false, 0)
		}
		s := dial(t, node).subscribe(request)
		go func() {
			for want := uint64(0); want < total; {
				message, err := s.call.Recv()
				if err != nil {
					done <- err
					return
				}
				if recorded := message.GetEvent().GetEvent(); recorded != nil {
					if recorded.GetStreamRevision() != want {
						done <- fmt.Errorf("got %d, want %d", recorded.GetStreamRevision(), want)
						return
					}
					want++
				}
			}
			done <- nil
		}()
	}
	w := dial(t, node)
	for i := range total {
		w.mustAppend("s", expectation(i-1), events(i)...)
	}
	for range subscribers {
		require.NoError(t, <-done)
	}
}

// TestSection61Shutdown: streams end Unavailable, and a client that resubscribes from its checkpoint misses nothing.
func TestSection61Shutdown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	w := dial(t, node)
	position := w.mustAppend("s", noStream, events(0)...)
	ofAll, ofStream := w.subscribe(allRead(fromStart, false, 0)), w.subscribe(streamRead("s", fromStart, false, 0))
	ofAll.expect("type-0", "caught_up")
	ofStream.expect("type-0", "caught_up")
	require.NoError(t, node.Close())
	require.Equal(t, codes.Unavailable, status.Code(ofAll.ended()))
	require.Equal(t, codes.Unavailable, status.Code(ofStream.ended()))

	w = dial(t, openNode(t, embedded.Options{Dir: dir}))
	w.mustAppend("s", 0, events(1)...)
	w.subscribe(allRead(int64(position), false, 0)).expect("type-1", "caught_up")
}

// TestSection6OfficialClient follows $all and a stream through the client that the product uses.
func TestSection6OfficialClient(t *testing.T) {
	t.Parallel()
	client := connect(t, openNode(t, embedded.Options{}))
	ctx := testContext(t)
	filter := esdb.ExcludeSystemEventsFilter()
	ofAll, err := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: filter, CheckpointInterval: 1})
	require.NoError(t, err)
	defer ofAll.Close()
	ofStream, err := client.SubscribeToStream(ctx, "s", esdb.SubscribeToStreamOptions{From: esdb.Start{}})
	require.NoError(t, err)
	defer ofStream.Close()
	for i := range 3 {
		_, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{},
			esdb.EventData{EventType: fmt.Sprint("e", i), ContentType: esdb.ContentTypeJson, Data: []byte(`{}`)})
		require.NoError(t, err)
	}
	for _, subscription := range []*esdb.Subscription{ofAll, ofStream} {
		seen := 0
		for seen < 3 {
			received := subscription.Recv()
			require.Nil(t, received.SubscriptionDropped)
			if received.EventAppeared != nil {
				require.Equal(t, fmt.Sprint("e", seen), received.EventAppeared.Event.EventType)
				require.WithinDuration(t, time.Now(), received.EventAppeared.Event.CreatedDate, patience)
				seen++
			}
		}
	}
}
