package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"
)

// Reading goes page by page: an iterator lives only while a page is filled, never while a client is slow.
const (
	pageRecords = 1024
	pageBytes   = 256 << 10
	minArena    = 4 << 10
	maxArena    = 64 << 10
	// pageConsidered bounds the events that a filter may reject before the page is handed out, empty or not.
	pageConsidered = 16 << 10
)

// page is a run of events. It owns the memory of its records. A record without content is a checkpoint.
type page struct {
	records []record
	arena   []byte // where the next event is copied to
	bytes   int    // of all events
	next    uint64 // where the next page begins
	last    uint64 // position of the last event considered, also when it was not selected
	seen    int    // events considered
	end     bool   // nothing is left
}

func (p *page) full() bool {
	return len(p.records) >= pageRecords || p.bytes >= pageBytes || p.seen >= pageConsidered
}

// add copies an event into the page.
func (p *page) add(position uint64, v *recordView) {
	start := len(p.arena)
	if cap(p.arena)-start < len(v.wire) {
		// Records already in the page keep the memory they have.
		p.arena = make([]byte, 0, max(min(2*cap(p.arena), maxArena), minArena, len(v.wire)))
		start = 0
	}
	p.arena = append(p.arena, v.wire...)
	p.bytes += len(v.wire)
	p.records = append(p.records, record{
		position: position, revision: v.revision, created: v.created, wire: p.arena[start:len(p.arena):len(p.arena)],
	})
}

var errWrongPosition = errors.New("position is not that of an event")

// checkPosition reports errWrongPosition unless an event begins at the position, or the log begins or ends there.
func (l *eventLog) checkPosition(position uint64) error {
	if position == 0 || position == l.end.Load() {
		return nil
	}
	if position > l.visible.Load() {
		return errWrongPosition
	}
	_, closer, err := l.db.Get(appendEventKey(nil, position))
	if errors.Is(err, pebble.ErrNotFound) {
		return errWrongPosition
	}
	if err != nil {
		return fmt.Errorf("check position: %w", err)
	}
	return closer.Close()
}

// allForward reads $all from one position to another, both inclusive. progress, if not nil, counts what the filter
// saw and puts checkpoints between the events.
func (l *eventLog) allForward(from, to, limit uint64, f *filter, progress *searchProgress) (page, error) {
	p := page{next: from, end: true}
	if from > to || limit == 0 {
		return p, nil
	}
	iter, err := l.eventIter(from, to+1)
	if err != nil {
		return page{}, err
	}
	for ok := iter.First(); ok; ok = iter.Next() {
		if p.full() || uint64(len(p.records)) >= limit {
			p.end = false
			break
		}
		if err := p.consider(iter, f); err != nil {
			return page{}, errors.Join(err, iter.Close())
		}
		if progress != nil && progress.step(p.last) {
			p.records = append(p.records, record{position: p.last})
		}
		p.next = p.last + 1
	}
	if p.end {
		p.next = to + 1
	}
	return p, iter.Close()
}

// allBackward reads $all from the event before a position down to the first.
func (l *eventLog) allBackward(before uint64, limit uint64, f *filter) (page, error) {
	p := page{next: before, end: true}
	if limit == 0 {
		return p, nil
	}
	iter, err := l.eventIter(0, before)
	if err != nil {
		return page{}, err
	}
	for ok := iter.Last(); ok; ok = iter.Prev() {
		if p.full() || uint64(len(p.records)) >= limit {
			p.end = false
			break
		}
		if err := p.consider(iter, f); err != nil {
			return page{}, errors.Join(err, iter.Close())
		}
		p.next = p.last
	}
	return p, iter.Close()
}

// eventIter iterates over the events in [from, to).
func (l *eventLog) eventIter(from, to uint64) (*pebble.Iterator, error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: appendEventKey(nil, from), UpperBound: appendEventKey(nil, to),
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return iter, nil
}

func (p *page) consider(iter *pebble.Iterator, f *filter) error {
	value, err := iter.ValueAndErr()
	if err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	view, err := parseRecord(value)
	if err != nil {
		return err
	}
	p.last = eventKeyPosition(iter.Key())
	p.seen++
	if f.matchesView(&view) {
		p.add(p.last, &view)
	}
	return nil
}

// streamReader reads one stream as it is published when the reader is made.
type streamReader struct {
	log     *eventLog
	stream  string
	head    head
	first   int64 // first visible revision
	expired int64 // events created before are hidden by $maxAge
}

func (l *eventLog) readStream(ctx context.Context, stream string) (streamReader, error) {
	h, err := l.publishedHead(ctx, stream)
	if err != nil {
		return streamReader{}, err
	}
	h = h.effective(stream)
	r := streamReader{
		log: l, stream: stream, head: h, first: h.firstVisible(), expired: math.MinInt64,
	}
	if h.rules.maxAge > 0 {
		const ticksPerSecond = 10_000_000
		age := min(h.rules.maxAge, math.MaxInt64/ticksPerSecond/2)
		r.expired = ticks(l.now()) - age*ticksPerSecond
	}
	return r, nil
}

// missing tells that the stream has no event, or was deleted softly.
func (r *streamReader) missing() bool { return r.head.last == noEvents || r.head.softDeleted() }

