package pubsub

import "sync"

// frontier finds the position up to which everything was handled. Positions
// have gaps, so only the order in which they were received tells what is
// before what.
type frontier struct {
	mu       sync.Mutex
	first    int // number of waiting[0]
	waiting  []slot
	position uint64
}

type slot struct {
	position uint64
	done     bool
}

// begin notes a received position and returns its number. Positions grow.
func (f *frontier) begin(position uint64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, slot{position: position})
	return f.first + len(f.waiting) - 1
}

// pass notes a position with nothing to handle.
func (f *frontier) pass(position uint64) {
	f.done(f.begin(position))
}

// done notes that what begin numbered was handled.
func (f *frontier) done(number int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting[number-f.first].done = true
	n := 0
	for n < len(f.waiting) && f.waiting[n].done {
		f.position = f.waiting[n].position
		n++
	}
	f.first += n
	if f.waiting = f.waiting[n:]; len(f.waiting) == 0 {
		f.waiting = nil
	}
}

// reached returns the position up to which everything was handled.
func (f *frontier) reached() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.position
}
