package embedded_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// model is an event store as simple as the protocol allows: slices and no indexes.
type model struct {
	log      []event
	streams  map[string][]event
	dead     map[string]bool
	metadata map[string]map[string]any // absent = no metadata event
}

func newModel() *model {
	return &model{streams: map[string][]event{}, dead: map[string]bool{}, metadata: map[string]map[string]any{}}
}

func (m *model) last(stream string) int64 { return int64(len(m.streams[stream])) - 1 }

func (m *model) softDeleted(stream string) bool { return m.number(stream, "$tb") == math.MaxInt64 }

func (m *model) number(stream, key string) int64 {
	n, _ := m.metadata[stream][key].(int64)
	return n
}

func (m *model) record(stream string, e event) {
	e.stream, e.revision = stream, uint64(len(m.streams[stream]))
	m.streams[stream] = append(m.streams[stream], e)
	m.log = append(m.log, e)
}

func (m *model) writeMetadata(stream string, metadata map[string]any) {
	m.metadata[stream] = metadata
	data, _ := json.Marshal(metadata)
	m.record("$$"+stream, event{kind: "$metadata", isJSON: true, data: string(data)})
}

const (
	modelWrong = "wrong"
	modelGone  = "gone"
)

// append answers with a refusal, or with the last revision and whether anything was written.
func (m *model) append(stream string, want expectation, batch []event) (result string) {
	last := m.last(stream)
	if m.dead[stream] {
		return modelGone
	}
	matches := func(from int64) int {
		for i, e := range batch {
			at := from + int64(i)
			if at > last || m.streams[stream][at].id != e.id {
				return i
			}
		}
		return len(batch)
	}
	known := func(e event) int64 {
		for at := last; at >= 0; at-- {
			if m.streams[stream][at].id == e.id {
				return at
			}
		}
		return -1
	}
	switch want {
	case anyRevision, streamExists:
		if want == streamExists && m.softDeleted(stream) {
			return modelGone
		}
		if want == streamExists && last < 0 && m.metadata[stream] == nil {
			return modelWrong
		}
		if known(batch[0]) >= 0 {
			end := int64(-1)
			for _, e := range batch {
				if end = known(e); end < 0 {
					return modelWrong
				}
			}
			return fmt.Sprint(end)
		}
	case noStream:
		if last >= 0 {
			switch n := matches(0); {
			case n == len(batch):
				return fmt.Sprint(n - 1)
			case n > 0 || !m.softDeleted(stream):
				return modelWrong
			}
		}
	default:
		if int64(want) > last {
			return modelWrong
		}
		if int64(want) < last {
			if matches(int64(want)+1) == len(batch) {
				return fmt.Sprint(int64(want) + int64(len(batch)))
			}
			return modelWrong
		}
	}
	undelete := m.softDeleted(stream)
	for _, e := range batch {
		m.record(stream, e)
	}
	if undelete {
		metadata := map[string]any{}
		for key, value := range m.metadata[stream] {
			metadata[key] = value
		}
		metadata["$tb"] = last + 1
		m.writeMetadata(stream, metadata)
	}
	return fmt.Sprint(m.last(stream))
}

func (m *model) setMetadata(stream string, metadata map[string]any) string {
	if m.dead[stream] {
		return modelGone
	}
	undelete := m.softDeleted(stream)
	m.writeMetadata(stream, metadata)
	if undelete {
		completed := map[string]any{"$tb": m.last(stream) + 1}
		for key, value := range metadata {
			if key != "$tb" {
				completed[key] = value
			}
		}
		m.writeMetadata(stream, completed)
	}
	return ""
}

func (m *model) delete(stream string, want expectation) string {
	last := m.last(stream)
	exists := last >= 0 || m.metadata[stream] != nil
	switch {
	case m.dead[stream], want == streamExists && m.softDeleted(stream):
		return modelGone
	case !exists, want == noStream && last >= 0, want >= 0 && int64(want) != last:
		return modelWrong
	}
	m.writeMetadata(stream, map[string]any{"$tb": int64(math.MaxInt64)})
	return ""
}

func (m *model) tombstone(stream string, want expectation) string {
	last := m.last(stream)
	switch {
	case m.dead[stream], want == streamExists && m.softDeleted(stream):
		return modelGone
	case want == noStream && last >= 0, want >= 0 && int64(want) != last,
		want == streamExists && last < 0 && m.metadata[stream] == nil:
		return modelWrong
	}
	m.dead[stream] = true
	m.log = append(m.log, event{stream: stream, kind: "$streamDeleted", revision: math.MaxInt64})
	return ""
}

