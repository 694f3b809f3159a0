package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	defaultCacheBytes = 64 << 20
	defaultMemTable   = 16 << 20
)

// lockDir takes the directory's lock, so that two processes never write to one log.
func lockDir(dir string, fs vfs.FS) (*pebble.Lock, error) {
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("embedded: create data directory %q: %w", dir, err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("embedded: data directory %q is not writable: %w", dir, err)
		}
		return nil, fmt.Errorf("embedded: data directory %q is in use by another event store: %w", dir, err)
	}
	return lock, nil
}

// openStorage opens Pebble so that none of its fatal errors ever returns into it: die, which normally ends the process,
// is told, and should it return, the goroutine stays where it is.
func openStorage(o logOptions, die func(msg string)) (db *pebble.DB, err error) {
	logger := &storageLogger{logger: o.logger, fatal: func(msg string) {
		die(msg)
		select {}
	}}
	var armed atomic.Bool
	fs := o.space.ballast.guard(prefillFS{FS: o.fs, step: o.prefill})
	options := &pebble.Options{
		FS:                          vitalFS{FS: fs, armed: &armed, die: die},
		Lock:                        o.lock,
		Logger:                      logger,
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   o.cacheBytes,
		MemTableSize:                o.memTable,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               64 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { o.logger.Error("event log background error", "error", err) },
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				logger.Fatalf("event log is damaged on disk: %s", info.String())
			},
			DiskSlow: func(info pebble.DiskSlowInfo) {
				o.logger.Warn("event log disk is slow", "detail", info.String())
			},
			WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
				o.logger.Warn("event log write stall", "reason", info.Reason)
			},
		},
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	options.WithFSDefaults()
	defer func() {
		// Some errors of the disk Pebble reports by panicking.
		if cause := recover(); cause != nil {
			db, err = nil, fmt.Errorf("embedded: open event log in %q: %v", o.dir, cause)
		}
	}()
	if db, err = pebble.Open(o.dir, options); err != nil {
		return nil, fmt.Errorf("embedded: open event log in %q: %w", o.dir, err)
	}
	armed.Store(true)
	return db, nil
}

// storageLogger passes on what an operator must know and turns fatal errors into the end of the process.
type storageLogger struct {
	logger *slog.Logger
	fatal  func(msg string)
}

func (s *storageLogger) Infof(string, ...any) {}

func (s *storageLogger) Errorf(format string, args ...any) {
	s.logger.Error("event log storage", "error", fmt.Sprintf(format, args...))
}

func (s *storageLogger) Fatalf(format string, args ...any) {
	s.fatal(fmt.Sprintf(format, args...))
}
