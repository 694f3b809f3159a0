package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// napWorkflow makes a workflow of one wait.
func napWorkflow(c *client, duration string) string {
	c.t.Helper()
	return c.do(http.StatusCreated, http.MethodPost, "/workflows", object{
		"name": "nap " + duration, "projectId": firstProject(c), "tags": []string{},
		"definition": object{"nodes": []object{{"id": "nap", "type": "wait", "duration": duration}}, "edges": []object{}, "settings": object{"maxDuration": "2h"}},
	})["id"].(string)
}

// againWorkflow makes a workflow that fails twice, with a pause in between.
func againWorkflow(c *client, pause string) string {
	c.t.Helper()
	return c.do(http.StatusCreated, http.MethodPost, "/workflows", object{
		"name": "again " + pause, "projectId": firstProject(c), "tags": []string{},
		"definition": object{"nodes": []object{{
			"id": "fail", "type": "tool", "tool": "builtin:fail", "input": object{"code": "BUSY", "message": "come again", "retryable": true},
			"retry": object{"maxAttempts": 2, "initialInterval": pause, "maxInterval": pause, "jitter": "none"}, "onExhausted": "fail",
		}}, "edges": []object{}},
	})["id"].(string)
}

func runBody(workflow, agent, label string) object {
	return object{"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{"label": label}}
}

func (c *client) startRun(workflow, agent, label string) string {
	c.t.Helper()
	return c.do(http.StatusCreated, http.MethodPost, "/runs", runBody(workflow, agent, label))["id"].(string)
}

// midway starts runs of the effect workflow and waits until the effect of the
// first step of each took place; release lets them go on.
func midway(c *client, world *effects, workflow, agent, prefix string, n int) (ids []string, release func()) {
	c.t.Helper()
	release = world.hold()
	c.t.Cleanup(release)
	for i := range n {
		ids = append(ids, c.startRun(workflow, agent, fmt.Sprint(prefix, i)))
	}
	for i := range n {
		require.Eventually(c.t, func() bool { return world.done(fmt.Sprint(prefix, i, "/first")) == 1 }, patience, 10*time.Millisecond)
	}
	return ids, release
}

// ended requires that runs of the effect workflow end well, with each effect
// once.
func (c *client) ended(world *effects, ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		run := c.awaitRun(id)
		require.Equal(c.t, "succeeded", run["status"], "run %s: %v", id, run)
		checkRun(c.t, c, run, world)
	}
}

