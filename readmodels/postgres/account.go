package postgres

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user Postgres runs as when this process is root. A nil
// *account means: as ourselves.
type account struct {
	name     string
	uid, gid int
}

// serverAccount picks the account: nil unless we are root, then the owner of an
// existing cluster, "postgres" or "nobody", in this order. The owner comes first
// so that a cluster made without root is still usable, by its user too, after
// the program was run as root once.
func serverAccount(cluster string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if info, err := os.Stat(cluster); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return &account{name: "uid " + strconv.Itoa(int(st.Uid)), uid: int(st.Uid), gid: int(st.Gid)}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID == nil && errGID == nil && uid > 0 {
			return &account{name: name, uid: uid, gid: gid}, nil
		}
	}
	return nil, fmt.Errorf("postgres refuses to run as root, and there is neither a user %q nor %q to run it as: run as another user, or set DATABASE_URL", "postgres", "nobody")
}

// attributes are those of every child: its own process group, so that Ctrl-C
// in a terminal does not stop it before its clients, and the account's rights.
func (a *account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// own gives a file or folder to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	if err := os.Lchown(path, a.uid, a.gid); err != nil {
		return fmt.Errorf("give to user %s: %w", a.name, err)
	}
	return nil
}

// blockedAt returns the first folder on the way to path, path included, that
// the account may not enter, or "". Only mode bits are looked at: an access
// list that allows more makes us choose another place, nothing worse.
func (a *account) blockedAt(path string) (string, error) {
	if a == nil {
		return "", nil
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("resolve: %w", err)
	}
	var blocked string
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return "", fmt.Errorf("look at: %w", err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !a.mayEnter(st, info.Mode()) {
			blocked = dir
		}
		if dir == filepath.Dir(dir) {
			return blocked, nil
		}
	}
}

func (a *account) mayEnter(st *syscall.Stat_t, mode os.FileMode) bool {
	switch {
	case int(st.Uid) == a.uid:
		return mode&0o100 != 0
	case int(st.Gid) == a.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