// visible returns what a read of the whole stream shows; nil when the stream is not found.
func (m *model) visible(stream string) []event {
	last := m.last(stream)
	if strings.HasPrefix(stream, "$$") {
		if last < 0 {
			return nil
		}
		return m.streams[stream][last:]
	}
	if last < 0 || m.softDeleted(stream) {
		return nil
	}
	first := m.number(stream, "$tb")
	if count := m.number(stream, "$maxCount"); count > 0 {
		first = max(first, last-count+1)
	}
	return append([]event{}, m.streams[stream][min(max(first, 0), last+1):]...)
}

// modelRun drives a node and the model with the same commands.
type modelRun struct {
	*rapid.T
	tb    testing.TB
	fs    *vfs.MemFS
	node  *embedded.Node
	wire  *wire
	model *model
	fresh int
}

var modelStreams = []string{"a", "b", "c"}

// TestModel compares the node with the model over random commands: appends with every expectation, new and repeated
// events, metadata, deletes, tombstones, restarts; and reads of everything in between.
func TestModel(t *testing.T) {
	t.Parallel()
	checks := 0
	rapid.Check(t, func(rt *rapid.T) {
		const withRaceDetector = 15
		if checks++; embedded.RaceEnabled && checks > withRaceDetector {
			return
		}
		run := &modelRun{T: rt, tb: t, fs: vfs.NewMem(), model: newModel()}
		run.start()
		defer run.stop()
		rt.Repeat(map[string]func(*rapid.T){
			"append":    run.append,
			"repeat":    run.repeat,
			"metadata":  run.metadata,
			"delete":    run.delete,
			"tombstone": run.tombstone,
			"restart":   func(*rapid.T) { run.stop(); run.start() },
			"":          run.check,
		})
	})
}

func (r *modelRun) start() {
	node, err := embedded.Open(r.tb.Context(), embedded.Options{Addr: "127.0.0.1:0", Dir: "data", FS: r.fs, Logger: discard()})
	require.NoError(r, err)
	r.node, r.wire = node, dial(r.tb, node)
}

func (r *modelRun) stop() {
	_ = r.wire.conn.Close()
	require.NoError(r, r.node.Close())
}

func (r *modelRun) stream(rt *rapid.T) string {
	return rapid.SampledFrom(modelStreams).Draw(rt, "stream")
}

func (r *modelRun) expectation(rt *rapid.T, stream string) expectation {
	last := expectation(r.model.last(stream))
	choices := []expectation{anyRevision, noStream, streamExists, max(last, 0), max(last-1, 0), last + 1, 0}
	return rapid.SampledFrom(choices).Draw(rt, "expectation")
}

func (r *modelRun) append(rt *rapid.T) {
	stream := r.stream(rt)
	batch := make([]event, rapid.IntRange(1, 4).Draw(rt, "events"))
	for i := range batch {
		r.fresh++
		batch[i] = event{id: numbered(r.fresh), kind: "e", data: fmt.Sprint(r.fresh)}
	}
	r.compareAppend(rt, stream, r.expectation(rt, stream), batch)
}

// repeat appends a run of events that the stream has already, perhaps with a new one at either end.
func (r *modelRun) repeat(rt *rapid.T) {
	stream := r.stream(rt)
	stored := r.model.streams[stream]
	if len(stored) == 0 {
		rt.Skip("nothing to repeat")
	}
	from := rapid.IntRange(0, len(stored)-1).Draw(rt, "from")
	to := rapid.IntRange(from+1, len(stored)).Draw(rt, "to")
	var batch []event
	for _, e := range stored[from:to] {
		batch = append(batch, event{id: e.id, kind: "e", data: "repeated"})
	}
	r.fresh++
	extra := event{id: numbered(r.fresh), kind: "e", data: "extra"}
	switch rapid.IntRange(0, 3).Draw(rt, "extra") {
	case 0:
		batch = append(batch, extra)
	case 1:
		batch = append([]event{extra}, batch...)
	}
	want := r.expectation(rt, stream)
	if rapid.Bool().Draw(rt, "fitting") {
		if want = expectation(from - 1); from == 0 {
			want = noStream
		}
	}
	r.compareAppend(rt, stream, want, batch)
}

