package main

import (
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStoppedMidway stops the program with SIGTERM while runs are in the middle
// of a call that does not end: it gives them back and is gone in time, and the
// next start finishes them, each effect done once.
func TestStoppedMidway(t *testing.T) {
	t.Parallel()
	world, dir := newEffects(t), dataDir(t)
	p := devAt(t, dir, "EGRESS_ALLOW=127.0.0.0/8")
	c := signIn(t, p.url, "stop@example.com")
	workflow, agent := effectWorkflow(t, c, world.URL)
	ids, release := midway(c, world, workflow, agent, "stopped", 5)
	nap := c.startRun(napWorkflow(c, "1s"), agent, "nap")

	begun := time.Now()
	p.stop()
	within(t, recovery, "stopped", time.Since(begun))
	require.Empty(t, leftovers(t, dir), "nothing is left running")
	p.calm(c.token)
	require.Contains(t, p.output.String(), "SparkOps has stopped; everything is kept in "+dir)

	release()
	back := time.Now()
	p = devAt(t, dir, "EGRESS_ALLOW=127.0.0.0/8")
	within(t, secondStart, "ready again", time.Since(back))
	c = signIn(t, p.url, "stop@example.com")
	c.ended(world, ids...)
	require.Equal(t, "succeeded", c.awaitRun(nap)["status"])
	within(t, recovery, "every run has ended", time.Since(back))
	p.stop()
	require.Empty(t, leftovers(t, dir), "nothing is left running")
}

// TestOutcomeUnknown kills the program in the middle of a call that must not be
// repeated: the run waits for a person, who sees why and decides.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	world, dir := newEffects(t), dataDir(t)
	environment := []string{"EGRESS_ALLOW=127.0.0.0/8", "UNSAFE_TEST_CLOCK=true"}
	p := devAt(t, dir, environment...)
	c := signIn(t, p.url, "unknown@example.com")
	project := firstProject(c)
	agent := c.do(http.StatusCreated, http.MethodPost, "/agents", agentBody(project, "payer"))["id"].(string)
	tool := c.do(http.StatusCreated, http.MethodPost, "/tools", object{
		"name": "pay", "kind": "http", "authType": "none", "projectId": project, "config": object{"url": world.URL, "method": "POST"},
	})["id"].(string)
	workflow := c.do(http.StatusCreated, http.MethodPost, "/workflows", object{
		"name": "payment", "projectId": project, "tags": []string{},
		"definition": object{"nodes": []object{
			{"id": "pay", "type": "tool", "tool": tool, "input": object{"label": "${ input.label }"}, "retry": object{"maxAttempts": 5}},
			{"id": "thank", "type": "tool", "tool": "builtin:echo"},
		}, "edges": []object{{"from": "pay", "to": "thank"}}},
	})["id"].(string)
	release := world.hold()
	defer release()
	resumed, cancelled := c.startRun(workflow, agent, "resumed"), c.startRun(workflow, agent, "cancelled")
	for _, label := range []string{"resumed", "cancelled"} {
		require.Eventually(t, func() bool { return world.times(label) == 1 }, patience, pollPause)
	}
	p.kill()
	release()

	p = devAt(t, dir, environment...)
	c = signIn(t, p.url, "unknown@example.com")
	for _, id := range []string{resumed, cancelled} {
		require.Equal(t, "running", c.do(http.StatusOK, http.MethodGet, "/runs/"+id, nil)["phase"], "the lease of the dead worker lasts")
	}
	c.do(http.StatusOK, http.MethodPost, "/debug/clock", object{"advance": "31s"}) // it has run out now
	for _, id := range []string{resumed, cancelled} {
		require.Eventually(t, func() bool {
			return c.do(http.StatusOK, http.MethodGet, "/runs/"+id, nil)["phase"] == "paused"
		}, patience, pollPause)
		run := c.do(http.StatusOK, http.MethodGet, "/runs/"+id, nil)
		require.Equal(t, "running", run["status"])
		require.Equal(t, "OUTCOME_UNKNOWN", run["statusReason"].(object)["code"])
		reasons := c.do(http.StatusOK, http.MethodGet, "/runs/"+id+"/why", nil)["reasons"].([]any)
		require.Len(t, reasons, 1)
		why := reasons[0].(object)
		require.Equal(t, "PAUSED", why["code"])
		require.Equal(t, "pay", why["step"])
		require.Contains(t, why["message"], "OUTCOME_UNKNOWN: The call of pay was started and nobody knows whether it took effect")
	}
	require.Equal(t, 1, world.times("resumed"), "nobody repeated the call")
	require.Equal(t, 1, world.times("cancelled"), "nobody repeated the call")
	story, code := runToEnd(t, []string{"SPARKOPS_DATA_DIR=" + dir}, "replay", "run", resumed)
	require.Zero(t, code)
	require.Contains(t, story, "is running (paused): OUTCOME_UNKNOWN")

	require.Equal(t, "running", c.do(http.StatusOK, http.MethodPost, "/runs/"+resumed+"/resume", nil)["status"])
	require.Equal(t, "cancelled", c.do(http.StatusOK, http.MethodPost, "/runs/"+cancelled+"/cancel", nil)["status"])
	require.Equal(t, "succeeded", c.awaitRun(resumed)["status"])
	require.Equal(t, 2, world.times("resumed"), "a person decided to repeat it")
	require.Equal(t, 1, world.done("resumed"), "under the key of the first call")
	require.Equal(t, 1, world.times("cancelled"))
	require.Equal(t, 1, strings.Count(historyTypes(c, resumed), "RunPaused"))
	p.calm(c.token)
	p.stop()
}

