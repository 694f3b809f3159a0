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
	d.offer("r0", Receipt{Events: []domain.Event{ready("missed", "a")}})

	one, leaveOne := d.sit([]string{"a"}, 2)
	two, leaveTwo := d.sit([]string{"b", "a"}, 1)
	d.offer("r1", Receipt{Unchanged: true, Events: []domain.Event{ready("old", "a")}})
	d.offer("r1", Receipt{Events: []domain.Event{ready("taken", "a"), run.StepStarted{Step: "taken"}, later, ready("other", "c")}})
	require.Empty(t, one.offers)
	require.Empty(t, two.offers)

	d.offer("r1", Receipt{Events: []domain.Event{ready("x", "b"), ready("y", "a"), ready("z", "a"), ready("more", "a")}})
	require.Equal(t, []offer{{"r1", "b", run.Ticket{Step: "x", Attempt: 1}}}, <-two.offers)
	require.Equal(t, []offer{{"r1", "a", run.Ticket{Step: "y", Attempt: 1}}, {"r1", "a", run.Ticket{Step: "z", Attempt: 1}}}, <-one.offers)
	d.offer("r2", Receipt{Events: []domain.Event{ready("x", "a")}})
	require.Empty(t, one.offers, "who was offered something has left")
	leaveOne()
	leaveTwo()
	require.Empty(t, d.waiting)
}
