package pgtest

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const patience = 90 * time.Second

func TestDatabasesAreEmptyAndApart(t *testing.T) {
	t.Parallel()
	var dsn string
	t.Run("use", func(t *testing.T) {
		dsn = Database(t)
		other := Database(t)
		require.NotEqual(t, dsn, other)
		require.NoError(t, run(dsn, `create table only_here (n int)`))
		require.ErrorContains(t, run(other, `select from only_here`), "does not exist")
		conn, err := pgx.Connect(t.Context(), dsn) // left open: the drop is forced
		require.NoError(t, err)
		require.NoError(t, conn.Ping(t.Context()))
	})
	require.ErrorContains(t, run(dsn, `select 1`), "does not exist")
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	require.Equal(t, "postgres://u:p@h:1/test_x?sslmode=disable", withDatabase("postgres://u:p@h:1/old?sslmode=disable", "test_x"))
	config, err := pgx.ParseConfig(withDatabase("host=h user=u dbname=old", "test_x"))
	require.NoError(t, err)
	require.Equal(t, "test_x", config.Database)
}

// TestHelperUser is not a test of its own: it is run as a child, uses a
// database, says where the server is, and waits to be killed or just ends.
func TestHelperUser(t *testing.T) {
	mode := os.Getenv("SPARKOPS_TEST_PGTEST_USER")
	if mode == "" {
		return
	}
	Database(t)
	require.Len(t, serverDirs(t, os.Getenv("TMPDIR")), 1)
	_, err := os.Stdout.WriteString("ready\n")
	require.NoError(t, err)
	if mode == "hang" {
		select {}
	}
}

func serverDirs(t *testing.T, tmp string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(tmp, prefix+"*"))
	require.NoError(t, err)
	return dirs
}

func TestNothingIsLeftWhenTheTestProcessEnds(t *testing.T) {
	t.Parallel()
	if os.Getenv("SPARKOPS_TEST_DATABASE_URL") != "" {
		t.Skip("there is no server of our own with SPARKOPS_TEST_DATABASE_URL")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	for _, mode := range []string{"end", "hang"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			tmp, err := os.MkdirTemp("", "pgtest-") // t.TempDir is closed to the server's user
			require.NoError(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(tmp) })
			require.NoError(t, os.Chmod(tmp, 0o755))
			cmd := exec.Command(self, "-test.run=^TestHelperUser$")
			cmd.Env = append(os.Environ(), "SPARKOPS_TEST_PGTEST_USER="+mode, "TMPDIR="+tmp)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "ready\n", line)
			if mode == "hang" {
				require.NoError(t, cmd.Process.Kill())
			}
			_ = cmd.Wait() // killed, or fine
			require.Eventually(t, func() bool {
				return len(serverDirs(t, tmp)) == 0
			}, patience, 50*time.Millisecond, "files of the server are left")
		})
	}
}
