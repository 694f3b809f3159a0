package embedded

import "context"

// entry is a stream's head in memory. All fields are guarded by eventLog.mu.
//
// published is what readers see: the head as of the last synced group. tentative also counts what is written but
// not yet synced; only the check of the next append may look at it.
type entry struct {
	stream    string
	tentative head
	published head

	pins      int           // holders that forbid eviction: callers of acquire, and groups not yet published
	lastGroup *group        // the newest unpublished group with an event of the stream; nil when all is published
	loading   chan struct{} // closed and nil once the head is there, or failure says why not
	failure   error

	newer, older *entry // in the idle list while pins is 0
}

// headCache holds the heads of the streams in use plus a bounded number of idle ones, least recently used out
// first. A stream with unpublished writes is always in it, so a head read from storage never counts unsynced data.
type headCache struct {
	byStream map[string]*entry
	idle     entry // sentinel of a ring; idle.older is the most recently used
	idleLen  int
	capacity int
}

func newHeadCache(capacity int) *headCache {
	c := &headCache{byStream: make(map[string]*entry), capacity: capacity}
	c.idle.newer, c.idle.older = &c.idle, &c.idle
	return c
}

func (c *headCache) pinLocked(e *entry) {
	if e.pins == 0 && e.newer != nil {
		c.unlinkLocked(e)
	}
	e.pins++
}

func (c *headCache) unpinLocked(e *entry) {
	e.pins--
	if e.pins > 0 {
		return
	}
	if e.failure != nil {
		return // it was never usable, and is not in the map
	}
	e.newer, e.older = &c.idle, c.idle.older
	e.newer.older, e.older.newer = e, e
	c.idleLen++
	for c.idleLen > c.capacity {
		oldest := c.idle.newer
		c.unlinkLocked(oldest)
		delete(c.byStream, oldest.stream)
	}
}

func (c *headCache) unlinkLocked(e *entry) {
	e.newer.older, e.older.newer = e.older, e.newer
	e.newer, e.older = nil, nil
	c.idleLen--
}

// acquire returns the pinned head of a stream, loading it first when it is not in memory. While it loads nobody
// can write to the stream, because writers need the same entry.
func (l *eventLog) acquire(ctx context.Context, stream string) (*entry, error) {
	l.mu.Lock()
	e := l.heads.byStream[stream]
	if e == nil {
		e = &entry{stream: stream, pins: 1, loading: make(chan struct{})}
		l.heads.byStream[stream] = e
		l.mu.Unlock()
		return l.load(e)
	}
	l.heads.pinLocked(e)
	loading := e.loading
	l.mu.Unlock()
	if loading == nil {
		return e, nil
	}
	select {
	case <-loading:
	case <-ctx.Done():
		l.release(e)
		return nil, ctx.Err()
	}
	if e.failure != nil {
		l.release(e)
		return nil, e.failure
	}
	return e, nil
}

// load reads the head of a new entry, which others may wait for by now.
func (l *eventLog) load(e *entry) (*entry, error) {
	h, err := l.loadHead(e.stream)
	l.mu.Lock()
	defer l.mu.Unlock()
	e.tentative, e.published, e.failure = h, h, err
	close(e.loading)
	e.loading = nil
	if err != nil {
		delete(l.heads.byStream, e.stream)
		l.heads.unpinLocked(e)
		return nil, err
	}
	return e, nil
}

func (l *eventLog) release(e *entry) {
	if e == nil {
		return
	}
	l.mu.Lock()
	l.heads.unpinLocked(e)
	l.mu.Unlock()
}

// publishedHead returns the head of a stream as readers may see it.
func (l *eventLog) publishedHead(ctx context.Context, stream string) (head, error) {
	e, err := l.acquire(ctx, stream)
	if err != nil {
		return head{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := e.published
	l.heads.unpinLocked(e)
	return h, nil
}
