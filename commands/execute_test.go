package commands

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/eventstore"
)

// decidedAfter runs something right before a decision, so that other writers
// come in at the worst moment.
type decidedAfter struct {
	Command[project.Project]
	first func()
}

func (c decidedAfter) Decide(p project.Project, now time.Time) ([]domain.Event, error) {
	c.first()
	return c.Command.Decide(p, now)
}

func create(id string) project.Create {
	return project.Create{ProjectID: id, OwnerUserID: "tester", Slug: "s-" + id, Patch: project.Patch{Name: ptr("Atlas")}}
}

func rename(id, name string) project.Update {
	return project.Update{ProjectID: id, Patch: project.Patch{Name: &name}}
}

func TestExecuteWritesWhatWasDecided(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx := WithBodyHash(WithCausation(as(t.Context(), domain.Owner), "request", "cause"), "hash")
	id := NewID()
	receipt, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	require.Equal(t, eventstore.Revision(0), receipt.Revision)
	require.False(t, receipt.Unchanged)
	require.Equal(t, s.Now(), receipt.At)

	renamed, err := Execute(ctx, s.Handler, rename(id, "Globe"))
	require.NoError(t, err)
	require.Equal(t, eventstore.Revision(1), renamed.Revision)
	require.Greater(t, renamed.Position, receipt.Position)

	events := s.history(t, "project-"+id)
	require.Len(t, events, 2)
	require.Equal(t, []domain.Event{project.Updated{Spec: project.Spec{Name: "Globe", Status: "active"}}}, renamed.Events)
	require.Equal(t, renamed.Events[0], events[1].Event)
	meta := events[1].Metadata
	require.NotEmpty(t, meta.CommandID)
	require.Equal(t, eventstore.Metadata{
		CorrelationID: "request", CausationID: "cause", CommandID: meta.CommandID, At: s.Now(), ProjectID: id, BodyHash: "hash",
		Actor: eventstore.ActorRef{Kind: domain.ActorUser, ID: "tester"},
	}, meta)
	require.NotEqual(t, events[0].Metadata.CommandID, meta.CommandID)
}

func TestWarmCommandCostsOneAppendAndNoRead(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	for i := range 10 {
		var err error
		if i == 0 {
			_, err = Execute(ctx, s.Handler, create(id))
		} else {
			_, err = Execute(ctx, s.Handler, rename(id, "Name "+strconv.Itoa(i)))
		}
		require.NoError(t, err)
	}
	require.Equal(t, 0, s.reads(t))
	require.Equal(t, 10, s.appends(t))
}

func TestNothingToDoWritesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	created, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	receipt, err := Execute(ctx, s.Handler, rename(id, "Atlas"))
	require.NoError(t, err)
	require.Equal(t, Receipt{Position: created.Position, Revision: created.Revision, Unchanged: true}, receipt)
	require.Len(t, s.history(t, "project-"+id), 1)
}

func TestUnknownStreamIsNotFound(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for _, role := range []domain.Role{domain.Owner, domain.Auditor, domain.Viewer, domain.Operator} {
		_, err := Execute(as(t.Context(), role), s.Handler, rename(NewID(), "x"))
		requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	}
	_, err := Execute(t.Context(), s.Handler, rename(NewID(), "x"))
	requireFailure(t, err, domain.Unauthorized, "UNAUTHENTICATED")
	require.Zero(t, s.cache.Len(), "unknown ids do not push out known streams")
}

