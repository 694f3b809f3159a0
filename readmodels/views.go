package readmodels

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options configure Views; the zero value works but opens no personal text.
type Options struct {
	// Vault opens text sealed for a subject (a user id). nil: personal text
	// is answered as "[erased]".
	Vault func(ctx context.Context, subject, sealed string) (string, error)
	// Erased reports whether an error of Vault means that the person's key was
	// erased, rather than that the vault cannot be asked.
	Erased func(error) bool

	Clock    func() time.Time // nil: the system clock
	Logger   *slog.Logger     // nil: slog.Default()
	MaxConns int32            // of the queries' pool; 0: 16
}

// Views answers queries on the live read models. It is safe for concurrent use.
type Views struct {
	options Options
	log     *slog.Logger
	pool    *pgxpool.Pool // search_path: the live builds
	infra   *pgxpool.Pool // tables of schema sparkops only

	live    atomic.Pointer[liveBuilds] // nil until first read
	hub     *hub
	queues  *queueHub
	refresh sync.Mutex // one reader of sparkops.projections at a time

	stop    context.CancelFunc
	running sync.WaitGroup
}

// liveBuilds is which schemas queries go to.
type liveBuilds struct {
	path    string            // search_path
	schemas map[string]string // projection name -> schema
}

const (
	defaultConns   = 16
	infraConns     = 4
	connectTimeout = 5 * time.Second // where the address names none
)

// Open returns Views on a database that Migrate has prepared. It does not wait
// for Postgres: while that cannot be reached, queries fail with
// domain.Unavailable. The caller closes it.
func Open(ctx context.Context, databaseURL string, o Options) (*Views, error) {
	v := &Views{options: o, log: o.Logger, hub: newHub(), queues: newQueueHub()}
	if v.log == nil {
		v.log = slog.Default()
	}
	if v.options.Clock == nil {
		v.options.Clock = time.Now
	}
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read the database address: %w", hideURL(err))
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	infra := config.Copy()
	infra.MaxConns = infraConns
	infra.AfterConnect = utc
	if v.infra, err = pgxpool.NewWithConfig(ctx, infra); err != nil {
		return nil, fmt.Errorf("open the database: %w", hideURL(err))
	}
	config.MaxConns = max(o.MaxConns, 0)
	if config.MaxConns == 0 {
		config.MaxConns = defaultConns
	}
	config.BeforeConnect = v.setPath
	config.AfterConnect = v.markPath
	config.PrepareConn = v.checkPath
	if v.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		v.infra.Close()
		return nil, fmt.Errorf("open the database: %w", hideURL(err))
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	v.stop = stop
	v.running.Add(2)
	go func() { defer v.running.Done(); v.listen(background, infra.ConnConfig) }()
	go func() { defer v.running.Done(); v.poll(background) }()
	return v, nil
}

// Close ends all waits with domain.Unavailable and closes the connections once
// running queries are done. It may be called twice.
func (v *Views) Close() {
	v.stop()
	v.hub.close()
	v.queues.wakeAll()
	v.running.Wait()
	v.pool.Close()
	v.infra.Close()
}

// Ping makes a cheap round trip; domain.Unavailable when Postgres is down.
func (v *Views) Ping(ctx context.Context) error {
	_, err := v.infra.Exec(ctx, `select 1`)
	return Translate(err)
}

// Pool returns the pool of schema sparkops, for neighbours that keep tables of
// their own in this database. It stays Views' to close.
func (v *Views) Pool() *pgxpool.Pool { return v.infra }

// now is the clock of views that depend on the time of asking.
func (v *Views) now() time.Time { return v.options.Clock().UTC() }

// pathKey marks a connection with the search_path it was made with.
const pathKey = "sparkops.search_path"

func (v *Views) setPath(ctx context.Context, c *pgx.ConnConfig) error {
	live, err := v.builds(ctx)
	if err != nil {
		return err
	}
	c.RuntimeParams["search_path"] = live.path
	return nil
}

func (v *Views) markPath(ctx context.Context, c *pgx.Conn) error {
	c.PgConn().CustomData()[pathKey] = c.Config().RuntimeParams["search_path"]
	return utc(ctx, c)
}

// checkPath drops connections to builds that are not live any more, so that no
// query started after a switch reads the old one.
func (v *Views) checkPath(_ context.Context, c *pgx.Conn) (bool, error) {
	live := v.live.Load()
	return live == nil || c.PgConn().CustomData()[pathKey] == live.path, nil
}

// utc makes times scan as UTC, so that they are answered with a Z.
func utc(_ context.Context, c *pgx.Conn) error {
	c.TypeMap().RegisterType(&pgtype.Type{
		Name: "timestamptz", OID: pgtype.TimestamptzOID,
		Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
	})
	return nil
}

// hideURL keeps the address, and with it a password, out of messages.
func hideURL(err error) error {
	if err == nil {
		return nil
	}
	return errors.New("it is no valid Postgres connection string")
}
