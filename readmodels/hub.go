package readmodels

import (
	"slices"
	"sync"
	"time"
)

// hub knows how far each live build is and wakes those who wait for more.
type hub struct {
	mu       sync.Mutex
	closed   bool
	progress map[string]*progress // by projection name
	names    map[string]string    // schema -> projection name
	waiters  map[*waiter]struct{}
	poke     chan struct{} // a waiter came
}

type progress struct {
	schema   string
	position uint64
}

// waiter is released by closing done; err is set before.
type waiter struct {
	position uint64
	names    []string
	since    time.Time
	done     chan struct{}
	err      error
}

func newHub() *hub {
	return &hub{
		progress: map[string]*progress{}, names: map[string]string{},
		waiters: map[*waiter]struct{}{}, poke: make(chan struct{}, 1),
	}
}

// reached returns how far each schema is known to be.
func (h *hub) reached() map[string]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	positions := make(map[string]uint64, len(h.progress))
	for _, p := range h.progress {
		positions[p.schema] = p.position
	}
	return positions
}

// set replaces what is known about the live builds by what was read of them
// after before was the answer of reached. Positions go back within one build
// only when Postgres lost the end of what was applied in a crash: what was
// known before reading was committed then.
func (h *hub) set(schemas map[string]string, positions map[string]int64, before map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.names)
	for name := range h.progress {
		if schemas[name] == "" {
			delete(h.progress, name)
		}
	}
	for name, schema := range schemas {
		h.names[schema] = name
		position := uint64(positions[name])
		if old := h.progress[name]; old != nil && old.schema == schema && position >= before[schema] {
			position = max(position, old.position)
		}
		h.progress[name] = &progress{schema: schema, position: position}
	}
	h.releaseLocked()
}

// observe notes that a build has applied a position. It returns false for a
// build that is not known to be live.
func (h *hub) observe(schema string, position uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, known := h.names[schema]
	if !known {
		return false
	}
	if p := h.progress[name]; position > p.position {
		p.position = position
		h.releaseLocked()
	}
	return true
}

// wait returns a waiter, already released when there is nothing to wait for.
func (h *hub) wait(position uint64, names []string) *waiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &waiter{position: position, names: names, since: time.Now(), done: make(chan struct{})}
	switch {
	case h.closed:
		w.err = unavailable(errClosed)
		close(w.done)
	case h.reachedLocked(w):
		close(w.done)
	default:
		h.waiters[w] = struct{}{}
		select {
		case h.poke <- struct{}{}:
		default:
		}
	}
	return w
}

// forget drops a waiter that gave up.
func (h *hub) forget(w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiters, w)
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.waiters {
		w.err = unavailable(errClosed)
		close(w.done)
	}
	clear(h.waiters)
}

func (h *hub) releaseLocked() {
	for w := range h.waiters {
		if h.reachedLocked(w) {
			delete(h.waiters, w)
			close(w.done)
		}
	}
}

func (h *hub) reachedLocked(w *waiter) bool {
	return !slices.ContainsFunc(w.names, func(name string) bool { return h.behindLocked(w, name) })
}

func (h *hub) behindLocked(w *waiter, name string) bool {
	p := h.progress[name]
	return p == nil || p.position < w.position
}

// pending returns whether anybody waits and, for those who have waited at
// least as long as patience, the highest position wanted of each build.
func (h *hub) pending(patience time.Duration) (waiting bool, wanted map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wanted = map[string]uint64{}
	for w := range h.waiters {
		if time.Since(w.since) < patience {
			continue
		}
		for _, name := range w.names {
			if p := h.progress[name]; p != nil && p.position < w.position {
				wanted[p.schema] = max(wanted[p.schema], w.position)
			}
		}
	}
	return len(h.waiters) > 0, wanted
}
