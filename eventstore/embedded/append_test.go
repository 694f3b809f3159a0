package embedded_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// The states of a stream in the matrix of section 4.2. Streams that exist have events 0, 1 and 2 with ids 0, 1, 2.
const (
	neverExisted    = "never existed"
	onlyMetadata    = "never existed, has metadata"
	existing        = "exists"
	softlyDeleted   = "soft-deleted"
	tombstonedState = "tombstoned"
)

func prepare(w *wire, stream, state string) {
	w.t.Helper()
	switch state {
	case onlyMetadata:
		w.setMetadata(stream, `{"custom":1}`)
	case existing, softlyDeleted, tombstonedState:
		w.mustAppend(stream, noStream, events(0, 1, 2)...)
	}
	switch state {
	case softlyDeleted:
		_, _, err := w.delete(stream, anyRevision)
		require.NoError(w.t, err)
	case tombstonedState:
		_, _, err := w.tombstone(stream, anyRevision)
		require.NoError(w.t, err)
	}
}

const (
	wrongNone = -10 - iota // WrongExpectedVersion, current no_stream
	wrongAt2               // WrongExpectedVersion, current 2
	gone                   // StreamDeleted
)

// TestSection42ExpectedRevisionMatrix appends one new event in every state with every expectation.
func TestSection42ExpectedRevisionMatrix(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	table := []struct {
		state string
		want  map[expectation]int // the revision written, or a refusal
	}{
		{neverExisted, map[expectation]int{anyRevision: 0, noStream: 0, streamExists: wrongNone, 0: wrongNone, 7: wrongNone}},
		{onlyMetadata, map[expectation]int{anyRevision: 0, noStream: 0, streamExists: 0, 0: wrongNone, 7: wrongNone}},
		{existing, map[expectation]int{
			anyRevision: 3, noStream: wrongAt2, streamExists: 3, 0: wrongAt2, 1: wrongAt2, 2: 3, 3: wrongAt2, 1 << 40: wrongAt2,
		}},
		{softlyDeleted, map[expectation]int{
			anyRevision: 3, noStream: 3, streamExists: gone, 0: wrongAt2, 1: wrongAt2, 2: 3, 3: wrongAt2,
		}},
		{tombstonedState, map[expectation]int{anyRevision: gone, noStream: gone, streamExists: gone, 0: gone, 2: gone, 3: gone}},
	}
	for _, row := range table {
		for want, outcome := range row.want {
			t.Run(fmt.Sprintf("%s/%s", row.state, want), func(t *testing.T) {
				stream := "matrix-" + uuid.NewString()
				prepare(w, stream, row.state)
				response, trailers, err := w.append(stream, want, event{id: uuid.New(), kind: "new"})
				if outcome == gone {
					requireFault(t, err, trailers, codes.FailedPrecondition,
						map[string]string{"exception": "stream-deleted", "stream-name": stream})
					return
				}
				require.NoError(t, err)
				if outcome == wrongNone || outcome == wrongAt2 {
					requireWrongVersion(t, response.GetWrongExpectedVersion(), want, outcome)
					return
				}
				require.EqualValues(t, outcome, response.GetSuccess().GetCurrentRevision())
				requireAppended(t, w, stream, row.state, response.GetSuccess())
			})
		}
	}
}

func requireWrongVersion(t *testing.T, wrong *streams.AppendResp_WrongExpectedVersion, want expectation, outcome int) {
	t.Helper()
	require.NotNil(t, wrong)
	if outcome == wrongNone {
		require.NotNil(t, wrong.GetCurrentNoStream())
		require.NotNil(t, wrong.GetNoStream_20_6_0())
	} else {
		require.EqualValues(t, 2, wrong.GetCurrentRevision())
		require.EqualValues(t, 2, wrong.GetCurrentRevision_20_6_0())
	}
	switch want {
	case noStream:
		require.NotNil(t, wrong.GetExpectedNoStream())
	case anyRevision:
		require.NotNil(t, wrong.GetExpectedAny())
		require.NotNil(t, wrong.GetAny_20_6_0())
	case streamExists:
		require.NotNil(t, wrong.GetExpectedStreamExists())
		require.NotNil(t, wrong.GetStreamExists_20_6_0())
	default:
		require.EqualValues(t, want, wrong.GetExpectedRevision())
		require.EqualValues(t, want, wrong.GetExpectedRevision_20_6_0())
	}
}

