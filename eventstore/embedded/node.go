// Package embedded is an event store that speaks the wire protocol of EventStoreDB 24.10: a single node that stock
// clients read, append to and subscribe to, on storage of its own.
//
// Guarantees: an append is acknowledged only after it was synced to disk; readers, subscribers and answers to
// repeated appends only ever show synced events; the events of one append are stored all or not at all, one after
// the other; positions and revisions grow, survive any crash and are never used twice.
//
// It is one node without replication: its availability is that of its machine. Persistent subscriptions,
// projections, links, batch append, TLS, users and access control are not there, and are not advertised.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	defaultAddr = "127.0.0.1:2113"

	// fatalExitCode is what the process ends with when storage can no longer be trusted.
	fatalExitCode = 75

	maxReceiveBytes      = 16 << 20
	maxConcurrentStreams = 100 // as EventStoreDB, so that its limit shows here too
	gracePeriod          = 5 * time.Second

	// streamWorkers keep their grown stacks from call to call, which is cheaper than a new goroutine for each.
	streamWorkers = 64
)

// Options configure a node. The zero value is a node in memory on the default port.
type Options struct {
	Addr         string // listen address; default 127.0.0.1:2113, port 0 picks one
	Dir          string // data directory; empty keeps everything in memory
	FS           vfs.FS // default: the file system of the machine, or memory without Dir
	CacheBytes   int64  // block cache; default 64 MiB
	MinFreeBytes uint64 // appends are refused below this much free disk space; default 256 MiB
	// DiskFree measures the free space of the data directory; default: ask the file system.
	DiskFree func() (uint64, error)
	Logger   *slog.Logger // default slog.Default()
	// Fatal is called once when storage reports a fatal error. Nothing is acknowledged any more by then. The
	// default ends the process with code 75. The caller's goroutine does not go on when Fatal returns.
	Fatal      func(code int, msg string)
	Registerer prometheus.Registerer // may be nil
	Now        func() time.Time      // default time.Now

	prefill int64 // step by which log files are filled ahead; 0 for file systems other than the machine's
}

