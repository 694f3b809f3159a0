package embedded

import (
	"context"
	"fmt"
	"math"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
)

const (
	endOfLog    = math.MaxUint64 // as a position
	endOfStream = math.MaxInt64  // as a revision
)

// readCall is one Read call: a plain read or a subscription.
type readCall struct {
	service       *service
	call          streams.Streams_ReadServer
	ctx           context.Context
	options       *streams.ReadReq_Options
	backwards     bool
	limit         uint64 // of a plain read
	compatibility uint32
	stringIDs     bool
	message       encoded
}

// Read implements reads and catch-up subscriptions, of a stream and of $all.
func (s *service) Read(request *streams.ReadReq, call streams.Streams_ReadServer) error {
	return s.finishStream(call, s.read(request.GetOptions(), call))
}

func (s *service) read(options *streams.ReadReq_Options, call streams.Streams_ReadServer) error {
	r := &readCall{
		service: s, call: call, ctx: call.Context(), options: options,
		backwards:     options.GetReadDirection() == streams.ReadReq_Options_Backwards,
		compatibility: options.GetControlOption().GetCompatibility(),
	}
	_, r.stringIDs = options.GetUuidOption().GetContent().(*streams.ReadReq_Options_UUIDOption_String_)
	selected, err := parseFilter(options)
	if err != nil {
		return err
	}
	subscription := false
	switch count := options.GetCountOption().(type) {
	case *streams.ReadReq_Options_Count:
		r.limit = count.Count
	case *streams.ReadReq_Options_Subscription:
		if subscription = true; r.backwards {
			return invalidArgument("a subscription cannot go backwards")
		}
	default:
		return invalidArgument("the read has neither a count nor a subscription")
	}
	switch source := options.GetStreamOption().(type) {
	case *streams.ReadReq_Options_Stream:
		if selected != nil {
			return invalidArgument("only $all can be filtered")
		}
		name := string(source.Stream.GetStreamIdentifier().GetStreamName())
		if name == "" || name == metastreamPrefix {
			return handlerFailure()
		}
		if len(name) > maxStreamName {
			return invalidArgument("the stream name is too long")
		}
		if subscription {
			return r.subscribeToStream(name, source.Stream)
		}
		return r.readStream(name, source.Stream)
	case *streams.ReadReq_Options_All:
		if subscription {
			return r.subscribeToAll(source.All, selected)
		}
		return r.readAll(source.All, selected)
	default:
		return invalidArgument("the read names neither a stream nor $all")
	}
}

func (r *readCall) readStream(name string, options *streams.ReadReq_Options_StreamOptions) error {
	from, err := streamRevision(options)
	if err != nil {
		return err
	}
	reader, err := r.service.log.readStream(r.ctx, name)
	if err != nil {
		return err
	}
	if reader.head.tombstoned() || r.ownerTombstoned(name) {
		return streamDeleted(name)
	}
	if reader.missing() {
		return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_StreamNotFound_{
			StreamNotFound: &streams.ReadResp_StreamNotFound{
				StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(name)},
			},
		}})
	}
	read := reader.forward
	if r.backwards {
		read = reader.backward
	}
	next := from
	for left := r.limit; ; {
		p, err := read(next, left)
		if err != nil {
			return err
		}
		if err := r.sendPage(&p); err != nil {
			return err
		}
		if left -= uint64(len(p.records)); p.end || left == 0 {
			break
		}
		next = int64(p.next)
	}
	if r.compatibility == 0 {
		return nil
	}
	return r.sendStreamBounds(&reader, from)
}

// sendStreamBounds tells newer clients where the stream begins and ends.
func (r *readCall) sendStreamBounds(reader *streamReader, from int64) error {
	if !r.backwards && from < reader.first && reader.first > reader.head.last {
		if err := r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_FirstStreamPosition{
			FirstStreamPosition: uint64(reader.first),
		}}); err != nil {
			return err
		}
	}
	return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_LastStreamPosition{
		LastStreamPosition: uint64(reader.head.last),
	}})
}