// TestEventStoreDown kills the event store under a node: the node says so, at
// once and in full, reads go on, and when the store is back so is everything
// else, without a restart.
func TestEventStoreDown(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t))
	store := r.startStore()
	n := r.serve("WORKER_SLOTS=8")
	c := signIn(t, n.url, "store@example.com")
	workflow, agent := effectWorkflow(t, c, r.world.URL)
	before := c.startRun(workflow, agent, "before")
	c.ended(r.world, before)
	inFlight, release := midway(c, r.world, workflow, agent, "flight", 3)
	for i := range 4 { // the worker may have no hands free for them
		inFlight = append(inFlight, c.startRun(workflow, agent, fmt.Sprint("ready", i)))
	}
	naps, again, timed := napWorkflow(c, "1s"), againWorkflow(c, "1s"), []string{}
	for range 12 { // their time comes while nobody can say so
		timed = append(timed, c.startRun(naps, agent, "nap"), c.startRun(again, agent, "again"))
	}

	store.kill()
	release() // the worker has results to report, and nobody to report them to
	n.notReady("eventstore")
	body := runBody(workflow, agent, "once")
	for _, w := range []struct {
		method, path string
		body         object
	}{
		{http.MethodPost, "/runs", body},
		{http.MethodPost, "/projects", object{"name": "Down"}},
		{http.MethodPatch, "/agents/" + agent, object{"temperature": 3}},
		{http.MethodPost, "/runs/" + inFlight[0] + "/cancel", nil},
		{http.MethodPost, "/auth/register", object{"email": "late@example.com", "name": "Late", "password": testPassword}},
		{http.MethodGet, "/runs/" + before + "/events", nil},
		{http.MethodGet, "/runs/" + before + "/why", nil},
		{http.MethodGet, "/runs/" + before + "?as_of=1", nil},
	} {
		var sent any
		if w.body != nil {
			sent = w.body
		}
		took := c.problemIn(http.StatusServiceUnavailable, "EVENT_STORE_UNAVAILABLE", w.method, w.path, sent, "Idempotency-Key", "once-"+w.path)
		require.Less(t, took, soon, "%s %s", w.method, w.path)
	}
	for _, path := range []string{"/runs", "/runs/" + before, "/runs/" + inFlight[0], "/runs/" + before + "/steps", "/agents", "/workflows/" + workflow, "/projects", "/auth/me"} {
		begun := time.Now()
		answers(c, []string{path})
		require.Less(t, time.Since(begun), soon, path)
	}

	r.startStore()
	back := time.Now()
	n.readyWithin(recovery)
	id := c.do(http.StatusCreated, http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")["id"].(string)
	require.Equal(t, id, c.do(http.StatusCreated, http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")["id"], "one run, however often it is asked for")
	c.ended(r.world, append(inFlight, id)...)
	for i, id := range timed {
		require.Equal(t, []string{"succeeded", "failed"}[i%2], c.awaitRun(id)["status"])
	}
	within(t, recovery, "every run has ended", time.Since(back))
	require.EqualValues(t, 33, c.do(http.StatusOK, http.MethodGet, "/runs?page_size=100", nil)["total"], "nothing half-done is left")
	require.False(t, n.ended(), "the node was not restarted")
	r.verifyAll()
	n.calm(c.token)
	n.stop()
}

// TestPostgresDown kills Postgres under a node. What needs the read models is a
// 503; what needs only the log goes on; and when Postgres is back the read
// models show everything that happened meanwhile.
func TestPostgresDown(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	r := newRig(t, db.url())
	r.startStore()
	n := r.serve()
	c := signIn(t, n.url, "postgres@example.com")
	workflow, agent := effectWorkflow(t, c, r.world.URL)
	before := c.startRun(workflow, agent, "before")
	c.ended(r.world, before)
	inFlight, release := midway(c, r.world, workflow, agent, "flight", 3)
	nap := c.startRun(napWorkflow(c, "1s"), agent, "nap")

	db.kill()
	n.notReady("postgres")
	body := runBody(workflow, agent, "once")
	for _, w := range []struct {
		method, path string
		body         any
	}{
		{http.MethodGet, "/runs", nil},
		{http.MethodGet, "/runs/" + before, nil},
		{http.MethodGet, "/runs/" + before + "/steps", nil},
		{http.MethodGet, "/runs/" + before + "/events", nil},
		{http.MethodGet, "/agents", nil},
		{http.MethodGet, "/auth/me", nil},
		{http.MethodGet, "/projections", nil},
		{http.MethodPost, "/runs", body},
		{http.MethodPatch, "/agents/" + agent, object{"temperature": 3}},
	} {
		took := c.problemIn(http.StatusServiceUnavailable, "DATABASE_UNAVAILABLE", w.method, w.path, w.body, "Idempotency-Key", "once-"+w.path)
		require.Less(t, took, soon, "%s %s", w.method, w.path)
	}
	// Signing in needs the log alone, and counts for good.
	signedIn := c.do(http.StatusOK, http.MethodPost, "/auth/login", object{"email": "postgres@example.com", "password": testPassword})
	release()
	for _, id := range inFlight { // a worker reports to the log
		require.Eventually(t, func() bool {
			story, code := runToEnd(t, r.environment(), "replay", "run", id)
			require.Zero(t, code, story)
			return strings.Contains(story, `first: {"done"`)
		}, patience, 20*time.Millisecond, "what is under way is reported without the read models")
	}

	db.start()
	n.readyWithin(recovery)
	id := c.do(http.StatusCreated, http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")["id"].(string)
	c.ended(r.world, append(inFlight, id)...)
	require.Equal(t, "succeeded", c.awaitRun(nap)["status"])
	c.token = signedIn["access_token"].(string)
	require.EqualValues(t, 6, c.do(http.StatusOK, http.MethodGet, "/runs?page_size=100", nil)["total"], "nothing half-done is left")
	require.False(t, n.ended(), "the node was not restarted")
	r.verifyAll()
	n.calm(c.token)
	n.stop()
}
