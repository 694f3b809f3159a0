package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// install writes programs that answer --version, as a package would.
func install(t *testing.T, dir, version string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{"initdb", "postgres"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func TestFindBinChecksTheGivenFolder(t *testing.T) {
	t.Parallel()
	dir := install(t, t.TempDir(), "17.2")
	found, err := FindBin(dir)
	require.NoError(t, err)
	require.Equal(t, dir, found)

	old := install(t, t.TempDir(), "14.9")
	_, err = FindBin(old)
	require.ErrorIs(t, err, ErrNoBinaries)
	require.ErrorContains(t, err, old+" is version 14")

	empty := t.TempDir()
	_, err = FindBin(empty)
	require.ErrorIs(t, err, ErrNoBinaries)
	require.ErrorContains(t, err, empty+" has no program initdb")
	require.ErrorContains(t, err, "Run: ")

	strange := install(t, t.TempDir(), "17")
	require.NoError(t, os.WriteFile(filepath.Join(strange, "postgres"), []byte("#!/bin/sh\necho hello\n"), 0o755))
	_, err = FindBin(strange)
	require.ErrorIs(t, err, ErrNoBinaries)
	require.ErrorContains(t, err, `answers "hello" to --version`)
}

func TestSearchPrefersPathThenTheWantedVersion(t *testing.T) { // changes PATH: not parallel
	root := t.TempDir()
	old, first, second := install(t, filepath.Join(root, "a"), "13.1"), install(t, filepath.Join(root, "b"), "16.4"), install(t, filepath.Join(root, "c"), "18.0")
	half := filepath.Join(root, "half")
	require.NoError(t, os.MkdirAll(half, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(half, "initdb"), []byte("#!/bin/sh\n"), 0o755))
	t.Setenv("PATH", strings.Join([]string{half, old, first, second, os.Getenv("PATH")}, string(os.PathListSeparator)))

	found, err := findBinaries("", 0)
	require.NoError(t, err)
	require.Equal(t, binaries{dir: first, version: "postgres (PostgreSQL) 16.4", major: 16}, found)
	found, err = findBinaries("", 18)
	require.NoError(t, err)
	require.Equal(t, second, found.dir)
	found, err = findBinaries("", 99)
	require.NoError(t, err)
	require.Equal(t, first, found.dir, "better than none")
}

func TestInstallCommandSuitsTheSystem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		goos, release string
		root          bool
		want          string
	}{
		{"linux", "ID=debian\n", true, "apt-get install -y postgresql"},
		{"linux", "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", false, "sudo apt-get install -y postgresql"},
		{"linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", true, "dnf install -y postgresql-server"},
		{"linux", "ID=alpine", true, "apk add postgresql"},
		{"linux", "", true, "apt-get install -y postgresql"},
		{"darwin", "", false, "brew install postgresql@17"},
	} {
		require.Equal(t, c.want, installCommand(c.goos, c.release, c.root))
	}
}

func TestVersionInPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/usr/lib/postgresql/15/bin": 15, "/opt/homebrew/opt/postgresql@17/bin": 17,
		"/usr/pgsql-16/bin": 16, "/usr/libexec/postgresql": 0,
	} {
		require.Equal(t, want, versionInPath(path), path)
	}
}

func TestServesClusterWantsTheExactFolder(t *testing.T) {
	t.Parallel()
	args := append([]string{"/usr/lib/postgresql/15/bin/postgres"}, settings("/data/pg", "/data/run", false)...)
	require.True(t, servesCluster(args, "/data/pg"))
	require.False(t, servesCluster(args, "/data/pg2"))
	require.False(t, servesCluster([]string{"postgres", "-D"}, "/data/pg"))
	require.False(t, servesCluster([]string{"vi", "-D", "/data/pg"}, "/data/pg"))
	require.False(t, servesCluster(nil, "/data/pg"))
}
