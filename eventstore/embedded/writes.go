package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"unicode/utf16"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// maxAppendSize bounds the sum of data, custom metadata and twice the characters of the type over one append.
	maxAppendSize = 1 << 20

	// maxAppendStored bounds what one append takes in the log. Only very many very small events get there.
	maxAppendStored = 32 << 20

	allStream = "$all"
)

// Append implements the Append call. The request stream is read to its end before anything fails, because clients
// that cannot send the rest report that instead of the reason.
func (s *service) Append(stream streams.Streams_AppendServer) error {
	response, err := s.append(stream)
	if err != nil {
		return s.finishStream(stream, err)
	}
	return stream.SendMsg(response)
}

func (s *service) append(stream streams.Streams_AppendServer) (response any, err error) {
	request, err := receiveAppend(stream)
	if err != nil {
		return nil, err
	}
	out, err := s.log.append(stream.Context(), request.stream, request.want, request.events)
	s.metrics.refused(out.status, err)
	if err != nil {
		return nil, err
	}
	switch out.status {
	case outcomeDeleted:
		return nil, streamDeleted(request.stream)
	case outcomeWrong:
		return wrongVersionResponse(request.want, out.last), nil
	default:
		return &encoded{wire: successResponse(out)}, nil
	}
}

type appendRequest struct {
	stream string
	want   expectation
	events []proposed
}

// receiveAppend reads a whole append. It stops keeping events once the append is refused.
func receiveAppend(stream streams.Streams_AppendServer) (request appendRequest, err error) {
	var (
		message appendMessage
		options bool
		refused error
		size    int
		stored  int
	)
	for {
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return appendRequest{}, err
		}
		switch {
		case message.kind == appendOptions:
			options = true
			request.stream, request.want = message.stream, message.want
		case message.kind == appendEvent && refused == nil:
			size += message.event.size()
			stored += recordSize(request.stream, &message.event)
			if refused = message.check(size, stored); refused == nil {
				request.events = append(request.events, message.event)
			}
		}
	}
	if !options {
		return appendRequest{}, invalidArgument("the append has no options")
	}
	if err := checkWritable(request.stream); err != nil {
		return appendRequest{}, err
	}
	return request, refused
}

// check refuses an event that cannot be stored; the sizes are those of the append so far.
func (m *appendMessage) check(size, stored int) error {
	switch {
	case !m.hasType || !m.hasContentType:
		return missingMetadata()
	case m.event.id == eventID{} || m.event.eventType == "":
		return handlerFailure()
	case size > maxAppendSize:
		return appendTooLarge()
	case stored > maxAppendStored:
		return invalidTransaction()
	}
	return nil
}

// Delete implements the soft delete.
func (s *service) Delete(ctx context.Context, request *streams.DeleteReq) (*streams.DeleteResp, error) {
	options := request.GetOptions()
	want := expectation{}
	switch arm := options.GetExpectedStreamRevision().(type) {
	case *streams.DeleteReq_Options_Revision:
		want = expectedRevision(arm.Revision)
	case *streams.DeleteReq_Options_NoStream:
		want.kind = expectNoStream
	case *streams.DeleteReq_Options_StreamExists:
		want.kind = expectExists
	}
	out, err := s.deletion(ctx, options.GetStreamIdentifier(), want, s.log.deleteStream)
	if err != nil {
		return nil, s.finishUnary(ctx, err)
	}
	return &streams.DeleteResp{PositionOption: &streams.DeleteResp_Position_{Position: &streams.DeleteResp_Position{
		CommitPosition: out.position, PreparePosition: out.position,
	}}}, nil
}

// Tombstone implements the hard delete.
func (s *service) Tombstone(ctx context.Context, request *streams.TombstoneReq) (*streams.TombstoneResp, error) {
	options := request.GetOptions()
	want := expectation{}
	switch arm := options.GetExpectedStreamRevision().(type) {
	case *streams.TombstoneReq_Options_Revision:
		want = expectedRevision(arm.Revision)
	case *streams.TombstoneReq_Options_NoStream:
		want.kind = expectNoStream
	case *streams.TombstoneReq_Options_StreamExists:
		want.kind = expectExists
	}
	out, err := s.deletion(ctx, options.GetStreamIdentifier(), want, s.log.tombstone)
	if err != nil {
		return nil, s.finishUnary(ctx, err)
	}
	return &streams.TombstoneResp{PositionOption: &streams.TombstoneResp_Position_{Position: &streams.TombstoneResp_Position{
		CommitPosition: out.position, PreparePosition: out.position,
	}}}, nil
}

