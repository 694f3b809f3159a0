package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/protobuf/proto"
)

// crashSeeds is how many crashes TestCrash simulates; EMBEDDED_CRASH_SEEDS sets more.
func crashSeeds(t *testing.T) int {
	text := os.Getenv("EMBEDDED_CRASH_SEEDS")
	if text == "" && RaceEnabled {
		return 30
	}
	if text == "" {
		return 210
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

func openTestLog(t *testing.T, fs vfs.FS) *eventLog {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	m := newMetrics()
	space := &diskSpace{
		measure: freeSpaceOf(fs, "data"), ballast: newBallast(fs, "data", logger), logger: logger, metrics: m,
	}
	space.refresh()
	l, err := openLog(logOptions{
		dir: "data", fs: fs, cacheBytes: 1 << 20, prefill: 4 << 10, memTable: 64 << 10, // flushes and compactions take part in crashes
		logger: logger, now: time.Now, metrics: m, space: space,
		fatal: func(msg string) { t.Errorf("fatal: %s", msg) },
	})
	require.NoError(t, err)
	return l
}

// acked is an append that was acknowledged.
type acked struct {
	stream   string
	last     int64
	position uint64
	ids      []eventID
}

// crashLedger is what the outside world knows about a log: acknowledged appends and events shown to readers.
type crashLedger struct {
	mu    sync.Mutex
	acked []acked
	shown uint64 // highest position a reader saw
}

func (c *crashLedger) snapshot() ([]acked, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]acked(nil), c.acked...), c.shown
}

// TestCrash cuts the power of a busy log at a random moment, with a random part of what was not synced lost, and
// checks that everything acknowledged or shown is there, that every append is whole or absent, and that the log and
// its indexes agree; then it goes on with what is left, through several crashes.
func TestCrash(t *testing.T) {
	t.Parallel()
	const generations = 3
	for seed := range crashSeeds(t) / generations {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		fs := vfs.NewCrashableMem()
		ledger := &crashLedger{}
		for generation := range generations {
			l := openTestLog(t, fs)
			clone := loadUntilCrash(t, l, fs, rng, ledger, generation)
			fs = clone.fs
			reopened := openTestLog(t, fs)
			verifyLog(t, reopened, clone.acked, clone.shown)
			if t.Failed() {
				t.Fatalf("seed %d generation %d", seed, generation)
			}
			require.NoError(t, reopened.close())
			ledger = &crashLedger{acked: clone.acked, shown: clone.shown}
		}
	}
}

type crashState struct {
	fs    *vfs.MemFS
	acked []acked
	shown uint64
}

func loadUntilCrash(t *testing.T, l *eventLog, fs *vfs.MemFS, rng *rand.Rand, ledger *crashLedger, generation int) crashState {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	before := len(ledger.acked)
	progress := make(chan struct{}, 1)
	for writer := range 4 {
		running.Add(1)
		seeded := rand.New(rand.NewPCG(rng.Uint64(), uint64(writer)))
		go func() {
			defer running.Done()
			crashWriter(ctx, t, l, seeded, ledger, fmt.Sprintf("%d-%d", generation, writer), progress)
		}()
	}
	running.Add(1)
	go func() {
		defer running.Done()
		crashReader(ctx, l, ledger)
	}()

	target := before + 1 + rng.IntN(40)
	for {
		<-progress
		ledger.mu.Lock()
		reached := len(ledger.acked) >= target
		ledger.mu.Unlock()
		if reached {
			break
		}
	}
	state := crashState{}
	state.acked, state.shown = ledger.snapshot()
	state.fs = fs.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(rng.Uint64(), 1)),
	})
	stop()
	running.Wait()
	require.NoError(t, l.close())
	return state
}

// crashWriter appends to streams of its own and to shared ones. The data of each event says which append it is of
// and how long that is.
func crashWriter(ctx context.Context, t *testing.T, l *eventLog, rng *rand.Rand, ledger *crashLedger, name string, progress chan<- struct{}) {
	revisions := map[string]int64{}
	for n := 0; ctx.Err() == nil; n++ {
		stream, want := fmt.Sprintf("own-%s-%d", name, rng.IntN(5)), expectation{kind: expectNoStream}
		if last, ok := revisions[stream]; ok {
			want = expectation{kind: expectRevision, revision: last}
		}
		if rng.IntN(3) == 0 {
			stream, want = fmt.Sprintf("shared-%d", rng.IntN(3)), expectation{kind: expectAny}
		}
		batch := make([]proposed, 1+rng.IntN(5))
		ids := make([]eventID, len(batch))
		for i := range batch {
			ids[i] = newEventID()
			data := fmt.Sprintf("%s/%d %d %d %s", name, n, i, len(batch), strings.Repeat("x", rng.IntN(1000)))
			batch[i] = proposed{id: ids[i], eventType: "crash", data: []byte(data)}
		}
		out, err := l.append(ctx, stream, want, batch)
		if errors.Is(err, context.Canceled) {
			return
		}
		if err != nil || out.status != outcomeDone {
			t.Errorf("append to %s: %v %v", stream, out.status, err)
			return
		}
		revisions[stream] = out.last
		ledger.mu.Lock()
		ledger.acked = append(ledger.acked, acked{stream: stream, last: out.last, position: out.position, ids: ids})
		ledger.mu.Unlock()
		select {
		case progress <- struct{}{}:
		default:
		}
	}
}