// requireAppended checks what a reader sees after one event was appended: all of it, or only the new event where
// the append brought a deleted stream back.
func requireAppended(t *testing.T, w *wire, stream, before string, success *streams.AppendResp_Success) {
	t.Helper()
	read := w.read(streamRead(stream, fromStart, false, everything))
	last := read[len(read)-1]
	require.Equal(t, "new", last.kind)
	require.Equal(t, success.GetCurrentRevision(), last.revision)
	require.Equal(t, success.GetPosition().GetCommitPosition(), last.position)
	require.Equal(t, success.GetPosition().GetPreparePosition(), last.position)
	visible := map[string][]uint64{
		neverExisted: {0}, onlyMetadata: {0}, existing: {0, 1, 2, 3}, softlyDeleted: {3},
	}
	require.Equal(t, visible[before], revisions(read))
}

// TestSection42Idempotency repeats appends to a stream with events 0, 1, 2.
func TestSection42Idempotency(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	table := []struct {
		name   string
		state  string
		want   expectation
		ids    []int
		result int // the revision answered, or a refusal
		writes bool
	}{
		{"no_stream, all", existing, noStream, []int{0, 1, 2}, 2, false},
		{"no_stream, beginning", existing, noStream, []int{0, 1}, 1, false},
		{"no_stream, beginning and a new one", existing, noStream, []int{0, 9}, wrongAt2, false},
		{"no_stream, all and a new one", existing, noStream, []int{0, 1, 2, 9}, wrongAt2, false},
		{"no_stream, not from the beginning", existing, noStream, []int{1, 2}, wrongAt2, false},
		{"revision 0, the rest", existing, 0, []int{1, 2}, 2, false},
		{"revision 0, one of two", existing, 0, []int{1}, 1, false},
		{"revision 0, first differs", existing, 0, []int{9, 2}, wrongAt2, false},
		{"revision 0, later differs", existing, 0, []int{1, 9}, wrongAt2, false},
		{"revision 0, longer than the stream", existing, 0, []int{1, 2, 9}, wrongAt2, false},
		{"revision 1, last", existing, 1, []int{2}, 2, false},
		{"revision 1, order differs", existing, 0, []int{2, 1}, wrongAt2, false},
		{"at the head, known ids are appended again", existing, 2, []int{2}, 3, true},
		{"any, all", existing, anyRevision, []int{0, 1, 2}, 2, false},
		{"any, one", existing, anyRevision, []int{1}, 1, false},
		{"any, last known first", existing, anyRevision, []int{2, 0}, 0, false},
		{"any, first known and a new one", existing, anyRevision, []int{2, 9}, wrongAt2, false},
		{"any, new and a known one", existing, anyRevision, []int{9, 2}, 4, true},
		{"stream_exists, known", existing, streamExists, []int{1, 2}, 2, false},
		{"soft-deleted, no_stream, known", softlyDeleted, noStream, []int{0, 1, 2}, 2, false},
		{"soft-deleted, no_stream, partly known", softlyDeleted, noStream, []int{0, 9}, wrongAt2, false},
		{"soft-deleted, any, known", softlyDeleted, anyRevision, []int{1}, 1, false},
		{"soft-deleted, revision, known", softlyDeleted, 0, []int{1, 2}, 2, false},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			stream := "idempotency-" + uuid.NewString()
			w.mustAppend("other-"+stream, noStream, events(9)...)
			prepare(w, stream, row.state)
			before := w.read(allRead(fromStart, false, everything))
			response, _, err := w.append(stream, row.want, events(row.ids...)...)
			require.NoError(t, err)
			after := w.read(allRead(fromStart, false, everything))
			require.Equal(t, row.writes, len(after) > len(before))
			if row.result == wrongAt2 {
				requireWrongVersion(t, response.GetWrongExpectedVersion(), row.want, wrongAt2)
				return
			}
			require.EqualValues(t, row.result, response.GetSuccess().GetCurrentRevision())
			position := response.GetSuccess().GetPosition().GetCommitPosition()
			for _, e := range after {
				if e.position == position {
					require.Equal(t, stream, e.stream)
					require.EqualValues(t, row.result, e.revision)
					return
				}
			}
			t.Fatalf("no event at the answered position %d", position)
		})
	}
}

// TestSection42IdempotencyAfterRestart repeats appends to a node that has forgotten everything but its disk.
func TestSection42IdempotencyAfterRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	w := dial(t, node)
	first := w.mustAppend("s", noStream, events(0, 1)...)
	second := w.mustAppend("s", anyRevision, events(2)...)
	require.NoError(t, node.Close())

	w = dial(t, openNode(t, embedded.Options{Dir: dir}))
	require.Equal(t, first, w.mustAppend("s", noStream, events(0, 1)...))
	require.Equal(t, second, w.mustAppend("s", anyRevision, events(2)...))
	require.Equal(t, []uint64{0, 1, 2}, revisions(w.read(streamRead("s", fromStart, false, everything))))
	require.Len(t, w.read(allRead(fromStart, false, everything)), 3)
}

