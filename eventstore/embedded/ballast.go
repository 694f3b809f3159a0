package embedded

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ballast is a file that takes up space until the disk is full. Then it goes, so that the writes that a storage must
// not see fail, those of its log and manifest, still succeed. It is a last resort: appends are refused long before,
// but others may fill the same disk.
type ballast struct {
	fs     vfs.FS
	path   string
	logger *slog.Logger
	held   atomic.Bool
}

const ballastBytes = 32 << 20

func newBallast(fs vfs.FS, dir string, logger *slog.Logger) *ballast {
	return &ballast{fs: fs, path: fs.PathJoin(dir, "BALLAST"), logger: logger}
}

// guard returns a file system that releases the ballast when fs is full, and then tries again.
func (b *ballast) guard(fs vfs.FS) vfs.FS { return vfs.OnDiskFull(fs, b.release) }

// hold takes the space unless it is taken.
func (b *ballast) hold() error {
	if b.held.Load() {
		return nil
	}
	if _, err := b.fs.Stat(b.path); err == nil {
		b.held.Store(true)
		return nil
	}
	file, err := b.fs.Create(b.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create ballast: %w", err)
	}
	// File systems that cannot reserve space leave the file empty, and the ballast without effect.
	if err := file.Preallocate(0, ballastBytes); err != nil {
		b.logger.Warn("no space is reserved against a full disk", "error", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("create ballast: %w", err)
	}
	b.held.Store(true)
	return nil
}

// release gives the space back. It runs while all writes wait for it.
func (b *ballast) release() {
	if !b.held.Swap(false) {
		return
	}
	if err := b.fs.Remove(b.path); err != nil {
		b.logger.Error("disk is full and the ballast cannot be removed", "error", err)
		return
	}
	b.logger.Error("disk is full: the ballast was removed to finish pending writes", "bytes", ballastBytes)
}