func (r *modelRun) compareAppend(rt *rapid.T, stream string, want expectation, batch []event) {
	predicted := r.model.append(stream, want, batch)
	response, _, err := r.wire.append(stream, want, batch...)
	switch predicted {
	case modelGone:
		require.Equal(rt, codes.FailedPrecondition, status.Code(err))
	case modelWrong:
		require.NoError(rt, err)
		require.NotNil(rt, response.GetWrongExpectedVersion(), "append to %s expecting %s", stream, want)
	default:
		require.NoError(rt, err)
		require.NotNil(rt, response.GetSuccess(), "append to %s expecting %s, model says %s", stream, want, predicted)
		require.Equal(rt, predicted, fmt.Sprint(response.GetSuccess().GetCurrentRevision()))
	}
}

func (r *modelRun) metadata(rt *rapid.T) {
	stream := r.stream(rt)
	metadata := map[string]any{}
	if rapid.Bool().Draw(rt, "maxCount set") {
		metadata["$maxCount"] = rapid.Int64Range(1, 5).Draw(rt, "maxCount")
	}
	if rapid.Bool().Draw(rt, "tb set") {
		metadata["$tb"] = rapid.Int64Range(0, 8).Draw(rt, "tb")
	}
	if rapid.Bool().Draw(rt, "custom") {
		metadata["custom"] = "kept"
	}
	data, err := json.Marshal(metadata)
	require.NoError(rt, err)
	predicted := r.model.setMetadata(stream, metadata)
	_, _, err = r.wire.append("$$"+stream, anyRevision, event{id: uuid.New(), kind: "$metadata", isJSON: true, data: string(data)})
	require.Equal(rt, predicted == modelGone, err != nil, "%v", err)
}

func (r *modelRun) delete(rt *rapid.T) {
	stream := r.stream(rt)
	want := r.expectation(rt, stream)
	if want == noStream && r.model.softDeleted(stream) {
		rt.Skip("left open by the protocol")
	}
	predicted := r.model.delete(stream, want)
	_, trailers, err := r.wire.delete(stream, want)
	r.compareDeletion(rt, predicted, trailers.Get("exception"), err)
}

func (r *modelRun) tombstone(rt *rapid.T) {
	if rapid.IntRange(0, 4).Draw(rt, "really") > 0 {
		rt.Skip("streams would not live long")
	}
	stream := r.stream(rt)
	want := r.expectation(rt, stream)
	predicted := r.model.tombstone(stream, want)
	_, trailers, err := r.wire.tombstone(stream, want)
	r.compareDeletion(rt, predicted, trailers.Get("exception"), err)
}

func (r *modelRun) compareDeletion(rt *rapid.T, predicted string, exception []string, err error) {
	switch predicted {
	case modelGone:
		require.Equal(rt, []string{"stream-deleted"}, exception)
	case modelWrong:
		require.Equal(rt, []string{"wrong-expected-version"}, exception)
	default:
		require.NoError(rt, err)
	}
}

// check reads a stream, its metadata and $all, both ways, and compares them with the model.
func (r *modelRun) check(rt *rapid.T) {
	for _, name := range []string{rapid.SampledFrom(modelStreams).Draw(rt, "checked stream")} {
		for _, stream := range []string{name, "$$" + name} {
			messages, trailers, err := r.wire.messages(streamRead(stream, fromStart, false, everything))
			if r.model.dead[name] {
				require.Equal(rt, []string{"stream-deleted"}, trailers.Get("exception"))
				continue
			}
			require.NoError(rt, err)
			want := r.model.visible(stream)
			if want == nil {
				require.Len(rt, messages, 1)
				require.NotNil(rt, messages[0].GetStreamNotFound(), "%s", stream)
				continue
			}
			compareEvents(rt, want, r.wire.read(streamRead(stream, fromStart, false, everything)))
			backwards := r.wire.read(streamRead(stream, fromEnd, true, everything))
			slices.Reverse(backwards)
			compareEvents(rt, want, backwards)
		}
	}
	all := r.wire.read(allRead(fromStart, false, everything))
	compareEvents(rt, r.model.log, all)
	backwards := r.wire.read(allRead(fromEnd, true, everything))
	slices.Reverse(backwards)
	require.Equal(rt, all, backwards)
	require.True(rt, slices.IsSortedFunc(all, func(a, b event) int { return int(int64(a.position) - int64(b.position)) }))
}

func compareEvents(rt *rapid.T, want, got []event) {
	require.Len(rt, got, len(want))
	for i := range want {
		g := got[i]
		g.position = 0
		if strings.HasPrefix(g.kind, "$") {
			g.id = uuid.Nil // made by the node
			if g.kind == "$metadata" {
				require.JSONEq(rt, want[i].data, g.data)
				g.data = want[i].data
			}
		}
		w := want[i]
		if w.kind == "e" && w.data == "repeated" {
			w.data = g.data
		}
		require.Equal(rt, w, g)
	}
}
