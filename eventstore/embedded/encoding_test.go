package embedded

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func drawProposed(rt *rapid.T) proposed {
	var p proposed
	copy(p.id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
	p.eventType = rapid.StringN(1, 40, 200).Draw(rt, "type")
	p.json = rapid.Bool().Draw(rt, "json")
	p.data = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "data")
	p.custom = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "custom")
	return p
}

func structuredID(id eventID) *shared.UUID {
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits:  int64(binary.BigEndian.Uint64(id[:8])),
		LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:])),
	}}}
}

// TestRecordIsTheMessage: the stored form of an event is the message that protobuf itself would make.
func TestRecordIsTheMessage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := drawProposed(rt)
		stream := rapid.StringN(1, 50, 300).Draw(rt, "stream")
		revision := rapid.Int64Min(0).Draw(rt, "revision")
		position := rapid.Uint64().Draw(rt, "position")
		created := rapid.Int64().Draw(rt, "created")
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(rt, "prefix")

		value := appendRecord(append([]byte(nil), prefix...), stream, revision, position, created, &p)[len(prefix):]
		require.LessOrEqual(rt, len(value), recordSize(stream, &p))
		view, err := parseRecord(value)
		require.NoError(rt, err)
		require.Equal(rt, stream, string(view.stream))
		require.Equal(rt, p.eventType, string(view.eventType))
		require.Equal(rt, revision, view.revision)
		require.Equal(rt, created, view.created)

		want := &streams.ReadResp{Content: &streams.ReadResp_Event{Event: &streams.ReadResp_ReadEvent{
			Event: &streams.ReadResp_ReadEvent_RecordedEvent{
				Id: structuredID(p.id), StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)},
				StreamRevision: uint64(revision), PreparePosition: position, CommitPosition: position,
				Metadata: map[string]string{
					"type": p.eventType, "content-type": p.contentType(), "created": strconv.FormatInt(created, 10),
				},
				CustomMetadata: p.custom, Data: p.data,
			},
			Position: &streams.ReadResp_ReadEvent_CommitPosition{CommitPosition: position},
		}}}
		got := new(streams.ReadResp)
		require.NoError(rt, proto.Unmarshal(view.wire, got))
		require.True(rt, proto.Equal(want, got), "want %v\ngot  %v", want, got)
		require.Len(rt, view.wire, proto.Size(want), "no byte more than protobuf needs")
	})
}

// TestParseRecordRefusesDamage: no stored bytes make the reader panic or read beyond them.
func TestParseRecordRefusesDamage(t *testing.T) {
	t.Parallel()
	good := appendRecord(nil, "stream", 7, 1000, 1, &proposed{id: newEventID(), eventType: "type", data: []byte("x")})
	for n := range recordHeaderSize {
		_, err := parseRecord(good[:n])
		require.ErrorIs(t, err, errRecordCorrupt)
	}
	rapid.Check(t, func(rt *rapid.T) {
		damaged := append([]byte(nil), good...)
		damaged[rapid.IntRange(0, recordHeaderSize-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "byte")
		view, err := parseRecord(damaged)
		if err == nil {
			_ = string(view.stream) + string(view.eventType)
		}
	})
}

// TestAppendMessageDecodes what protobuf encodes.
func TestAppendMessageDecodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := drawProposed(rt)
		event := &streams.AppendReq_ProposedMessage{
			Id: structuredID(p.id), Data: p.data, CustomMetadata: p.custom,
			Metadata: map[string]string{"type": p.eventType, "content-type": p.contentType()},
		}
		if rapid.Bool().Draw(rt, "id as text") {
			event.Id = &shared.UUID{Value: &shared.UUID_String_{String_: uuid.UUID(p.id).String()}}
		}
		if rapid.Bool().Draw(rt, "more metadata") {
			event.Metadata["other"] = "x"
		}
		hasType := rapid.Bool().Draw(rt, "has type")
		if !hasType {
			delete(event.Metadata, "type")
			p.eventType = ""
		}
		var message appendMessage
		wire, err := proto.Marshal(&streams.AppendReq{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: event}})
		require.NoError(rt, err)
		require.NoError(rt, message.decode(wire))
		clear(wire) // the message must not refer to it
		require.Equal(rt, appendEvent, message.kind)
		require.Equal(rt, hasType, message.hasType)
		require.True(rt, message.hasContentType)
		require.Equal(rt, p.id, message.event.id)
		require.Equal(rt, p.eventType, message.event.eventType)
		require.Equal(rt, p.json, message.event.json)
		require.Equal(rt, string(p.data), string(message.event.data))
		require.Equal(rt, string(p.custom), string(message.event.custom))
	})
}

