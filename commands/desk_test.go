package commands

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

func ready(step, queue string) run.StepScheduled {
	return run.StepScheduled{Step: step, Attempt: 1, Queue: queue}
}

func TestDeskOffersToWhoWaits(t *testing.T) {
	t.Parallel()
	d := newDesk()
	later := ready("later", "a")
	later.NotBefore = later.At.Add(time.Second)
	d.offer("r0", "p", Receipt{Events: []domain.Event{ready("missed", "a")}})

	_, leave := d.sit(Worker{Queues: []string{"a", "b"}}, domain.Actor{Kind: domain.ActorUser, Role: domain.Developer}, 9)
	defer leave() // a stranger in the project
	one, leaveOne := d.sit(Worker{Queues: []string{"a"}}, domain.Process("worker"), 2)
	two, leaveTwo := d.sit(Worker{Queues: []string{"b", "a"}}, domain.Process("worker"), 1)
	d.offer("r1", "p", Receipt{Unchanged: true, Events: []domain.Event{ready("old", "a")}})
	d.offer("r1", "p", Receipt{Events: []domain.Event{ready("taken", "a"), run.StepStarted{Step: "taken"}, later, ready("other", "c")}})
	require.Empty(t, one.offers)
	require.Empty(t, two.offers)

	d.offer("r1", "p", Receipt{Events: []domain.Event{ready("x", "b"), ready("y", "a"), ready("z", "a"), ready("more", "a")}})
	require.Equal(t, []offer{{"r1", "p", "b", run.Ticket{Step: "x", Attempt: 1}}}, <-two.offers)
	require.Equal(t, []offer{{"r1", "p", "a", run.Ticket{Step: "y", Attempt: 1}}, {"r1", "p", "a", run.Ticket{Step: "z", Attempt: 1}}}, <-one.offers)
	d.offer("r2", "p", Receipt{Events: []domain.Event{ready("x", "a")}})
	require.Empty(t, one.offers, "who was offered something has left")
	leaveOne()
	leaveTwo()
	require.Len(t, d.waiting, 1)
}

func TestDeskReservesIdleWorkers(t *testing.T) {
	t.Parallel()
	d := newDesk()
	s, leave := d.sit(Worker{ID: "w", Queues: []string{"a"}}, domain.Process("worker"), 1)
	require.Nil(t, d.reserve("p", []string{"a"}), "it may still find something by itself")
	d.idle(s)
	require.Nil(t, d.reserve("p", []string{"b"}))
	require.Equal(t, s, d.reserve("p", []string{"b", "a"}))
	require.Nil(t, d.reserve("p", []string{"a"}), "only once at a time")
	d.offer("r", "p", Receipt{Events: []domain.Event{ready("x", "a")}})
	require.Empty(t, s.offers)
	d.settle(s, nil)
	require.Equal(t, s, d.reserve("p", []string{"a"}), "it got nothing and waits on")

	gone := make(chan struct{})
	go func() { leave(); close(gone) }()
	require.Eventually(t, func() bool { d.mu.Lock(); defer d.mu.Unlock(); return s.left }, time.Minute, time.Millisecond)
	select {
	case <-gone:
		t.Fatal("a worker must not go while a command leases for it")
	default:
	}
	d.settle(s, []Task{{Step: "x"}})
	<-gone
	require.Equal(t, []Task{{Step: "x"}}, <-s.tasks)
	require.Empty(t, d.waiting)
}
