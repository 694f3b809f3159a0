package main

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// TestLeaderPaused stops the node that leads everything for longer than its
// leases, as a machine that hangs does: its connections stay open. The other
// node takes over projections, processes and timers; when the first wakes up
// and believes it still leads, nothing is changed twice.
func TestLeaderPaused(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t))
	r.startStore()
	a := r.serve()
	a.says("processes: this node leads")
	b := r.serve()
	onA, onB := signIn(t, a.url, "pause@example.com"), signIn(t, b.url, "pause@example.com")
	workflow, agent := effectWorkflow(t, onA, r.world.URL)
	naps := napWorkflow(onA, "2s")
	owner := onA.owner()
	require.NotEmpty(t, owner)

	// Each node has steps of its own under way, and timers are about to be due.
	release := r.world.hold()
	defer release()
	var runs, napping []string
	for i := range 4 {
		runs = append(runs, onA.startRun(workflow, agent, fmt.Sprint("a", i)), onB.startRun(workflow, agent, fmt.Sprint("b", i)))
		napping = append(napping, onA.startRun(naps, agent, "nap"))
	}
	for i := range 4 {
		for _, label := range []string{fmt.Sprint("a", i, "/first"), fmt.Sprint("b", i, "/first")} {
			require.Eventually(t, func() bool { return r.world.done(label) == 1 }, patience, 10*time.Millisecond)
		}
	}
	require.NoError(t, syscall.Kill(a.cmd.Process.Pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(a.cmd.Process.Pid, syscall.SIGCONT) }()
	stopped := time.Now()
	release()
	for _, id := range napping {
		require.Equal(t, "succeeded", onB.awaitRun(id)["status"])
	}
	within(t, recovery, "the other node ended the waits", time.Since(stopped))
	require.Eventually(t, func() bool {
		now := onB.owner()
		return now != "" && now != owner
	}, patience, 50*time.Millisecond, "every projection has a new owner")
	within(t, recovery, "the other node led every projection", time.Since(stopped))
	meanwhile := onB.startRun(workflow, agent, "meanwhile")
	onB.ended(r.world, meanwhile)

	require.NoError(t, syscall.Kill(a.cmd.Process.Pid, syscall.SIGCONT))
	a.readyWithin(recovery)
	onA.ended(r.world, append(runs, meanwhile)...)
	for _, id := range napping {
		terminal := 0
		for _, e := range onA.history(id) {
			if strings.HasPrefix(e["type"].(string), "RunSucceeded") {
				terminal++
			}
		}
		require.Equal(t, 1, terminal)
	}
	require.NotEqual(t, owner, onA.owner(), "who woke up does not lead")
	r.verifyAll()
	a.calm(onA.token)
	b.calm(onB.token)
	a.stop()
	b.stop()
}

// owner returns the node that leads every live projection, "" when it is not
// one alone.
func (c *client) owner() string {
	c.t.Helper()
	owners := map[string]bool{}
	var last string
	for _, item := range c.do(http.StatusOK, http.MethodGet, "/projections", nil)["items"].([]any) {
		if p := item.(object); p["state"] == "live" {
			last, _ = p["owner"].(string)
			owners[last] = true
		}
	}
	if len(owners) != 1 {
		return ""
	}
	return last
}
