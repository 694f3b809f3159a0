package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// templateFormat changes when cached templates of older code must not be used.
const templateFormat = "1"

// copyTemplate fills scratch with a copy of the cached template cluster. initdb
// takes seconds, on a busy machine much more, and every test process needs a
// cluster of its own: the first one pays, under an exclusive lock, the others
// copy under a shared one.
func copyTemplate(ctx context.Context, p place, bin binaries, scratch string, log *slog.Logger) error {
	cache, err := templateCache()
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(strings.Join(append([]string{templateFormat, bin.version, bin.dir}, initdbFlags...), "\x00")))
	template := filepath.Join(cache, "pg"+strconv.Itoa(bin.major)+"-"+hex.EncodeToString(sum[:8]))
	lock, err := lockFile(ctx, template+".lock", syscall.LOCK_SH, 10*time.Minute)
	if err != nil {
		return fmt.Errorf("use the template cluster: %w", err)
	}
	defer lock.release()
	if !intact(template) {
		if err := lock.change(syscall.LOCK_EX); err != nil { // not atomic: look again
			return fmt.Errorf("lock the template cluster: %w", err)
		}
		if !intact(template) {
			if err := makeTemplate(ctx, p, bin, template, log); err != nil {
				return err
			}
		}
		if err := lock.change(syscall.LOCK_SH); err != nil {
			return fmt.Errorf("lock the template cluster: %w", err)
		}
	}
	if _, err := copyTree(ctx, p.account, template, scratch); err != nil {
		return fmt.Errorf("copy the template cluster: %w", err)
	}
	return nil
}

// templateCache is a folder of our own in the user's cache, or in the temporary
// directory where there is no home.
func templateCache() (string, error) {
	base, err := os.UserCacheDir()
	dir := filepath.Join(base, "sparkops")
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		dir = filepath.Join(os.TempDir(), "sparkops-cache-"+strconv.Itoa(os.Geteuid()))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("create cache directory: %w", err)
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("look at cache directory: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("cache directory %s belongs to another user", dir)
	}
	return dir, nil
}

// makeTemplate runs initdb where the account may write, then moves the result
// into the cache. The number of files is kept beside it: cleaners of temporary
// folders take single files away.
func makeTemplate(ctx context.Context, p place, bin binaries, template string, log *slog.Logger) error {
	scratch, err := p.scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if err := initdb(ctx, p.account, bin, scratch, false, log); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(template), os.RemoveAll(template+".new")); err != nil {
		return fmt.Errorf("replace the template cluster: %w", err)
	}
	if err := os.Mkdir(template+".new", 0o700); err != nil {
		return fmt.Errorf("create the template cluster: %w", err)
	}
	files, err := copyTree(ctx, nil, scratch, template+".new")
	if err != nil {
		return fmt.Errorf("create the template cluster: %w", err)
	}
	if err := os.WriteFile(template+".files", []byte(strconv.Itoa(files)), 0o600); err != nil {
		return fmt.Errorf("create the template cluster: %w", err)
	}
	if err := os.Rename(template+".new", template); err != nil {
		return fmt.Errorf("create the template cluster: %w", err)
	}
	return nil
}

func intact(template string) bool {
	want, err := os.ReadFile(template + ".files")
	if err != nil {
		return false
	}
	files := 0
	err = filepath.WalkDir(template, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	})
	return err == nil && string(want) == strconv.Itoa(files)
}

// copyTree copies folders and regular files, which is all a fresh cluster has,
// into an existing folder, and gives the copy to the account. It returns the
// number of files.
func copyTree(ctx context.Context, a *account, from, to string) (int, error) {
	files := 0
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case rel == ".":
			return nil
		case e.IsDir():
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
		case e.Type().IsRegular():
			files++
			if err := copyFile(path, target); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither a file nor a folder", path)
		}
		return a.own(target)
	})
	return files, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