func (o *Options) setDefaults() {
	if o.Addr == "" {
		o.Addr = defaultAddr
	}
	if o.FS == nil {
		o.FS, o.prefill = vfs.Default, defaultPrefill
		if o.Dir == "" {
			o.FS, o.prefill = vfs.NewMem(), 0
		}
	}
	if o.Dir == "" {
		o.Dir = "eventstore"
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = defaultMinFreeBytes
	}
	if o.DiskFree == nil {
		o.DiskFree = freeSpaceOf(o.FS, o.Dir)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(code int, msg string) {
			logger.Error("event store storage failed, the process ends", "error", msg, "exit_code", code)
			os.Exit(code)
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Node is a running event store. Its methods may be called from any goroutine.
type Node struct {
	service    *service
	log        *eventLog
	lock       *pebble.Lock
	splitter   *protocolSplitter
	grpc       *grpc.Server
	http       *http.Server
	unregister func()
	failures   chan error
	running    sync.WaitGroup

	closeOnce sync.Once
	closed    chan struct{}
	closeErr  error
}

// service implements the calls on the log.
type service struct {
	streams.UnimplementedStreamsServer
	log     *eventLog
	logger  *slog.Logger
	metrics *metrics
	address string
	closing chan struct{} // closed when the node begins to shut down
}

// Open opens the log and serves it until Close. It fails when the data directory is in use by another process.
// ctx bounds the opening only.
func Open(ctx context.Context, o Options) (*Node, error) {
	o.setDefaults()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir, o.FS)
	if err != nil {
		return nil, err
	}
	node, err := open(ctx, o, lock)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return node, nil
}

func open(ctx context.Context, o Options, lock *pebble.Lock) (*Node, error) {
	m := newMetrics()
	unregister, err := m.register(o.Registerer)
	if err != nil {
		return nil, err
	}
	space := &diskSpace{
		minimum: o.MinFreeBytes, measure: o.DiskFree, ballast: newBallast(o.FS, o.Dir, o.Logger), logger: o.Logger, metrics: m,
	}
	space.free.Store(endOfLog)
	space.refresh()
	var once sync.Once
	log, err := openLog(logOptions{
		dir: o.Dir, fs: o.FS, cacheBytes: o.CacheBytes, memTable: defaultMemTable, prefill: o.prefill, lock: lock,
		logger: o.Logger, now: o.Now, metrics: m, space: space,
		fatal: func(msg string) { once.Do(func() { o.Fatal(fatalExitCode, msg) }) },
	})
	if err != nil {
		unregister()
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Addr)
	if err != nil {
		unregister()
		return nil, errors.Join(fmt.Errorf("embedded: listen: %w", err), log.close())
	}
	n := &Node{
		service: &service{
			log: log, logger: o.Logger, metrics: m, address: listener.Addr().String(), closing: make(chan struct{}),
		},
		log: log, lock: lock, splitter: newProtocolSplitter(listener), unregister: unregister,
		failures: make(chan error, 1), closed: make(chan struct{}),
	}
	n.grpc = newGRPCServer(n.service)
	n.http = newHTTPServer(n.service)
	n.run(n.splitter.serve)
	n.run(func() error { return n.grpc.Serve(n.splitter.grpc) })
	n.run(func() error { return n.http.Serve(n.splitter.http) })
	n.run(func() error { space.watch(n.service.closing); return nil })
	o.Logger.Info("event store is open", "address", n.Addr(), "dir", o.Dir, "position", n.LastPosition())
	return n, nil
}

func newGRPCServer(s *service) *grpc.Server {
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxReceiveBytes),
		grpc.MaxSendMsgSize(maxReceiveBytes+maxReceiveBytes/16),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
	)
	streams.RegisterStreamsServer(server, s)
	serverfeatures.RegisterServerFeaturesServer(server, features{})
	gossip.RegisterGossipServer(server, &members{service: s, instance: newEventID()})
	return server
}

// run starts a part of the node. A part that fails while the node is not closing makes Err report it.
func (n *Node) run(part func() error) {
	n.running.Add(1)
	go func() {
		defer n.running.Done()
		err := part()
		select {
		case <-n.service.closing:
			return
		default:
		}
		if err != nil {
			select {
			case n.failures <- fmt.Errorf("embedded: serve: %w", err):
			default:
			}
		}
	}()
}

// Addr is the host and port the node listens on.
func (n *Node) Addr() string { return n.service.address }

// ConnectionString is what EventStoreDB clients connect with.
func (n *Node) ConnectionString() string { return "esdb://" + n.service.address + "?tls=false" }

// LastPosition is the position of the last durable event, 0 in an empty log.
func (n *Node) LastPosition() uint64 { return n.log.visible.Load() }

// Err reports that the node stopped serving by itself. It is never closed.
func (n *Node) Err() <-chan error { return n.failures }

// Close ends all calls with Unavailable, makes accepted appends durable and releases the data directory. It may
// be called repeatedly; every call returns when the node is down.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		defer close(n.closed)
		close(n.service.closing)
		n.stopServing()
		n.running.Wait()
		n.closeErr = n.log.close()
		if !errors.Is(n.closeErr, errFailed) {
			n.closeErr = errors.Join(n.closeErr, n.lock.Close())
		}
		n.unregister()
	})
	<-n.closed
	return n.closeErr
}

// stopServing lets calls end by themselves for a while and cuts off what is left.
func (n *Node) stopServing() {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.grpc.GracefulStop()
	}()
	timer := time.NewTimer(gracePeriod)
	defer timer.Stop()
	select {
	case <-stopped:
	case <-timer.C:
		go n.grpc.Stop()
		select {
		case <-stopped:
		case <-n.log.failed:
			// Calls that hit the fatal error never end.
		}
	}
	_ = n.splitter.close()
	if err := n.http.Close(); err != nil {
		n.service.logger.Warn("close HTTP server", "error", err)
	}
}