func (s *service) deletion(
	ctx context.Context, identifier *shared.StreamIdentifier, want expectation,
	run func(context.Context, string, expectation) (outcome, error),
) (outcome, error) {
	name := string(identifier.GetStreamName())
	if err := checkWritable(name); err != nil {
		return outcome{}, err
	}
	if isMetastream(name) {
		return outcome{}, accessDenied()
	}
	out, err := run(ctx, name, want)
	s.metrics.refused(out.status, err)
	if err != nil {
		return outcome{}, err
	}
	switch out.status {
	case outcomeDeleted:
		return outcome{}, streamDeleted(name)
	case outcomeWrong:
		return outcome{}, wrongExpectedVersion(name, want.signed(), out.last)
	default:
		return out, nil
	}
}

func checkWritable(name string) error {
	switch {
	case name == "" || name == metastreamPrefix:
		return handlerFailure()
	case name == allStream:
		return accessDenied()
	case len(name) > maxStreamName:
		return invalidArgument("the stream name is too long")
	}
	return nil
}

// expectedRevision keeps revisions that no stream can have from wrapping around.
func expectedRevision(revision uint64) expectation {
	return expectation{kind: expectRevision, revision: int64(min(revision, math.MaxInt64))}
}

// signed is the notation of EventStoreDB: -1 no stream, -2 any, -4 exists.
func (e expectation) signed() int64 {
	switch e.kind {
	case expectAny:
		return -2
	case expectNoStream:
		return -1
	case expectExists:
		return -4
	default:
		return e.revision
	}
}

func toEventID(id *shared.UUID) (eventID, bool) {
	var out eventID
	switch value := id.GetValue().(type) {
	case *shared.UUID_Structured_:
		binary.BigEndian.PutUint64(out[:8], uint64(value.Structured.GetMostSignificantBits()))
		binary.BigEndian.PutUint64(out[8:], uint64(value.Structured.GetLeastSignificantBits()))
	case *shared.UUID_String_:
		parsed, err := uuid.Parse(value.String_)
		if err != nil {
			return eventID{}, false
		}
		out = eventID(parsed)
	}
	return out, out != eventID{}
}

// size is what the event counts towards maxAppendSize.
func (p *proposed) size() int { return len(p.data) + len(p.custom) + 2*characters(p.eventType) }

// characters counts UTF-16 code units, which is what EventStoreDB calls characters.
func characters(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
	}
	return n
}

// successResponse encodes an AppendResp.
func successResponse(out outcome) []byte {
	positionSize := sizeVarintField(out.position) * 2
	success := make([]byte, 0, 64)
	if out.last == noEvents {
		success = appendLen(success, 2, 0)
	} else {
		// The revision is a oneof arm: it is written even where it is zero.
		success = protowire.AppendVarint(protowire.AppendTag(success, 1, protowire.VarintType), uint64(out.last))
	}
	success = appendLen(success, 3, positionSize)
	success = appendVarintField(success, 1, out.position)
	success = appendVarintField(success, 2, out.position)
	return append(appendLen(make([]byte, 0, 64), 1, len(success)), success...)
}

// wrongVersionResponse fills the fields of before 20.6 as well, as the server does.
func wrongVersionResponse(want expectation, actual int64) *streams.AppendResp {
	wrong := &streams.AppendResp_WrongExpectedVersion{}
	if actual == noEvents {
		wrong.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &shared.Empty{}}
		wrong.CurrentRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_NoStream_20_6_0{NoStream_20_6_0: &shared.Empty{}}
	} else {
		current := uint64(actual)
		wrong.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: current}
		wrong.CurrentRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_CurrentRevision_20_6_0{CurrentRevision_20_6_0: current}
	}
	switch want.kind {
	case expectAny:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedAny{ExpectedAny: &shared.Empty{}}
		wrong.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_Any_20_6_0{Any_20_6_0: &shared.Empty{}}
	case expectExists:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &shared.Empty{}}
		wrong.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_StreamExists_20_6_0{StreamExists_20_6_0: &shared.Empty{}}
	case expectNoStream:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &shared.Empty{}}
	default:
		revision := uint64(want.revision)
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision{ExpectedRevision: revision}
		wrong.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision_20_6_0{ExpectedRevision_20_6_0: revision}
	}
	return &streams.AppendResp{Result: &streams.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: wrong}}
}
