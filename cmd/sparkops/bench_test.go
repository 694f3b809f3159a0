package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkRuns measures the standard job, a durable run of three sequential
// no-op steps carried out by one worker process, on the whole program with
// everything on: HTTP start, event log on disk, projections, worker.
//
//   - sustained: as many starters as keep it busy; runs/s from the first start
//     to the last end.
//   - paced: ten runs a second, started on a fixed schedule whatever the
//     answers take; end-to-end time from sending POST /runs to the end of the
//     run as its own history tells it.
//
// It uses wall time, so it reports its own metrics; ns/op means nothing here.
func BenchmarkRuns(b *testing.B) {
	p := devAt(b, dataDir(b), "LOG_LEVEL=warn")
	c := signIn(b, p.url, "bench@example.com")
	project := firstProject(c)
	agent := c.do(201, "POST", "/agents", agentBody(project, "bench"))["id"].(string)
	noop := func(id string) object {
		return object{"id": id, "type": "tool", "tool": "builtin:echo", "input": object{}}
	}
	workflow := c.do(201, "POST", "/workflows", object{
		"name": "three steps", "projectId": project, "tags": []string{},
		"definition": object{"nodes": []object{noop("a"), noop("b"), noop("c")},
			"edges": []object{{"from": "a", "to": "b"}, {"from": "b", "to": "c"}}},
	})["id"].(string)
	body := object{"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{}}

	b.Run("sustained", func(b *testing.B) {
		total := benchSize("SPARKOPS_BENCH_RUNS", 2000)
		ids := make([]string, total)
		jobs := make(chan int)
		begun := time.Now()
		var starters sync.WaitGroup
		for range 32 {
			starters.Go(func() {
				for i := range jobs {
					ids[i] = startedRun(c, body)
				}
			})
		}
		for i := range total {
			jobs <- i
		}
		close(jobs)
		starters.Wait()
		accepted := time.Since(begun)
		last := begun
		for _, id := range ids {
			if end := endOf(c, id); end.After(last) {
				last = end
			}
		}
		b.ReportMetric(float64(total)/last.Sub(begun).Seconds(), "runs/s")
		b.ReportMetric(float64(total)/accepted.Seconds(), "starts/s")
		b.ReportMetric(residentMiB(b, p), "MiB-resident")
		b.ReportMetric(0, "ns/op")
	})

	for _, rate := range []int{10, 100} {
		b.Run(fmt.Sprintf("paced/%d", rate), func(b *testing.B) {
			total := benchSize("SPARKOPS_BENCH_PACED", 200)
			sent, ids := make([]time.Time, total), make([]string, total)
			ticker := time.NewTicker(time.Second / time.Duration(rate))
			defer ticker.Stop()
			var flying sync.WaitGroup
			for i := range total {
				<-ticker.C
				flying.Go(func() {
					sent[i] = time.Now()
					ids[i] = startedRun(c, body)
				})
			}
			flying.Wait()
			took := make([]time.Duration, total)
			for i, id := range ids { // asked afterwards, so that asking is no load
				took[i] = endOf(c, id).Sub(sent[i])
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[total/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[total*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchSize(setting string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(setting)); err == nil && n > 0 {
		return n
	}
	return standard
}

func startedRun(c *client, body object) string {
	status, data, err := c.try(http.MethodPost, "/runs", body)
	require.NoError(c.t, err)
	require.Equal(c.t, http.StatusCreated, status, "%s", data)
	return idOf(data)
}

// endOf waits for a run's end and returns its time, by the server's clock,
// which is this machine's.
func endOf(c *client, id string) time.Time {
	run := c.awaitRun(id)
	require.Equal(c.t, "succeeded", run["status"])
	end, err := time.Parse(time.RFC3339Nano, run["endedAt"].(string))
	require.NoError(c.t, err)
	return end
}

// residentMiB is the resident memory of the program and its private Postgres'
// parent, from /proc.
func residentMiB(b *testing.B, p *process) float64 {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0 // not Linux
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			require.NoError(b, err)
			return kib / 1024
		}
	}
	return 0
}
