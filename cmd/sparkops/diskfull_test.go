package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// TestDiskFull takes the disk of the event store away under a node: writes are
// refused as a whole, reads go on, and with space again everything goes on by
// itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	t.Run("as the store is told", func(t *testing.T) {
		r := newRig(t, pgtest.Database(t))
		fill, free := toldDisk(r)
		testDiskFull(r, fill, free)
	})
	t.Run("to the last byte", func(t *testing.T) {
		r := newRig(t, pgtest.Database(t))
		if fill, free, ok := smallDisk(r); ok {
			testDiskFull(r, fill, free)
		}
	})
}

func testDiskFull(r *rig, fill, free func()) {
	t, n := r.t, r.serve()
	c := signIn(t, n.url, "disk@example.com")
	workflow, agent := effectWorkflow(t, c, r.world.URL)
	before := c.startRun(workflow, agent, "before")
	c.ended(r.world, before)
	inFlight, release := midway(c, r.world, workflow, agent, "flight", 3)
	nap := c.startRun(napWorkflow(c, "1s"), agent, "nap")

	fill()
	body, label := runBody(workflow, agent, "once"), 0
	require.Eventually(t, func() bool { // the store measures now and then
		label++
		status, _, err := c.try(http.MethodPost, "/projects", object{"name": "Filling " + strconv.Itoa(label)})
		require.NoError(t, err)
		return status == http.StatusInsufficientStorage
	}, patience, 100*time.Millisecond)
	for _, w := range []struct {
		method, path string
		body         any
	}{
		{http.MethodPost, "/runs", body},
		{http.MethodPost, "/projects", object{"name": "Full"}},
		{http.MethodPatch, "/agents/" + agent, object{"temperature": 3}},
		{http.MethodPost, "/runs/" + inFlight[0] + "/cancel", nil},
		{http.MethodPost, "/auth/register", object{"email": "late@example.com", "name": "Late", "password": testPassword}},
	} {
		took := c.problemIn(http.StatusInsufficientStorage, "STORAGE_FULL", w.method, w.path, w.body, "Idempotency-Key", "once-"+w.path)
		require.Less(t, took, soon, "%s %s", w.method, w.path)
	}
	release() // the worker has results to report, and nobody takes them
	answers(c, []string{"/runs", "/runs/" + before, "/runs/" + before + "/events", "/runs/" + before + "/why", "/agents", "/projects", "/auth/me"})
	require.Empty(t, c.do(http.StatusOK, http.MethodGet, "/projects?search=Full&page_size=100", nil)["items"], "nothing half-done")
	status, page := n.page("/ready")
	require.Equal(t, http.StatusOK, status, "a full disk keeps nobody from reading: %s", page)

	free()
	require.Eventually(t, func() bool {
		status, data, err := c.try(http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")
		require.NoError(t, err)
		require.Contains(t, []int{http.StatusInsufficientStorage, http.StatusCreated}, status, "%s", data)
		return status == http.StatusCreated
	}, patience, 100*time.Millisecond)
	id := c.do(http.StatusCreated, http.MethodPost, "/runs", body, "Idempotency-Key", "once-/runs")["id"].(string)
	c.ended(r.world, append(inFlight, id)...)
	require.Equal(t, "succeeded", c.awaitRun(nap)["status"])
	require.EqualValues(t, 6, c.do(http.StatusOK, http.MethodGet, "/runs?page_size=100", nil)["total"], "nothing half-done is left")
	r.verifyAll()
	n.calm(c.token)
	n.stop()
}

// smallDisk starts the rig's event store on a file system of its own, which fill
// fills to the last byte. It reports false where the machine does not let us
// mount one.
func smallDisk(r *rig) (fill, free func(), ok bool) {
	r.t.Helper()
	mount := filepath.Dir(r.storeDir)
	if err := mountMemory(r.t, mount, 512<<20); err != nil { // the store refuses appends below 256 MiB
		r.t.Logf("no file system can be mounted here: %v", err)
		return nil, nil, false
	}
	store := r.startStore()
	r.t.Cleanup(func() { // before the file system goes
		store.calm()
		store.kill()
	})
	ballast := filepath.Join(mount, "ballast")
	fill = func() {
		f, err := os.Create(ballast)
		require.NoError(r.t, err)
		_, err = io.Copy(f, zeros{})
		require.ErrorIs(r.t, err, syscall.ENOSPC)
		require.NoError(r.t, f.Close())
	}
	free = func() { require.NoError(r.t, os.Remove(ballast)) }
	return fill, free, true
}

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// toldDisk runs the rig's event store in this process, on a disk that is as
// full as it is told.
func toldDisk(r *rig) (fill, free func()) {
	r.t.Helper()
	var full atomic.Bool
	node, err := embedded.Open(context.Background(), embedded.Options{
		Addr: "127.0.0.1:" + strconv.Itoa(r.storePort), Dir: filepath.Join(r.storeDir, "eventstore"), Logger: slog.New(slog.DiscardHandler),
		DiskFree: func() (uint64, error) {
			if full.Load() {
				return 1 << 20, nil
			}
			return 1 << 40, nil
		},
		Fatal: func(code int, message string) { r.t.Error(errors.New(message), code) },
	})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = node.Close() })
	return func() { full.Store(true) }, func() { full.Store(false) }
}
