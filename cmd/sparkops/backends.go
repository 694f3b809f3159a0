package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres"
	"github.com/sparkops/control-plane/readmodels/vault"
	"github.com/sparkops/control-plane/worker"
)

// backends are what every command of ours stands on. They are opened in one
// readable list and closed in reverse.
type backends struct {
	store   *eventstore.Store
	views   *readmodels.Views
	vault   *vault.Vault
	handler *commands.Handler

	eventStoreURL string
	databaseURL   string
	notes         []string     // what the banner says about them
	failed        <-chan error // an embedded part ended by itself
	closers       []func(context.Context) error

	worker atomic.Pointer[worker.Worker] // the built-in one, when it runs
}

// stored ends the built-in worker's work on a run as soon as this process has
// ended the run; workers elsewhere learn of it by their next heartbeat.
func (b *backends) stored(stream string, events []domain.Event) {
	w := b.worker.Load()
	category, id, _ := domain.SplitStream(stream)
	if w == nil || category != run.Category {
		return
	}
	for _, e := range events {
		switch e.(type) {
		case run.Cancelled, run.Failed, run.TimedOut:
			w.Cancel(id)
		}
	}
}

// close closes everything in reverse order and reports every failure.
func (b *backends) close(ctx context.Context) error {
	var failures []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		failures = append(failures, b.closers[i](ctx))
	}
	b.closers = nil
	return errors.Join(failures...)
}

func (b *backends) onClose(f func(context.Context) error) { b.closers = append(b.closers, f) }

// openBackends opens the event store, Postgres, vault and command handler. In
// embedded mode it starts what is not configured.
func openBackends(ctx context.Context, cfg Config, embeddedMode bool, clock func() time.Time, log *slog.Logger, metrics prometheus.Registerer) (b *backends, err error) {
	b = &backends{eventStoreURL: cfg.EventStoreURL, databaseURL: cfg.DatabaseURL}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close(context.WithoutCancel(ctx)))
		}
	}()
	if embeddedMode {
		// Postgres runs as another user when we are root: it must be able to
		// reach its folder, but not to list ours.
		if err := os.MkdirAll(cfg.DataDir, 0o711); err != nil {
			return b, fmt.Errorf("make the data directory: %w", err)
		}
	}
	keys, err := b.secrets(cfg, embeddedMode)
	if err != nil {
		return b, err
	}
	if embeddedMode {
		if err := b.startEmbedded(ctx, cfg, log, metrics); err != nil {
			return b, err
		}
	}
	registry := catalog.Registry()
	b.store, err = eventstore.Open(eventstore.Config{URL: b.eventStoreURL, Logger: log, Registerer: metrics}, registry)
	if err != nil {
		return b, err
	}
	b.onClose(func(context.Context) error { return b.store.Close() })
	if err := awaitDependency(ctx, log, "Postgres", func(ctx context.Context) error { return readmodels.Migrate(ctx, b.databaseURL) }); err != nil {
		return b, err
	}
	b.views, err = readmodels.Open(ctx, b.databaseURL, readmodels.Options{
		Vault: func(ctx context.Context, subject, sealed string) (string, error) {
			return b.vault.Open(ctx, subject, sealed)
		},
		Erased: func(err error) bool { return errors.Is(err, vault.ErrErased) || errors.Is(err, vault.ErrNoKey) },
		Clock:  clock, Logger: log,
	})
	if err != nil {
		return b, err
	}
	b.onClose(func(context.Context) error { b.views.Close(); return nil })
	if b.vault, err = b.openVault(cfg, keys); err != nil {
		return b, err
	}
	expressions, err := expr.New()
	if err != nil {
		return b, err
	}
	b.handler, err = commands.New(commands.Handler{
		Store: b.store, Views: b.views, Vault: b.vault, Clock: clock, Expr: expressions,
		Secrets: commands.Secrets{
			JWT: []byte(keys.JWT), JWTPrevious: []byte(cfg.JWTPrevious), APIKey: []byte(keys.APIKey), Master: []byte(keys.Secrets),
			AccessTTL: time.Duration(cfg.JWTExpiresIn), RefreshTTL: time.Duration(cfg.RefreshExpiresIn),
		},
		PersonalProjects: cfg.PersonalProjects, Stored: b.stored, Logger: log, Registerer: metrics,
	})
	return b, err
}

