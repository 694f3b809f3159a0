package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// gate is a file system whose log files sync only while it is open.
type gate struct {
	vfs.FS
	mu     sync.RWMutex // held for writing while the gate is shut
	queued atomic.Int64 // syncs begun
}

type gatedFile struct {
	vfs.File
	gate *gate
}

func (g *gate) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, category)
	if err == nil && strings.HasSuffix(name, ".log") {
		return gatedFile{f, g}, nil
	}
	return f, err
}

func (f gatedFile) pass() {
	f.gate.queued.Add(1)
	f.gate.mu.RLock()
	defer f.gate.mu.RUnlock()
}

func (f gatedFile) Sync() error                       { f.pass(); return f.File.Sync() }
func (f gatedFile) SyncData() error                   { f.pass(); return f.File.SyncData() }
func (f gatedFile) SyncTo(length int64) (bool, error) { f.pass(); return f.File.SyncTo(length) }

// TestNothingUnsyncedIsShown holds back the disk's sync and asks everything that could tell of the pending append:
// answers to repeats and conflicts, reads, metadata, subscriptions, positions.
func TestNothingUnsyncedIsShown(t *testing.T) {
	t.Parallel()
	fs := &gate{FS: vfs.NewMem()}
	node := openNode(t, embedded.Options{Dir: "data", FS: fs})
	w := dial(t, node)
	before := w.mustAppend("s", noStream, events(0)...)
	w.mustAppend("hidden", noStream, events(1)...)
	end := node.LastPosition()
	ofAll, ofStream := w.subscribe(allRead(int64(end), false, 0)), w.subscribe(streamRead("s", 0, false, 0))
	ofAll.expect("caught_up")
	ofStream.expect("caught_up")

	fs.mu.Lock()
	fs.queued.Store(0)
	type answer struct {
		name     string
		response *streams.AppendResp
		err      error
	}
	answers := make(chan answer, 8)
	ask := func(name, stream string, want expectation, events ...event) {
		go func() {
			response, _, err := w.append(stream, want, events...)
			answers <- answer{name, response, err}
		}()
	}
	ask("append", "s", 0, events(2, 3)...)
	require.Eventually(t, func() bool { return fs.queued.Load() > 0 }, patience, time.Millisecond)
	ask("repeat", "s", 0, events(2, 3)...)
	ask("repeat without expectation", "s", anyRevision, events(2, 3)...)
	ask("conflict", "s", 0, events(4)...)
	ask("empty", "s", 2)
	deleted := make(chan error, 1)
	go func() {
		_, _, err := w.delete("hidden", 0)
		deleted <- err
	}()

	for range 20 { // give answers a chance to be wrong
		require.Equal(t, []uint64{0}, revisions(w.read(streamRead("s", fromStart, false, everything))))
		require.Equal(t, []uint64{0}, revisions(w.read(streamRead("s", fromEnd, true, everything))))
		require.Equal(t, []uint64{0}, revisions(w.read(streamRead("hidden", fromStart, false, everything))))
		requireNotFound(t, w, "$$hidden")
		require.Equal(t, []uint64{before, end}, positions(w.read(allRead(fromStart, false, everything))))
		require.Equal(t, end, node.LastPosition())
	}
	require.Empty(t, answers)
	require.Empty(t, deleted)

	fs.mu.Unlock()
	position := uint64(0)
	for range 5 {
		got := <-answers
		require.NoError(t, got.err)
		if got.name == "conflict" {
			require.EqualValues(t, 2, got.response.GetWrongExpectedVersion().GetCurrentRevision())
			continue
		}
		require.EqualValues(t, 2, got.response.GetSuccess().GetCurrentRevision(), got.name)
		if got.name != "empty" {
			answered := got.response.GetSuccess().GetPosition().GetCommitPosition()
			require.True(t, position == 0 || position == answered)
			position = answered
		}
	}
	require.NoError(t, <-deleted)
	ofAll.expect("type-2", "type-3", "$metadata")
	ofStream.expect("type-2", "type-3")
	requireNotFound(t, w, "hidden")
}

