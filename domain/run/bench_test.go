package run_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
)

// chain is a workflow of n steps, one after the other; wide one of n steps at
// the same time with a join behind them.
func chain(n int) workflow.Definition {
	var def workflow.Definition
	for i := range n {
		def.Nodes = append(def.Nodes, workflow.Node{ID: fmt.Sprintf("s%d", i), Type: "tool", Tool: "builtin:echo"})
		if i > 0 {
			def.Edges = append(def.Edges, workflow.Edge{From: fmt.Sprintf("s%d", i-1), To: fmt.Sprintf("s%d", i)})
		}
	}
	return def
}

func wide(n int) workflow.Definition {
	def := workflow.Definition{Nodes: []workflow.Node{{ID: "join", Type: "tool", Tool: "builtin:echo"}}}
	for i := range n - 1 {
		def.Nodes = append(def.Nodes, workflow.Node{ID: fmt.Sprintf("s%d", i), Type: "tool", Tool: "builtin:echo"})
		def.Edges = append(def.Edges, workflow.Edge{From: fmt.Sprintf("s%d", i), To: "join"})
	}
	return def
}

// play carries a run out to its end and returns its events. Each command is
// decided and folded as Execute does it.
func play(b testing.TB, def workflow.Definition) []domain.Event {
	var r run.Run
	var all []domain.Event
	apply := func(events []domain.Event, err error) {
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range events {
			r = r.Evolve(e)
		}
		all = append(all, events...)
	}
	apply(run.Queue{RunID: "r", ProjectID: "p", Env: "dev", Trigger: "manual", Input: raw(`{}`), Plan: run.Plan{Definition: def}, Expr: words{}}.Decide(r, t0))
	for next := 0; next < len(all); next++ {
		switch e := all[next].(type) {
		case run.StepScheduled:
			if s, _ := r.Step(e.Step); s.Status == run.StepReady {
				apply(run.Lease{RunID: "r", Worker: "w", Tickets: []run.Ticket{{Step: e.Step, Attempt: 1}}}.Decide(r, t0))
			}
		case run.StepStarted:
			apply(run.Complete{Held: run.Held{RunID: "r", Step: e.Step, Attempt: 1, Token: e.Token}, Output: raw(`{"ok":true}`), Take: 1, Expr: words{}}.Decide(r, t0))
		}
	}
	if r.Status() != run.StatusSucceeded {
		b.Fatal(r.Status())
	}
	return all
}

func BenchmarkRun(b *testing.B) {
	for name, def := range map[string]workflow.Definition{"3 steps": chain(3), "500 steps in a row": chain(500), "500 steps at once": wide(500)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			events := 0
			for b.Loop() {
				events = len(play(b, def))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
		})
	}
}

func BenchmarkFold(b *testing.B) {
	for name, def := range map[string]workflow.Definition{"3 steps": chain(3), "500 steps in a row": chain(500), "500 steps at once": wide(500)} {
		events := play(b, def)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run.Fold(events)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
		})
	}
}

// A step with a thousand calls, as a long agent loop makes them.
func BenchmarkCalls(b *testing.B) {
	start := play(b, chain(1))[:3]
	events := append([]domain.Event{}, start...)
	for i := range 1000 {
		events = append(events,
			run.StepCallStarted{Step: "s0", Attempt: 1, Call: run.Call{Seq: i + 1, Kind: "model", Name: "m"}, At: t0},
			run.StepCallFinished{Step: "s0", Attempt: 1, Seq: i + 1, Result: run.CallResult{Response: json.RawMessage(`{}`)}, At: t0.Add(time.Second)})
	}
	b.ReportAllocs()
	for b.Loop() {
		run.Fold(events)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
}

// Folding many steps must not cost many times as much for each of them. Not
// parallel: it counts what the process allocates.
func TestFoldIsNotQuadratic(t *testing.T) {
	perEvent := func(events []domain.Event) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run.Fold(events)
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / uint64(len(events))
	}
	small, large := perEvent(play(t, chain(20))), perEvent(play(t, chain(500)))
	require.Less(t, large, 2*small, "bytes an event in a run of 500 steps, and of 20")
}
