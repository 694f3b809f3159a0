package postgres

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait: the machine may be very busy.
const patience = 90 * time.Second

// TestMain lets the test binary play the process that owns a server and is
// killed: see ownServer.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SPARKOPS_TEST_OWNER_DIR"); dir != "" {
		ownServer(dir)
	}
	os.Exit(m.Run())
}

// ownServer starts a server, writes a row, prints the postmaster's pid and
// waits to be killed.
func ownServer(dir string) {
	ctx := context.Background()
	s, err := Start(ctx, Options{Dir: dir, Ephemeral: os.Getenv("SPARKOPS_TEST_OWNER_EPHEMERAL") != ""})
	if err == nil {
		err = exec1(s, `create table if not exists kept (n int); insert into kept values (1)`)
	}
	if err != nil {
		_, _ = os.Stdout.WriteString("failed: " + err.Error() + "\n")
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString("pid " + strconv.Itoa(s.child.cmd.Process.Pid) + "\n")
	select {}
}

type owner struct {
	cmd        *exec.Cmd
	postmaster int
}

func startOwner(t *testing.T, dir string, ephemeral bool) owner {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "SPARKOPS_TEST_OWNER_DIR="+dir)
	if ephemeral {
		cmd.Env = append(cmd.Env, "SPARKOPS_TEST_OWNER_EPHEMERAL=1")
	}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid ")
	require.True(t, ok, line)
	n, err := strconv.Atoi(pid)
	require.NoError(t, err)
	return owner{cmd: cmd, postmaster: n}
}

func (o owner) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, o.cmd.Process.Kill())
	_ = o.cmd.Wait() // "signal: killed"
}

// reachableDir is a temporary folder that the account of the server may reach,
// which t.TempDir is not.
func reachableDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sparkops-pg-test-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mustStart(t *testing.T, o Options) *Server {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	s, err := Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func exec1(s *Server, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(Database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func query[T any](t *testing.T, s *Server, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL(Database))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var v T
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&v))
	return v
}

func closeNow(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, s.Close(ctx))
}

