package embedded_test

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// TestDiskFull refuses appends below the watermark, still answers reads, and takes appends again by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	var free atomic.Uint64
	free.Store(1 << 30)
	node := openNode(t, embedded.Options{
		MinFreeBytes: 100 << 20, DiskFree: func() (uint64, error) { return free.Load(), nil },
	})
	w := dial(t, node)
	w.mustAppend("s", noStream, events(0)...)
	free.Store(100<<20 - 1)
	last := expectation(0)
	require.Eventually(t, func() bool {
		_, _, err := w.append("s", last, events(1)...)
		if err == nil {
			last++
		}
		return err != nil
	}, patience, time.Millisecond)
	_, _, err := w.append("s", last, events(2)...)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "disk")
	_, _, err = w.delete("s", anyRevision)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	_, _, err = w.tombstone("s", anyRevision)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.Len(t, w.read(streamRead("s", fromStart, false, everything)), int(last)+1)
	response, _, err := w.append("s", noStream, events(0)...)
	require.NoError(t, err, "a repeat needs no space")
	require.NotNil(t, response.GetSuccess())

	free.Store(1 << 30)
	require.Eventually(t, func() bool {
		_, _, err := w.append("s", last, events(3)...)
		return err == nil
	}, patience, 10*time.Millisecond)
}

// TestDiskFullBetweenMeasurements counts what was written since the last look at the disk.
func TestDiskFullBetweenMeasurements(t *testing.T) {
	t.Parallel()
	var measurements atomic.Int64
	node := openNode(t, embedded.Options{
		MinFreeBytes: 1 << 20,
		DiskFree: func() (uint64, error) {
			if measurements.Add(1) > 1 {
				return 0, errors.New("cannot tell")
			}
			return 3 << 20, nil
		},
	})
	w := dial(t, node)
	refused := false
	for i := 0; i < 10 && !refused; i++ {
		_, _, err := w.append("s", expectation(i-1), event{id: numbered(i + 1), kind: "e", data: strings.Repeat("x", 500<<10)})
		if refused = err != nil; refused {
			require.Equal(t, codes.ResourceExhausted, status.Code(err))
			require.Positive(t, i)
		}
	}
	require.True(t, refused)
}

// TestBallast fills the disk behind the watermark's back: the ballast goes, the pending write succeeds, and the ballast
// comes back with the space.
func TestBallast(t *testing.T) {
	t.Parallel()
	memory := vfs.NewMem()
	var full atomic.Bool
	var removed atomic.Int64
	var free atomic.Uint64
	free.Store(1 << 30)
	faulty := errorfs.Wrap(memory, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpRemove && strings.HasSuffix(op.Path, "BALLAST") {
			removed.Add(1)
			full.Store(false)
		}
		if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	node := openNode(t, embedded.Options{Dir: "data", FS: faulty, DiskFree: func() (uint64, error) { return free.Load(), nil }})
	_, err := memory.Stat("data/BALLAST")
	require.NoError(t, err)
	w := dial(t, node)
	w.mustAppend("s", noStream, events(0)...)
	free.Store(defaultMinFree + 1)
	full.Store(true)
	w.mustAppend("s", 0, events(1)...)
	require.EqualValues(t, 1, removed.Load())
	_, err = memory.Stat("data/BALLAST")
	require.ErrorIs(t, err, os.ErrNotExist)
	free.Store(1 << 30)
	require.Eventually(t, func() bool {
		_, err := memory.Stat("data/BALLAST")
		return err == nil
	}, patience, 10*time.Millisecond)
}

const defaultMinFree = 256 << 20
