package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database is the name of the database every cluster has.
const Database = "sparkops"

// Options say where and how the child runs.
type Options struct {
	// Dir is the data directory; it is created when missing. One Server uses it
	// at a time.
	Dir string
	// BinDir is the folder of initdb and postgres (SPARKOPS_PG_BIN); "" searches,
	// see FindBin.
	BinDir string
	// Ephemeral is for tests: nothing is synced to disk, and a new cluster is the
	// copy of a cached template.
	Ephemeral bool
	// Logger receives what Postgres prints, most of it at debug level; nil is
	// slog.Default().
	Logger *slog.Logger
	// StartTimeout bounds Start, recovery after a crash included; 0 is 120 s.
	StartTimeout time.Duration
}

// Server is a running child. All methods may be called from any goroutine.
type Server struct {
	place   place
	cluster string
	socket  string
	version string
	rebuilt bool
	child   *child
	lock    *fileLock

	done chan struct{}

	mu      sync.Mutex
	closing bool
	err     error

	closeOnce sync.Once
	closeErr  error
}

// Start returns once the server answers and has the database named Database. A
// server that a killed process left in Dir is stopped first, an interrupted
// creation is repeated. The errors ErrNoBinaries and ErrInUse can be told apart
// with errors.Is; every message says what to do.
//
// The context bounds Start only; the server runs until Close or the end of
// this process.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("start postgres: no data directory given")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 120 * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.StartTimeout, fmt.Errorf("not ready within %s", o.StartTimeout))
	defer cancel()
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	p, err := newPlace(o.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, filepath.Join(p.dir, "lock"), syscall.LOCK_EX, 5*time.Second)
	if err != nil {
		return nil, err
	}
	s := &Server{place: p, lock: lock, done: make(chan struct{})}
	if err := s.launch(ctx, o); err != nil {
		if s.socket != "" {
			s.place.dropSocketDir(s.socket)
		}
		lock.release()
		return nil, err
	}
	go s.watch()
	return s, nil
}

// launch finds or makes the cluster and brings the child up on it.
func (s *Server) launch(ctx context.Context, o Options) error {
	cluster, err := s.place.cluster(ctx)
	if err != nil {
		return err
	}
	want := 0
	if cluster != "" {
		want, _ = majorOf(cluster) // unreadable: checkVersion says so
	}
	bin, err := findBinaries(o.BinDir, want)
	if err != nil {
		return err
	}
	if err := s.checkReach(bin.dir); err != nil {
		return err
	}
	if cluster == "" {
		if cluster, err = create(ctx, s.place, bin, o); err != nil {
			return err
		}
		s.rebuilt = true
	} else if err := errors.Join(checkVersion(s.place, cluster, bin), checkOwner(s.place, cluster)); err != nil {
		return err
	}
	s.cluster = cluster
	if err := stopLeftover(ctx, cluster); err != nil {
		return err
	}
	if s.socket, err = s.place.socketDir(); err != nil {
		return err
	}
	return s.bringUp(ctx, bin, o)
}

func (s *Server) checkReach(binDir string) error {
	blocked, err := s.place.account.blockedAt(binDir)
	if err != nil {
		return err
	}
	if blocked != "" {
		return fmt.Errorf("postgres must run as user %s, who may not enter %s on the way to the binaries in %s: allow it with: chmod o+x %s", s.place.account.name, blocked, binDir, blocked)
	}
	return nil
}

// bringUp starts the child and waits until it answers. Backends of a server
// that was killed itself hold the cluster's memory until they notice; they are
// waited for.
func (s *Server) bringUp(ctx context.Context, bin binaries, o Options) error {
	for {
		cmd := exec.Command(bin.path("postgres"), settings(s.cluster, s.socket, o.Ephemeral)...)
		c, err := startChild(cmd, s.place.account, syscall.SIGINT, o.Logger)
		if err != nil {
			return fmt.Errorf("start %s: %w", bin.path("postgres"), err)
		}
		s.child = c
		err = s.ready(ctx)
		if err == nil {
			return nil
		}
		if !c.ended() {
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			err = errors.Join(err, c.terminate(grace))
			cancel()
			return err
		}
		tail := c.log.tail()
		if !strings.Contains(tail, "pre-existing shared memory block") {
			return fmt.Errorf("it ended at once: %v: %s (if its data is damaged, %s)", c.err, tail, rebuildHint(s.place))
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return fmt.Errorf("processes of a killed Postgres server still use %s: %w", s.cluster, err)
		}
	}
}

