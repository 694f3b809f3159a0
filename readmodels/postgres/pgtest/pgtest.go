// Package pgtest gives tests a real, empty Postgres database each. They share
// one ephemeral server per test process, started at first use; with
// SPARKOPS_TEST_DATABASE_URL set they share that server instead.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/readmodels/postgres"
)

// startTimeout is generous: the first test process of a machine runs initdb,
// and others wait for it.
const startTimeout = 10 * time.Minute

// Database returns the connection string of a new, empty database, which is
// dropped, with its open connections, when the test and its subtests ended. The
// test fails when no Postgres can be started; the message names the command
// that installs it.
//
// The shared server needs no TestMain: it ends with the test process, however
// that ends, and its files are removed.
func Database(t testing.TB) string {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatalf("no Postgres to test with: %v", err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	if err := run(s.admin, `create database `+name); err != nil {
		t.Fatalf("create test database: %v", err)
	}
	t.Cleanup(func() {
		if err := run(s.admin, `drop database if exists `+name+` with (force)`); err != nil {
			t.Errorf("drop test database: %v", err)
		}
	})
	return withDatabase(s.admin, name)
}

// shared is the server all tests of this process use.
type shared struct {
	admin string    // connection string of its own database
	hold  io.Closer // keeps the reaper's pipe open as long as the process lives; nil without a reaper
}

var server = sync.OnceValues(func() (shared, error) {
	if dsn := os.Getenv("SPARKOPS_TEST_DATABASE_URL"); dsn != "" {
		return shared{admin: dsn}, nil
	}
	base := dataBase()
	sweep(base)
	dir, err := os.MkdirTemp(base, prefix)
	if err != nil {
		return shared{}, fmt.Errorf("create data directory: %w", err)
	}
	s, err := postgres.Start(context.Background(), postgres.Options{
		Dir:          dir,
		BinDir:       os.Getenv("SPARKOPS_PG_BIN"),
		Ephemeral:    true,
		Logger:       slog.New(slog.DiscardHandler),
		StartTimeout: startTimeout,
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return shared{}, err
	}
	hold, err := removeAtExit(dir, s.DataDir())
	if err != nil {
		return shared{}, errors.Join(err, s.Close(context.Background()), os.RemoveAll(dir))
	}
	return shared{admin: s.URL("postgres"), hold: hold}, nil
})

func run(dsn, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// withDatabase replaces the database of a connection string in either form.
func withDatabase(dsn, name string) string {
	if u, err := url.Parse(dsn); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		u.Path = "/" + name
		return u.String()
	}
	return dsn + " dbname=" + name // the last one counts
}

const prefix = "sparkops-pgtest-"

// reaper removes the server's files once this process, which holds the other
// end of the pipe, and then the server ended.
const reaper = `trap '' HUP INT TERM
read -r _
i=0
while [ -e "$2/postmaster.pid" ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done
rm -rf "$1" "$2"`

// removeAtExit starts the reaper and returns its pipe.
func removeAtExit(dir, data string) (io.Closer, error) {
	cmd := exec.Command("/bin/sh", "-c", reaper, "sparkops-pgtest-reaper", dir, data)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe of the reaper: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	return hold, nil
}

// sharedMemory is a file system in memory on Linux, where making the thousand
// files of a cluster is several times faster.
const (
	sharedMemory = "/dev/shm"
	enoughMemory = 4 << 30
)

// dataBase is where the server's files go: TMPDIR when it is set, else memory
// when there is plenty, else the usual temporary directory.
func dataBase() string {
	var st syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(sharedMemory, &st) == nil && st.Bavail*uint64(st.Bsize) >= enoughMemory {
		return sharedMemory
	}
	return os.TempDir()
}

// sweep removes what test processes left whose reaper was killed too.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, prefix+"*")) // a TMPDIR with brackets: nothing is swept
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < 10*time.Minute {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_ = postgres.Remove(ctx, dir) // in use, or another user's: not ours to remove
		cancel()
	}
}
