package commands

import (
	"slices"
	"sync"

	"github.com/sparkops/control-plane/domain"
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

// seat is a worker at the desk. What comes to it comes once: an offer, or
// tasks that are leased to it already.
type seat struct {
	worker Worker
	actor  domain.Actor
	max    int
	offers chan []offer // holds one
	tasks  chan []Task  // holds one

	// Guarded by the desk's mutex.
	idle     bool          // it has nothing and takes tasks as well
	left     bool          // it looks for the last time
	reserved chan struct{} // while a command leases for it; closed when that is settled
}

// offer is a step that may be leased.
type offer struct {
	runID   string
	project string
	queue   string
	ticket  run.Ticket
}

func newDesk() *desk { return &desk{waiting: map[*seat]struct{}{}} }

// sit takes a seat. leave must be called; what came by the time it returns is
// in the channels.
func (d *desk) sit(w Worker, a domain.Actor, most int) (s *seat, leave func()) {
	s = &seat{worker: w, actor: a, max: most, offers: make(chan []offer, 1), tasks: make(chan []Task, 1)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting[s] = struct{}{}
	return s, func() { d.leave(s) }
}

func (d *desk) leave(s *seat) {
	d.mu.Lock()
	s.left = true
	delete(d.waiting, s)
	reserved := s.reserved
	d.mu.Unlock()
	if reserved != nil {
		<-reserved // a command that is being stored: bounded by the store's deadline
	}
}

// idle says that the worker found nothing and only waits now.
func (d *desk) idle(s *seat) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.idle = true
}

// reserve takes an idle worker for one of the queues from the desk, for a
// command that leases what it makes ready at once. settle must be called. It
// is nil where nobody waits.
func (d *desk) reserve(project string, queues []string) *seat {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.waiting {
		if s.idle && slices.ContainsFunc(queues, func(q string) bool { return s.servesLocked(project, q) }) {
			delete(d.waiting, s)
			s.reserved = make(chan struct{})
			return s
		}
	}
	return nil
}

// settle gives a reserved worker what was leased to it; with nothing it waits
// on.
func (d *desk) settle(s *seat, tasks []Task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case len(tasks) > 0:
		s.tasks <- tasks // empty: it left the desk when it was reserved
	case !s.left:
		d.waiting[s] = struct{}{}
	}
	close(s.reserved)
	s.reserved = nil
}

// servesLocked reports whether the worker may and does carry out steps of a
// queue and project.
func (s *seat) servesLocked(project, queue string) bool {
	return slices.Contains(s.worker.Queues, queue) && s.actor.Authorize(domain.Need{Permission: "tasks:work", Project: project}) == nil
}

// offer gives the steps a command made ready at once to workers that wait.
func (d *desk) offer(runID, project string, receipt Receipt) {
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
			offers = append(offers, offer{runID: runID, project: project, queue: s.Queue, ticket: run.Ticket{Step: s.Step, Attempt: s.Attempt}})
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
		if s := d.seatLocked(o, given); s != nil {
			given[s] = append(given[s], o)
		}
	}
	for s, offers := range given {
		s.offers <- offers // empty until now: it leaves the desk with the first
		delete(d.waiting, s)
	}
}

// seatLocked returns a worker that takes one step more: one that gets
// something anyway, so that others go on waiting, else any.
func (d *desk) seatLocked(o offer, given map[*seat][]offer) *seat {
	for s, offers := range given {
		if len(offers) < s.max && s.servesLocked(o.project, o.queue) {
			return s
		}
	}
	for s := range d.waiting {
		if given[s] == nil && s.servesLocked(o.project, o.queue) {
			return s
		}
	}
	return nil
}
