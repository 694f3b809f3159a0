package domaintest_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
)

// recorder is a test that only notes how it failed.
type recorder struct{ testing.TB }

type failed string

func (recorder) Helper() {}
func (recorder) Fatalf(format string, args ...any) {
	panic(failed(fmt.Sprintf(format, args...)))
}

// failure returns how a test would have failed, "" where it passed.
func failure(run func(testing.TB)) (text string) {
	defer func() {
		if reason := recover(); reason != nil {
			text = string(reason.(failed))
		}
	}()
	run(recorder{})
	return ""
}

type added struct {
	Name string `json:"name"`
	Lost string `json:"-"`
}

func (added) EventType() string { return "Added" }

// sound and careless are the same fold; one of them shares its map.
type sound struct{ names map[string]bool }

func (s sound) Evolve(event domain.Event) sound {
	e, ok := event.(added)
	if !ok {
		panic("no rule")
	}
	names := map[string]bool{}
	maps.Copy(names, s.names)
	names[e.Name] = true
	return sound{names}
}

type careless struct{ names map[string]bool }

func (s careless) Evolve(event domain.Event) careless {
	if s.names == nil {
		s.names = map[string]bool{}
	}
	e, _ := event.(added)
	s.names[e.Name] = true
	return s
}

type command[S any] func(S) ([]domain.Event, error)

func (c command[S]) Decide(s S, _ time.Time) ([]domain.Event, error) { return c(s) }

func decides(events []domain.Event, err error) command[sound] {
	return func(sound) ([]domain.Event, error) { return events, err }
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestScenariosPassAndFail(t *testing.T) {
	t.Parallel()
	a, b := added{Name: "a"}, added{Name: "b"}
	refusal := domain.Fail(domain.Conflict, "TAKEN", "no")
	invalid := domain.InvalidFields([]domain.Field{{Field: "x"}, {Field: "y"}})
	calls := 0
	moody := command[sound](func(sound) ([]domain.Event, error) {
		calls++
		return []domain.Event{added{Name: fmt.Sprint(calls)}}, nil
	})
	meddling := command[sound](func(s sound) ([]domain.Event, error) {
		s.names["new"] = true
		return nil, nil
	})
	given := func(t testing.TB) domaintest.Scenario[sound] { return domaintest.Given[sound](t, a) }
	for name, c := range map[string]struct {
		run  func(testing.TB)
		want string // part of the failure; "" for none
	}{
		"events":          {func(t testing.TB) { given(t).When(decides([]domain.Event{a, b}, nil), now).Then(a, b) }, ""},
		"nothing":         {func(t testing.TB) { given(t).When(decides(nil, nil), now).Then() }, ""},
		"refusal":         {func(t testing.TB) { given(t).When(decides(nil, refusal), now).ThenError(domain.Conflict, "TAKEN") }, ""},
		"fields":          {func(t testing.TB) { given(t).When(decides(nil, invalid), now).ThenInvalid("x", "y") }, ""},
		"other order":     {func(t testing.TB) { given(t).When(decides([]domain.Event{b, a}, nil), now).Then(a, b) }, "want"},
		"one too many":    {func(t testing.TB) { given(t).When(decides([]domain.Event{a, b}, nil), now).Then(a) }, "want"},
		"one too few":     {func(t testing.TB) { given(t).When(decides(nil, nil), now).Then(a) }, "no events"},
		"unwanted error":  {func(t testing.TB) { given(t).When(decides(nil, refusal), now).Then() }, "got the error"},
		"missing error":   {func(t testing.TB) { given(t).When(decides(nil, nil), now).ThenError(domain.Conflict, "TAKEN") }, "want conflict TAKEN"},
		"other code":      {func(t testing.TB) { given(t).When(decides(nil, refusal), now).ThenError(domain.Conflict, "GONE") }, "want conflict GONE"},
		"other fields":    {func(t testing.TB) { given(t).When(decides(nil, invalid), now).ThenInvalid("y", "x") }, "want"},
		"both":            {func(t testing.TB) { given(t).When(decides([]domain.Event{a}, refusal), now) }, "events and an error"},
		"not pure":        {func(t testing.TB) { given(t).When(moody, now) }, "not pure"},
		"meddling":        {func(t testing.TB) { given(t).When(meddling, now) }, "changed the state"},
		"lossy event":     {func(t testing.TB) { given(t).When(decides([]domain.Event{added{Name: "a", Lost: "x"}}, nil), now) }, "changes by being stored"},
		"sound fold":      {func(t testing.TB) { domaintest.Fold[sound](t, a, b) }, ""},
		"careless fold":   {func(t testing.TB) { domaintest.Fold[careless](t, a, b) }, "changed"},
		"sound evolve":    {func(t testing.TB) { domaintest.CheckEvolve[sound](t, a, b) }, ""},
		"careless evolve": {func(t testing.TB) { domaintest.CheckEvolve[careless](t, a, b) }, "shares what it changed"},
	} {
		got := failure(c.run)
		if c.want == "" {
			require.Empty(t, got, name)
		} else {
			require.Contains(t, got, c.want, name)
		}
	}
	require.Equal(t, map[string]bool{"a": true}, domaintest.Given[sound](t, a).State().names)
}
