package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// eventLog is the durable log with its indexes.
//
// Appends are checked and encoded by their callers, one at a time under mu, into the open group. One committer
// goroutine takes the open group, writes it to storage with one synced commit and then publishes it: readers,
// subscribers and answers to callers only ever see published groups. While a group is being synced the next one
// is already filling, so checks overlap the sync.
type eventLog struct {
	db      *pebble.DB
	fatal   func(msg string) // normally ends the process
	logger  *slog.Logger
	now     func() time.Time
	metrics *metrics
	space   *diskSpace
	tails   *tails

	mu    sync.Mutex
	heads *headCache
	open  *group        // being filled
	room  chan struct{} // closed when a full open group was taken; nil while it is not full
	next  uint64        // position of the next event
	shut  bool          // no more appends
	arena []byte        // where records are encoded, shared by groups
	// committing is the group between taken and published.
	committing *group
	scratch    []byte

	wake    chan struct{} // tells the committer that the open group is not empty
	visible atomic.Uint64 // position of the last published event; 0 in an empty log
	end     atomic.Uint64 // position after the last published event
	failed  chan struct{} // closed on a fatal storage error
	failing sync.Once
	stopped chan struct{} // closed when the committer is gone
}

const (
	// maxGroupBytes bounds what one commit may hold; further appends wait for the next group.
	maxGroupBytes = 8 << 20

	headCacheEntries = 64 << 10

	arenaChunk = 64 << 10
)

var (
	errShutdown = errors.New("event log is shut down")
	errFailed   = errors.New("event log has failed")
)

// group is the set of appends that one synced commit makes durable.
type group struct {
	batch   *pebble.Batch
	records []record // in position order
	touched []*entry // streams whose head changed, each once
	heads   []head   // their heads after the group, set when the group is taken
	bytes   int
	appends int
	done    chan struct{} // closed once the group is durable and visible
}

type logOptions struct {
	dir        string
	fs         vfs.FS
	cacheBytes int64
	memTable   uint64
	prefill    int64 // see prefillFS
	logger     *slog.Logger
	fatal      func(msg string)
	now        func() time.Time
	metrics    *metrics
	space      *diskSpace
	lock       *pebble.Lock
}

func openLog(o logOptions) (*eventLog, error) {
	l := &eventLog{
		fatal:   o.fatal,
		logger:  o.logger,
		now:     o.now,
		metrics: o.metrics,
		space:   o.space,
		heads:   newHeadCache(headCacheEntries),
		wake:    make(chan struct{}, 1),
		failed:  make(chan struct{}),
		stopped: make(chan struct{}),
	}
	db, err := openStorage(o, l.die)
	if err != nil {
		return nil, err
	}
	l.db = db
	if err := l.recover(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	l.tails = newTails(l.visible.Load() + 1)
	l.open = l.newGroup()
	go l.commitLoop()
	return l, nil
}

// recover finds the end of the log and checks that this program understands its layout.
func (l *eventLog) recover() error {
	value, closer, err := l.db.Get(formatKey())
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		if err := l.db.Set(formatKey(), []byte(formatVersion), pebble.Sync); err != nil {
			return fmt.Errorf("write format version: %w", err)
		}
	case err != nil:
		return fmt.Errorf("read format version: %w", err)
	default:
		found := string(value)
		if err := closer.Close(); err != nil {
			return fmt.Errorf("read format version: %w", err)
		}
		if found != formatVersion {
			return fmt.Errorf("the log has layout version %q, this program reads version %q", found, formatVersion)
		}
	}
	l.next = firstPosition
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEvent}, UpperBound: []byte{prefixEvent + 1}})
	if err != nil {
		return fmt.Errorf("find the end of the log: %w", err)
	}
	if iter.Last() {
		position := eventKeyPosition(iter.Key())
		value, err := iter.ValueAndErr()
		if err != nil {
			return errors.Join(fmt.Errorf("read the last event: %w", err), iter.Close())
		}
		l.visible.Store(position)
		l.next = position + uint64(len(value))
	}
	l.end.Store(l.next)
	if err := iter.Close(); err != nil {
		return fmt.Errorf("find the end of the log: %w", err)
	}
	return nil
}

// die is told of errors after which storage cannot be trusted. First of all the process ends, so that nobody is
// answered; should it go on, the log is marked as broken and acknowledges nothing any more.
func (l *eventLog) die(msg string) {
	l.fatal(msg)
	l.failing.Do(func() { close(l.failed) })
}

// close refuses further appends, makes the accepted ones durable and closes the storage. Readers must be gone.
func (l *eventLog) close() error {
	l.mu.Lock()
	already := l.shut
	l.shut = true
	l.mu.Unlock()
	if already {
		<-l.stopped
		return nil
	}
	l.signal()
	select {
	case <-l.stopped:
	case <-l.failed:
	}
	select {
	case <-l.failed:
		// A goroutine of the storage may be parked for ever inside its fatal error; closing would wait for it.
		return errFailed
	default:
	}
	if err := l.db.Close(); err != nil {
		return fmt.Errorf("close event log: %w", err)
	}
	return nil
}

