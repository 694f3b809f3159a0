package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	defaultMinFreeBytes = 256 << 20
	diskCheckInterval   = 250 * time.Millisecond
)

// diskSpace decides whether there is room for more appends. It asks the file system now and then and counts what
// is written in between.
type diskSpace struct {
	minimum uint64
	measure func() (uint64, error)
	ballast *ballast
	logger  *slog.Logger
	metrics *metrics

	free    atomic.Uint64 // at the last measurement
	written atomic.Uint64 // since then
	unknown bool          // the last measurement failed; of the goroutine that measures
	low     bool          // likewise
}

// writeAmplification is by how much an append may take more space than its own bytes before the next measurement:
// it is written to the log and, later, to sorted tables.
const writeAmplification = 2

// freeSpaceOf measures a directory. File systems that cannot tell are taken to be endless.
func freeSpaceOf(fs vfs.FS, dir string) func() (uint64, error) {
	return func() (uint64, error) {
		usage, err := fs.GetDiskUsage(dir)
		if errors.Is(err, vfs.ErrUnsupported) {
			return endOfLog, nil
		}
		if err != nil {
			return 0, fmt.Errorf("measure free disk space: %w", err)
		}
		return usage.AvailBytes, nil
	}
}

func (d *diskSpace) enough() bool {
	free, written := d.free.Load(), d.written.Load()
	return free >= d.minimum && free-d.minimum >= written
}

func (d *diskSpace) wrote(bytes int) { d.written.Add(uint64(bytes) * writeAmplification) }

// refresh measures again. A file system that fails to tell leaves the last figure in force.
func (d *diskSpace) refresh() {
	before := d.written.Load()
	free, err := d.measure()
	if err != nil {
		if !d.unknown {
			d.logger.Warn("free disk space is unknown", "error", err)
		}
		d.unknown = true
		return
	}
	d.unknown = false
	d.free.Store(free)
	d.written.Add(-before)
	d.metrics.diskFree.Set(float64(free))
	if free >= ballastBytes && free-ballastBytes >= d.minimum {
		if err := d.ballast.hold(); err != nil {
			d.logger.Warn("no space is reserved against a full disk", "error", err)
		}
	}
	if low := free < d.minimum; low != d.low {
		d.low = low
		if low {
			d.logger.Error("disk is almost full: appends are refused", "free_bytes", free, "minimum_bytes", d.minimum)
		} else {
			d.logger.Info("disk has space again: appends are taken", "free_bytes", free)
		}
	}
}

// watch measures until stop is closed.
func (d *diskSpace) watch(stop <-chan struct{}) {
	ticker := time.NewTicker(diskCheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			d.refresh()
		case <-stop:
			return
		}
	}
}
