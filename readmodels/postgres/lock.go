package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// ErrInUse is wrapped by the error of Start and Remove when another living
// process uses the directory.
var ErrInUse = errors.New("directory is in use")

// fileLock is an flock: the kernel drops it when its process ends, however it
// ends. Children never inherit it, Go opens files close-on-exec.
type fileLock struct{ file *os.File }

// lockFile takes the lock, waiting up to patience for another holder to let go:
// a killed process takes a moment to disappear.
func lockFile(ctx context.Context, path string, how int, patience time.Duration) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	deadline := time.Now().Add(patience)
	for {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return &fileLock{file: file}, nil
		}
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Now().After(deadline) {
			_ = file.Close()
			return nil, fmt.Errorf("%w: %s is locked by another process", ErrInUse, path)
		}
		if err := pause(ctx, 25*time.Millisecond); err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", path, err)
		}
	}
}

// change turns a held lock into a shared or exclusive one.
func (l *fileLock) change(how int) error {
	for {
		err := syscall.Flock(int(l.file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (l *fileLock) release() { _ = l.file.Close() } // closing drops the lock, nothing was written

// pause waits for d or for the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