// TestAppendOptionsDecode every expectation.
func TestAppendOptionsDecode(t *testing.T) {
	t.Parallel()
	name := &shared.StreamIdentifier{StreamName: []byte("größe")}
	table := []struct {
		options *streams.AppendReq_Options
		want    expectation
	}{
		{&streams.AppendReq_Options{StreamIdentifier: name}, expectation{kind: expectAny}},
		{&streams.AppendReq_Options{StreamIdentifier: name, ExpectedStreamRevision: &streams.AppendReq_Options_Any{Any: &shared.Empty{}}},
			expectation{kind: expectAny}},
		{&streams.AppendReq_Options{StreamIdentifier: name, ExpectedStreamRevision: &streams.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}},
			expectation{kind: expectNoStream}},
		{&streams.AppendReq_Options{StreamIdentifier: name, ExpectedStreamRevision: &streams.AppendReq_Options_StreamExists{StreamExists: &shared.Empty{}}},
			expectation{kind: expectExists}},
		{&streams.AppendReq_Options{StreamIdentifier: name, ExpectedStreamRevision: &streams.AppendReq_Options_Revision{Revision: 0}},
			expectation{kind: expectRevision}},
		{&streams.AppendReq_Options{StreamIdentifier: name, ExpectedStreamRevision: &streams.AppendReq_Options_Revision{Revision: 1 << 63}},
			expectation{kind: expectRevision, revision: 1<<63 - 1}},
	}
	for i, row := range table {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			wire, err := proto.Marshal(&streams.AppendReq{Content: &streams.AppendReq_Options_{Options: row.options}})
			require.NoError(t, err)
			message := appendMessage{kind: appendEvent, hasType: true}
			require.NoError(t, message.decode(wire))
			require.Equal(t, appendMessage{kind: appendOptions, stream: "größe", want: row.want}, message)
		})
	}
}

// FuzzAppendMessage: whatever protobuf refuses is refused, and nothing panics.
func FuzzAppendMessage(f *testing.F) {
	for _, seed := range []*streams.AppendReq{
		{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{
			Id: structuredID(newEventID()), Data: []byte("data"), Metadata: map[string]string{"type": "t", "content-type": "c"},
		}}},
		{Content: &streams.AppendReq_Options_{Options: &streams.AppendReq_Options{
			StreamIdentifier:       &shared.StreamIdentifier{StreamName: []byte("s")},
			ExpectedStreamRevision: &streams.AppendReq_Options_Revision{Revision: 300},
		}}},
	} {
		wire, err := proto.Marshal(seed)
		require.NoError(f, err)
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var message appendMessage
		ours := message.decode(wire)
		var reference streams.AppendReq
		if theirs := proto.Unmarshal(wire, &reference); theirs != nil {
			return // stricter where it does not matter, e.g. in fields that are not read
		}
		require.NoError(t, ours)
		if event := reference.GetProposedMessage(); event != nil && message.kind == appendEvent {
			require.LessOrEqual(t, len(message.event.data), len(wire))
		}
	})
}

// TestSuccessResponse is the message that protobuf itself would make.
func TestSuccessResponse(t *testing.T) {
	t.Parallel()
	for _, out := range []outcome{{last: noEvents}, {last: 0, position: 128}, {last: 1 << 40, position: 1 << 60}, {last: 5, position: 0}} {
		var got streams.AppendResp
		require.NoError(t, proto.Unmarshal(successResponse(out), &got))
		success := got.GetSuccess()
		require.NotNil(t, success)
		require.Equal(t, out.position, success.GetPosition().GetCommitPosition())
		require.Equal(t, out.position, success.GetPosition().GetPreparePosition())
		if out.last == noEvents {
			require.NotNil(t, success.GetNoStream())
		} else {
			require.Equal(t, uint64(out.last), success.GetCurrentRevision())
			require.IsType(t, &streams.AppendResp_Success_CurrentRevision{}, success.GetCurrentRevisionOption())
		}
	}
}

// TestHeadEncoding survives a round trip and refuses damage.
func TestHeadEncoding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		want := head{
			last: rapid.Int64Min(-1).Draw(rt, "last"), hasMeta: rapid.Bool().Draw(rt, "hasMeta"),
			rules: rules{
				truncateBefore: rapid.Int64().Draw(rt, "tb"), maxCount: rapid.Int64().Draw(rt, "maxCount"), maxAge: rapid.Int64().Draw(rt, "maxAge"),
			},
		}
		encoded := want.encode(nil)
		got, err := decodeHead(encoded)
		require.NoError(rt, err)
		require.Equal(rt, want, got)
		_, err = decodeHead(encoded[:rapid.IntRange(0, len(encoded)-1).Draw(rt, "cut")])
		require.ErrorIs(rt, err, errHeadCorrupt)
	})
}

// TestHeadCacheIsBounded: idle heads leave, least recently used first; pinned ones stay.
func TestHeadCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newHeadCache(3)
	entries := map[string]*entry{}
	for i := range 5 {
		e := &entry{stream: fmt.Sprint(i), pins: 1}
		c.byStream[e.stream], entries[e.stream] = e, e
	}
	for _, name := range []string{"1", "2", "3"} {
		c.unpinLocked(entries[name])
	}
	require.Len(t, c.byStream, 5)
	c.pinLocked(entries["1"])
	c.unpinLocked(entries["1"]) // now the most recently used
	c.unpinLocked(entries["4"])
	require.Len(t, c.byStream, 4)
	require.NotContains(t, c.byStream, "2")
	c.unpinLocked(entries["0"])
	require.NotContains(t, c.byStream, "3")
	require.Len(t, c.byStream, 3)
	c.pinLocked(entries["1"])
	c.pinLocked(entries["1"])
	c.unpinLocked(entries["1"])
	require.Equal(t, 2, c.idleLen)
}
