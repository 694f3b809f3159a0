package embedded_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// TestSection5ReadStream reads a stream with events 0 to 4 both ways.
func TestSection5ReadStream(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0, 1, 2, 3, 4)...)
	table := []struct {
		from      int64
		backwards bool
		count     uint64
		want      []uint64
	}{
		{fromStart, false, everything, []uint64{0, 1, 2, 3, 4}},
		{fromStart, false, 2, []uint64{0, 1}},
		{2, false, everything, []uint64{2, 3, 4}},
		{2, false, 1, []uint64{2}},
		{4, false, 10, []uint64{4}},
		{5, false, 10, []uint64{}},
		{1 << 50, false, 10, []uint64{}},
		{fromEnd, false, 10, []uint64{}},
		{fromStart, false, 0, []uint64{}},
		{fromEnd, true, everything, []uint64{4, 3, 2, 1, 0}},
		{fromEnd, true, 2, []uint64{4, 3}},
		{3, true, everything, []uint64{3, 2, 1, 0}},
		{0, true, everything, []uint64{0}},
		{fromStart, true, everything, []uint64{0}},
		{99, true, 2, []uint64{4, 3}},
	}
	for _, row := range table {
		t.Run(fmt.Sprintf("from %d backwards %t count %d", row.from, row.backwards, row.count), func(t *testing.T) {
			require.Equal(t, row.want, revisions(w.read(streamRead("s", row.from, row.backwards, row.count))))
		})
	}
	requireNotFound(t, w, "missing")
}

// TestSection5Limits refuses reads without a meaning.
func TestSection5Limits(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0)...)
	with := func(request *streams.ReadReq, change func(*streams.ReadReq_Options)) *streams.ReadReq {
		change(request.Options)
		return request
	}
	tooHigh := streamRead("s", 0, false, 1)
	tooHigh.Options.GetStream().RevisionOption = &streams.ReadReq_Options_StreamOptions_Revision{Revision: 1 << 63}
	table := []struct {
		name    string
		request *streams.ReadReq
		code    codes.Code
	}{
		{"stream name is empty", streamRead("", fromStart, false, 1), codes.Unknown},
		{"stream name is $$", streamRead("$$", fromStart, false, 1), codes.Unknown},
		{"revision above int64", tooHigh, codes.InvalidArgument},
		{"backwards subscription", subscribing(allRead(fromStart, true, 1)), codes.InvalidArgument},
		{"no source", with(allRead(fromStart, false, 1), func(o *streams.ReadReq_Options) { o.StreamOption = nil }), codes.InvalidArgument},
		{"no count", with(allRead(fromStart, false, 1), func(o *streams.ReadReq_Options) { o.CountOption = nil }), codes.InvalidArgument},
		{"no options", &streams.ReadReq{}, codes.InvalidArgument},
		{"filter on a stream", filtered(streamRead("s", fromStart, false, 1), filterOn{prefixes: []string{"a"}, multiplier: 1}), codes.InvalidArgument},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			_, trailers, err := w.messages(row.request)
			requireFault(t, err, trailers, row.code, nil)
		})
	}
	maximum := streamRead("s", 0, true, 1)
	maximum.Options.GetStream().RevisionOption = &streams.ReadReq_Options_StreamOptions_Revision{Revision: everything}
	require.Equal(t, []uint64{0}, revisions(w.read(maximum)), "revision MaxUint64 means the end")
}