// forward reads from a revision on.
func (r *streamReader) forward(from int64, limit uint64) (page, error) {
	from = max(from, r.first)
	p := page{next: uint64(from), end: true}
	if from > r.head.last || limit == 0 {
		return p, nil
	}
	if r.expired != math.MinInt64 {
		fresh, err := r.firstFresh(from)
		if err != nil {
			return page{}, err
		}
		if from = fresh; from > r.head.last {
			p.next = uint64(from)
			return p, nil
		}
	}
	c, err := r.cursor(from, r.head.last)
	if err != nil {
		return page{}, err
	}
	for ok := c.index.First(); ok; ok = c.index.Next() {
		if p.full() || uint64(len(p.records)) >= limit {
			p.end = false
			break
		}
		if err := c.load(&p, r); err != nil {
			return page{}, errors.Join(err, c.close())
		}
		p.next = uint64(indexKeyRevision(c.index.Key())) + 1
	}
	return p, c.close()
}

// backward reads from a revision down.
func (r *streamReader) backward(from int64, limit uint64) (page, error) {
	from = min(from, r.head.last)
	p := page{next: uint64(from), end: true}
	if from < r.first || limit == 0 {
		return p, nil
	}
	c, err := r.cursor(r.first, from)
	if err != nil {
		return page{}, err
	}
	for ok := c.index.Last(); ok; ok = c.index.Prev() {
		revision := indexKeyRevision(c.index.Key())
		if p.full() || uint64(len(p.records)) >= limit {
			p.next, p.end = uint64(revision), false
			break
		}
		if err := c.load(&p, r); err != nil {
			return page{}, errors.Join(err, c.close())
		}
	}
	return p, c.close()
}

// firstFresh finds the first revision from which on events are young enough, as far as clocks go forward.
func (r *streamReader) firstFresh(from int64) (int64, error) {
	low, high := from, r.head.last+1
	for low < high {
		middle := low + (high-low)/2
		view, closer, err := r.log.eventOf(r.stream, middle)
		if err != nil {
			return 0, err
		}
		fresh := view.created >= r.expired
		if err := closer.Close(); err != nil {
			return 0, fmt.Errorf("read event: %w", err)
		}
		if fresh {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low, nil
}

// streamCursor walks a stream's index and fetches the events it points to.
type streamCursor struct {
	log    *eventLog
	index  *pebble.Iterator
	events *pebble.Iterator // made when an event is not in the tail
	key    []byte
}

func (r *streamReader) cursor(from, to int64) (*streamCursor, error) {
	index, err := r.log.db.NewIter(&pebble.IterOptions{
		LowerBound: appendIndexKey(nil, r.stream, from),
		UpperBound: append(appendIndexKey(nil, r.stream, to), 0),
	})
	if err != nil {
		return nil, fmt.Errorf("read stream index: %w", err)
	}
	return &streamCursor{log: r.log, index: index}, nil
}

func (c *streamCursor) close() error {
	err := c.index.Close()
	if c.events != nil {
		err = errors.Join(err, c.events.Close())
	}
	return err
}

// load adds the event under the index iterator to the page unless it is too old.
func (c *streamCursor) load(p *page, r *streamReader) error {
	value, err := c.index.ValueAndErr()
	if err != nil {
		return fmt.Errorf("read stream index: %w", err)
	}
	position, _ := parseIndexValue(value)
	p.seen++
	p.last = position
	if recent := c.log.tails.all.at(position); recent != nil {
		if recent.created >= r.expired {
			p.records = append(p.records, *recent)
			p.bytes += len(recent.wire)
		}
		return nil
	}
	view, err := c.fetch(position)
	if err != nil {
		return err
	}
	if view.created >= r.expired {
		p.add(position, &view)
	}
	return nil
}

// fetch reads the event at a position from storage.
func (c *streamCursor) fetch(position uint64) (recordView, error) {
	found := false
	c.key = appendEventKey(c.key[:0], position)
	if c.events == nil {
		events, err := c.log.eventIter(0, math.MaxUint64)
		if err != nil {
			return recordView{}, err
		}
		c.events = events
	} else {
		// The events of one append are neighbours.
		found = c.events.Valid() && c.events.Next() && bytes.Equal(c.events.Key(), c.key)
	}
	if !found && (!c.events.SeekGE(c.key) || !bytes.Equal(c.events.Key(), c.key)) {
		return recordView{}, errors.Join(fmt.Errorf("the index points to position %d, where no event is", position), c.events.Error())
	}
	value, err := c.events.ValueAndErr()
	if err != nil {
		return recordView{}, fmt.Errorf("read event: %w", err)
	}
	return parseRecord(value)
}

// eventOf fetches one event of a stream; the caller closes closer when done with the view.
func (l *eventLog) eventOf(stream string, revision int64) (view recordView, closer interface{ Close() error }, err error) {
	position, _, found, err := l.lookupIndex(stream, revision)
	if err != nil {
		return recordView{}, nil, err
	}
	if !found {
		return recordView{}, nil, fmt.Errorf("the index has no event %d of the stream", revision)
	}
	value, valueCloser, err := l.db.Get(appendEventKey(nil, position))
	if err != nil {
		return recordView{}, nil, fmt.Errorf("read event: %w", err)
	}
	if view, err = parseRecord(value); err != nil {
		return recordView{}, nil, errors.Join(err, valueCloser.Close())
	}
	return view, valueCloser, nil
}

// metadataAt returns the JSON of a metadata event, nil if it is not JSON.
func (l *eventLog) metadataAt(metastream string, revision int64) ([]byte, error) {
	if revision == noEvents {
		return nil, nil
	}
	view, closer, err := l.eventOf(metastream, revision)
	if err != nil {
		return nil, err
	}
	var message streams.ReadResp
	err = proto.Unmarshal(view.wire, &message)
	if err = errors.Join(err, closer.Close()); err != nil {
		return nil, fmt.Errorf("read metadata event: %w", err)
	}
	event := message.GetEvent().GetEvent()
	if event.GetMetadata()[metadataContentType] != contentTypeJSON {
		return nil, nil
	}
	return event.GetData(), nil
}
