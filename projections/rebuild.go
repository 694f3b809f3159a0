package projections

import (
	"context"
	"fmt"

	"github.com/sparkops/control-plane/domain"
)

// Progress says how far long work is: the position it has reached and the end
// of the log as it was when the work began.
type Progress struct{ Position, Head uint64 }

// Rebuild makes a new build of a projection from the start of the log beside
// the live one, and switches to it once it has caught up: nobody who reads
// notices. progress may be nil; it is called after every batch.
//
// It fails with domain.NotFound for an unknown name and with domain.Conflict
// while a build of it is being made. When ctx ends first, any node that runs a
// Runner finishes the build.
func (r *Runner) Rebuild(ctx context.Context, name string, progress func(Progress)) error {
	p, err := byName(r.Projections, name)
	if err != nil {
		return err
	}
	head, err := r.Store.Head(ctx)
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", name, err)
	}
	begun, err := r.builds.create(ctx, p, building, r.Node)
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", name, err)
	}
	l := r.newLeader(p, begun, building)
	l.once = true
	if progress != nil {
		progress(Progress{Head: head})
		l.observe = func(position uint64) { progress(Progress{Position: position, Head: max(head, position)}) }
	}
	err = r.conduct(ctx, l)
	if isLost(err) {
		err = domain.Fail(domain.Conflict, "REBUILD_TAKEN_OVER", "Another node took the rebuild over and finishes it.")
	}
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", name, err)
	}
	return nil
}
