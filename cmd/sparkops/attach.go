package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// endpoints is how the other commands find a running `sparkops dev`: it is
// kept in the data directory while that runs.
type endpoints struct {
	API           string `json:"api"`
	EventStoreURL string `json:"eventStoreUrl"`
	DatabaseURL   string `json:"databaseUrl"`
	PID           int    `json:"pid"`
}

func endpointsPath(cfg Config) string { return filepath.Join(cfg.DataDir, "endpoints.json") }

func writeEndpoints(cfg Config, e endpoints) error {
	return writeDurably(endpointsPath(cfg), e)
}

// removeEndpoints takes the file away, unless another process has replaced it.
func removeEndpoints(cfg Config) error {
	e, err := readEndpoints(cfg)
	if err != nil || e.PID != os.Getpid() {
		return nil
	}
	return os.Remove(endpointsPath(cfg))
}

func readEndpoints(cfg Config) (endpoints, error) {
	var e endpoints
	data, err := os.ReadFile(endpointsPath(cfg))
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(data, &e)
}

// attached fills in the addresses of a running dev node where none are
// configured, and says whether that is what it found.
func attached(cfg Config) (Config, bool, error) {
	if cfg.EventStoreURL != "" && cfg.DatabaseURL != "" {
		return cfg, false, nil
	}
	e, err := readEndpoints(cfg)
	if errors.Is(err, fs.ErrNotExist) {
		return cfg, false, exitError{2, fmt.Errorf("nothing runs on the data directory %s: start `sparkops dev`, or set EVENTSTORE_URL and DATABASE_URL", cfg.DataDir)}
	}
	if err != nil {
		return cfg, false, fmt.Errorf("read %s: %w", endpointsPath(cfg), err)
	}
	if cfg.EventStoreURL == "" {
		cfg.EventStoreURL = e.EventStoreURL
	}
	if cfg.DatabaseURL == "" {
		cfg.DatabaseURL = e.DatabaseURL
	}
	return cfg, true, nil
}

// attach opens the backends of a system that runs already: a dev node of this
// data directory, or what the configuration names.
func attach(ctx context.Context, cfg Config, log *slog.Logger) (*backends, error) {
	cfg, dev, err := attached(cfg)
	if err != nil {
		return nil, err
	}
	if dev {
		keys, err := keptSecrets(cfg)
		if err != nil {
			return nil, err
		}
		cfg.JWTSecret, cfg.APIKeySecret, cfg.SecretsKey = keys.JWT, keys.APIKey, keys.Secrets
	}
	cfg.vaultInDir = dev
	now := func() time.Time { return time.Now().UTC() }
	return openBackends(ctx, cfg, false, now, log, nil)
}
