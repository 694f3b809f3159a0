package postgres

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// elsewhere is where clusters live that cannot live in their Dir.
const elsewhere = "/var/lib/sparkops"

// maxSocketPath is the longest path of a unix socket that every supported
// system takes (macOS: 103 bytes; Linux: 107).
const maxSocketPath = 103

const socketName = ".s.PGSQL.5432"

// place says where the parts of one cluster are.
type place struct {
	dir     string // Options.Dir, absolute; the lock and the name pgdata are here
	root    string // what holds the cluster and the socket: dir, or a folder below elsewhere
	account *account
}

// name is where the cluster is found: a folder, or a link to one below root.
func (p place) name() string { return filepath.Join(p.dir, "pgdata") }

// newPlace prepares dir and decides where the cluster goes. Dir is ours to open
// for the account; the folders above it are not, and are left as they are.
func newPlace(dir string) (place, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return place{}, fmt.Errorf("resolve data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return place{}, fmt.Errorf("create data directory: %w", err)
	}
	p := place{dir: dir, root: dir}
	if p.account, err = serverAccount(p.name()); err != nil {
		return place{}, err
	}
	if info, err := os.Stat(dir); err == nil && p.account != nil && info.Mode().Perm()&0o001 == 0 {
		if err := os.Chmod(dir, info.Mode().Perm()|0o011); err != nil {
			return place{}, fmt.Errorf("open data directory to user %s: %w", p.account.name, err)
		}
	}
	blocked, err := p.account.blockedAt(dir)
	if err != nil {
		return place{}, err
	}
	target, err := os.Readlink(p.name())
	linked := err == nil && strings.HasPrefix(target, elsewhere+"/")
	switch {
	case linked && p.account == nil:
		return place{}, fmt.Errorf("the cluster %s was created by root, in %s: start as root again, or %s", p.name(), target, rebuildHint(p))
	case blocked != "" || linked:
		return p.moved(blocked)
	default:
		return p, nil
	}
}

// moved puts the cluster below elsewhere, in a folder named after dir.
func (p place) moved(blocked string) (place, error) {
	sum := sha256.Sum256([]byte(p.dir))
	p.root = filepath.Join(elsewhere, hex.EncodeToString(sum[:8]))
	err := os.MkdirAll(p.root, 0o711)
	if err == nil {
		var still string
		if still, err = p.account.blockedAt(p.root); err == nil && still != "" {
			err = fmt.Errorf("user %s may not enter %s", p.account.name, still)
		}
	}
	if err != nil {
		return place{}, fmt.Errorf("postgres must run as user %s, who may not enter %s, and the other place %s is no use either (%w): choose a data directory that user may reach (SPARKOPS_DATA_DIR), for example below /var/lib, or allow it with: chmod o+x %s",
			p.account.name, blocked, p.root, err, blocked)
	}
	if err := os.WriteFile(filepath.Join(p.root, originNote), []byte(p.dir), 0o600); err != nil {
		return place{}, fmt.Errorf("note the origin of the cluster: %w", err)
	}
	sweepElsewhere()
	return p, nil
}

// originNote holds, in a folder below elsewhere, the Dir it belongs to.
const originNote = "origin"

// sweepElsewhere removes the clusters of data directories that were deleted,
// unless a server still runs on one.
func sweepElsewhere() {
	notes, _ := filepath.Glob(filepath.Join(elsewhere, "*", originNote)) // a constant, well-formed pattern
	for _, note := range notes {
		origin, err := os.ReadFile(note)
		if err != nil {
			continue
		}
		if _, err := os.Lstat(string(origin)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		root := filepath.Dir(note)
		if !servedBelow(root) {
			_ = os.RemoveAll(root) // what is left of it goes the next time
		}
	}
}

func servedBelow(root string) bool {
	pidFiles, _ := filepath.Glob(filepath.Join(root, "*", "postmaster.pid"))
	for _, pidFile := range pidFiles {
		pid, err := postmasterPID(pidFile)
		if err != nil || pid == tornPID || pid != 0 && serves(pid, filepath.Dir(pidFile)) {
			return true
		}
	}
	return false
}

// cluster returns the folder of the complete cluster, or "" when there is none.
// What else lies where it would be (an interrupted creation, the cluster of a
// Dir that was deleted) is removed, after its server if one still runs.
func (p place) cluster(ctx context.Context) (string, error) {
	if p.root == p.dir {
		return p.clusterAt(p.name())
	}
	target, err := os.Readlink(p.name())
	if err != nil || filepath.Dir(target) != p.root {
		target = "" // no link, or not one of ours: everything below root belongs to nobody
	}
	entries, err := os.ReadDir(p.root)
	if err != nil {
		return "", fmt.Errorf("look for the cluster: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(p.root, e.Name())
		if path == target || e.Name() == originNote {
			continue
		}
		if err := errors.Join(stopLeftover(ctx, path), os.RemoveAll(path)); err != nil {
			return "", fmt.Errorf("remove an abandoned cluster: %w", err)
		}
	}
	if target == "" {
		return "", os.RemoveAll(p.name())
	}
	return p.clusterAt(target)
}

func (p place) clusterAt(path string) (string, error) {
	if _, err := os.Stat(filepath.Join(path, completeMarker)); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for the cluster: %w", err)
	}
	if err := os.RemoveAll(path); err != nil {
		return "", fmt.Errorf("remove an incomplete cluster: %w", err)
	}
	half, _ := filepath.Glob(filepath.Join(p.root, creating+"*")) // the pattern is well-formed unless root has brackets, then leftovers stay
	for _, dir := range half {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("remove an interrupted creation: %w", err)
		}
	}
	return "", nil
}

