package embedded_test

import (
	"fmt"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

const deletionDone = 0

// TestSection43Matrix deletes streams in every state, softly and for ever, with every expectation.
func TestSection43Matrix(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	table := []struct {
		state      string
		want       expectation
		soft, hard int
	}{
		{neverExisted, anyRevision, wrongNone, deletionDone},
		{neverExisted, noStream, wrongNone, deletionDone},
		{neverExisted, streamExists, wrongNone, wrongNone},
		{neverExisted, 0, wrongNone, wrongNone},
		{onlyMetadata, anyRevision, deletionDone, deletionDone},
		{onlyMetadata, noStream, deletionDone, deletionDone},
		{onlyMetadata, streamExists, deletionDone, deletionDone},
		{onlyMetadata, 0, wrongNone, wrongNone},
		{existing, anyRevision, deletionDone, deletionDone},
		{existing, noStream, wrongAt2, wrongAt2},
		{existing, streamExists, deletionDone, deletionDone},
		{existing, 2, deletionDone, deletionDone},
		{existing, 1, wrongAt2, wrongAt2},
		{existing, 3, wrongAt2, wrongAt2},
		{softlyDeleted, anyRevision, deletionDone, deletionDone},
		{softlyDeleted, streamExists, gone, gone},
		{softlyDeleted, 2, deletionDone, deletionDone},
		{softlyDeleted, 1, wrongAt2, wrongAt2},
		{tombstonedState, anyRevision, gone, gone},
		{tombstonedState, noStream, gone, gone},
		{tombstonedState, streamExists, gone, gone},
		{tombstonedState, 2, gone, gone},
	}
	for _, row := range table {
		for name, kind := range map[string]struct {
			run     func(string, expectation) (uint64, metadata.MD, error)
			outcome int
		}{"soft": {w.delete, row.soft}, "hard": {w.tombstone, row.hard}} {
			t.Run(fmt.Sprintf("%s/%s/%s", name, row.state, row.want), func(t *testing.T) {
				stream := "delete-" + uuid.NewString()
				prepare(w, stream, row.state)
				position, trailers, err := kind.run(stream, row.want)
				switch kind.outcome {
				case gone:
					requireFault(t, err, trailers, codes.FailedPrecondition,
						map[string]string{"exception": "stream-deleted", "stream-name": stream})
				case wrongNone, wrongAt2:
					actual := map[int]string{wrongNone: "-1", wrongAt2: "2"}[kind.outcome]
					requireFault(t, err, trailers, codes.FailedPrecondition, map[string]string{
						"exception": "wrong-expected-version", "stream-name": stream,
						"expected-version": fmt.Sprint(int64(row.want)), "actual-version": actual,
					})
				default:
					require.NoError(t, err)
					log := w.read(allRead(fromStart, false, everything))
					require.Equal(t, log[len(log)-1].position, position)
				}
			})
		}
	}
}

// TestSection43SoftDelete shows what a soft delete hides and what comes back.
func TestSection43SoftDelete(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.setMetadata("s", `{"$maxCount":10,"custom":"x"}`)
	w.mustAppend("s", noStream, events(0, 1, 2)...)
	_, _, err := w.delete("s", 2)
	require.NoError(t, err)

	requireNotFound(t, w, "s")
	deleted := w.read(streamRead("$$s", fromStart, false, everything))
	require.Len(t, deleted, 1, "a metadata stream shows its latest event")
	require.Equal(t, `{"$tb":9223372036854775807}`, deleted[0].data, "all other metadata is gone")
	require.True(t, deleted[0].isJSON)
	require.EqualValues(t, 1, deleted[0].revision)

	w.mustAppend("s", noStream, events(7, 8)...)
	require.Equal(t, []uint64{3, 4}, revisions(w.read(streamRead("s", fromStart, false, everything))))
	require.Equal(t, []uint64{4, 3}, revisions(w.read(streamRead("s", fromEnd, true, everything))))
	recreated := w.read(streamRead("$$s", fromStart, false, everything))
	require.Equal(t, `{"$tb":3}`, recreated[0].data)
	require.EqualValues(t, 2, recreated[0].revision)

	require.Equal(t, []string{
		"$metadata", "type-0", "type-1", "type-2", "$metadata", "type-7", "type-8", "$metadata",
	}, kinds(w.read(allRead(fromStart, false, everything))), "$all keeps everything")
}

// TestSection43SoftDeleteTwice numbers go on and the stream stays hidden.
func TestSection43SoftDeleteTwice(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	for round := range 3 {
		w.mustAppend("s", anyRevision, events(round)...)
		require.Equal(t, []uint64{uint64(round)}, revisions(w.read(streamRead("s", fromStart, false, everything))))
		_, _, err := w.delete("s", anyRevision)
		require.NoError(t, err)
		_, _, err = w.delete("s", anyRevision)
		require.NoError(t, err)
		requireNotFound(t, w, "s")
	}
}

// TestSection42MetadataUndeletes: new metadata for a soft-deleted stream brings it back, empty, and is completed.
func TestSection42MetadataUndeletes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	w := dial(t, node)
	w.mustAppend("s", noStream, events(0, 1)...)
	_, _, err := w.delete("s", anyRevision)
	require.NoError(t, err)
	response, _, err := w.append("$$s", 0, event{id: uuid.New(), kind: "$metadata", isJSON: true, data: `{"a":1}`})
	require.NoError(t, err)
	require.EqualValues(t, 1, response.GetSuccess().GetCurrentRevision(), "the answer is about the client's event")

	check := func(w *wire) {
		t.Helper()
		require.Empty(t, w.read(streamRead("s", fromStart, false, everything)), "empty, not missing")
		metadata := w.read(streamRead("$$s", fromStart, false, everything))
		require.EqualValues(t, 2, metadata[0].revision)
		require.JSONEq(t, `{"a":1,"$tb":2}`, metadata[0].data)
	}
	check(w)
	require.NoError(t, node.Close())
	w = dial(t, openNode(t, embedded.Options{Dir: dir}))
	check(w)
	w.mustAppend("s", 1, events(5)...)
	require.Equal(t, []uint64{2}, revisions(w.read(streamRead("s", fromStart, false, everything))))
}

