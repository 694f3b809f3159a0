package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashRounds is how often the kill test kills the whole process group;
// SPARKOPS_TEST_CRASH_ROUNDS sets another number for a soak.
func crashRounds(t *testing.T) int {
	rounds := 25
	if testing.Short() {
		rounds = 3
	}
	if s := os.Getenv("SPARKOPS_TEST_CRASH_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		rounds = n
	}
	return rounds
}

// load keeps starting runs of a workflow until it is told to stop, and notes
// the id of every run the server acknowledged.
type load struct {
	mu    sync.Mutex
	acked []string
	stop  atomic.Bool
	wait  sync.WaitGroup
}

func (l *load) run(c *client, workflow, agent string, prefix string, writers int) {
	for w := range writers {
		l.wait.Go(func() {
			for i := 0; !l.stop.Load(); i++ {
				label := fmt.Sprintf("%s-%d-%d", prefix, w, i)
				status, data, err := c.try(http.MethodPost, "/runs", object{
					"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual",
					"input_data": object{"label": label},
				}, "Idempotency-Key", label)
				if err != nil {
					return // killed: this run was never acknowledged
				}
				if status != http.StatusCreated {
					c.t.Errorf("POST /runs: %d %s", status, data)
					return
				}
				id := idOf(data)
				l.mu.Lock()
				l.acked = append(l.acked, id)
				l.mu.Unlock()
			}
		})
	}
}

// TestKilledAtRandomMoments kills the whole process group again and again
// while runs are being started and carried out. Afterwards every acknowledged
// run must have ended well, with one terminal event, a gapless history that
// agrees with the views, and each step's effect done once.
//
// The seed is printed; SPARKOPS_TEST_SEED repeats a sequence of moments.
func TestKilledAtRandomMoments(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SPARKOPS_TEST_SEED"); s != "" {
		parsed, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		seed = parsed
	}
	t.Logf("SPARKOPS_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	world := newEffects(t)
	dir := dataDir(t)
	environment := []string{"EGRESS_ALLOW=127.0.0.0/8", "LOG_LEVEL=warn"}
	p := devAt(t, dir, environment...)
	c := signIn(t, p.url, "crash@example.com")
	workflow, agent := effectWorkflow(t, c, world.URL)

	var all load
	for round := range crashRounds(t) {
		var l load
		l.run(c, workflow, agent, fmt.Sprintf("r%d", round), 4)
		timer := time.NewTimer(time.Duration(100+random.IntN(1400)) * time.Millisecond)
		<-timer.C // the moment of the kill is the random input of this test
		p.kill()
		l.stop.Store(true)
		l.wait.Wait()
		all.acked = append(all.acked, l.acked...)
		p = devAt(t, dir, environment...)
		c = signIn(t, p.url, "crash@example.com")
	}
	require.NotEmpty(t, all.acked)
	t.Logf("%d runs acknowledged over %d kills", len(all.acked), crashRounds(t))
	for _, id := range all.acked {
		run := c.awaitRun(id)
		require.Equal(t, "succeeded", run["status"], "run %s: %v", id, run)
		checkRun(t, c, run, world)
	}
	p.stop()
}

// checkRun holds one finished run of effectWorkflow against its history and
// the outside world.
func checkRun(t testing.TB, c *client, run object, world *effects) {
	t.Helper()
	id := run["id"].(string)
	terminal, succeeded := 0, map[string]int{}
	for i, e := range c.history(id) {
		require.EqualValues(t, i, e["revision"], "run %s: the history has a gap", id)
		switch e["type"] {
		case "RunSucceeded", "RunFailed", "RunCancelled", "RunTimedOut":
			terminal++
		case "RunStepSucceeded":
			succeeded[e["data"].(object)["step"].(string)]++
		}
	}
	require.Equal(t, 1, terminal, "run %s: terminal events", id)
	require.Equal(t, map[string]int{"first": 1, "left": 1, "right": 1, "last": 1}, succeeded, "run %s", id)
	label := run["input"].(object)["label"].(string)
	for _, step := range []string{"first", "left", "right", "last"} {
		require.Equal(t, 1, world.done(label+"/"+step), "run %s: effect of step %s", id, step)
	}
	for _, step := range c.list("/runs/" + id + "/steps") {
		require.Equal(t, "succeeded", step["status"], "run %s: %v", id, step)
	}
}

