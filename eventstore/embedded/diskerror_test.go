package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

// TestErrorAtEveryWrite lets one operation after another of the disk fail, the first and all that follow: nothing is
// acknowledged that a crash right then would lose, and the log opens again on a disk that works.
func TestErrorAtEveryWrite(t *testing.T) {
	t.Parallel()
	limit := 150
	if RaceEnabled {
		limit = 20
	}
	for n := range limit {
		memory := vfs.NewCrashableMem()
		acknowledged, survived := failFrom(t, memory, int64(n))
		reopened := openTestLog(t, survived)
		verifyLog(t, reopened, acknowledged, 0)
		out, err := reopened.append(t.Context(), "after", expectation{kind: expectNoStream},
			[]proposed{{id: newEventID(), eventType: "e", data: []byte("after 0 1")}})
		require.NoError(t, err)
		require.Equal(t, outcomeDone, out.status)
		require.NoError(t, reopened.close())
	}
}

// failFrom opens a log and appends to it until its disk, which fails from the nth write on, has ended it.
func failFrom(t *testing.T, memory *vfs.MemFS, n int64) (acknowledged []acked, survived *vfs.MemFS) {
	t.Helper()
	var operations atomic.Int64
	var healed atomic.Bool // so that what is left of the log does not go on trying
	defer healed.Store(true)
	faulty := errorfs.Wrap(memory, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && !strings.HasSuffix(op.Path, "BALLAST") && operations.Add(1) > n && !healed.Load() {
			return errors.New("injected disk failure")
		}
		return nil
	}))
	logger := slog.New(slog.DiscardHandler)
	m := newMetrics()
	space := &diskSpace{measure: freeSpaceOf(memory, "data"), ballast: newBallast(memory, "data", logger), logger: logger, metrics: m}
	require.NoError(t, memory.MkdirAll("data", 0o755))
	space.refresh()
	died := make(chan struct{}, 1)
	opened := make(chan *eventLog, 1)
	go func() {
		l, err := openLog(logOptions{
			dir: "data", fs: faulty, cacheBytes: 1 << 20, prefill: 4 << 10, memTable: 64 << 10,
			logger: logger, now: time.Now, metrics: m, space: space,
			fatal: func(string) {
				select {
				case died <- struct{}{}:
				default:
				}
			},
		})
		if err != nil {
			l = nil
		}
		opened <- l
	}()
	select {
	case <-died:
		return nil, memory.CrashClone(vfs.CrashCloneCfg{})
	case l := <-opened:
		if l == nil {
			return nil, memory.CrashClone(vfs.CrashCloneCfg{})
		}
		for i := 0; ; i++ {
			id := newEventID()
			data := fmt.Sprintf("%d 0 1 %s", i, strings.Repeat("x", 2000))
			out, err := l.append(t.Context(), "s", expectation{kind: expectRevision, revision: int64(i - 1)},
				[]proposed{{id: id, eventType: "e", data: []byte(data)}})
			if err != nil {
				require.ErrorIs(t, err, errFailed)
				return acknowledged, memory.CrashClone(vfs.CrashCloneCfg{})
			}
			acknowledged = append(acknowledged, acked{stream: "s", last: out.last, position: out.position, ids: []eventID{id}})
		}
	}
}