// TestSection43Tombstone ends the stream and its metadata.
func TestSection43Tombstone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	w := dial(t, node)
	w.setMetadata("s", `{}`)
	w.mustAppend("s", noStream, events(0)...)
	position, _, err := w.tombstone("s", 0)
	require.NoError(t, err)
	check := func(w *wire) {
		t.Helper()
		for _, stream := range []string{"s", "$$s"} {
			gone := map[string]string{"exception": "stream-deleted", "stream-name": stream}
			_, trailers, err := w.messages(streamRead(stream, fromStart, false, 1))
			requireFault(t, err, trailers, codes.FailedPrecondition, gone)
			_, trailers, err = w.messages(subscribing(streamRead(stream, fromStart, false, 1)))
			requireFault(t, err, trailers, codes.FailedPrecondition, gone)
			_, trailers, err = w.append(stream, anyRevision, events(1)...)
			requireFault(t, err, trailers, codes.FailedPrecondition, gone)
		}
		log := w.read(allRead(fromStart, false, everything))
		last := log[len(log)-1]
		require.Equal(t, event{
			id: last.id, kind: "$streamDeleted", stream: "s", revision: 1<<63 - 1, position: position,
		}, last)
	}
	check(w)
	require.NoError(t, node.Close())
	check(dial(t, openNode(t, embedded.Options{Dir: dir})))
}

// TestSection43Denied: $all and metadata streams cannot be deleted.
func TestSection43Denied(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.setMetadata("s", `{}`)
	denied := map[string]string{"exception": "access-denied"}
	for _, stream := range []string{"$all", "$$s"} {
		_, trailers, err := w.delete(stream, anyRevision)
		requireFault(t, err, trailers, codes.PermissionDenied, denied)
		_, trailers, err = w.tombstone(stream, anyRevision)
		requireFault(t, err, trailers, codes.PermissionDenied, denied)
	}
	_, trailers, err := w.delete("", anyRevision)
	requireFault(t, err, trailers, codes.Unknown, nil)
}

// TestSection43OfficialClient sees a tombstone as the client's own error code.
func TestSection43OfficialClient(t *testing.T) {
	t.Parallel()
	client := connect(t, openNode(t, embedded.Options{}))
	ctx := testContext(t)
	_, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{},
		esdb.EventData{EventType: "happened", ContentType: esdb.ContentTypeJson, Data: []byte(`{}`)})
	require.NoError(t, err)
	deleted, err := client.DeleteStream(ctx, "s", esdb.DeleteStreamOptions{ExpectedRevision: esdb.Revision(0)})
	require.NoError(t, err)
	require.Positive(t, deleted.Position.Commit)
	read, err := client.ReadStream(ctx, "s", esdb.ReadStreamOptions{}, 1)
	require.NoError(t, err)
	defer read.Close()
	_, err = read.Recv()
	var failure *esdb.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, esdb.ErrorCodeResourceNotFound, failure.Code())

	_, err = client.TombstoneStream(ctx, "s", esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}})
	require.NoError(t, err)
	read, err = client.ReadStream(ctx, "s", esdb.ReadStreamOptions{}, 1)
	require.NoError(t, err)
	defer read.Close()
	_, err = read.Recv()
	require.ErrorAs(t, err, &failure)
	require.Equal(t, esdb.ErrorCodeStreamDeleted, failure.Code())
}

func requireNotFound(t *testing.T, w *wire, stream string) {
	t.Helper()
	for _, backwards := range []bool{false, true} {
		messages, _, err := w.messages(streamRead(stream, fromStart, backwards, everything))
		require.NoError(t, err, "not found is a message, not a status")
		require.Len(t, messages, 1)
		require.Equal(t, stream, string(messages[0].GetStreamNotFound().GetStreamIdentifier().GetStreamName()))
	}
}
