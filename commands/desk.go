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
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range receipt.Events {
		s, ok := e.(run.StepScheduled)
		if len(d.waiting) == 0 {
			return
		}
		if !ok || started[s.Step] || s.NotBefore.After(s.At) {
			continue
		}
		d.giveLocked(s.Queue, offer{runID: runID, ticket: run.Ticket{Step: s.Step, Attempt: s.Attempt}})
	}
}

// giveLocked hands an offer to one worker that serves the queue. It leaves the
// desk with it.
func (d *desk) giveLocked(queue string, o offer) {
	for s := range d.waiting {
		if slices.Contains(s.queues, queue) {
			s.offers <- []offer{o} // empty: it leaves the desk with the first
			delete(d.waiting, s)
			return
		}
	}
}
