package embedded_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// wire talks to a node by the generated stubs, which hide nothing.
type wire struct {
	t       testing.TB
	conn    *grpc.ClientConn
	streams streams.StreamsClient
}

func dial(tb testing.TB, node *embedded.Node, options ...grpc.DialOption) *wire {
	tb.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient(node.Addr(), options...)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	return &wire{t: tb, conn: conn, streams: streams.NewStreamsClient(conn)}
}

// expectation is an expected revision, or one of the negative numbers of EventStoreDB.
type expectation int64

const (
	noStream     expectation = -1
	anyRevision  expectation = -2
	streamExists expectation = -4
)

func (e expectation) String() string {
	switch e {
	case noStream:
		return "no_stream"
	case anyRevision:
		return "any"
	case streamExists:
		return "stream_exists"
	default:
		return fmt.Sprintf("revision %d", int64(e))
	}
}

// event is what the tests append and compare.
type event struct {
	id       uuid.UUID
	kind     string
	data     string
	custom   string
	isJSON   bool
	revision uint64
	position uint64
	stream   string
}

// numbered makes the id of a test's nth event.
func numbered(n int) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	id[0] = 1
	return id
}

// events makes events with the ids of the given numbers.
func events(numbers ...int) []event {
	out := make([]event, len(numbers))
	for i, n := range numbers {
		out[i] = event{id: numbered(n), kind: fmt.Sprintf("type-%d", n), data: fmt.Sprintf("data %d", n)}
	}
	return out
}

func protoUUID(id uuid.UUID) *shared.UUID {
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits:  int64(binary.BigEndian.Uint64(id[:8])),
		LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:])),
	}}}
}

func identifier(stream string) *shared.StreamIdentifier {
	return &shared.StreamIdentifier{StreamName: []byte(stream)}
}

func appendHeader(stream string, want expectation) *streams.AppendReq {
	options := &streams.AppendReq_Options{StreamIdentifier: identifier(stream)}
	switch want {
	case noStream:
		options.ExpectedStreamRevision = &streams.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}
	case anyRevision:
		options.ExpectedStreamRevision = &streams.AppendReq_Options_Any{Any: &shared.Empty{}}
	case streamExists:
		options.ExpectedStreamRevision = &streams.AppendReq_Options_StreamExists{StreamExists: &shared.Empty{}}
	default:
		options.ExpectedStreamRevision = &streams.AppendReq_Options_Revision{Revision: uint64(want)}
	}
	return &streams.AppendReq{Content: &streams.AppendReq_Options_{Options: options}}
}

func proposal(e event) *streams.AppendReq {
	content := "application/octet-stream"
	if e.isJSON {
		content = "application/json"
	}
	return &streams.AppendReq{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{
		Id: protoUUID(e.id), Data: []byte(e.data), CustomMetadata: []byte(e.custom),
		Metadata: map[string]string{"type": e.kind, "content-type": content},
	}}}
}

// send sends the messages of one append and returns the answer with the trailers. It may run in any goroutine.
func (w *wire) send(messages ...*streams.AppendReq) (*streams.AppendResp, metadata.MD, error) {
	call, err := w.streams.Append(testContext(w.t))
	if err != nil {
		return nil, nil, err
	}
	for _, message := range messages {
		if err := call.Send(message); err != nil {
			return nil, nil, fmt.Errorf("the server must read everything before it fails: %w", err)
		}
	}
	response, err := call.CloseAndRecv()
	return response, call.Trailer(), err
}

func (w *wire) append(stream string, want expectation, events ...event) (*streams.AppendResp, metadata.MD, error) {
	messages := []*streams.AppendReq{appendHeader(stream, want)}
	for _, e := range events {
		messages = append(messages, proposal(e))
	}
	return w.send(messages...)
}

// mustAppend appends and returns the position of the last event.
func (w *wire) mustAppend(stream string, want expectation, events ...event) uint64 {
	w.t.Helper()
	response, _, err := w.append(stream, want, events...)
	require.NoError(w.t, err)
	require.NotNil(w.t, response.GetSuccess(), "append to %s expecting %s: %v", stream, want, response)
	return response.GetSuccess().GetPosition().GetCommitPosition()
}