// TestSection7VisibleRange shows which of the events 0 to 9 metadata leaves visible.
func TestSection7VisibleRange(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	all := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	table := []struct {
		metadata string
		want     []uint64
	}{
		{`{"$maxCount":3}`, all[7:]},
		{`{"$maxCount":1}`, all[9:]},
		{`{"$maxCount":100}`, all},
		{`{"$tb":4}`, all[4:]},
		{`{"$tb":0}`, all},
		{`{"$tb":10}`, all[10:]},
		{`{"$tb":8,"$maxCount":5}`, all[8:]},
		{`{"$tb":2,"$maxCount":5}`, all[5:]},
		{`{"$maxAge":3600}`, all},
		{`{"$cacheControl":60,"$acl":{"$r":"x"},"mine":[1]}`, all},
		{`{"$maxCount":0}`, all}, {`{"$maxCount":-1}`, all}, {`{"$tb":-1}`, all}, {`{"$maxAge":0}`, all},
		{`{"$maxCount":"3"}`, all}, {`[1]`, all}, {`not json`, all}, {``, all}, {`null`, all},
	}
	for _, row := range table {
		t.Run(row.metadata, func(t *testing.T) {
			stream := "visible-" + uuid.NewString()
			w.mustAppend(stream, noStream, events(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)...)
			w.setMetadata(stream, row.metadata)
			require.Equal(t, row.want, revisions(w.read(streamRead(stream, fromStart, false, everything))))
			reversed := []uint64{}
			for i := len(row.want) - 1; i >= 0; i-- {
				reversed = append(reversed, row.want[i])
			}
			require.Equal(t, reversed, revisions(w.read(streamRead(stream, fromEnd, true, everything))))
			if len(row.want) > 1 {
				require.Equal(t, row.want[:2], revisions(w.read(streamRead(stream, fromStart, false, 2))), "hidden events do not count")
			}
			response, _, err := w.append(stream, 9, events(10)...)
			require.NoError(t, err)
			require.EqualValues(t, 10, response.GetSuccess().GetCurrentRevision(), "numbers never reset")
		})
	}
}

// TestSection7NotJSONMetadata is metadata whose content type is not JSON: it does not count.
func TestSection7NotJSONMetadata(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0, 1)...)
	w.setMetadata("s", `{"$maxCount":1}`)
	require.Equal(t, []uint64{1}, revisions(w.read(streamRead("s", fromStart, false, everything))))
	w.mustAppend("$$s", anyRevision, event{id: uuid.New(), kind: "$metadata", data: `{"$maxCount":1}`})
	require.Equal(t, []uint64{0, 1}, revisions(w.read(streamRead("s", fromStart, false, everything))))
}

// TestSection7MaxAge hides events by their age.
func TestSection7MaxAge(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := dial(t, openNode(t, embedded.Options{Now: clock.Now}))
	for i := range 10 {
		w.mustAppend("s", expectation(i-1), events(i)...)
		clock.advance(time.Second)
	}
	w.setMetadata("s", `{"$maxAge":4}`)
	require.Equal(t, []uint64{6, 7, 8, 9}, revisions(w.read(streamRead("s", fromStart, false, everything))))
	require.Equal(t, []uint64{9, 8, 7, 6}, revisions(w.read(streamRead("s", fromEnd, true, everything))))
	clock.advance(2 * time.Second)
	require.Equal(t, []uint64{8, 9}, revisions(w.read(streamRead("s", 3, false, everything))))
	clock.advance(time.Hour)
	require.Empty(t, w.read(streamRead("s", fromStart, false, everything)))
	require.Len(t, w.read(allRead(fromStart, false, everything)), 11, "$all keeps everything")
}

// TestSection7Metastream shows its latest event only, and its numbers go on.
func TestSection7Metastream(t *testing.T) {
	t.Parallel()
	client := connect(t, openNode(t, embedded.Options{}))
	ctx := testContext(t)
	for i := range 3 {
		var metadata esdb.StreamMetadata
		metadata.SetMaxCount(uint64(i + 1))
		written, err := client.SetStreamMetadata(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, metadata)
		require.NoError(t, err)
		require.EqualValues(t, i, written.NextExpectedVersion)
		read, err := client.GetStreamMetadata(ctx, "s", esdb.ReadStreamOptions{})
		require.NoError(t, err)
		require.EqualValues(t, i+1, *read.MaxCount())
	}
	_, err := client.GetStreamMetadata(ctx, "never-set", esdb.ReadStreamOptions{})
	var failure *esdb.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, esdb.ErrorCodeResourceNotFound, failure.Code())
}

