package commands

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkThreeSteps carries out runs of three steps in a row by workers of
// the same process, everything on: embedded event store, Postgres, projections.
func BenchmarkThreeSteps(b *testing.B) {
	w := newPlant(b)
	w.workflow = w.newWorkflow(b, `{"nodes":[{"id":"a","type":"tool","tool":"builtin:echo"},{"id":"b","type":"tool","tool":"builtin:echo"},{"id":"c","type":"tool","tool":"builtin:echo"}],
		"edges":[{"from":"a","to":"b"},{"from":"b","to":"c"}]}`)
	ctx, stop := context.WithCancel(w.dev)
	defer stop()
	ended := make(chan string, 1024)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for ctx.Err() == nil {
				tasks, err := w.LeaseTasks(ctx, carpenter, 1, time.Second)
				if err != nil && !errors.Is(err, context.Canceled) {
					b.Error(err)
					return
				}
				for len(tasks) > 0 {
					next, err := w.CompleteTask(w.dev, tasks[0], json.RawMessage(`{"ok":true}`), 1)
					if err != nil {
						b.Error(err)
						return
					}
					if tasks[0].Step == "c" {
						ended <- tasks[0].RunID
					}
					tasks = next
				}
			}
		})
	}
	before := w.appends(b)
	slots := make(chan struct{}, 32)
	b.ResetTimer()
	var all sync.WaitGroup
	for range b.N {
		slots <- struct{}{}
		all.Go(func() {
			_, _, err := w.CreateRun(w.dev, NewRun{WorkflowID: w.workflow})
			if err != nil {
				b.Error(err)
			}
		})
		all.Go(func() { <-ended; <-slots })
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
	b.ReportMetric(float64(w.appends(b)-before)/float64(b.N), "appends/run")
	stop()
	workers.Wait()
	require.False(b, b.Failed())
}