func (b *backends) secrets(cfg Config, embeddedMode bool) (secrets, error) {
	if embeddedMode {
		return keptSecrets(cfg)
	}
	var problems []error
	if cfg.EventStoreURL == "" {
		problems = append(problems, errors.New("EVENTSTORE_URL is not set: esdb://… of a cluster or of `sparkops eventstore`"))
	}
	if cfg.DatabaseURL == "" {
		problems = append(problems, errors.New("DATABASE_URL is not set: postgres://… of Postgres 15 or newer"))
	}
	keys, err := configuredSecrets(cfg)
	return keys, errors.Join(append(problems, err)...)
}

// startEmbedded starts the event store node and the private Postgres, each
// unless an address of another is configured.
func (b *backends) startEmbedded(ctx context.Context, cfg Config, log *slog.Logger, metrics prometheus.Registerer) error {
	if b.eventStoreURL == "" {
		addr, moved, err := freePort("127.0.0.1", cfg.EventStorePort, cfg.set["EVENTSTORE_PORT"], "EVENTSTORE_PORT")
		if err != nil {
			return fmt.Errorf("event store: %w", err)
		}
		if moved {
			b.notes = append(b.notes, fmt.Sprintf("port %d is in use: the event store listens on %s", cfg.EventStorePort, addr))
		}
		node, err := embedded.Open(ctx, embedded.Options{
			Addr: addr, Dir: filepath.Join(cfg.DataDir, "eventstore"), Logger: log, Registerer: metrics,
		})
		if err != nil {
			return err
		}
		b.onClose(func(context.Context) error { return node.Close() })
		b.eventStoreURL = node.ConnectionString()
		b.failed = node.Err()
	}
	if b.databaseURL == "" {
		server, err := postgres.Start(ctx, postgres.Options{Dir: filepath.Join(cfg.DataDir, "postgres"), BinDir: cfg.PostgresBin, Logger: log})
		if err != nil {
			return err
		}
		b.onClose(server.Close)
		b.databaseURL = server.URL(postgres.Database)
		note := "Postgres " + server.Version() + " in " + filepath.Join(cfg.DataDir, "postgres")
		if server.Rebuilt() {
			note += " (new: the read models are built from the event log)"
		}
		b.notes = append(b.notes, note)
		embeddedFailed := b.failed
		failed := make(chan error, 1)
		b.failed = failed
		go func() {
			select {
			case <-server.Done():
				failed <- fmt.Errorf("the private Postgres ended: %w", server.Err())
			case err := <-embeddedFailed:
				failed <- err
			case <-ctx.Done():
			}
		}()
	}
	return nil
}

func (b *backends) openVault(cfg Config, keys secrets) (*vault.Vault, error) {
	var previous [][]byte
	if cfg.SecretsPrevious != "" {
		previous = append(previous, []byte(cfg.SecretsPrevious))
	}
	if !cfg.vaultInDir {
		return vault.New(vault.PostgresStore(b.views.Pool()), []byte(keys.Secrets), previous...)
	}
	store, err := vault.DirStore(filepath.Join(cfg.DataDir, "keys", "subjects"))
	if err != nil {
		return nil, err
	}
	return vault.New(store, []byte(keys.Secrets), previous...)
}

// awaitDependency repeats a start-up step until a dependency answers, saying
// so once, because services of one stack start in any order.
func awaitDependency(ctx context.Context, log *slog.Logger, name string, step func(context.Context) error) error {
	deadline := time.Now().Add(time.Minute)
	for said := false; ; said = true {
		err := step(ctx)
		if err == nil || ctx.Err() != nil || !temporary(err) || time.Now().After(deadline) {
			return err
		}
		if !said {
			log.Info("waiting for a dependency", "dependency", name, "error", err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