// TestFatalStorageError lets the log's disk fail under load: the process is told to end with code 75, once, nothing is
// acknowledged any more, and what was acknowledged is there after a restart.
func TestFatalStorageError(t *testing.T) {
	t.Parallel()
	memory := vfs.NewCrashableMem()
	var broken atomic.Bool
	faulty := errorfs.Wrap(memory, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, ".log") {
			return errors.New("injected disk failure")
		}
		return nil
	}))
	type death struct {
		code int
		msg  string
	}
	deaths := make(chan death, 8)
	node, err := embedded.Open(t.Context(), embedded.Options{
		Addr: "127.0.0.1:0", Dir: "data", FS: faulty, Logger: discard(),
		Fatal: func(code int, msg string) { deaths <- death{code, msg} },
	})
	require.NoError(t, err)
	w := dial(t, node)
	var acknowledged atomic.Int64
	stopped := make(chan error, 4)
	for writer := range 4 {
		go func() {
			for i := 0; ; i++ {
				if _, _, err := w.append(fmt.Sprintf("w-%d", writer), expectation(i-1), events(i)...); err != nil {
					stopped <- err
					return
				}
				acknowledged.Add(1)
			}
		}()
	}
	require.Eventually(t, func() bool { return acknowledged.Load() > 100 }, patience, time.Millisecond)
	broken.Store(true)
	died := <-deaths
	require.Equal(t, 75, died.code)
	require.Contains(t, died.msg, "injected disk failure")
	for range 4 {
		require.Equal(t, codes.Unavailable, status.Code(<-stopped))
	}
	_, _, err = w.append("later", noStream, events(1)...)
	require.Equal(t, codes.Unavailable, status.Code(err))
	response, err := http.Get("http://" + node.Addr() + "/health/live")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	survived := memory.CrashClone(vfs.CrashCloneCfg{})
	require.Error(t, node.Close())
	require.Empty(t, deaths, "the process is told once")

	w = dial(t, openNode(t, embedded.Options{Dir: "data", FS: survived}))
	require.GreaterOrEqual(t, int64(len(w.read(allRead(fromStart, false, everything)))), acknowledged.Load())
}

// TestCorruptionIsFatal flips bits in every sorted table: reading one ends the process instead of answering.
func TestCorruptionIsFatal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	w := dial(t, node)
	for i := range 20 {
		w.mustAppend("s", expectation(i-1), event{id: numbered(i + 1), kind: "e", data: strings.Repeat(fmt.Sprint(i), 5000)})
	}
	require.NoError(t, node.Close())
	require.NoError(t, openNode(t, embedded.Options{Dir: dir}).Close()) // opening again moves the log into tables
	tables, err := os.ReadDir(dir)
	require.NoError(t, err)
	damaged := 0
	for _, entry := range tables {
		if path := dir + "/" + entry.Name(); strings.HasSuffix(path, ".sst") {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			for at := 200; at < len(content)/2; at += 64 {
				content[at] ^= 0x10
			}
			require.NoError(t, os.WriteFile(path, content, 0o600))
			damaged++
		}
	}
	require.Positive(t, damaged)
	deaths := make(chan int, 8)
	opened := make(chan error, 1)
	go func() {
		node, err := embedded.Open(context.Background(), embedded.Options{
			Addr: "127.0.0.1:0", Dir: dir, Logger: discard(), Fatal: func(code int, _ string) { deaths <- code },
		})
		if err == nil {
			_, _, err = dial(t, node).messages(streamRead("s", fromStart, false, everything))
		}
		opened <- err
	}()
	select {
	case code := <-deaths:
		require.Equal(t, 75, code)
	case err := <-opened:
		require.Error(t, err, "damage must not go unnoticed")
	}
}

// TestExitCode75 runs a node whose disk fails, with the default Fatal, in a process of its own.
func TestExitCode75(t *testing.T) {
	t.Parallel()
	if os.Getenv("EMBEDDED_TEST_DIE") != "" {
		dieOfStorage(t)
		return
	}
	command := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestExitCode75$")
	command.Env = append(os.Environ(), "EMBEDDED_TEST_DIE=1")
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", output)
	require.Equal(t, 75, exit.ExitCode(), "%s", output)
	require.Equal(t, 1, strings.Count(string(output), "the process ends"), "%s", output)
	require.Contains(t, string(output), "injected disk failure")
	require.NotContains(t, string(output), "answered")
}

func dieOfStorage(t *testing.T) {
	t.Helper()
	var broken atomic.Bool
	node, err := embedded.Open(t.Context(), embedded.Options{
		Addr: "127.0.0.1:0", Dir: "data",
		FS: errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && strings.HasSuffix(op.Path, ".log") {
				return errors.New("injected disk failure")
			}
			return nil
		})),
	})
	require.NoError(t, err)
	w := dial(t, node)
	w.mustAppend("s", noStream, events(0)...)
	broken.Store(true)
	_, _, err = w.append("s", 0, events(1)...)
	fmt.Println("answered", err) //nolint:forbidigo // read by the parent
}

