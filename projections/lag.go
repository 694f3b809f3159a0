package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

// Status is where one projection stands.
type Status struct {
	Name     string             `json:"name"`
	Version  int                `json:"version"`
	State    string             `json:"state"` // live, building (for the first time), missing, failed
	Schema   string             `json:"schema"`
	Position uint64             `json:"position"`
	Head     uint64             `json:"head"`
	Events   int64              `json:"events"` // events still to be applied, counted up to LagLimit
	Owner    string             `json:"owner"`  // node that leads it, "" for none
	Error    *string            `json:"error"`  // why it stands still, null while it does not
	Builds   []readmodels.Build `json:"builds"` // all of its builds, the live one and others
}

// LagLimit bounds how many events behind Lag counts.
const LagLimit = 1000

// Lag returns where every projection of this program stands, by name.
func (r *Runner) Lag(ctx context.Context) ([]Status, error) {
	head, err := r.Store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the end of the log: %w", err)
	}
	all, err := readmodels.BuildsIn(ctx, r.builds.pool)
	if err != nil {
		return nil, err
	}
	statuses := make([]Status, 0, len(r.Projections))
	for _, p := range r.Projections {
		s := statusOf(p, all, head)
		if s.Events, err = r.behind(ctx, p, s); err != nil {
			return nil, err
		}
		statuses = append(statuses, s)
	}
	return statuses, nil
}

func statusOf(p Projection, all []readmodels.Build, head uint64) Status {
	s := Status{Name: p.Name, Version: p.Version, State: "missing", Head: head, Builds: []readmodels.Build{}}
	for _, b := range all {
		if b.Name != p.Name {
			continue
		}
		s.Builds = append(s.Builds, b)
		first := b.State == building && s.State != live
		if b.Version != p.Version || b.State != live && !first {
			continue
		}
		s.State, s.Schema, s.Position, s.Error = b.State, b.Schema, uint64(b.Position), b.Error
		if s.Owner = ""; b.Led {
			s.Owner = b.Owner
		}
	}
	if s.Error != nil {
		s.State = "failed"
	}
	return s
}

// behind counts the events a projection has still to apply. Being behind the
// end of the log alone says little: what lies there may be events of others.
func (r *Runner) behind(ctx context.Context, p Projection, s Status) (int64, error) {
	if s.Position >= s.Head {
		return 0, nil
	}
	var n int64
	err := r.Store.ReadAll(ctx, s.Position, s.Head, p.Categories, func(eventstore.Recorded) error {
		if n++; n >= LagLimit {
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return 0, fmt.Errorf("count events of projection %s: %w", p.Name, err)
	}
	return n, nil
}