// crashReader follows the log as a live subscriber does.
func crashReader(ctx context.Context, l *eventLog, ledger *crashLedger) {
	batch := make([]*record, 64)
	next := l.visible.Load() + 1
	for {
		n, wait, ok := l.tails.all.from(next, batch)
		switch {
		case !ok:
			next = l.visible.Load() + 1
		case n > 0:
			next = batch[n-1].position + 1
			ledger.mu.Lock()
			ledger.shown = max(ledger.shown, batch[n-1].position)
			ledger.mu.Unlock()
		default:
			select {
			case <-wait:
			case <-ctx.Done():
				return
			}
		}
	}
}

// location is where an event was found.
type location struct {
	stream   string
	revision int64
	id       eventID
}

// verifyLog reads the whole log and checks every invariant there is.
func verifyLog(t *testing.T, l *eventLog, expected []acked, shown uint64) {
	t.Helper()
	found := map[uint64]location{}
	heads := map[string]int64{}
	pieces, sizes := map[string]int{}, map[string]int{}
	iter, err := l.eventIter(0, endOfLog)
	require.NoError(t, err)
	next := uint64(firstPosition)
	for ok := iter.First(); ok; ok = iter.Next() {
		position := eventKeyPosition(iter.Key())
		if position != next {
			t.Fatalf("the log has a hole before %d, expected %d", position, next)
		}
		value, err := iter.ValueAndErr()
		require.NoError(t, err)
		next = position + uint64(len(value))
		at, data := verifyEvent(t, l, position, value)
		last, seen := heads[at.stream]
		if seen && at.revision != last+1 || !seen && at.revision != 0 {
			t.Fatalf("revision %d of %s follows %d", at.revision, at.stream, last)
		}
		heads[at.stream], found[position] = at.revision, at
		fields := strings.Fields(data)
		pieces[fields[0]]++
		sizes[fields[0]], err = strconv.Atoi(fields[2])
		require.NoError(t, err)
	}
	require.NoError(t, iter.Close())
	require.Equal(t, next, l.next)
	for name, n := range pieces {
		if sizes[name] != n {
			t.Fatalf("%d of %d events of append %s are there", n, sizes[name], name)
		}
	}
	verifyHeads(t, l, heads)
	verifyAcked(t, l, expected, found)
	if _, ok := found[shown]; !ok && shown > 0 {
		t.Fatalf("an event that was shown to a reader is lost: %d", shown)
	}
}

// verifyEvent checks that an event and the indexes agree.
func verifyEvent(t *testing.T, l *eventLog, position uint64, value []byte) (location, string) {
	t.Helper()
	view, err := parseRecord(value)
	require.NoError(t, err)
	var message streams.ReadResp
	require.NoError(t, proto.Unmarshal(view.wire, &message))
	recorded := message.GetEvent().GetEvent()
	id, _ := toEventID(recorded.GetId())
	stream := string(view.stream)
	indexed, indexedID, found, err := l.lookupIndex(stream, view.revision)
	if err != nil || !found || indexed != position || indexedID != id || recorded.GetCommitPosition() != position {
		t.Fatalf("index of %s/%d at %d: %t %d %v %v", stream, view.revision, position, found, indexed, indexedID, err)
	}
	revision, found, err := l.lookupID(stream, id)
	if err != nil || !found || revision != view.revision {
		t.Fatalf("id of %s/%d: %t %d %v", stream, view.revision, found, revision, err)
	}
	return location{stream, view.revision, id}, string(recorded.GetData())
}

func verifyHeads(t *testing.T, l *eventLog, heads map[string]int64) {
	t.Helper()
	for stream, last := range heads {
		h, err := l.loadHead(stream)
		require.NoError(t, err)
		require.Equal(t, last, h.last)
		_, _, found, err := l.lookupIndex(stream, last+1)
		require.NoError(t, err)
		require.False(t, found)
	}
}

func verifyAcked(t *testing.T, l *eventLog, expected []acked, log map[uint64]location) {
	t.Helper()
	for _, a := range expected {
		for i, id := range a.ids {
			revision := a.last - int64(len(a.ids)-1-i)
			position, _, found, err := l.lookupIndex(a.stream, revision)
			require.NoError(t, err)
			if !found || log[position] != (location{a.stream, revision, id}) || i == len(a.ids)-1 && position != a.position {
				t.Fatalf("acknowledged event %s/%d is lost: %t %d %v", a.stream, revision, found, position, log[position])
			}
		}
	}
}

// TestCrashDuringOpen cuts the power while a log is being created or opened.
func TestCrashDuringOpen(t *testing.T) {
	t.Parallel()
	for seed := range 20 {
		rng := rand.New(rand.NewPCG(uint64(seed), 3))
		fs := vfs.NewCrashableMem()
		l := openTestLog(t, fs)
		if seed%2 == 0 {
			_, err := l.append(t.Context(), "s", expectation{}, []proposed{{id: newEventID(), eventType: "e", data: []byte("s 0 1")}})
			require.NoError(t, err)
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		require.NoError(t, l.close())
		l = openTestLog(t, fs)
		if seed%2 == 0 {
			require.EqualValues(t, firstPosition, l.visible.Load())
		}
		require.NoError(t, l.close())
	}
}

// TestUnknownLayout refuses a log that a later version wrote.
func TestUnknownLayout(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	db, err := pebble.Open("data", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: &storageLogger{}})
	require.NoError(t, err)
	require.NoError(t, db.Set(formatKey(), []byte("2"), pebble.Sync))
	require.NoError(t, db.Close())
	_, err = openLog(logOptions{
		dir: "data", fs: fs, memTable: 1 << 20, logger: slog.New(slog.DiscardHandler), metrics: newMetrics(),
		space: &diskSpace{ballast: newBallast(fs, "data", nil)}, now: time.Now, fatal: func(string) {},
	})
	require.ErrorContains(t, err, `the log has layout version "2", this program reads version "1"`)
}