func TestDurableClusterKeepsItsDataAndSettings(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	s := mustStart(t, Options{Dir: dir})
	require.True(t, s.Rebuilt())
	require.Regexp(t, `^\d+\.\d+`, s.Version())
	for setting, want := range map[string]string{
		"listen_addresses": "", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
		"server_encoding": "UTF8", "lc_collate": "C", "lc_ctype": "C", "TimeZone": "UTC", "unix_socket_permissions": "0700",
	} {
		require.Equal(t, want, query[string](t, s, `select current_setting('`+setting+`')`), setting)
	}
	require.NoError(t, exec1(s, `create table kept (n int); insert into kept values (7)`))

	info, err := os.Stat(s.socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	if os.Geteuid() == 0 {
		require.NotZero(t, info.Sys().(*syscall.Stat_t).Uid, "postgres does not run as root")
	}

	_, err = Start(t.Context(), Options{Dir: dir, Logger: quiet()})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorIs(t, Remove(t.Context(), dir), ErrInUse)

	closeNow(t, s)
	closeNow(t, s)
	<-s.Done()
	require.NoError(t, s.Err())
	require.NoDirExists(t, s.socket)

	again := mustStart(t, Options{Dir: dir})
	require.False(t, again.Rebuilt())
	require.Equal(t, 7, query[int](t, again, `select n from kept`))
	closeNow(t, again)

	require.NoError(t, Remove(t.Context(), dir))
	require.NoDirExists(t, dir)
	require.NoError(t, Remove(t.Context(), dir))
}

func TestServerEndsWithItsKilledOwnerAndStartsAnew(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	o := startOwner(t, dir, false)
	o.kill(t)
	s := mustStart(t, Options{Dir: dir}) // at once: the old server is still shutting down
	require.False(t, s.Rebuilt())
	require.Equal(t, 1, query[int](t, s, `select count(*)::int from kept`))
	require.False(t, alive(o.postmaster) && serves(o.postmaster, s.cluster))
	closeNow(t, s)

	o = startOwner(t, dir, false)
	o.kill(t)
	require.Eventually(t, func() bool { return !serves(o.postmaster, s.cluster) }, patience, 20*time.Millisecond, "the server outlives its owner")
	require.NoFileExists(t, filepath.Join(s.cluster, "postmaster.pid"), "it shut down cleanly")
	s = mustStart(t, Options{Dir: dir})
	require.Equal(t, 2, query[int](t, s, `select count(*)::int from kept`))
}

func TestLeftoverServerIsStopped(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	first := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.NoError(t, exec1(first, `create table kept (n int)`))

	// Its owner is this process; letting go of the lock is what a dead one does.
	first.lock.release()
	second := mustStart(t, Options{Dir: dir, Ephemeral: true})
	<-first.Done()
	require.ErrorContains(t, first.Err(), "ended by itself")
	require.False(t, second.Rebuilt())
	require.Zero(t, query[int](t, second, `select count(*)::int from kept`))
}

func TestKilledPostmasterIsNoticedAndRecovered(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.NoError(t, exec1(s, `set synchronous_commit = on; create table kept (n int)`))
	conn, err := pgx.Connect(t.Context(), s.URL(Database)) // its backend survives the postmaster for a while
	require.NoError(t, err)
	defer conn.Close(context.Background())

	s.child.signal(syscall.SIGKILL)
	<-s.Done()
	require.ErrorContains(t, s.Err(), "signal: killed")
	closeNow(t, s)
	require.Error(t, s.Err(), "Close does not hide it")

	again := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.Zero(t, query[int](t, again, `select count(*)::int from kept`))
}

func TestInterruptedCreationIsRepeated(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	for _, left := range []string{"pgdata/base/1", creating + "123/global"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, left), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pgdata", "PG_VERSION"), []byte("15\n"), 0o600))
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.True(t, s.Rebuilt())
	require.NoDirExists(t, filepath.Join(dir, creating+"123"))
	closeNow(t, s)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("changed my mind"))
	require.NoError(t, os.RemoveAll(s.DataDir()))
	_, err := Start(ctx, Options{Dir: dir, Logger: quiet()})
	require.ErrorContains(t, err, "changed my mind")
	left, err := filepath.Glob(filepath.Join(dir, creating+"*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoDirExists(t, filepath.Join(dir, "pgdata"))
}

func TestForeignPidFileDoesNotStopTheStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	closeNow(t, s)
	pidFile := filepath.Join(s.DataDir(), "postmaster.pid")
	for name, text := range map[string]string{
		"another process": strconv.Itoa(os.Getpid()) + "\n" + s.DataDir() + "\n",
		"torn":            "",
		"dead":            "2147483646\n" + s.DataDir() + "\n1\n5432\n/nowhere\n\n  1  1\n",
	} {
		require.NoError(t, os.WriteFile(pidFile, []byte(text), 0o600))
		require.NoError(t, s.place.account.own(pidFile))
		again, err := Start(t.Context(), Options{Dir: dir, Ephemeral: true, Logger: quiet()})
		require.NoError(t, err, name)
		closeNow(t, again)
	}
}

func TestVersionMismatchNamesBothAndTheWayOut(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	closeNow(t, s)
	require.NoError(t, os.WriteFile(filepath.Join(s.DataDir(), "PG_VERSION"), []byte("9\n"), 0o600))
	_, err := Start(t.Context(), Options{Dir: dir, Logger: quiet()})
	require.ErrorContains(t, err, "written by PostgreSQL 9, the binaries in ")
	require.ErrorContains(t, err, " are PostgreSQL "+strings.Split(s.Version(), ".")[0])
	require.ErrorContains(t, err, "remove "+filepath.Join(dir, "pgdata"))
	require.DirExists(t, s.DataDir(), "nothing is deleted")
}

func TestLongPathsGetAShortSocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), strings.Repeat("long-", 20), "pg")
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.False(t, strings.HasPrefix(s.socket, dir))
	require.LessOrEqual(t, len(filepath.Join(s.socket, socketName)), 107)
	require.Equal(t, 1, query[int](t, s, `select 1`))
	closeNow(t, s)
	require.NoDirExists(t, s.socket)

	o := startOwner(t, dir, true)
	noted, err := os.ReadFile(s.place.socketNote())
	require.NoError(t, err)
	require.DirExists(t, string(noted))
	o.kill(t)
	again := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.NoDirExists(t, string(noted), "the folder of the killed process")
	closeNow(t, again)
}

