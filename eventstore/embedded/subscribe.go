package embedded

import (
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
)

// liveBatch is how many events a live subscriber takes from a tail at once.
const liveBatch = 256

// feed is what a subscription follows: $all or one stream. Keys grow from event to event.
type feed interface {
	// tail returns where live events are.
	tail() *tail
	// stored reads a page of published events from a key on.
	stored(from uint64) (page, error)
	// key is the key of an event.
	key(r *record) uint64
	// ended reports why no event can follow this one, nil if one can.
	ended(r *record) error
}

// subscription sends a feed to one client. It alternates between reading from storage, while it is behind what
// the tail holds, and following the tail. Only its own client makes it slow.
type subscription struct {
	*readCall
	feed     feed
	filter   *filter
	progress *searchProgress // with a filter
	next     uint64          // key from which on events are to be sent
	live     bool            // caught_up was sent since the last read from storage
}

func (s *subscription) run() error {
	s.service.metrics.subscribers.Inc()
	defer s.service.metrics.subscribers.Dec()
	if err := s.confirm(); err != nil {
		return err
	}
	batch := make([]*record, liveBatch)
	for {
		n, wait, ok := s.feed.tail().from(s.next, batch)
		switch {
		case !ok:
			if err := s.catchUp(); err != nil {
				return err
			}
		case n > 0:
			if err := s.deliver(batch[:n]); err != nil {
				return err
			}
			clear(batch[:n])
		default:
			if err := s.idle(wait); err != nil {
				return err
			}
		}
		select {
		case <-s.service.closing:
			return shuttingDown()
		default:
		}
	}
}

// catchUp sends one page from storage.
func (s *subscription) catchUp() error {
	s.live = false
	p, err := s.feed.stored(s.next)
	if err != nil {
		return err
	}
	for i := range p.records {
		r := &p.records[i]
		if r.wire == nil {
			err = s.sendCheckpoint(r.position)
		} else {
			err = s.sendEvent(r)
		}
		if err != nil {
			return err
		}
	}
	s.next = p.next
	return s.ctx.Err()
}

func (s *subscription) deliver(batch []*record) error {
	for _, r := range batch {
		if s.filter.matches(r) {
			if err := s.sendEvent(r); err != nil {
				return err
			}
		}
		if s.progress != nil && s.progress.step(r.position) {
			if err := s.sendCheckpoint(r.position); err != nil {
				return err
			}
		}
		s.next = s.feed.key(r) + 1
		if err := s.feed.ended(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *subscription) sendCheckpoint(position uint64) error {
	return s.call.Send(&streams.ReadResp{Content: &streams.ReadResp_Checkpoint_{Checkpoint: &streams.ReadResp_Checkpoint{
		CommitPosition: position, PreparePosition: position,
	}}})
}

// idle says so, once, when everything published was sent, and waits for more.
func (s *subscription) idle(wait <-chan struct{}) error {
	if !s.live {
		s.live = true
		if s.progress != nil && s.progress.report() {
			if err := s.sendCheckpoint(s.progress.last); err != nil {
				return err
			}
		}
		if err := s.call.Send(&streams.ReadResp{Content: &streams.ReadResp_CaughtUp_{
			CaughtUp: &streams.ReadResp_CaughtUp{},
		}}); err != nil {
			return err
		}
	}
	select {
	case <-wait:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.service.closing:
		return shuttingDown()
	case <-s.service.log.failed:
		return shuttingDown()
	}
}

func (s *subscription) confirm() error {
	return s.call.Send(&streams.ReadResp{Content: &streams.ReadResp_Confirmation{
		Confirmation: &streams.ReadResp_SubscriptionConfirmation{SubscriptionId: uuid.NewString()},
	}})
}

// allFeed follows $all by position.
type allFeed struct {
	log      *eventLog
	filter   *filter
	progress *searchProgress
}

func (f *allFeed) tail() *tail          { return f.log.tails.all }
func (f *allFeed) key(r *record) uint64 { return r.position }
func (f *allFeed) ended(*record) error  { return nil }

func (f *allFeed) stored(from uint64) (page, error) {
	return f.log.allForward(from, f.log.visible.Load(), endOfLog, f.filter, f.progress)
}

func (r *readCall) subscribeToAll(options *streams.ReadReq_Options_AllOptions, f *filter) error {
	log := r.service.log
	end := log.end.Load()
	position, err := r.allPosition(options)
	if err != nil {
		return err
	}
	next := position
	switch asked := options.GetPosition(); {
	case position == endOfLog:
		next = log.visible.Load() + 1
	case position == end:
		// No event is there yet. The one that will be is not yet known to the subscriber.
	case asked != nil && asked.GetPreparePosition() == asked.GetCommitPosition():
		// An event at the commit position lies after a pair with a smaller prepare position.
		next = position + 1
	}
	s := &subscription{readCall: r, filter: f, next: next}
	if f != nil {
		s.progress = &searchProgress{interval: f.interval}
	}
	s.feed = &allFeed{log: log, filter: f, progress: s.progress}
	return s.run()
}

// streamFeed follows one stream by revision.
type streamFeed struct {
	call   *readCall
	stream string
	live   *tail
}

func (f *streamFeed) tail() *tail          { return f.live }
func (f *streamFeed) key(r *record) uint64 { return uint64(r.revision) }

func (f *streamFeed) ended(r *record) error {
	if r.revision == tombstoneRevision {
		return streamDeleted(f.stream)
	}
	return nil
}

func (f *streamFeed) stored(from uint64) (page, error) {
	reader, err := f.call.service.log.readStream(f.call.ctx, f.stream)
	if err != nil {
		return page{}, err
	}
	if reader.head.tombstoned() || f.call.ownerTombstoned(f.stream) {
		return page{}, streamDeleted(f.stream)
	}
	end := uint64(reader.head.last + 1)
	if reader.missing() || from >= end {
		return page{next: max(from, end), end: true}, nil
	}
	p, err := reader.forward(int64(from), endOfLog)
	if p.end {
		p.next = max(p.next, end)
	}
	return p, err
}

func (r *readCall) subscribeToStream(name string, options *streams.ReadReq_Options_StreamOptions) error {
	from, err := streamRevision(options)
	if err != nil {
		return err
	}
	log := r.service.log
	h, err := log.publishedHead(r.ctx, name)
	if err != nil {
		return err
	}
	if h.tombstoned() || r.ownerTombstoned(name) {
		return streamDeleted(name)
	}
	live, err := log.tails.join(name, func() (head, error) { return log.publishedHead(r.ctx, name) })
	if err != nil {
		return err
	}
	defer log.tails.leave(name, live)
	s := &subscription{readCall: r, feed: &streamFeed{call: r, stream: name, live: live}, next: uint64(from)}
	switch {
	case from == endOfStream:
		s.next = uint64(h.last + 1)
	case options.GetStart() == nil:
		s.next = uint64(from) + 1
	}
	return s.run()
}
