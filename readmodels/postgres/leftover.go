package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	leftoverFast      = 60 * time.Second // for a fast shutdown, which writes a checkpoint
	leftoverImmediate = 20 * time.Second
)

// stopLeftover ends the server that a killed parent left running, or shutting
// down, in the cluster. It signals a process only after its command line proved
// that it serves this very folder. The caller holds the lock of the data
// directory, so no living parent is using that server.
func stopLeftover(ctx context.Context, cluster string) error {
	pidFile := filepath.Join(cluster, "postmaster.pid")
	pid, err := postmasterPID(pidFile)
	if err != nil || pid == 0 {
		return err
	}
	if pid != tornPID && !alive(pid) {
		return nil // Postgres clears the file of a dead process itself
	}
	if pid == tornPID || !serves(pid, cluster) {
		// The number went to another process since (a reboot, a container), or the
		// file is empty: it would make Postgres refuse to start. Its own check of
		// attached shared memory still guards the data.
		if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale pid file: %w", err)
		}
		return nil
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, leftoverFast}, {syscall.SIGQUIT, leftoverImmediate}} {
		if err := syscall.Kill(pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop the Postgres server %d of an earlier run: %w", pid, err)
		}
		gone, err := waitGone(ctx, pid, cluster, step.wait)
		if err != nil || gone {
			return err
		}
	}
	return fmt.Errorf("the Postgres server %d of an earlier run, in %s, does not stop", pid, cluster)
}

func waitGone(ctx context.Context, pid int, cluster string, patience time.Duration) (bool, error) {
	deadline := time.Now().Add(patience)
	for alive(pid) && serves(pid, cluster) {
		if time.Now().After(deadline) {
			return false, nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return false, fmt.Errorf("wait for the Postgres server %d of an earlier run: %w", pid, err)
		}
	}
	return true, nil
}

// tornPID stands for a pid file without a number: just being written, or left
// so by a crash.
const tornPID = -1

// postmasterPID reads the first line of postmaster.pid; 0 when there is none.
func postmasterPID(pidFile string) (int, error) {
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 {
		return tornPID, nil
	}
	return pid, nil
}

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// serves reports whether the command line of pid is that of a Postgres server
// on the cluster, as Start writes it.
func serves(pid int, cluster string) bool {
	return servesCluster(commandLine(pid), cluster)
}

func servesCluster(args []string, cluster string) bool {
	if len(args) == 0 || filepath.Base(args[0]) != "postgres" {
		return false
	}
	i := slices.Index(args, "-D")
	return i > 0 && i+1 < len(args) && args[i+1] == cluster
}