func TestPermissionIsCheckedOnTheStateBeforeDeciding(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	id := NewID()
	_, err := Execute(as(t.Context(), domain.Owner), s.Handler, create(id))
	require.NoError(t, err)
	member := func(role domain.Role) context.Context {
		return WithActor(t.Context(), domain.Actor{Kind: domain.ActorUser, ID: "m", Role: domain.Viewer, Projects: map[string]domain.Role{id: role}})
	}
	asked := 0
	update := decidedAfter{rename(id, "Globe"), func() { asked++ }}
	_, err = Execute(as(t.Context(), domain.Developer), s.Handler, update)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	require.Zero(t, asked)
	_, err = Execute(member(domain.Viewer), s.Handler, rename(id, "Globe"))
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, err = Execute(member(domain.Developer), s.Handler, rename(id, "Globe"))
	require.NoError(t, err)
	_, err = Execute(member(domain.Developer), s.Handler, project.Delete{ProjectID: id})
	requireFailure(t, err, domain.Forbidden, "FORBIDDEN")
	_, err = Execute(as(t.Context(), domain.Owner), s.Handler, project.Delete{ProjectID: id})
	require.NoError(t, err)
	_, err = Execute(member(domain.Viewer), s.Handler, rename(id, "Globe"))
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestConflictIsDecidedAgainOnWhatOthersWrote(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	other := handlerOn(t, s.url, nil, func(*Handler) {})
	calls := 0
	receipt, err := Execute(ctx, s.Handler, decidedAfter{project.Update{ProjectID: id, Patch: project.Patch{Status: ptr("archived")}}, func() {
		if calls++; calls == 1 {
			_, err := Execute(ctx, other, rename(id, "Globe"))
			require.NoError(t, err)
		}
	}})
	require.NoError(t, err)
	require.Equal(t, 2, calls)
	require.Equal(t, eventstore.Revision(2), receipt.Revision)
	require.Equal(t, []domain.Event{project.Updated{Spec: project.Spec{Name: "Globe", Status: "archived"}}}, receipt.Events, "decided on the other's name")
}

func TestEndlessConflictGivesUp(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	other := handlerOn(t, s.url, nil, func(*Handler) {})
	calls := 0
	_, err = Execute(ctx, s.Handler, decidedAfter{project.Update{ProjectID: id, Patch: project.Patch{Status: ptr("archived")}}, func() {
		calls++
		_, err := Execute(ctx, other, rename(id, "Name "+strconv.Itoa(calls)))
		require.NoError(t, err)
	}})
	requireFailure(t, err, domain.Conflict, "CONCURRENT_UPDATE")
	require.Equal(t, 6, calls, "one try and five more")
}

func TestExpectedRevision(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	other := handlerOn(t, s.url, nil, func(*Handler) {})

	_, err = Execute(WithExpected(ctx, 1), s.Handler, rename(id, "Globe"))
	requireFailure(t, err, domain.StaleRevision, "STALE_REVISION")
	receipt, err := Execute(WithExpected(ctx, 0), s.Handler, rename(id, "Globe"))
	require.NoError(t, err)
	require.Equal(t, eventstore.Revision(1), receipt.Revision)
	_, err = Execute(WithExpected(ctx, 0), s.Handler, rename(id, "Globe"))
	requireFailure(t, err, domain.StaleRevision, "STALE_REVISION")

	// Another node knows what this one wrote before it compares.
	_, err = Execute(WithExpected(ctx, 1), other, rename(id, "Sphere"))
	require.NoError(t, err)
	_, err = Execute(WithExpected(ctx, 2), s.Handler, rename(id, "Ball"))
	require.NoError(t, err)

	calls := 0
	_, err = Execute(WithExpected(ctx, 3), s.Handler, decidedAfter{rename(id, "Orb"), func() {
		calls++
		_, err := Execute(ctx, other, rename(id, "Disc"))
		require.NoError(t, err)
	}})
	requireFailure(t, err, domain.StaleRevision, "STALE_REVISION")
	require.Equal(t, 1, calls, "never decided again")
}

func TestCommandIDIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	other := handlerOn(t, s.url, nil, func(*Handler) {})
	first := WithCommandID(ctx, uuid.NewString())
	created, err := Execute(first, s.Handler, create(id))
	require.NoError(t, err)
	second := WithCommandID(ctx, "not a UUID")
	renamed, err := Execute(second, s.Handler, rename(id, "Globe"))
	require.NoError(t, err)
	_, err = Execute(ctx, s.Handler, rename(id, "Sphere"))
	require.NoError(t, err)

	created.Unchanged, renamed.Unchanged = true, true
	for _, h := range []*Handler{s.Handler, other, handlerOn(t, s.url, nil, func(*Handler) {})} {
		again, err := Execute(first, h, create(id))
		require.NoError(t, err)
		require.Equal(t, created, again)
		again, err = Execute(WithExpected(second, 0), h, rename(id, "Globe"))
		require.NoError(t, err)
		require.Equal(t, renamed, again, "with the revision it stated then")
	}
	require.Len(t, s.history(t, "project-"+id), 3)
}

