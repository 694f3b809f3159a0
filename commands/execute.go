package commands

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// State is the fold of one stream. Its zero value is the empty stream; Evolve
// returns a new value that shares no map or slice it changed with the old one.
type State[S any] interface{ Evolve(domain.Event) S }

// Command is one thing that can be asked of one stream.
type Command[S any] interface {
	Stream() string
	// Needs says what the actor must hold, seen from the present state: the
	// project is the one the stream belongs to, never one the caller names.
	// Only for an empty stream it is the one the command will put it in.
	Needs(S) domain.Need
	// Decide returns the events that follow; none means already so. An error
	// says that the present state does not allow it.
	Decide(S, time.Time) ([]domain.Event, error)
}

// Creator marks commands that start their stream under an id made for it.
// Execute decides them on the empty state without reading; where the stream
// exists all the same, the append is refused and Execute reads.
type Creator interface{ CreatesStream() }

// Receipt says what a command did.
type Receipt struct {
	Position  uint64              // of its last event, or of the stream's last event when none was needed
	Revision  eventstore.Revision // likewise
	At        time.Time           // when it was decided; zero when no event was needed
	Events    []domain.Event
	Unchanged bool // no event was needed, or the command id was carried out before and these are its events
}

const (
	maxRetries = 5
	firstPause = 4 * time.Millisecond
	maxPause   = 250 * time.Millisecond
)

// Execute carries out one command: load, authorise, decide, append.
//
// The revision expected by the append is the one the decision saw; when
// another writer was faster it decides again, at most five times more, and
// then fails with domain.Conflict (CONCURRENT_UPDATE). With WithExpected it
// never decides again: domain.StaleRevision. A command id already present in
// the stream returns the first outcome. An append whose outcome is unknown is
// repeated under the same id.
//
// Decisions on a remembered state are final only when they append: before
// refusing, or finding nothing to do, Execute reads what others may have
// written since. So a warm command costs one round trip, and still no answer
// rests on an old state.
func Execute[S State[S]](ctx context.Context, h *Handler, cmd Command[S]) (Receipt, error) {
	began := time.Now()
	receipt, err := execute(ctx, h, cmd)
	h.metrics.observe(cmd, time.Since(began), receipt, err)
	return receipt, err
}

func execute[S State[S]](ctx context.Context, h *Handler, cmd Command[S]) (Receipt, error) {
	req := requestOf(ctx)
	// A command named by its caller may have been carried out by another node,
	// so what is remembered here does not tell.
	fresh := req.commandID != "" && !req.made || req.expected != nil
	if req.commandID == "" {
		req.commandID = NewID()
	}
	stream := cmd.Stream()
	e := entryOf[S](h, stream)
	snap := e.snapshot("")
	if _, creates := cmd.(Creator); snap.revision == eventstore.NoStream && !creates {
		fresh = true
	}
	var err error
	if fresh {
		if snap, err = e.refresh(ctx, h, stream, req.commandID); err != nil {
			return Receipt{}, err
		}
	}
	now, sent := h.Now(), false
	for attempt := 0; ; attempt++ {
		d, err := decide(ctx, h, stream, e, snap, fresh, cmd, req, now)
		if err != nil || d.done {
			// What this very call stored before the answer was lost is no repetition.
			d.receipt.Unchanged = d.receipt.Unchanged && !(sent && len(d.receipt.Events) > 0)
			return d.receipt, err
		}
		appended, err := h.Store.Append(ctx, stream, d.snap.revision, metadata(req, d.need, now), d.events...)
		if err == nil {
			state := d.snap.state
			for _, event := range d.events {
				state = state.Evolve(event)
			}
			e.advance(h, stream, d.snap.revision, state, appended, req.commandID)
			if h.Stored != nil {
				h.Stored(stream, d.events)
			}
			return Receipt{Position: appended.Position, Revision: appended.Revision, At: now, Events: d.events}, nil
		}
		again, err := retryable(err, req, attempt)
		if !again {
			return Receipt{}, err
		}
		sent = sent || domain.KindOf(err) == domain.OutcomeUnknown
		h.metrics.retries.Inc()
		if err := pause(ctx, attempt); err != nil {
			return Receipt{}, err
		}
		if snap, err = e.refresh(ctx, h, stream, req.commandID); err != nil {
			return Receipt{}, err
		}
		if fresh = true; snap.revision != d.snap.revision {
			now = h.Now() // an unchanged decision is repeated as it was sent
		}
	}
}