// historyTypes returns the types of a run's events, in order.
func historyTypes(c *client, id string) string {
	c.t.Helper()
	var types []string
	for _, e := range c.history(id) {
		types = append(types, e["type"].(string))
	}
	return strings.Join(types, " ")
}

// TestStartOrder starts a node before the event store and Postgres are there,
// as happens when a machine boots.
func TestStartOrder(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	r := newRig(t, db.url())
	db.kill()
	port := unusedPort(t)
	n := start(t, append(r.environment(), "PORT="+strconv.Itoa(port)), "serve")
	n.url = "http://127.0.0.1:" + strconv.Itoa(port)
	n.says("waiting for a dependency")
	db.start()
	n.notReady("eventstore")
	r.startStore()
	n.readyWithin(recovery)
	c := signIn(t, n.url, "order@example.com")
	workflow, agent := effectWorkflow(t, c, r.world.URL)
	c.ended(r.world, c.startRun(workflow, agent, "first"))
	n.calm(c.token)
	n.stop()
}

// TestPrivatePostgresKilled kills the Postgres child of the embedded mode: the
// program says so in its last line, leaves nothing behind, and has everything
// at the next start.
func TestPrivatePostgresKilled(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	p := devAt(t, dir)
	c := signIn(t, p.url, "private@example.com")
	made := c.do(http.StatusCreated, http.MethodPost, "/projects", object{"name": "Kept"})
	cluster, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres", "pgdata"))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(postmaster(t, cluster), syscall.SIGKILL))
	output, code := p.end()
	require.Equal(t, 1, code)
	last := tail(output, 1)
	require.True(t, strings.HasPrefix(last, "sparkops: "), last)
	require.Contains(t, last, "the private Postgres ended")
	require.Empty(t, leftovers(t, dir), "nothing is left running")
	p.calm(c.token)

	begun := time.Now()
	p = devAt(t, dir)
	within(t, secondStart, "ready again", time.Since(begun))
	c.base = p.url
	require.Equal(t, "Kept", c.do(http.StatusOK, http.MethodGet, "/projects/"+made["id"].(string), nil)["name"])
	p.stop()
}
