package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres"
)

func doctorCommand() *cobra.Command {
	var health bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine and a running system, and say what to do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			if health {
				return probe(cmd.Context(), "http://127.0.0.1:"+strconv.Itoa(cfg.Port)+"/ready", io.Discard)
			}
			return examine(cmd.Context(), cfg, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&health, "health", false, "only ask the node on this machine whether it is ready; the exit status is the answer")
	return cmd
}

// examine prints one line per check and fails when one failed.
func examine(ctx context.Context, cfg Config, out io.Writer) error {
	failed := 0
	report := func(name string, err error, good string) {
		if err != nil {
			failed++
			fmt.Fprintf(out, "FAIL  %-14s %v\n", name, err)
			return
		}
		fmt.Fprintf(out, "ok    %-14s %s\n", name, good)
	}
	report("program", nil, fmt.Sprintf("sparkops %s, %s, %d cores", buildVersion(), runtime.Version(), runtime.NumCPU()))
	if cfg.DatabaseURL == "" {
		bin, err := postgres.FindBin(cfg.PostgresBin)
		report("postgres", err, "binaries in "+bin)
	}
	report("data directory", writable(cfg.DataDir), cfg.DataDir)
	running, dev, err := attached(cfg)
	if err != nil {
		fmt.Fprintf(out, "--    %-14s %v\n", "running system", err)
		return outcome(failed)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	report("event store", examineStore(ctx, running), "answers")
	report("database", examineDatabase(ctx, running, out), "answers")
	if dev {
		if e, err := readEndpoints(cfg); err == nil {
			report("api", probe(ctx, e.API+"/ready", out), e.API)
		}
	}
	return outcome(failed)
}

func outcome(failed int) error {
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d checks failed", failed)
}

func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Clean(f.Name()))
	return f.Close()
}

func examineStore(ctx context.Context, cfg Config) error {
	store, err := eventstore.Open(eventstore.Config{URL: cfg.EventStoreURL, Logger: newLogger(cfg)}, catalog.Registry())
	if err != nil {
		return err
	}
	defer store.Close()
	return store.Ping(ctx)
}

func examineDatabase(ctx context.Context, cfg Config, out io.Writer) error {
	views, err := readmodels.Open(ctx, cfg.DatabaseURL, readmodels.Options{Logger: newLogger(cfg)})
	if err != nil {
		return err
	}
	defer views.Close()
	builds, err := views.Builds(ctx)
	if err != nil {
		return err
	}
	for _, b := range builds {
		state := b.State
		if b.Error != nil {
			state += ", stopped: " + *b.Error
		}
		fmt.Fprintf(out, "      projection %-10s version %d at position %d, %s\n", b.Name, b.Version, b.Position, state)
	}
	return nil
}

// probe asks an address for 200 and prints what stands in the way.
func probe(ctx context.Context, url string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var body any
	if json.NewDecoder(io.LimitReader(res.Body, 1<<16)).Decode(&body) == nil {
		fmt.Fprintf(out, "      %v\n", body)
	}
	return fmt.Errorf("%s answers %s", url, res.Status)
}