// decision is what one round of Execute came to: a final receipt, or events to
// append to the state they were decided on.
type decision[S any] struct {
	done    bool
	receipt Receipt
	snap    snapshot[S]
	need    domain.Need
	events  []domain.Event
}

// decide authorises and decides on a snapshot. When that comes to anything but
// events on a snapshot that may be old, it reads forward and decides anew.
func decide[S State[S]](ctx context.Context, h *Handler, stream string, e *entry[S], snap snapshot[S], fresh bool, cmd Command[S], req request, now time.Time) (decision[S], error) {
	for {
		if snap.seen != nil {
			receipt, err := h.original(ctx, stream, *snap.seen)
			return decision[S]{done: true, receipt: receipt}, err
		}
		need := cmd.Needs(snap.state)
		events, err := authorized(req.actor, need, snap.state, cmd, now)
		if req.expected != nil && *req.expected != snap.revision && !refused(err) {
			return decision[S]{}, stale()
		}
		if err == nil && len(events) > 0 {
			return decision[S]{snap: snap, need: need, events: events}, nil
		}
		if fresh {
			unchanged := Receipt{Position: snap.position, Revision: snap.revision, Unchanged: true}
			if err != nil {
				unchanged = Receipt{}
			}
			return decision[S]{done: true, receipt: unchanged}, err
		}
		if snap, err = e.refresh(ctx, h, stream, req.commandID); err != nil {
			return decision[S]{}, err
		}
		fresh = true
	}
}

// authorized decides where the actor may. A refusal for a too low role is kept
// to things that exist: who sees a project learns of what is gone from it.
func authorized[S any](actor domain.Actor, need domain.Need, state S, cmd Command[S], now time.Time) ([]domain.Event, error) {
	refusal := actor.Authorize(need)
	if refusal != nil && (need.Project == "" || domain.KindOf(refusal) != domain.Forbidden) {
		return nil, refusal
	}
	events, err := cmd.Decide(state, now)
	if refusal != nil && domain.KindOf(err) != domain.NotFound {
		return nil, refusal
	}
	return events, err
}

// refused says that the actor may not, or must not learn that it exists: then
// the revision of the thing is none of its business.
func refused(err error) bool {
	switch domain.KindOf(err) {
	case domain.Unauthorized, domain.Forbidden, domain.NotFound:
		return true
	default:
		return false
	}
}

// retryable says whether a failed append is worth deciding again, and returns
// what to answer where it is not.
func retryable(err error, req request, attempt int) (bool, error) {
	var conflict *eventstore.ConflictError
	switch {
	case errors.As(err, &conflict) && req.expected != nil:
		return false, stale()
	case errors.As(err, &conflict) && attempt >= maxRetries:
		failure := domain.Fail(domain.Conflict, "CONCURRENT_UPDATE", "Too many changes at the same time; try again.")
		failure.Cause = err
		return false, failure
	case errors.As(err, &conflict):
		return true, err
	case domain.KindOf(err) == domain.OutcomeUnknown && attempt < maxRetries:
		return true, err
	default:
		return false, err
	}
}

func stale() error {
	return domain.Fail(domain.StaleRevision, "STALE_REVISION", "The resource has changed since you read it; read it again.")
}

// pause waits a random time below a bound that doubles with each attempt.
func pause(ctx context.Context, attempt int) error {
	bound := min(firstPause<<attempt, maxPause)
	timer := time.NewTimer(rand.N(bound))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to retry a command: %w", ctx.Err())
	}
}

func metadata(req request, need domain.Need, now time.Time) eventstore.Metadata {
	m := eventstore.Metadata{
		CorrelationID: req.correlation,
		CausationID:   req.causation,
		CommandID:     req.commandID,
		Actor:         eventstore.ActorRef{Kind: req.actor.Kind, ID: req.actor.ID, KeyID: req.actor.KeyID},
		ProjectID:     need.Project,
		At:            now,
		BodyHash:      req.bodyHash,
	}
	if m.CorrelationID == "" {
		m.CorrelationID = req.commandID
	}
	if m.CausationID == "" {
		m.CausationID = req.commandID
	}
	return m
}

// Load returns the present state of a stream, with what others wrote since it
// was remembered, and its revision: NoStream with the zero state where it does
// not exist. It checks no permission.
func Load[S State[S]](ctx context.Context, h *Handler, stream string) (S, eventstore.Revision, error) {
	snap, err := entryOf[S](h, stream).refresh(ctx, h, stream, "")
	return snap.state, snap.revision, err
}