const creating = "creating-"

// scratch makes the empty folder in which a cluster is created.
func (p place) scratch() (string, error) {
	dir, err := os.MkdirTemp(p.root, creating)
	if err != nil {
		return "", fmt.Errorf("create cluster directory: %w", err)
	}
	return dir, p.account.own(dir)
}

// publish gives a complete cluster its name, atomically, and returns where it
// is from now on.
func (p place) publish(scratch string) (string, error) {
	if p.root == p.dir {
		if err := os.Rename(scratch, p.name()); err != nil {
			return "", fmt.Errorf("publish cluster: %w", err)
		}
		return p.name(), syncDir(p.dir)
	}
	final := filepath.Join(p.root, "pgdata-"+strings.ToLower(rand.Text()[:12]))
	if err := os.Rename(scratch, final); err != nil {
		return "", fmt.Errorf("publish cluster: %w", err)
	}
	link := p.name() + ".new"
	if err := os.RemoveAll(link); err != nil {
		return "", fmt.Errorf("publish cluster: %w", err)
	}
	if err := os.Symlink(final, link); err != nil {
		return "", fmt.Errorf("publish cluster: %w", err)
	}
	if err := os.Rename(link, p.name()); err != nil {
		return "", fmt.Errorf("publish cluster: %w", err)
	}
	return final, errors.Join(syncDir(p.root), syncDir(p.dir))
}

// socketDir makes a new empty folder that only the account may enter. The one
// of an earlier start is removed, its server is known to be gone.
func (p place) socketDir() (string, error) {
	p.dropSocketDir("")
	dir := filepath.Join(p.root, "run")
	if len(filepath.Join(dir, socketName)) <= maxSocketPath {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("clear socket directory: %w", err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", fmt.Errorf("create socket directory: %w", err)
		}
		return dir, p.account.own(dir)
	}
	for _, base := range []string{os.TempDir(), "/tmp"} {
		blocked, err := p.account.blockedAt(base)
		if err != nil || blocked != "" || len(filepath.Join(base, "sparkops-pg-0123456789", socketName)) > maxSocketPath {
			continue
		}
		dir, err := os.MkdirTemp(base, "sparkops-pg-")
		if err != nil {
			continue
		}
		if err := os.WriteFile(p.socketNote(), []byte(dir), 0o600); err != nil {
			return "", fmt.Errorf("note socket directory: %w", err)
		}
		return dir, p.account.own(dir)
	}
	return "", fmt.Errorf("no folder for the Postgres socket: %s is longer than %d bytes and neither %s nor /tmp is usable", filepath.Join(dir, socketName), maxSocketPath, os.TempDir())
}

// socketNote remembers a socket folder outside root: a killed process leaves it
// behind.
func (p place) socketNote() string { return filepath.Join(p.dir, "socket-dir") }

// dropSocketDir removes dir, if given, and the folder that the note names. Of a
// folder outside root it removes the socket only, and the folder when that
// leaves it empty: its path was read from a file.
func (p place) dropSocketDir(dir string) {
	if dir == filepath.Join(p.root, "run") {
		_ = os.RemoveAll(dir)
		return
	}
	noted, err := os.ReadFile(p.socketNote())
	if err != nil {
		return
	}
	if outside := string(noted); strings.HasPrefix(filepath.Base(outside), "sparkops-pg-") {
		_ = os.Remove(filepath.Join(outside, socketName))
		_ = os.Remove(filepath.Join(outside, socketName+".lock"))
		_ = os.Remove(outside)
	}
	_ = os.Remove(p.socketNote())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
