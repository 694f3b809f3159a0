package commands

import (
	"context"
	"errors"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/eventstore"
)

// Recorded is a stored event.
type Recorded = eventstore.Recorded

// WithIfMatch is WithExpected for callers that know a revision as a number.
func WithIfMatch(ctx context.Context, revision int64) context.Context {
	return WithExpected(ctx, eventstore.Revision(revision))
}

// Moment is a point in a run's history: a position of the log, or else a time.
// The zero Moment is the present.
type Moment struct {
	Position uint64
	Time     time.Time
}

// includes reports whether an event had happened by then.
func (m Moment) includes(e Recorded) bool {
	switch {
	case m.Position > 0:
		return e.Position <= m.Position
	case !m.Time.IsZero():
		return !e.Time.After(m.Time)
	default:
		return true
	}
}

// HistoryQuery selects a part of a run's history.
type HistoryQuery struct {
	From  int64  // first revision wanted
	After uint64 // position before the first event wanted
	Limit int    // 0: all
}

// History returns events of a run, oldest first, straight from the log. It
// needs runs:read in the project of the run; a run taken out of lists still
// has its history.
func (h *Handler) History(ctx context.Context, runID string, q HistoryQuery) ([]Recorded, error) {
	if _, err := h.readableRun(ctx, runID); err != nil {
		return nil, err
	}
	events := []Recorded{}
	err := h.readRun(ctx, runID, q.From, func(e Recorded) error {
		if e.Position <= q.After {
			return nil
		}
		if q.Limit > 0 && len(events) == q.Limit {
			return errEnough
		}
		events = append(events, e)
		return nil
	})
	return events, err
}

// RunAt returns the run as it was at a moment, and the last event that counts.
// A run that did not exist yet is NotFound. It needs runs:read in the project
// of the run.
func (h *Handler) RunAt(ctx context.Context, runID string, at Moment) (run.Run, Recorded, error) {
	if _, err := h.readableRun(ctx, runID); err != nil {
		return run.Run{}, Recorded{}, err
	}
	var past run.Run
	var last Recorded
	err := h.readRun(ctx, runID, 0, func(e Recorded) error {
		if !at.includes(e) {
			return errEnough
		}
		past, last = past.Evolve(e.Event), e
		return nil
	})
	if err == nil && !past.Exists() {
		err = domain.Missing()
	}
	return past, last, err
}

// WhyRun explains what a run waits for. It needs runs:read in its project.
func (h *Handler) WhyRun(ctx context.Context, runID string) (run.Run, []run.Reason, error) {
	state, err := h.readableRun(ctx, runID)
	if err != nil {
		return run.Run{}, nil, err
	}
	return state, state.Why(h.Now()), nil
}

var errEnough = errors.New("enough events")

// readRun reads a run's stream until each has had enough.
func (h *Handler) readRun(ctx context.Context, runID string, from int64, each func(Recorded) error) error {
	_, err := h.Store.Read(ctx, domain.StreamName(run.Category, runID), eventstore.Revision(from), each)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// readableRun returns the present state of a run the actor may read.
func (h *Handler) readableRun(ctx context.Context, runID string) (run.Run, error) {
	state, _, err := Load[run.Run](ctx, h, domain.StreamName(run.Category, runID))
	if err != nil {
		return state, err
	}
	need := domain.NeedIn("runs:read", state.ProjectID(), state.Exists())
	if err := ActorFrom(ctx).Authorize(need); err != nil {
		return state, err
	}
	if !state.Exists() {
		return state, domain.Missing()
	}
	return state, nil
}
