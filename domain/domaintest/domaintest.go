// Package domaintest tests deciders as data: given what happened, when a
// command is decided, then exactly these events follow, in this order.
//
//	domaintest.Given[project.Project](t, created).
//		When(project.Delete{ProjectID: "p1"}, now).
//		Then(project.Deleted{})
//
// Beside the stated outcome every scenario checks what holds for all of them:
// Decide is pure, Evolve leaves the states before it alone, and an event comes
// back from its JSON as it went in, so that a state folded from the log equals
// one that was kept in memory.
package domaintest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// State is the fold of a stream; its zero value is the empty stream.
type State[S any] interface{ Evolve(domain.Event) S }

// Decider is the part of a command that scenarios look at.
type Decider[S any] interface {
	Decide(S, time.Time) ([]domain.Event, error)
}

// Scenario is a history.
type Scenario[S State[S]] struct {
	t     testing.TB
	state S
}

// Given starts a scenario after a history.
func Given[S State[S]](t testing.TB, history ...domain.Event) Scenario[S] {
	t.Helper()
	return Scenario[S]{t: t, state: Fold[S](t, history...)}
}

// State returns the fold of the history.
func (s Scenario[S]) State() S { return s.state }

// When decides a command at a time.
func (s Scenario[S]) When(command Decider[S], now time.Time) Outcome {
	s.t.Helper()
	before := dump(s.state)
	events, err := command.Decide(s.state, now)
	again, errAgain := command.Decide(s.state, now)
	if !reflect.DeepEqual(events, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		s.t.Fatalf("%T is not pure: it decided\n%s %v\nand then\n%s %v", command, show(events), err, show(again), errAgain)
	}
	if after := dump(s.state); after != before {
		s.t.Fatalf("%T changed the state it decided on:\n%s\nbecame\n%s", command, before, after)
	}
	if err != nil && len(events) > 0 {
		s.t.Fatalf("%T decided events and an error: %s %v", command, show(events), err)
	}
	for _, event := range events {
		if back := roundTrip(s.t, event); !reflect.DeepEqual(back, event) {
			s.t.Fatalf("%T changes by being stored:\n%#v\nbecomes\n%#v", event, event, back)
		}
	}
	next := s.state
	for _, event := range events {
		next = next.Evolve(event)
	}
	if after := dump(s.state); after != before {
		s.t.Fatalf("evolving changed the state before:\n%s\nbecame\n%s", before, after)
	}
	return Outcome{t: s.t, events: events, err: err}
}

// Outcome is what a command came to.
type Outcome struct {
	t      testing.TB
	events []domain.Event
	err    error
}

// Then demands exactly these events, in this order. None means that there was
// nothing left to do.
func (o Outcome) Then(events ...domain.Event) {
	o.t.Helper()
	if o.err != nil {
		o.t.Fatalf("got the error %v, want %s", o.err, show(events))
	}
	if len(o.events) != len(events) || len(events) > 0 && !reflect.DeepEqual(o.events, events) {
		o.t.Fatalf("got\n%s\nwant\n%s", show(o.events), show(events))
	}
}

// ThenError demands a refusal of a kind with a stable code.
func (o Outcome) ThenError(kind domain.Kind, code string) {
	o.t.Helper()
	var failure *domain.Error
	if !errors.As(o.err, &failure) {
		o.t.Fatalf("got %s and the error %v, want %s %s", show(o.events), o.err, kind, code)
	}
	if failure.Kind != kind || failure.Code != code {
		o.t.Fatalf("got the error %s %s, want %s %s", failure.Kind, failure.Code, kind, code)
	}
}

// ThenInvalid demands a refusal that lists exactly these fields, in this order.
func (o Outcome) ThenInvalid(fields ...string) {
	o.t.Helper()
	o.ThenError(domain.Invalid, "VALIDATION_FAILED")
	var failure *domain.Error
	errors.As(o.err, &failure)
	var got []string
	for _, f := range failure.Fields {
		got = append(got, f.Field)
	}
	if !reflect.DeepEqual(got, fields) {
		o.t.Fatalf("got the fields %q, want %q", got, fields)
	}
}

// Events returns what was decided, for a scenario that goes on.
func (o Outcome) Events() []domain.Event { return o.events }

// Fold returns the state after a history. It fails when Evolve changes a state
// that was returned before: states may be remembered and compared.
func Fold[S State[S]](t testing.TB, history ...domain.Event) S {
	t.Helper()
	var state S
	kept, dumps := []S{state}, []string{dump(state)}
	for _, event := range history {
		state = state.Evolve(event)
		kept, dumps = append(kept, state), append(dumps, dump(state))
	}
	for i := range kept {
		if now := dump(kept[i]); now != dumps[i] {
			t.Fatalf("folding on changed the %T after %d events:\n%s\nbecame\n%s", state, i, dumps[i], now)
		}
	}
	return state
}

// CheckEvolve checks the fold of one category, given at least one sample of
// each of its events in an order that could have happened: Evolve takes every
// one of them in any state, two futures of one state never share what they
// changed, and an event of no category is refused with a panic.
func CheckEvolve[S State[S]](t testing.TB, samples ...domain.Event) {
	t.Helper()
	var empty S
	states := []S{empty}
	for _, event := range samples {
		states = append(states, states[len(states)-1].Evolve(event))
	}
	for _, state := range states {
		for _, one := range samples {
			future := state.Evolve(one)
			before := dump(future)
			for _, other := range samples {
				state.Evolve(other)
				future.Evolve(other)
			}
			if after := dump(future); after != before {
				t.Fatalf("%T after %T shares what it changed:\n%s\nbecame\n%s", state, one, before, after)
			}
		}
	}
	defer func() {
		if recover() == nil {
			t.Fatalf("%T took an event it has no rule for", empty)
		}
	}()
	empty.Evolve(foreign{})
}

type foreign struct{}

func (foreign) EventType() string { return "Foreign" }

func roundTrip(t testing.TB, event domain.Event) domain.Event {
	t.Helper()
	raw, err := json.Marshal(event)
	if err != nil {
		t.Fatalf("encode %T: %v", event, err)
	}
	back := reflect.New(reflect.TypeOf(event))
	if err := json.Unmarshal(raw, back.Interface()); err != nil {
		t.Fatalf("decode %T: %v", event, err)
	}
	return back.Elem().Interface().(domain.Event)
}

// dump prints a state with everything it holds. Two ways, because JSON leaves
// out unexported fields and the other what pointers lead to.
func dump(state any) string {
	raw, err := json.Marshal(state)
	if err != nil {
		raw = []byte(err.Error())
	}
	return fmt.Sprintf("%s %+v", raw, state)
}

func show(events []domain.Event) string {
	if len(events) == 0 {
		return "no events"
	}
	text := ""
	for _, event := range events {
		raw, _ := json.Marshal(event)
		text += fmt.Sprintf("\n  %s %s", event.EventType(), raw)
	}
	return text
}