// TestSection42SameIDInTwoStreams shows that an id belongs to its stream.
func TestSection42SameIDInTwoStreams(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("a", anyRevision, events(1)...)
	w.mustAppend("b", anyRevision, events(2)...)
	w.mustAppend("b", anyRevision, events(1)...)
	require.Equal(t, []uint64{0, 1}, revisions(w.read(streamRead("b", fromStart, false, everything))))
}

// TestSection42ConcurrentRepeats sends the same append many times at once: one is written, all are told the same.
func TestSection42ConcurrentRepeats(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{Dir: t.TempDir()}))
	for _, want := range []expectation{anyRevision, noStream} {
		stream := "repeats-" + uuid.NewString()
		const repeats = 32
		answers := make(chan *streams.AppendResp, repeats)
		failures := make(chan error, repeats)
		for range repeats {
			go func() {
				response, _, err := w.append(stream, want, events(1, 2)...)
				failures <- err
				answers <- response
			}()
		}
		for range repeats {
			require.NoError(t, <-failures)
			require.EqualValues(t, 1, (<-answers).GetSuccess().GetCurrentRevision())
		}
		require.Equal(t, []uint64{0, 1}, revisions(w.read(streamRead(stream, fromStart, false, everything))))
	}
}

// TestSection42ConcurrentAny appends distinct events to one stream from many writers without any expectation.
func TestSection42ConcurrentAny(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{Dir: t.TempDir()}))
	const writers, each = 16, 10
	failures := make(chan error, writers)
	for writer := range writers {
		go func() {
			var failure error
			for i := range each {
				if _, _, err := w.append("any", anyRevision, events(writer*each+i+1)...); err != nil {
					failure = err
				}
			}
			failures <- failure
		}()
	}
	for range writers {
		require.NoError(t, <-failures)
	}
	read := w.read(streamRead("any", fromStart, false, everything))
	seen := map[uuid.UUID]bool{}
	for i, e := range read {
		require.EqualValues(t, i, e.revision)
		seen[e.id] = true
	}
	require.Len(t, seen, writers*each)
}

// TestSection41EmptyAppend checks the expectation and writes nothing.
func TestSection41EmptyAppend(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0, 1, 2)...)
	table := []struct {
		stream string
		want   expectation
		result int // revision, or a refusal; -1 is no_stream
	}{
		{"none", anyRevision, -1}, {"none", noStream, -1}, {"none", streamExists, wrongNone}, {"none", 0, wrongNone},
		{"s", anyRevision, 2}, {"s", 2, 2}, {"s", streamExists, 2}, {"s", 1, wrongAt2}, {"s", noStream, wrongAt2}, {"s", 3, wrongAt2},
	}
	for _, row := range table {
		t.Run(fmt.Sprintf("%s/%s", row.stream, row.want), func(t *testing.T) {
			response, _, err := w.append(row.stream, row.want)
			require.NoError(t, err)
			switch row.result {
			case wrongNone, wrongAt2:
				requireWrongVersion(t, response.GetWrongExpectedVersion(), row.want, row.result)
			case -1:
				require.NotNil(t, response.GetSuccess().GetNoStream())
				require.NotNil(t, response.GetSuccess().GetPosition())
			default:
				require.EqualValues(t, row.result, response.GetSuccess().GetCurrentRevision())
				require.NotNil(t, response.GetSuccess().GetPosition())
			}
		})
	}
	require.Len(t, w.read(allRead(fromStart, false, everything)), 3)
}

// TestSection1AppendSize measures the limit: data, custom metadata and twice the characters of the type.
func TestSection1AppendSize(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	const limit = 1 << 20
	table := []struct {
		name   string
		events []event
		fits   bool
	}{
		{"one event of exactly the limit", []event{{kind: "ab", data: strings.Repeat("x", limit-4)}}, true},
		{"one byte more", []event{{kind: "ab", data: strings.Repeat("x", limit-3)}}, false},
		{"metadata counts", []event{{kind: "ab", data: strings.Repeat("x", limit-5), custom: "yy"}}, false},
		{"type counts twice by characters, not bytes", []event{{kind: "éé", data: strings.Repeat("x", limit-4)}}, true},
		{"the sum counts", []event{{kind: "a", data: strings.Repeat("x", limit/2)}, {kind: "a", data: strings.Repeat("x", limit/2)}}, false},
		{"far beyond", []event{{kind: "a", data: strings.Repeat("x", 4*limit)}}, false},
	}
	for i, row := range table {
		t.Run(row.name, func(t *testing.T) {
			for j := range row.events {
				row.events[j].id = uuid.New()
			}
			stream := fmt.Sprintf("size-%d", i)
			response, trailers, err := w.append(stream, noStream, row.events...)
			if row.fits {
				require.NoError(t, err)
				require.NotNil(t, response.GetSuccess())
				return
			}
			requireFault(t, err, trailers, codes.InvalidArgument,
				map[string]string{"exception": "maximum-append-size-exceeded", "maximum-append-size": "1048576"})
		})
	}
}

