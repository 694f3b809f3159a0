package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// dirStore is one file per subject, named by the hash of the subject.
type dirStore struct{ dir string }

const (
	recordSuffix = ".json"
	scratch      = ".new-"
	lockName     = ".lock"
)

// DirStore keeps keys in a folder of its own, which it creates (mode 0700; the
// files 0600). A file is synced before it gets its name and the folder after.
// Several processes of one machine may use it.
//
// Erase overwrites the old file's bytes as far as the file system lets it; on a
// copy-on-write file system or an SSD they may survive until they are reused,
// still wrapped by the master key.
func DirStore(dir string) (Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	s := &dirStore{dir: dir}
	s.sweep()
	return s, nil
}

// makeDir makes a folder and those above it as durable as the files in it.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if syncErr := syncDir(filepath.Dir(dir)); err == nil || !errors.Is(syncErr, fs.ErrPermission) {
		return syncErr
	}
	return nil // it is not ours to sync, and who made dir in it did
}

// sweep removes files that a killed process never gave their name.
func (s *dirStore) sweep() {
	left, _ := filepath.Glob(filepath.Join(s.dir, scratch+"*")) // a dir with brackets keeps them, they do no harm
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(path)
		}
	}
}

func (s *dirStore) path(subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+recordSuffix)
}

func (s *dirStore) Get(ctx context.Context, subject string) (Record, error) {
	if ctx.Err() != nil {
		return Record{}, context.Cause(ctx)
	}
	r, err := readRecord(s.path(subject))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, ErrNoKey
	}
	if err == nil && r.Subject != subject {
		err = fmt.Errorf("%s is another subject's", s.path(subject))
	}
	if err != nil {
		return Record{}, fmt.Errorf("read key: %w", err)
	}
	return r, nil
}

// readRecord reads again when the content makes no sense: the file may have
// been replaced and overwritten after it was opened.
func readRecord(path string) (Record, error) {
	for range 5 {
		text, err := os.ReadFile(path)
		if err != nil {
			return Record{}, err
		}
		var r Record
		if err := json.Unmarshal(text, &r); err == nil {
			return r, nil
		}
	}
	return Record{}, fmt.Errorf("%s is damaged", path)
}

// PutIfAbsent gives the finished file its name by a hard link, which fails when
// the name is taken.
func (s *dirStore) PutIfAbsent(ctx context.Context, r Record) (Record, error) {
	held, err := s.Get(ctx, r.Subject)
	if errors.Is(err, ErrNoKey) {
		held, err = s.link(ctx, r)
	}
	if err != nil {
		return Record{}, err
	}
	// Also when another one made the file: that one may not have come this far.
	return held, syncDir(s.dir)
}

func (s *dirStore) link(ctx context.Context, r Record) (Record, error) {
	path, err := s.write(r)
	if err != nil {
		return Record{}, err
	}
	defer os.Remove(path)
	err = os.Link(path, s.path(r.Subject))
	if errors.Is(err, fs.ErrExist) {
		return s.Get(ctx, r.Subject)
	}
	if err != nil {
		return Record{}, fmt.Errorf("write key: %w", err)
	}
	return r, nil
}

func (s *dirStore) Replace(ctx context.Context, old, new Record) (bool, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	held, err := s.Get(ctx, old.Subject)
	if errors.Is(err, ErrNoKey) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if held.Erased || held.KeyID != old.KeyID || !bytes.Equal(held.Wrapped, old.Wrapped) {
		return false, nil
	}
	return true, s.rename(new)
}

func (s *dirStore) Erase(ctx context.Context, subject string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// A damaged file is erased like any other.
	if held, err := s.Get(ctx, subject); err == nil && held.Erased {
		return syncDir(s.dir)
	}
	return s.rename(Record{Subject: subject, Erased: true})
}

// rename puts r in the place of the subject's file, if any, and then overwrites
// what that file held. The caller has the lock.
func (s *dirStore) rename(r Record) error {
	path, err := s.write(r)
	if err != nil {
		return err
	}
	old, err := os.OpenFile(s.path(r.Subject), os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("write key: %w", err), os.Remove(path))
	}
	if old != nil {
		defer old.Close()
	}
	if err := os.Rename(path, s.path(r.Subject)); err != nil {
		return errors.Join(fmt.Errorf("write key: %w", err), os.Remove(path))
	}
	if err := syncDir(s.dir); err != nil || old == nil {
		return err
	}
	return overwrite(old)
}

// overwrite makes a file that lost its name unreadable for who finds its blocks.
// Who opened it before reads it again by its name, see readRecord.
func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("overwrite old key: %w", err)
	}
	return nil
}

// write makes a synced file without its final name.
func (s *dirStore) write(r Record) (string, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("write key: %w", err)
	}
	f, err := os.CreateTemp(s.dir, scratch) // mode 0600
	if err != nil {
		return "", fmt.Errorf("write key: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("write key: %w", err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func (s *dirStore) List(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var subjects []string
	for _, e := range entries {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		r, err := readRecord(filepath.Join(s.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		if !r.Erased {
			subjects = append(subjects, r.Subject)
		}
	}
	slices.Sort(subjects)
	return subjects, nil
}

// lock keeps other changes of existing files out, of this process and others.
func (s *dirStore) lock(ctx context.Context) (func(), error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock key store: %w", err)
	}
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // nothing was written; closing unlocks
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock key store: %w", err)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock key store: %w", context.Cause(ctx))
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync key store: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync key store: %w", err)
	}
	return nil
}