// ready waits until the server answers, makes the database when it is missing,
// and learns the version.
func (s *Server) ready(ctx context.Context) error {
	var last error
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			defer conn.Close(context.WithoutCancel(ctx))
			return s.prepare(ctx, conn)
		}
		last = err
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			continue
		case <-s.child.done:
			timer.Stop()
			return errors.New("it ended")
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for it to answer: %w (%v; it printed: %s)", context.Cause(ctx), last, s.child.log.tail())
		}
	}
}

func (s *Server) prepare(ctx context.Context, conn *pgx.Conn) error {
	var exists bool
	err := conn.QueryRow(ctx, `select current_setting('server_version'), exists(select from pg_database where datname = $1)`, Database).Scan(&s.version, &exists)
	if err != nil {
		return fmt.Errorf("ask for its version: %w", err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, `create database `+pgx.Identifier{Database}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", Database, err)
	}
	return nil
}

// watch notes the end of the child and gives the directory back.
func (s *Server) watch() {
	<-s.child.done
	s.mu.Lock()
	if !s.closing {
		s.err = fmt.Errorf("postgres ended by itself (%v): %s", exitText(s.child.err), s.child.log.tail())
	}
	s.mu.Unlock()
	s.place.dropSocketDir(s.socket)
	s.lock.release()
	close(s.done)
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// URL is the connection string of a database of this server, for pgx and psql.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database}
	q := url.Values{"host": {s.socket}, "port": {"5432"}, "sslmode": {"disable"}}
	u.RawQuery = q.Encode()
	return u.String()
}

// Version is what the server calls itself, like "15.14".
func (s *Server) Version() string { return s.version }

// Rebuilt tells that this Start created the cluster: it is empty, whatever the
// caller kept in it before is gone.
func (s *Server) Rebuilt() bool { return s.rebuilt }

// DataDir is the folder of the cluster, which need not be below Options.Dir.
func (s *Server) DataDir() string { return s.cluster }

// Done is closed when the server ended, by Close or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why the server ended by itself; nil while it runs and after Close.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close shuts the server down fast: connections are ended, everything committed
// is on disk. When ctx ends first it is stopped at once and recovers at the next
// start; the error says so. Close may be called again, and after the server
// ended by itself; every call returns when it has ended.
func (s *Server) Close(ctx context.Context) error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closing = true
		s.mu.Unlock()
		s.closeErr = s.child.terminate(ctx)
	})
	<-s.done
	return s.closeErr
}

// Remove deletes what a cluster in dir keeps, dir included, after stopping a
// server that a killed process left there. It fails with ErrInUse while a living
// process has a Server on dir. A dir that does not exist is no error.
func Remove(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	p, err := newPlace(dir)
	if err != nil {
		return fmt.Errorf("remove postgres: %w", err)
	}
	lock, err := lockFile(ctx, filepath.Join(p.dir, "lock"), syscall.LOCK_EX, 0)
	if err != nil {
		return fmt.Errorf("remove postgres: %w", err)
	}
	defer lock.release()
	cluster, err := p.cluster(ctx)
	if err == nil && cluster != "" {
		err = stopLeftover(ctx, cluster)
	}
	if err != nil {
		return fmt.Errorf("remove postgres: %w", err)
	}
	p.dropSocketDir("")
	if p.root != p.dir {
		err = os.RemoveAll(p.root)
	}
	if err := errors.Join(err, os.RemoveAll(p.dir)); err != nil {
		return fmt.Errorf("remove postgres: %w", err)
	}
	return nil
}