func (w *wire) setMetadata(stream, data string) {
	w.t.Helper()
	w.mustAppend("$$"+stream, anyRevision, event{id: uuid.New(), kind: "$metadata", data: data, isJSON: true})
}

func (w *wire) delete(stream string, want expectation) (uint64, metadata.MD, error) {
	w.t.Helper()
	options := &streams.DeleteReq_Options{StreamIdentifier: identifier(stream)}
	switch want {
	case noStream:
		options.ExpectedStreamRevision = &streams.DeleteReq_Options_NoStream{NoStream: &shared.Empty{}}
	case anyRevision:
		options.ExpectedStreamRevision = &streams.DeleteReq_Options_Any{Any: &shared.Empty{}}
	case streamExists:
		options.ExpectedStreamRevision = &streams.DeleteReq_Options_StreamExists{StreamExists: &shared.Empty{}}
	default:
		options.ExpectedStreamRevision = &streams.DeleteReq_Options_Revision{Revision: uint64(want)}
	}
	var trailers metadata.MD
	response, err := w.streams.Delete(testContext(w.t), &streams.DeleteReq{Options: options}, grpc.Trailer(&trailers))
	return response.GetPosition().GetCommitPosition(), trailers, err
}

func (w *wire) tombstone(stream string, want expectation) (uint64, metadata.MD, error) {
	w.t.Helper()
	options := &streams.TombstoneReq_Options{StreamIdentifier: identifier(stream)}
	switch want {
	case noStream:
		options.ExpectedStreamRevision = &streams.TombstoneReq_Options_NoStream{NoStream: &shared.Empty{}}
	case anyRevision:
		options.ExpectedStreamRevision = &streams.TombstoneReq_Options_Any{Any: &shared.Empty{}}
	case streamExists:
		options.ExpectedStreamRevision = &streams.TombstoneReq_Options_StreamExists{StreamExists: &shared.Empty{}}
	default:
		options.ExpectedStreamRevision = &streams.TombstoneReq_Options_Revision{Revision: uint64(want)}
	}
	var trailers metadata.MD
	response, err := w.streams.Tombstone(testContext(w.t), &streams.TombstoneReq{Options: options}, grpc.Trailer(&trailers))
	return response.GetPosition().GetCommitPosition(), trailers, err
}

// start and end as a revision or position; others are literal.
const (
	fromStart = -1
	fromEnd   = -2
)

func streamRead(stream string, from int64, backwards bool, count uint64) *streams.ReadReq {
	source := &streams.ReadReq_Options_StreamOptions{StreamIdentifier: identifier(stream)}
	switch from {
	case fromStart:
		source.RevisionOption = &streams.ReadReq_Options_StreamOptions_Start{Start: &shared.Empty{}}
	case fromEnd:
		source.RevisionOption = &streams.ReadReq_Options_StreamOptions_End{End: &shared.Empty{}}
	default:
		source.RevisionOption = &streams.ReadReq_Options_StreamOptions_Revision{Revision: uint64(from)}
	}
	return readRequest(&streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_Stream{Stream: source}, CountOption: &streams.ReadReq_Options_Count{Count: count},
	}, backwards)
}

func allRead(from int64, backwards bool, count uint64) *streams.ReadReq {
	source := &streams.ReadReq_Options_AllOptions{}
	switch from {
	case fromStart:
		source.AllOption = &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}
	case fromEnd:
		source.AllOption = &streams.ReadReq_Options_AllOptions_End{End: &shared.Empty{}}
	default:
		source.AllOption = &streams.ReadReq_Options_AllOptions_Position{Position: &streams.ReadReq_Options_Position{
			CommitPosition: uint64(from), PreparePosition: uint64(from),
		}}
	}
	return readRequest(&streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_All{All: source}, CountOption: &streams.ReadReq_Options_Count{Count: count},
	}, backwards)
}

func readRequest(options *streams.ReadReq_Options, backwards bool) *streams.ReadReq {
	if backwards {
		options.ReadDirection = streams.ReadReq_Options_Backwards
	}
	options.FilterOption = &streams.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}}
	options.UuidOption = &streams.ReadReq_Options_UUIDOption{
		Content: &streams.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}},
	}
	return &streams.ReadReq{Options: options}
}