// effectWorkflow makes a workflow of four HTTP calls: one, then two in
// parallel, then one that joins them.
func effectWorkflow(t testing.TB, c *client, url string) (workflow, agent string) {
	t.Helper()
	project := firstProject(c)
	agent = c.do(http.StatusCreated, http.MethodPost, "/agents", agentBody(project, "effects"))["id"].(string)
	tool := c.do(http.StatusCreated, http.MethodPost, "/tools", object{
		"name": "effect", "kind": "http", "authType": "none", "projectId": project,
		"config": object{"url": url, "method": "POST", "idempotent": true},
	})["id"].(string)
	node := func(id string) object {
		return object{"id": id, "type": "tool", "tool": tool, "input": object{"label": "${ input.label }/" + id},
			"retry": object{"maxAttempts": 50, "initialInterval": "100ms", "maxInterval": "1s"}}
	}
	workflow = c.do(http.StatusCreated, http.MethodPost, "/workflows", object{
		"name": "effects", "projectId": project, "tags": []string{}, "trigger_type": "manual",
		"definition": object{
			"nodes": []object{node("first"), node("left"), node("right"), node("last")},
			"edges": []object{{"from": "first", "to": "left"}, {"from": "first", "to": "right"}, {"from": "left", "to": "last"}, {"from": "right", "to": "last"}},
		},
	})["id"].(string)
	return workflow, agent
}

func firstProject(c *client) string {
	c.t.Helper()
	items := c.do(http.StatusOK, http.MethodGet, "/projects?page=1&page_size=100", nil)["items"].([]any)
	require.NotEmpty(c.t, items, "a new user has a project of its own")
	return items[0].(object)["id"].(string)
}

func agentBody(project, name string) object {
	return object{
		"name": name, "projectId": project, "runtime": "python", "model": "gpt-4o", "provider": "openai", "env": "dev",
		"temperature": 7, "concurrency": 8, "promptSummary": "", "tools": []string{},
		"autoscale_min": 1, "autoscale_max": 10, "autoscale_target_cpu": 70,
	}
}

// dataDir is a data directory short enough for a Unix socket and traversable
// by the user Postgres runs as.
func dataDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sparkops-e2e-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "data")
}

// TestPostgresWiped deletes the Postgres data while the program is stopped:
// every answer is the same after the next start, because the log is the truth.
func TestPostgresWiped(t *testing.T) {
	world := newEffects(t)
	dir := dataDir(t)
	p := devAt(t, dir, "EGRESS_ALLOW=127.0.0.0/8")
	c := signIn(t, p.url, "wiped@example.com")
	workflow, agent := effectWorkflow(t, c, world.URL)
	var ids []string
	for i := range 5 {
		ids = append(ids, c.do(http.StatusCreated, http.MethodPost, "/runs", object{
			"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{"label": fmt.Sprint("w", i)},
		})["id"].(string))
	}
	paths := []string{"/auth/me", "/projects", "/agents", "/agents/" + agent, "/tools", "/workflows", "/workflows/" + workflow, "/runs", "/api-keys"}
	for _, id := range ids {
		c.awaitRun(id)
		paths = append(paths, "/runs/"+id, "/runs/"+id+"/steps", "/runs/"+id+"/events")
	}
	c.do(http.StatusCreated, http.MethodPost, "/api-keys", object{"name": "kept"})
	before := answers(c, paths)
	p.stop()

	entries, err := filepath.Glob(filepath.Join(dir, "postgres*"))
	require.NoError(t, err)
	require.NotEmpty(t, entries, "the private Postgres keeps its data in <data dir>/postgres")
	for _, e := range entries {
		require.NoError(t, os.RemoveAll(e))
	}

	p = devAt(t, dir, "EGRESS_ALLOW=127.0.0.0/8")
	c.base = p.url
	after := answers(c, paths)
	for i, path := range paths {
		require.JSONEq(t, before[i], after[i], path)
	}
	p.stop()
	require.Empty(t, leftovers(t, dir), "nothing is left running")
}

func answers(c *client, paths []string) []string {
	c.t.Helper()
	var all []string
	for _, path := range paths {
		status, data, err := c.try(http.MethodGet, path, nil)
		require.NoError(c.t, err)
		require.Equal(c.t, http.StatusOK, status, "GET %s: %s", path, data)
		all = append(all, string(data))
	}
	return all
}
