package embedded

import (
	"bytes"
	"math"
	"sort"
	"sync"
)

// A tail keeps the newest published events in memory for live subscribers, who pull from it at their own pace.
// Keys grow from event to event: positions for $all, revisions for a stream.
//
// A subscriber that asks for something older than the tail has fallen behind and reads from storage until it
// reaches the tail again. So a slow subscriber costs nobody memory or time.
type tail struct {
	maxRecords, maxBytes int
	key                  func(*record) uint64

	mu      sync.Mutex
	records []*record
	bytes   int
	floor   uint64        // every published event with a key from here on is, or will come, in records
	wake    chan struct{} // closed at the next publication; nil while nobody waits

	subscribers int // of a stream's tail, guarded by tails.mu
}

const (
	allTailRecords    = 16 << 10
	allTailBytes      = 8 << 20
	streamTailRecords = 512
	streamTailBytes   = 1 << 20

	// unknownFloor makes a tail useless until its floor is known.
	unknownFloor = math.MaxUint64
)

func positionKey(r *record) uint64 { return r.position }
func revisionKey(r *record) uint64 { return uint64(r.revision) }

// from copies the events with keys from next on into dst. It reports false when the tail no longer reaches back
// that far. When there are none yet, wait is closed once there may be some.
func (t *tail) from(next uint64, dst []*record) (n int, wait <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next < t.floor {
		return 0, nil, false
	}
	first := sort.Search(len(t.records), func(i int) bool { return t.key(t.records[i]) >= next })
	if n = copy(dst, t.records[first:]); n > 0 {
		return n, nil, true
	}
	if t.wake == nil {
		t.wake = make(chan struct{})
	}
	return 0, t.wake, true
}

// at returns the event with a key, nil if it is not here.
func (t *tail) at(key uint64) *record {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.records) == 0 || key < t.key(t.records[0]) {
		return nil
	}
	i := sort.Search(len(t.records), func(i int) bool { return t.key(t.records[i]) >= key })
	if i == len(t.records) || t.key(t.records[i]) != key {
		return nil
	}
	return t.records[i]
}

func (t *tail) addLocked(r *record) {
	t.records = append(t.records, r)
	t.bytes += len(r.wire)
}

// settleLocked drops what is beyond the limits and wakes the waiting.
func (t *tail) settleLocked() {
	drop := 0
	for len(t.records)-drop > t.maxRecords || t.bytes > t.maxBytes {
		oldest := t.records[drop]
		t.bytes -= len(oldest.wire)
		if t.floor != unknownFloor {
			t.floor = max(t.floor, t.key(oldest)+1)
		}
		t.records[drop] = nil
		drop++
	}
	t.records = t.records[drop:]
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// tails holds the tail of $all and one for each stream that somebody subscribes to.
type tails struct {
	all *tail

	mu       sync.Mutex
	byStream map[string]*tail
}

func newTails(floor uint64) *tails {
	return &tails{
		all:      &tail{maxRecords: allTailRecords, maxBytes: allTailBytes, key: positionKey, floor: floor},
		byStream: make(map[string]*tail),
	}
}

func (ts *tails) publish(records []record) {
	ts.all.mu.Lock()
	for i := range records {
		ts.all.addLocked(&records[i])
	}
	ts.all.settleLocked()
	ts.all.mu.Unlock()

	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.byStream) == 0 {
		return
	}
	for i := range records {
		t := ts.byStream[records[i].stream]
		if t == nil {
			continue
		}
		// A copy, because a quiet stream's few events would keep the memory of all the groups they came in.
		kept := records[i]
		kept.wire = bytes.Clone(kept.wire)
		t.mu.Lock()
		t.addLocked(&kept)
		t.settleLocked()
		t.mu.Unlock()
	}
}

// join returns the tail of a stream and counts its subscriber. head is asked for the stream's published head
// after the tail has begun to collect, so nothing published in between is missed.
func (ts *tails) join(stream string, publishedHead func() (head, error)) (*tail, error) {
	ts.mu.Lock()
	t := ts.byStream[stream]
	if t == nil {
		t = &tail{maxRecords: streamTailRecords, maxBytes: streamTailBytes, key: revisionKey, floor: unknownFloor}
		ts.byStream[stream] = t
	}
	t.subscribers++
	ts.mu.Unlock()

	h, err := publishedHead()
	if err != nil {
		ts.leave(stream, t)
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.floor == unknownFloor {
		t.floor = uint64(h.last + 1)
		if h.tombstoned() {
			t.floor = tombstoneRevision
		}
	}
	return t, nil
}

func (ts *tails) leave(stream string, t *tail) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.subscribers--
	if t.subscribers == 0 {
		delete(ts.byStream, stream)
	}
}
