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
)

const (
	// maxAppendSize bounds the sum of data, custom metadata and twice the characters of the type over one append.
	maxAppendSize = 1 << 20

	allStream = "$all"
)

// Append implements the Append call. The request stream is read to its end before anything fails, because clients
// that cannot send the rest report that instead of the reason.
func (s *service) Append(stream streams.Streams_AppendServer) error {
	response, err := s.append(stream)
	if err != nil {
		return s.finishStream(stream, err)
	}
	return stream.SendAndClose(response)
}

func (s *service) append(stream streams.Streams_AppendServer) (*streams.AppendResp, error) {
	var (
		name    string
		want    expectation
		events  []proposed
		size    int
		refused error
		options bool
	)
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch content := message.GetContent().(type) {
		case *streams.AppendReq_Options_:
			options = true
			name = string(content.Options.GetStreamIdentifier().GetStreamName())
			want = appendExpectation(content.Options)
		case *streams.AppendReq_ProposedMessage_:
			if refused != nil {
				continue
			}
			var event proposed
			if event, refused = toProposed(content.ProposedMessage); refused != nil {
				events = nil
				continue
			}
			if size += event.size(); size > maxAppendSize {
				refused, events = appendTooLarge(), nil
				continue
			}
			events = append(events, event)
		}
	}
	if !options {
		return nil, invalidArgument("the append has no options")
	}
	if err := checkWritable(name); err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, refused
	}
	out, err := s.log.append(stream.Context(), name, want, events)
	if err != nil {
		return nil, err
	}
	switch out.status {
	case outcomeDeleted:
		return nil, streamDeleted(name)
	case outcomeWrong:
		return wrongVersionResponse(want, out.last), nil
	default:
		return successResponse(out), nil
	}
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

func appendExpectation(options *streams.AppendReq_Options) expectation {
	switch arm := options.GetExpectedStreamRevision().(type) {
	case *streams.AppendReq_Options_Revision:
		return expectedRevision(arm.Revision)
	case *streams.AppendReq_Options_NoStream:
		return expectation{kind: expectNoStream}
	case *streams.AppendReq_Options_StreamExists:
		return expectation{kind: expectExists}
	default:
		return expectation{kind: expectAny}
	}
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

func toProposed(message *streams.AppendReq_ProposedMessage) (proposed, error) {
	properties := message.GetMetadata()
	eventType, hasType := properties[metadataType]
	contentType, hasContentType := properties[metadataContentType]
	if !hasType || !hasContentType {
		return proposed{}, missingMetadata()
	}
	id, ok := toEventID(message.GetId())
	if !ok || eventType == "" {
		return proposed{}, handlerFailure()
	}
	return proposed{
		id: id, eventType: eventType, json: contentType == contentTypeJSON,
		custom: message.GetCustomMetadata(), data: message.GetData(),
	}, nil
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

func successResponse(out outcome) *streams.AppendResp {
	success := &streams.AppendResp_Success{
		CurrentRevisionOption: &streams.AppendResp_Success_NoStream{NoStream: &shared.Empty{}},
		PositionOption: &streams.AppendResp_Success_Position{Position: &streams.AppendResp_Position{
			CommitPosition: out.position, PreparePosition: out.position,
		}},
	}
	if out.last != noEvents {
		success.CurrentRevisionOption = &streams.AppendResp_Success_CurrentRevision{CurrentRevision: uint64(out.last)}
	}
	return &streams.AppendResp{Result: &streams.AppendResp_Success_{Success: success}}
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