// TestSection5RecordedEvent compares what was appended with what is read, field by field.
func TestSection5RecordedEvent(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w := dial(t, openNode(t, embedded.Options{Now: clock.Now}))
	table := []event{
		{id: uuid.MustParse("ffffffff-ffff-ffff-ffff-ffffffffffff"), kind: "json", data: `{"a":1}`, custom: `{"b":2}`, isJSON: true},
		{id: uuid.MustParse("00000000-0000-0000-0000-000000000001"), kind: "binary", data: "\x00\xff\x80"},
		{id: uuid.MustParse("80000000-0000-0000-0000-000000000000"), kind: "empty"},
		{id: uuid.New(), kind: "größe-✓", custom: "only metadata", isJSON: true},
	}
	for i, e := range table {
		stream := fmt.Sprintf("stream ✓ %d", i)
		position := w.mustAppend(stream, noStream, e)
		e.stream, e.position = stream, position
		for _, request := range []*streams.ReadReq{
			streamRead(stream, fromStart, false, 1), allRead(int64(position), false, 1),
		} {
			messages, _, err := w.messages(request)
			require.NoError(t, err)
			require.Equal(t, e, toEvent(t, messages[0]))
			recorded := messages[0].GetEvent().GetEvent()
			contentType := map[bool]string{true: "application/json", false: "application/octet-stream"}[e.isJSON]
			require.Equal(t, map[string]string{
				"type": e.kind, "content-type": contentType, "created": strconv.FormatInt(clock.Now().UnixNano()/100, 10),
			}, recorded.GetMetadata())
			require.Nil(t, messages[0].GetEvent().GetLink())
		}
	}
}

// TestSection5StringIDs answers with ids as text where asked.
func TestSection5StringIDs(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(7)...)
	request := streamRead("s", fromStart, false, 1)
	request.Options.UuidOption.Content = &streams.ReadReq_Options_UUIDOption_String_{String_: &shared.Empty{}}
	messages, _, err := w.messages(request)
	require.NoError(t, err)
	require.Equal(t, numbered(7).String(), messages[0].GetEvent().GetEvent().GetId().GetString_())
	require.Equal(t, "data 7", string(messages[0].GetEvent().GetEvent().GetData()))
}

// TestSection5Compatibility sends stream bounds only to clients that say they know them.
func TestSection5Compatibility(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	position := w.mustAppend("s", noStream, events(0, 1, 2)...)
	request := streamRead("s", fromStart, false, 2)
	request.Options.ControlOption = &streams.ReadReq_Options_ControlOption{Compatibility: 1}
	messages, _, err := w.messages(request)
	require.NoError(t, err)
	require.Len(t, messages, 3)
	require.EqualValues(t, 2, messages[2].GetLastStreamPosition())

	request = allRead(fromStart, false, 1)
	request.Options.ControlOption = &streams.ReadReq_Options_ControlOption{Compatibility: 1}
	messages, _, err = w.messages(request)
	require.NoError(t, err)
	require.Equal(t, position, messages[1].GetLastAllStreamPosition().GetCommitPosition())
}

// TestSection5ManyPages reads more than fits into one page, with large and small events.
func TestSection5ManyPages(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	const total = 3000
	large := make([]byte, 100<<10)
	for at := 0; at < total; at += 500 {
		batch := make([]event, 500)
		for i := range batch {
			batch[i] = event{id: numbered(at + i + 1), kind: "e", data: strconv.Itoa(at + i)}
		}
		batch[250].data = string(large)
		w.mustAppend("s", expectation(at-1), batch...)
	}
	forward := w.read(streamRead("s", fromStart, false, everything))
	backward := w.read(streamRead("s", fromEnd, true, everything))
	all := w.read(allRead(fromStart, false, everything))
	allBack := w.read(allRead(fromEnd, true, everything))
	require.Len(t, forward, total)
	require.Equal(t, forward, all)
	for i := range forward {
		require.EqualValues(t, i, forward[i].revision)
		require.Equal(t, forward[i], backward[total-1-i])
		require.Equal(t, forward[i], allBack[total-1-i])
	}
}