// TestDirectoryInUse names the directory, from this process and from another.
func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("EMBEDDED_TEST_DIR"); dir != "" {
		_, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Dir: dir})
		require.ErrorContains(t, err, fmt.Sprintf("data directory %q is in use by another event store", dir))
		return
	}
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	_, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Dir: dir})
	require.ErrorContains(t, err, fmt.Sprintf("data directory %q is in use by another event store", dir))

	command := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestDirectoryInUse$", "-test.v")
	command.Env = append(os.Environ(), "EMBEDDED_TEST_DIR="+dir)
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)

	require.NoError(t, node.Close())
	openNode(t, embedded.Options{Dir: dir})
}

// TestCloseIsIdempotentAndLeaksNothing opens, uses and closes nodes, twice each.
func TestCloseIsIdempotentAndLeaksNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	for range 3 {
		node, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: discard()})
		require.NoError(t, err)
		w := dial(t, node)
		w.mustAppend("s", noStream, events(0)...)
		s := w.subscribe(allRead(fromStart, false, 0))
		require.NoError(t, node.Close())
		require.NoError(t, node.Close())
		require.Error(t, s.ended())
		require.NoError(t, w.conn.Close())
		require.Empty(t, node.Err())
	}
	goleak.VerifyNone(t, ignore)
}

// TestCloseKeepsWhatItAccepts closes under load: everything acknowledged is there afterwards.
func TestCloseKeepsWhatItAccepts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 5 {
		node := openNode(t, embedded.Options{Dir: dir})
		w := dial(t, node)
		const writers = 8
		acknowledged := make(chan int, writers)
		var some atomic.Int64
		for writer := range writers {
			go func() {
				i := 0
				for ; ; i++ {
					if _, _, err := w.append(fmt.Sprintf("%d-%d", round, writer), expectation(i-1), events(i)...); err != nil {
						break
					}
					some.Add(1)
				}
				acknowledged <- i
			}()
		}
		require.Eventually(t, func() bool { return some.Load() > 50 }, patience, time.Millisecond)
		require.NoError(t, node.Close())
		total := 0
		for range writers {
			total += <-acknowledged
		}
		check := openNode(t, embedded.Options{Dir: dir})
		read := dial(t, check).read(filtered(allRead(fromStart, false, everything), filterOn{prefixes: []string{fmt.Sprintf("%d-", round)}}))
		require.GreaterOrEqual(t, len(read), total)
		require.NoError(t, check.Close())
	}
}

// TestMetrics are registered, count, and are gone after Close.
func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	node := openNode(t, embedded.Options{Registerer: registry})
	_, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Registerer: registry})
	require.ErrorContains(t, err, "register metrics")
	w := dial(t, node)
	position := w.mustAppend("s", noStream, events(0, 1, 2)...)
	_, _, err = w.append("s", 0, events(9)...)
	require.NoError(t, err)
	w.subscribe(allRead(fromStart, false, 0))
	families, err := registry.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, family := range families {
		metric := family.GetMetric()[0]
		values[family.GetName()] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() +
			float64(metric.GetHistogram().GetSampleCount())
	}
	require.Equal(t, 1.0, values["sparkops_eventstore_appends_total"])
	require.Equal(t, 3.0, values["sparkops_eventstore_events_total"])
	require.Equal(t, 1.0, values["sparkops_eventstore_refusals_total"])
	require.Equal(t, 1.0, values["sparkops_eventstore_commit_seconds"])
	require.Equal(t, 1.0, values["sparkops_eventstore_commit_appends"])
	require.Equal(t, 1.0, values["sparkops_eventstore_subscribers"])
	require.Equal(t, float64(position), values["sparkops_eventstore_position"])
	require.Contains(t, values, "sparkops_eventstore_disk_free_bytes")
	require.NoError(t, node.Close())
	families, err = registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families)
}

// TestOpenFailures say what is wrong and leave nothing behind.
func TestOpenFailures(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	dir := t.TempDir()
	_, err := embedded.Open(t.Context(), embedded.Options{Addr: node.Addr(), Dir: dir, Logger: discard()})
	require.ErrorContains(t, err, "listen")
	openNode(t, embedded.Options{Dir: dir}) // the lock was released

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = embedded.Open(ctx, embedded.Options{Addr: "127.0.0.1:0"})
	require.ErrorIs(t, err, context.Canceled)

	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Dir: file})
	require.ErrorContains(t, err, file)
}