func (l *eventLog) newGroup() *group {
	return &group{batch: l.db.NewBatch(), done: make(chan struct{})}
}

func (l *eventLog) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *eventLog) commitLoop() {
	defer close(l.stopped)
	for {
		g, shut := l.take()
		if g == nil {
			if shut {
				return
			}
			<-l.wake
			// Whoever can run now may have an append to add to this group: one sync then serves more of them. On an
			// idle machine this costs nothing.
			runtime.Gosched()
			continue
		}
		if err := l.commit(g); err != nil {
			// What was checked against the lost group cannot be taken back.
			l.die(err.Error())
			return
		}
	}
}

// take removes the open group when it holds something.
func (l *eventLog) take() (g *group, shut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open.records) == 0 {
		return nil, l.shut
	}
	g, l.open = l.open, l.newGroup()
	l.committing = g
	for _, e := range g.touched {
		g.heads = append(g.heads, e.tentative)
	}
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	return g, l.shut
}

// commit makes a group durable and then visible. An error leaves open whether it is durable.
func (l *eventLog) commit(g *group) error {
	if err := g.index(); err != nil {
		return err
	}
	begin := time.Now()
	if err := l.apply(g.batch); err != nil {
		return err
	}
	l.metrics.committed(g, time.Since(begin))
	l.space.wrote(g.bytes)

	// Positions first: whoever sees a head must be able to read up to it.
	newest := &g.records[len(g.records)-1]
	l.end.Store(newest.position + uint64(recordHeaderSize+len(newest.wire)))
	l.visible.Store(newest.position)
	l.mu.Lock()
	l.committing = nil
	for i, e := range g.touched {
		e.published = g.heads[i]
		if e.lastGroup == g {
			e.lastGroup = nil
		}
		l.heads.unpinLocked(e)
	}
	l.mu.Unlock()
	l.tails.publish(g.records)
	close(g.done)
	if err := g.batch.Close(); err != nil {
		l.logger.Warn("release batch", "error", err)
	}
	return nil
}

// apply writes a batch and syncs it. Some errors of the disk Pebble reports by panicking.
func (l *eventLog) apply(batch *pebble.Batch) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("commit: %v", cause)
		}
	}()
	if err := l.db.Apply(batch, pebble.Sync); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// index adds the heads and indexes to the batch. They follow the events, one kind after the other, because storage
// inserts neighbouring keys faster.
func (g *group) index() error {
	key := make([]byte, 0, 256)
	for i, e := range g.touched {
		key = appendHeadKey(key[:0], e.stream)
		split := len(key)
		key = g.heads[i].encode(key)
		if err := g.batch.Set(key[:split], key[split:], nil); err != nil {
			return fmt.Errorf("add head to batch: %w", err)
		}
	}
	for i := range g.records {
		r := &g.records[i]
		key = appendIDKey(key[:0], hashStream(r.stream), r.id)
		split := len(key)
		key = binary.BigEndian.AppendUint64(key, uint64(r.revision))
		if err := g.batch.Set(key[:split], key[split:], nil); err != nil {
			return fmt.Errorf("add id to batch: %w", err)
		}
	}
	for i := range g.records {
		r := &g.records[i]
		key = appendIndexKey(key[:0], r.stream, r.revision)
		split := len(key)
		key = appendIndexValue(key, r.position, r.id)
		if err := g.batch.Set(key[:split], key[split:], nil); err != nil {
			return fmt.Errorf("add index to batch: %w", err)
		}
	}
	return nil
}

// wait blocks until a group is durable and visible.
func (l *eventLog) wait(ctx context.Context, g *group) error {
	if g == nil {
		return nil
	}
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.failed:
		return errFailed
	}
}

// loadHead reads a stream's head from storage.
func (l *eventLog) loadHead(stream string) (head, error) {
	value, closer, err := l.db.Get(appendHeadKey(nil, stream))
	if errors.Is(err, pebble.ErrNotFound) {
		return head{last: noEvents}, nil
	}
	if err != nil {
		return head{}, fmt.Errorf("read head of stream: %w", err)
	}
	h, err := decodeHead(value)
	return h, errors.Join(err, closer.Close())
}

// lookupIndex returns where an event of a stream is and its id.
func (l *eventLog) lookupIndex(stream string, revision int64) (position uint64, id eventID, found bool, err error) {
	value, closer, err := l.db.Get(appendIndexKey(nil, stream, revision))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, eventID{}, false, nil
	}
	if err != nil {
		return 0, eventID{}, false, fmt.Errorf("read stream index: %w", err)
	}
	position, id = parseIndexValue(value)
	return position, id, true, closer.Close()
}