func TestUnreachableDirMovesTheCluster(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root starts Postgres as another user")
	}
	closed := reachableDir(t)
	require.NoError(t, os.Chmod(closed, 0o700))
	dir := filepath.Join(closed, "data", "pg")
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	t.Cleanup(func() { _ = os.RemoveAll(s.place.root) })
	require.True(t, s.Rebuilt())
	require.Equal(t, s.place.root, filepath.Dir(s.DataDir()))
	require.Equal(t, elsewhere, filepath.Dir(s.place.root))
	target, err := os.Readlink(filepath.Join(dir, "pgdata"))
	require.NoError(t, err)
	require.Equal(t, s.DataDir(), target)
	closeNow(t, s)

	again := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.False(t, again.Rebuilt())
	closeNow(t, again)

	// Deleting the data directory deletes the cluster, wherever it is.
	require.NoError(t, os.RemoveAll(dir))
	fresh := mustStart(t, Options{Dir: dir, Ephemeral: true})
	require.True(t, fresh.Rebuilt())
	require.NoDirExists(t, s.DataDir())
	closeNow(t, fresh)

	require.NoError(t, Remove(t.Context(), dir))
	require.NoDirExists(t, s.place.root)

	// Nobody removes a deleted directory's cluster by name; the next one sweeps.
	other := filepath.Join(closed, "other")
	abandoned := mustStart(t, Options{Dir: other, Ephemeral: true})
	closeNow(t, abandoned)
	require.NoError(t, os.RemoveAll(other))
	closeNow(t, mustStart(t, Options{Dir: dir, Ephemeral: true}))
	require.NoDirExists(t, abandoned.place.root)
	require.NoError(t, Remove(t.Context(), dir))
}

func TestUnreachableBinariesAreNamed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root starts Postgres as another user")
	}
	real, err := findBinaries("", 0)
	require.NoError(t, err)
	closed := filepath.Join(reachableDir(t), "closed")
	bin := filepath.Join(closed, "bin")
	require.NoError(t, os.MkdirAll(bin, 0o755))
	require.NoError(t, os.Chmod(closed, 0o700))
	for _, name := range []string{"initdb", "postgres"} {
		require.NoError(t, os.Symlink(real.path(name), filepath.Join(bin, name)))
	}
	_, err = Start(t.Context(), Options{Dir: filepath.Join(reachableDir(t), "pg"), BinDir: bin, Logger: quiet()})
	require.ErrorContains(t, err, "may not enter "+closed)
	require.ErrorContains(t, err, "chmod o+x "+closed)
}

func TestDamagedClusterSaysHowToRebuild(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(reachableDir(t), "pg")
	s := mustStart(t, Options{Dir: dir, Ephemeral: true})
	closeNow(t, s)
	require.NoError(t, os.Remove(filepath.Join(s.DataDir(), "global", "pg_control")))
	_, err := Start(t.Context(), Options{Dir: dir, Ephemeral: true, Logger: quiet()})
	require.ErrorContains(t, err, "pg_control")
	require.ErrorContains(t, err, "remove "+filepath.Join(dir, "pgdata"))
}

func TestCloseStopsAtOnceWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Options{Dir: filepath.Join(reachableDir(t), "pg"), Ephemeral: true})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.Close(ctx)
	<-s.Done()
	if err != nil { // it may have been faster than the signal
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, s.Err())
}

func TestWatchdogSignalsWhenThePipeEnds(t *testing.T) {
	t.Parallel()
	// The script is the part that matters where the kernel has no death signal:
	// run it with our own pipe and a victim.
	victim := exec.Command("/bin/sleep", "600")
	require.NoError(t, victim.Start())
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "watchdog", strconv.Itoa(int(syscall.SIGINT)), strconv.Itoa(victim.Process.Pid))
	pipe, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, pipe.Close())
	var exit *exec.ExitError
	require.ErrorAs(t, victim.Wait(), &exit)
	require.Equal(t, syscall.SIGINT, exit.Sys().(syscall.WaitStatus).Signal())
	require.NoError(t, cmd.Wait())

	// Called off, it leaves the process alone.
	survivor := exec.Command("/bin/cat")
	in, err := survivor.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, survivor.Start())
	off, err := watchdog(survivor.Process.Pid, syscall.SIGKILL)
	require.NoError(t, err)
	off()
	_, err = io.WriteString(in, "still here")
	require.NoError(t, err)
	require.NoError(t, in.Close())
	require.NoError(t, survivor.Wait())
}
