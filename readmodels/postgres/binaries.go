package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinMajor is the oldest Postgres major version the read models are written for.
const MinMajor = 15

// ErrNoBinaries is wrapped by the errors of FindBin and Start when no usable
// Postgres installation was found. The message names the command that installs
// one.
var ErrNoBinaries = errors.New("no usable PostgreSQL binaries")

// installGlobs are the places where packages put Postgres outside PATH: Debian
// and PGDG's apt, PGDG's rpm, Homebrew on both processors, Postgres.app,
// MacPorts and Alpine.
var installGlobs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/opt/local/lib/postgresql*/bin",
	"/usr/libexec/postgresql*",
}

// FindBin returns the folder that holds initdb and postgres. A binDir that is
// not empty is used as it is or refused; otherwise PATH is searched, then the
// places where packages install Postgres, newest version first. Versions older
// than MinMajor are passed over.
func FindBin(binDir string) (string, error) {
	bin, err := findBinaries(binDir, 0)
	if err != nil {
		return "", err
	}
	return bin.dir, nil
}

// binaries is one installation and what "postgres --version" says of it.
type binaries struct {
	dir     string
	version string // the whole line, it identifies the build
	major   int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// findBinaries is FindBin with a wish: among the installations found by itself
// one of the wanted major version comes first (0: no wish).
func findBinaries(binDir string, want int) (binaries, error) {
	if binDir != "" {
		return explicitBinaries(binDir)
	}
	var best binaries
	var passed []string
	for _, dir := range candidates() {
		b, err := inspect(dir)
		switch {
		case err != nil:
			passed = append(passed, err.Error())
		case b.major < MinMajor:
			passed = append(passed, fmt.Sprintf("%s is version %d", dir, b.major))
		case want == 0 || b.major == want:
			return b, nil
		case best.dir == "":
			best = b
		}
	}
	if best.dir != "" {
		return best, nil
	}
	return binaries{}, noBinaries(passed)
}

func explicitBinaries(binDir string) (binaries, error) {
	dir, err := filepath.Abs(binDir)
	if err != nil {
		return binaries{}, fmt.Errorf("resolve %s: %w", binDir, err)
	}
	b, err := inspect(dir)
	if err != nil {
		return binaries{}, noBinaries([]string{err.Error()})
	}
	if b.major < MinMajor {
		return binaries{}, noBinaries([]string{fmt.Sprintf("%s is version %d", dir, b.major)})
	}
	return b, nil
}

// candidates lists the folders that hold both programs, PATH first.
func candidates() []string {
	var found []string
	add := func(dir string) {
		if !slices.Contains(found, dir) && isProgram(filepath.Join(dir, "initdb")) && isProgram(filepath.Join(dir, "postgres")) {
			found = append(found, dir)
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			add(dir)
		}
	}
	for _, glob := range installGlobs {
		dirs, _ := filepath.Glob(glob) // fails on a malformed pattern only, and these are constants
		slices.SortFunc(dirs, func(a, b string) int { return versionInPath(b) - versionInPath(a) })
		for _, dir := range dirs {
			add(dir)
		}
	}
	return found
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

var lastNumber = regexp.MustCompile(`(\d+)\D*$`)

// versionInPath is the major version a folder's name promises, or 0.
func versionInPath(dir string) int {
	m := lastNumber.FindStringSubmatch(dir)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect asks an installation for its version.
func inspect(dir string) (binaries, error) {
	for _, name := range []string{"initdb", "postgres"} {
		if !isProgram(filepath.Join(dir, name)) {
			return binaries{}, fmt.Errorf("%s has no program %s", dir, name)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("%s --version: %w", filepath.Join(dir, "postgres"), err)
	}
	line := strings.TrimSpace(string(out))
	m := versionLine.FindStringSubmatch(line)
	if m == nil {
		return binaries{}, fmt.Errorf("%s answers %q to --version", filepath.Join(dir, "postgres"), line)
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return binaries{}, fmt.Errorf("version of %s: %w", dir, err)
	}
	return binaries{dir: dir, version: line, major: major}, nil
}

func noBinaries(passed []string) error {
	detail := "searched PATH and " + strings.Join(installGlobs, ", ")
	if len(passed) > 0 {
		detail = strings.Join(passed, "; ")
	}
	release, _ := os.ReadFile("/etc/os-release") // absent: the general hint
	return fmt.Errorf("%w: initdb and postgres, version %d or newer, are needed (%s). Run: %s (or set SPARKOPS_PG_BIN to the folder of the binaries, or DATABASE_URL to a server of your own)",
		ErrNoBinaries, MinMajor, detail, installCommand(runtime.GOOS, string(release), os.Geteuid() == 0))
}

// installCommand is the one command that installs Postgres on a system.
func installCommand(goos, osRelease string, root bool) string {
	if goos == "darwin" {
		return "brew install postgresql@17"
	}
	ids := ""
	for line := range strings.Lines(osRelease) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && (key == "ID" || key == "ID_LIKE") {
			ids += " " + strings.Trim(value, `"'`)
		}
	}
	command := "apt-get install -y postgresql"
	for _, id := range strings.Fields(ids) {
		switch id {
		case "alpine":
			command = "apk add postgresql"
		case "fedora", "rhel", "centos":
			command = "dnf install -y postgresql-server"
		case "arch":
			command = "pacman -S --noconfirm postgresql"
		case "suse", "opensuse":
			command = "zypper install -y postgresql-server"
		}
	}
	if !root {
		return "sudo " + command
	}
	return command
}
