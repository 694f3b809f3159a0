package commands

import (
	"slices"
	"sync"

	"github.com/sparkops/control-plane/domain/run"
)

// desk hands steps that became ready in this process straight to workers of
// this process that wait for them, ahead of the read models. It is a short cut
// only: whoever misses an offer finds the step in the read model, and whoever
// got one still has to lease it.
type desk struct {
	mu      sync.Mutex
	waiting map[*seat]struct{}
}

// seat is a worker that waits.
type seat struct {
	queues []string
	max    int
	offers chan []offer // holds one
}

// offer is a step that may be leased.
type offer struct {
	runID  string
	queue  string
	ticket run.Ticket
}

func newDesk() *desk { return &desk{waiting: map[*seat]struct{}{}} }

// sit waits for steps of the queues. leave must be called; an offer that came
// by then is in the channel.
func (d *desk) sit(queues []string, most int) (s *seat, leave func()) {
	s = &seat{queues: queues, max: most, offers: make(chan []offer, 1)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting[s] = struct{}{}
	return s, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, s)
	}
}

// offer gives the steps a command made ready at once to workers that wait.
func (d *desk) offer(runID string, receipt Receipt) {
	if receipt.Unchanged {
		return
	}
	started := map[string]bool{}
	for _, e := range receipt.Events {
		if s, ok := e.(run.StepStarted); ok {
			started[s.Step] = true
		}
	}
	var offers []offer
	for _, e := range receipt.Events {
		if s, ok := e.(run.StepScheduled); ok && !started[s.Step] && !s.NotBefore.After(s.At) {
			offers = append(offers, offer{runID: runID, queue: s.Queue, ticket: run.Ticket{Step: s.Step, Attempt: s.Attempt}})
		}
	}
	d.give(offers)
}

// give gives offers to workers that wait; each leaves the desk with what it
// gets by one call. Offers that nobody waits for are dropped.
func (d *desk) give(offers []offer) {
	if len(offers) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	given := map[*seat][]offer{}
	for _, o := range offers {
		if s := d.seatLocked(o.queue, given); s != nil {
			given[s] = append(given[s], o)
		}
	}
	for s, offers := range given {
		s.offers <- offers // empty until now: it leaves the desk with the first
		delete(d.waiting, s)
	}
}

// seatLocked returns a worker that serves the queue and takes one step more:
// one that gets something anyway, so that others go on waiting, else any.
func (d *desk) seatLocked(queue string, given map[*seat][]offer) *seat {
	for s, offers := range given {
		if len(offers) < s.max && slices.Contains(s.queues, queue) {
			return s
		}
	}
	for s := range d.waiting {
		if given[s] == nil && slices.Contains(s.queues, queue) {
			return s
		}
	}
	return nil
}