func subscribing(request *streams.ReadReq) *streams.ReadReq {
	request.Options.CountOption = &streams.ReadReq_Options_Subscription{
		Subscription: &streams.ReadReq_Options_SubscriptionOptions{},
	}
	return request
}

type filterOn struct {
	byType     bool
	regex      string
	prefixes   []string
	window     uint32 // 0 = the count arm
	multiplier uint32
}

func filtered(request *streams.ReadReq, f filterOn) *streams.ReadReq {
	expression := &streams.ReadReq_Options_FilterOptions_Expression{Regex: f.regex, Prefix: f.prefixes}
	options := &streams.ReadReq_Options_FilterOptions{
		CheckpointIntervalMultiplier: f.multiplier,
		Filter:                       &streams.ReadReq_Options_FilterOptions_StreamIdentifier{StreamIdentifier: expression},
		Window:                       &streams.ReadReq_Options_FilterOptions_Count{Count: &shared.Empty{}},
	}
	if f.byType {
		options.Filter = &streams.ReadReq_Options_FilterOptions_EventType{EventType: expression}
	}
	if f.window > 0 {
		options.Window = &streams.ReadReq_Options_FilterOptions_Max{Max: f.window}
	}
	request.Options.FilterOption = &streams.ReadReq_Options_Filter{Filter: options}
	return request
}

// messages runs a read to its end.
func (w *wire) messages(request *streams.ReadReq) ([]*streams.ReadResp, metadata.MD, error) {
	w.t.Helper()
	call, err := w.streams.Read(testContext(w.t), request)
	require.NoError(w.t, err)
	var out []*streams.ReadResp
	for {
		message, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return out, call.Trailer(), nil
		}
		if err != nil {
			return out, call.Trailer(), err
		}
		out = append(out, message)
	}
}

// read runs a read that must succeed with nothing but events.
func (w *wire) read(request *streams.ReadReq) []event {
	w.t.Helper()
	messages, _, err := w.messages(request)
	require.NoError(w.t, err)
	out := []event{}
	for _, message := range messages {
		require.NotNil(w.t, message.GetEvent(), "unexpected message %v", message)
		out = append(out, toEvent(w.t, message))
	}
	return out
}

func toEvent(tb testing.TB, message *streams.ReadResp) event {
	tb.Helper()
	recorded := message.GetEvent().GetEvent()
	var id uuid.UUID
	structured := recorded.GetId().GetStructured()
	binary.BigEndian.PutUint64(id[:8], uint64(structured.GetMostSignificantBits()))
	binary.BigEndian.PutUint64(id[8:], uint64(structured.GetLeastSignificantBits()))
	require.Equal(tb, recorded.GetCommitPosition(), recorded.GetPreparePosition())
	require.Equal(tb, recorded.GetCommitPosition(), message.GetEvent().GetCommitPosition())
	return event{
		id: id, kind: recorded.GetMetadata()["type"], data: string(recorded.GetData()), custom: string(recorded.GetCustomMetadata()),
		isJSON: recorded.GetMetadata()["content-type"] == "application/json", revision: recorded.GetStreamRevision(),
		position: recorded.GetCommitPosition(), stream: string(recorded.GetStreamIdentifier().GetStreamName()),
	}
}

func revisions(events []event) []uint64 {
	out := []uint64{}
	for _, e := range events {
		out = append(out, e.revision)
	}
	return out
}

func positions(events []event) []uint64 {
	out := []uint64{}
	for _, e := range events {
		out = append(out, e.position)
	}
	return out
}

func kinds(events []event) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, e.kind)
	}
	return out
}

// requireFault checks a status and the trailers that go with it.
func requireFault(tb testing.TB, err error, trailers metadata.MD, code fmt.Stringer, want map[string]string) {
	tb.Helper()
	require.Error(tb, err)
	require.Equal(tb, code.String(), status.Code(err).String(), "%v", err)
	for key, value := range want {
		require.Equal(tb, []string{value}, trailers.Get(key), "trailer %s", key)
	}
	if len(want) == 0 {
		require.Empty(tb, trailers.Get("exception"))
	}
}

const everything = ^uint64(0)
