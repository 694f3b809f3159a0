package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// completeMarker is written into a cluster as the last step of its creation.
const completeMarker = "sparkops.complete"

// superuser owns the cluster and every database in it.
const superuser = "sparkops"

// majorOf reads the version a cluster was made by.
func majorOf(cluster string) (int, error) {
	text, err := os.ReadFile(filepath.Join(cluster, "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("read version of the cluster: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read version of the cluster: %w", err)
	}
	return major, nil
}

// checkVersion refuses binaries that cannot serve the cluster.
func checkVersion(p place, cluster string, bin binaries) error {
	major, err := majorOf(cluster)
	if err != nil {
		return fmt.Errorf("%w (the cluster is damaged; %s)", err, rebuildHint(p))
	}
	if major != bin.major {
		return fmt.Errorf("the data in %s was written by PostgreSQL %d, the binaries in %s are PostgreSQL %d: set SPARKOPS_PG_BIN to the binaries of version %d, or %s",
			p.name(), major, bin.dir, bin.major, major, rebuildHint(p))
	}
	return nil
}

// checkOwner refuses a cluster that another user left, before Postgres does so
// in its own words.
func checkOwner(p place, cluster string) error {
	info, err := os.Stat(cluster)
	if err != nil {
		return fmt.Errorf("look at the cluster: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	runs := os.Geteuid()
	if p.account != nil {
		runs = p.account.uid
	}
	if int(st.Uid) != runs {
		return fmt.Errorf("the cluster %s belongs to user id %d, but Postgres would run as user id %d: start as the user who created it (root, if it was created as root), or %s",
			p.name(), st.Uid, runs, rebuildHint(p))
	}
	return nil
}

func rebuildHint(p place) string {
	return fmt.Sprintf("remove %s: the read models in it are rebuilt from the event log at the next start", p.name())
}

// create makes a new cluster and returns where it is.
func create(ctx context.Context, p place, bin binaries, o Options) (string, error) {
	scratch, err := p.scratch()
	if err != nil {
		return "", err
	}
	if o.Ephemeral {
		err = copyTemplate(ctx, p, bin, scratch, o.Logger)
	} else {
		err = initdb(ctx, p.account, bin, scratch, true, o.Logger)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(scratch))
	}
	return p.publish(scratch)
}

// initdbFlags are part of what a cached template is named after.
var initdbFlags = []string{"--username=" + superuser, "--encoding=UTF8", "--locale=C", "--auth=trust"}

// initdb fills an empty folder with a complete, marked cluster. Who may connect
// is decided by the socket's folder, hence "trust".
func initdb(ctx context.Context, a *account, bin binaries, dir string, durable bool, log *slog.Logger) error {
	log.InfoContext(ctx, "creating the private Postgres cluster", "version", bin.version)
	args := append([]string{"--pgdata=" + dir}, initdbFlags...)
	if !durable {
		args = append(args, "--no-sync")
	}
	cmd := exec.Command(bin.path("initdb"), args...)
	child, err := startChild(cmd, a, syscall.SIGKILL, log)
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	select {
	case <-child.done:
	case <-ctx.Done():
		child.signal(syscall.SIGKILL)
		<-child.done
		return fmt.Errorf("create cluster: %w", context.Cause(ctx))
	}
	if child.err != nil {
		return fmt.Errorf("create cluster with %s: %w: %s", bin.path("initdb"), child.err, child.log.tail())
	}
	return mark(a, dir, bin.version, durable)
}

func mark(a *account, dir, text string, durable bool) error {
	path := filepath.Join(dir, completeMarker)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("mark cluster as complete: %w", err)
	}
	_, err = f.WriteString(text + "\n")
	if durable && err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close(), a.own(path)); err != nil {
		return fmt.Errorf("mark cluster as complete: %w", err)
	}
	if !durable {
		return nil
	}
	return syncDir(dir)
}