// ownerTombstoned tells whether the stream is the metastream of a tombstoned stream, which ends with it.
func (r *readCall) ownerTombstoned(name string) bool {
	owner, ok := metastreamOwner(name)
	if !ok {
		return false
	}
	h, err := r.service.log.publishedHead(r.ctx, owner)
	return err == nil && h.tombstoned()
}

func (r *readCall) readAll(options *streams.ReadReq_Options_AllOptions, f *filter) error {
	log := r.service.log
	next, err := r.allPosition(options)
	if err != nil {
		return err
	}
	visible := log.visible.Load()
	for left := r.limit; ; {
		p, err := r.allPage(next, visible, left, f)
		if err != nil {
			return err
		}
		if err := r.sendPage(&p); err != nil {
			return err
		}
		if left -= uint64(len(p.records)); p.end || left == 0 {
			break
		}
		next = p.next
	}
	if r.compatibility == 0 {
		return nil
	}
	return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_LastAllStreamPosition{
		LastAllStreamPosition: &shared.AllStreamPosition{CommitPosition: visible, PreparePosition: visible},
	}})
}

// allPage reads on from a position, not beyond what was visible when the read began.
func (r *readCall) allPage(from, visible, limit uint64, f *filter) (page, error) {
	if r.backwards {
		return r.service.log.allBackward(min(from, visible+1), limit, f)
	}
	return r.service.log.allForward(from, visible, limit, f, nil)
}

// allPosition resolves where a read of $all begins: at 0, at an event, at the end of the log, or at endOfLog.
func (r *readCall) allPosition(options *streams.ReadReq_Options_AllOptions) (uint64, error) {
	switch arm := options.GetAllOption().(type) {
	case *streams.ReadReq_Options_AllOptions_Position:
		commit, prepare := arm.Position.GetCommitPosition(), arm.Position.GetPreparePosition()
		if commit == endOfLog && prepare == endOfLog {
			return endOfLog, nil
		}
		if commit < prepare {
			return 0, handlerFailure()
		}
		return commit, r.service.log.checkPosition(commit)
	case *streams.ReadReq_Options_AllOptions_End:
		return endOfLog, nil
	case *streams.ReadReq_Options_AllOptions_Start:
		return 0, nil
	default:
		return 0, invalidArgument("the read of $all has no position")
	}
}

// streamRevision resolves where a read of a stream begins.
func streamRevision(options *streams.ReadReq_Options_StreamOptions) (int64, error) {
	switch arm := options.GetRevisionOption().(type) {
	case *streams.ReadReq_Options_StreamOptions_Revision:
		if arm.Revision == endOfLog {
			return endOfStream, nil
		}
		if arm.Revision > math.MaxInt64 {
			return 0, invalidArgument("the revision is out of range")
		}
		return int64(arm.Revision), nil
	case *streams.ReadReq_Options_StreamOptions_End:
		return endOfStream, nil
	case *streams.ReadReq_Options_StreamOptions_Start:
		return 0, nil
	default:
		return 0, invalidArgument("the read of a stream has no revision")
	}
}

func (r *readCall) sendPage(p *page) error {
	for i := range p.records {
		if err := r.sendEvent(&p.records[i]); err != nil {
			return err
		}
	}
	select {
	case <-r.service.closing:
		return shuttingDown()
	default:
		return r.ctx.Err()
	}
}

func (r *readCall) sendEvent(rec *record) error {
	r.message.wire = rec.wire
	if r.stringIDs {
		wire, err := withStringID(rec.wire)
		if err != nil {
			return err
		}
		r.message.wire = wire
	}
	return r.call.SendMsg(&r.message)
}

// withStringID writes an event again with its id as text.
func withStringID(wire []byte) ([]byte, error) {
	var message streams.ReadResp
	if err := proto.Unmarshal(wire, &message); err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	event := message.GetEvent().GetEvent()
	id, _ := toEventID(event.GetId())
	event.Id = &shared.UUID{Value: &shared.UUID_String_{String_: uuid.UUID(id).String()}}
	return proto.Marshal(&message)
}