func TestSameCommandOnTwoNodesAtOnceIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	handlers := []*Handler{s.Handler, handlerOn(t, s.url, nil, func(*Handler) {}), handlerOn(t, s.url, nil, func(*Handler) {})}
	for round := range 10 {
		named := WithCommandID(ctx, uuid.NewString())
		var wait sync.WaitGroup
		receipts := make([]Receipt, len(handlers))
		for i, h := range handlers {
			wait.Go(func() {
				receipt, err := Execute(named, h, rename(id, "Name "+strconv.Itoa(round)))
				assert.NoError(t, err)
				receipts[i] = receipt
			})
		}
		wait.Wait()
		for _, receipt := range receipts {
			require.Equal(t, eventstore.Revision(round+1), receipt.Revision)
			require.Equal(t, receipts[0].Position, receipt.Position)
		}
	}
	require.Len(t, s.history(t, "project-"+id), 11)
}

func TestRefusalsAndNoOpsNeverRestOnAnOldState(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	other := handlerOn(t, s.url, nil, func(*Handler) {})
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)

	_, err = Execute(ctx, other, rename(id, "Globe"))
	require.NoError(t, err)
	receipt, err := Execute(ctx, s.Handler, rename(id, "Atlas"))
	require.NoError(t, err)
	require.False(t, receipt.Unchanged, "what is remembered says Atlas, the log says Globe")

	_, err = Execute(ctx, other, project.AddMember{ProjectID: id, UserID: "ben", Role: domain.Owner})
	require.NoError(t, err)
	_, err = Execute(ctx, s.Handler, project.RemoveMember{ProjectID: id, UserID: "tester"})
	require.NoError(t, err, "what is remembered says last owner, the log says one of two")

	_, err = Execute(ctx, other, project.Delete{ProjectID: id})
	require.NoError(t, err)
	_, err = Execute(ctx, s.Handler, rename(id, "Sphere"))
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestCreatorMeetsAnExistingStream(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	for _, h := range []*Handler{s.Handler, handlerOn(t, s.url, nil, func(*Handler) {})} {
		_, err = Execute(ctx, h, create(id))
		requireFailure(t, err, domain.Conflict, "PROJECT_EXISTS")
	}
	_, err = Execute(ctx, s.Handler, project.Create{ProjectID: NewID(), OwnerUserID: "tester"})
	requireFailure(t, err, domain.Invalid, "VALIDATION_FAILED")
}

// TestConcurrentCommandsOfOneStream lets many writers on two nodes add members
// to one project: nobody is lost and nothing written twice.
func TestConcurrentCommandsOfOneStream(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	handlers := []*Handler{s.Handler, handlerOn(t, s.url, nil, func(*Handler) {})}
	want := map[string]domain.Role{"tester": domain.Owner}
	var wait sync.WaitGroup
	for i := range 24 {
		user := fmt.Sprintf("user-%d", i)
		want[user] = domain.Viewer
		wait.Go(func() {
			for {
				_, err := Execute(ctx, handlers[i%2], project.AddMember{ProjectID: id, UserID: user, Role: domain.Viewer})
				if code(err) == "CONCURRENT_UPDATE" {
					continue
				}
				assert.NoError(t, err)
				return
			}
		})
	}
	wait.Wait()
	require.Len(t, s.history(t, "project-"+id), 25)
	for _, h := range append(handlers, handlerOn(t, s.url, nil, func(*Handler) {})) {
		p, revision, err := Load[project.Project](ctx, h, "project-"+id)
		require.NoError(t, err)
		require.Equal(t, eventstore.Revision(24), revision)
		require.Equal(t, want, p.Members)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s := newSystem(t, func(h *Handler) { h.Registerer = registry })
	ctx, id := as(t.Context(), domain.Owner), NewID()
	_, err := Execute(ctx, s.Handler, create(id))
	require.NoError(t, err)
	_, err = Execute(ctx, s.Handler, rename(id, "Atlas"))
	require.NoError(t, err)
	_, err = Execute(as(t.Context(), domain.Viewer), s.Handler, rename(id, "Globe"))
	require.Error(t, err)
	families, err := registry.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "sparkops_commands_total" {
				got[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	require.Equal(t, map[string]float64{"project.Create ok": 1, "project.Update unchanged": 1, "project.Update not_found": 1}, got)
}
