package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// frozen is the longest a request may take when a dependency takes what is sent
// to it and answers nothing. (Clients give up after 30 seconds.)
const frozen = 27 * time.Second

// TestEventStoreFrozen stops the event store without ending it, as a machine
// that hangs does: its connections stay open and nothing is refused. Requests
// are answered all the same, and when it goes on so does everything else.
func TestEventStoreFrozen(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t))
	store := r.startStore()
	n := r.serve()
	c := signIn(t, n.url, "frozen@example.com")
	workflow, agent := effectWorkflow(t, c, r.world.URL)
	before := c.startRun(workflow, agent, "before")
	c.ended(r.world, before)
	inFlight, release := midway(c, r.world, workflow, agent, "flight", 3)

	require.NoError(t, syscall.Kill(store.cmd.Process.Pid, syscall.SIGSTOP))
	release()
	n.notReady("eventstore")
	body := runBody(workflow, agent, "once")
	askedAtOnce(c, "EVENT_STORE_UNAVAILABLE", []asked{
		{http.MethodPost, "/runs", body},
		{http.MethodPost, "/projects", object{"name": "Frozen"}},
		{http.MethodPatch, "/agents/" + agent, object{"temperature": 3}},
		{http.MethodGet, "/runs/" + before + "/events", nil},
		{http.MethodGet, "/runs/" + before + "/why", nil},
	})
	answers(c, []string{"/runs", "/runs/" + before, "/agents"})

	require.NoError(t, syscall.Kill(store.cmd.Process.Pid, syscall.SIGCONT))
	back := time.Now()
	n.readyWithin(recovery)
	id := c.do(http.StatusCreated, http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")["id"].(string)
	c.ended(r.world, append(inFlight, id)...)
	within(t, recovery, "every run has ended", time.Since(back))
	require.EqualValues(t, 5, c.do(http.StatusOK, http.MethodGet, "/runs?page_size=100", nil)["total"], "nothing twice, nothing half-done")
	r.verifyAll()
	n.calm(c.token)
	n.stop()
}

// TestPostgresFrozen does the same to Postgres.
func TestPostgresFrozen(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	r := newRig(t, db.url())
	r.startStore()
	n := r.serve()
	c := signIn(t, n.url, "frozen@example.com")
	workflow, agent := effectWorkflow(t, c, r.world.URL)
	before := c.startRun(workflow, agent, "before")
	c.ended(r.world, before)
	inFlight, release := midway(c, r.world, workflow, agent, "flight", 3)

	db.signal(syscall.SIGSTOP)
	t.Cleanup(func() { db.signal(syscall.SIGCONT) })
	release()
	n.notReady("postgres")
	body := runBody(workflow, agent, "once")
	askedAtOnce(c, "DATABASE_UNAVAILABLE", []asked{
		{http.MethodGet, "/runs", nil},
		{http.MethodGet, "/runs/" + before + "/events", nil},
		{http.MethodGet, "/auth/me", nil},
		{http.MethodPost, "/runs", body},
		{http.MethodPatch, "/agents/" + agent, object{"temperature": 3}},
	})

	db.signal(syscall.SIGCONT)
	back := time.Now()
	n.readyWithin(recovery)
	id := c.do(http.StatusCreated, http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")["id"].(string)
	c.ended(r.world, append(inFlight, id)...)
	within(t, recovery, "every run has ended", time.Since(back))
	require.EqualValues(t, 5, c.do(http.StatusOK, http.MethodGet, "/runs?page_size=100", nil)["total"], "nothing twice, nothing half-done")
	r.verifyAll()
	n.calm(c.token)
	n.stop()
}

type asked struct {
	method, path string
	body         any
}

// askedAtOnce sends requests side by side and requires a 503 of each before
// clients give up.
func askedAtOnce(c *client, code string, requests []asked) {
	c.t.Helper()
	var all sync.WaitGroup
	took := make([]time.Duration, len(requests))
	for i, a := range requests {
		all.Go(func() {
			took[i] = c.problemIn(http.StatusServiceUnavailable, code, a.method, a.path, a.body, "Idempotency-Key", "once-"+a.path)
		})
	}
	all.Wait()
	for i, a := range requests {
		c.t.Logf("%s %s: refused after %s", a.method, a.path, took[i].Round(time.Millisecond))
		require.Less(c.t, took[i], frozen, "%s %s", a.method, a.path)
	}
}

// signal sends a signal to the server and each of its backends.
func (d *database) signal(s syscall.Signal) {
	d.t.Helper()
	parent := postmaster(d.t, d.server.DataDir())
	if s == syscall.SIGSTOP {
		require.NoError(d.t, syscall.Kill(parent, s)) // it makes no new ones from now on
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	require.NoError(d.t, err)
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		require.NoError(d.t, err)
		_ = syscall.Kill(pid, s) // some may have ended
	}
	_ = syscall.Kill(parent, s)
}