// TestSection3InvalidTransaction: very many very small events are within the size limit but too much for one write.
func TestSection3InvalidTransaction(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	many := make([]event, 150_000)
	for i := range many {
		many[i] = event{id: numbered(i + 1), kind: "e"}
	}
	_, trailers, err := w.append("s", noStream, many...)
	requireFault(t, err, trailers, codes.InvalidArgument, map[string]string{"exception": "invalid-transaction"})
	requireNotFound(t, w, "s")
	w.mustAppend("s", noStream, many[:5_000]...)
	require.Len(t, w.read(streamRead("s", fromStart, false, everything)), 5_000)
}

// TestSection3RefusedAppends sends appends that EventStoreDB refuses, after reading all of them.
func TestSection3RefusedAppends(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	good := proposal(event{id: uuid.New(), kind: "good"})
	bare := func(properties map[string]string) *streams.AppendReq {
		message := proposal(event{id: uuid.New(), kind: "x"})
		message.GetProposedMessage().Metadata = properties
		return message
	}
	missing := map[string]string{
		"exception": "missing-required-metadata-property", "required-metadata-properties": "type,content-type",
	}
	table := []struct {
		name     string
		messages []*streams.AppendReq
		code     codes.Code
		trailers map[string]string
	}{
		{"stream name is empty", []*streams.AppendReq{appendHeader("", anyRevision), good}, codes.Unknown, nil},
		{"stream name is $$", []*streams.AppendReq{appendHeader("$$", anyRevision), good}, codes.Unknown, nil},
		{"$all", []*streams.AppendReq{appendHeader("$all", anyRevision), good}, codes.PermissionDenied,
			map[string]string{"exception": "access-denied"}},
		{"event type is empty", []*streams.AppendReq{appendHeader("s", anyRevision), proposal(event{id: uuid.New()})}, codes.Unknown, nil},
		{"event id is empty", []*streams.AppendReq{appendHeader("s", anyRevision), proposal(event{kind: "x"})}, codes.Unknown, nil},
		{"no type", []*streams.AppendReq{appendHeader("s", anyRevision), bare(map[string]string{"content-type": "a"}), good},
			codes.InvalidArgument, missing},
		{"no content type", []*streams.AppendReq{appendHeader("s", anyRevision), bare(map[string]string{"type": "a"}), good, good},
			codes.InvalidArgument, missing},
		{"no options", []*streams.AppendReq{good}, codes.InvalidArgument, nil},
		{"stream name is too long", []*streams.AppendReq{appendHeader(strings.Repeat("s", 40<<10), anyRevision), good},
			codes.InvalidArgument, nil},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			_, trailers, err := w.send(row.messages...)
			requireFault(t, err, trailers, row.code, row.trailers)
		})
	}
	require.Empty(t, w.read(allRead(fromStart, false, everything)))
}

// TestSection3TrailersAreASCII percent-encodes names that a trailer cannot carry.
func TestSection3TrailersAreASCII(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	_, _, err := w.tombstone("größe 1", anyRevision)
	require.NoError(t, err)
	_, trailers, err := w.append("größe 1", anyRevision, events(1)...)
	requireFault(t, err, trailers, codes.FailedPrecondition,
		map[string]string{"exception": "stream-deleted", "stream-name": "gr%C3%B6%C3%9Fe%201"})
}

// TestSection4OfficialClient does the same through the client that the product uses.
func TestSection4OfficialClient(t *testing.T) {
	t.Parallel()
	client := connect(t, openNode(t, embedded.Options{}))
	ctx := testContext(t)
	data := esdb.EventData{EventID: numbered(1), EventType: "happened", ContentType: esdb.ContentTypeJson, Data: []byte(`{"a":1}`)}
	written, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, data)
	require.NoError(t, err)
	require.EqualValues(t, 0, written.NextExpectedVersion)

	again, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, data)
	require.NoError(t, err)
	require.Equal(t, written, again)

	data.EventID = numbered(2)
	_, err = client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, data)
	var failure *esdb.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, esdb.ErrorCodeWrongExpectedVersion, failure.Code())

	_, err = client.TombstoneStream(ctx, "s", esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Revision(0)})
	require.NoError(t, err)
	_, err = client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, data)
	require.ErrorAs(t, err, &failure)
	require.Equal(t, esdb.ErrorCodeStreamDeleted, failure.Code())
}
