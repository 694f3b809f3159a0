package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/worker/llm"
)

func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func eventstoreCommand() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "eventstore",
		Short: "Run the embedded event store by itself",
		Long: `Runs one wire-compatible EventStoreDB node on <data dir>/eventstore, for several
nodes of "sparkops serve" on one machine and for tests of other programs. It
listens without credentials: keep it on loopback.`,
		Example: "  sparkops eventstore --data-dir /var/lib/sparkops --eventstore-port 2113",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			if addr == "" {
				// Clients were told the port: it never moves by itself here.
				addr = "127.0.0.1:" + strconv.Itoa(cfg.EventStorePort)
			}
			if err := os.MkdirAll(cfg.DataDir, 0o711); err != nil {
				return fmt.Errorf("make the data directory: %w", err)
			}
			tuneCollector()
			node, err := embedded.Open(cmd.Context(), embedded.Options{
				Addr: addr, Dir: filepath.Join(cfg.DataDir, "eventstore"), Logger: newLogger(cfg), Registerer: newMetrics(),
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "event store ready: %s (data in %s)\n", node.ConnectionString(), filepath.Join(cfg.DataDir, "eventstore"))
			select {
			case <-cmd.Context().Done():
				return node.Close()
			case err := <-node.Err():
				return errors.Join(err, node.Close())
			}
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "", "listen address, instead of loopback and --eventstore-port")
	return cmd
}

func mockLLMCommand() *cobra.Command {
	var addr, key string
	cmd := &cobra.Command{
		Use:   "mock-llm",
		Short: "Serve the simulated model provider as an OpenAI-compatible endpoint",
		Long: `Answers POST /v1/chat/completions and GET /v1/models deterministically and
without a network. A JSON directive under the key "simulate" in a prompt scripts
turns, tool calls, latency and faults.`,
		Example: `  sparkops mock-llm --addr 127.0.0.1:8099
  OPENAI_BASE_URL=http://127.0.0.1:8099/v1 sparkops dev`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server := &http.Server{
				Addr: addr, Handler: &llm.Server{Models: []string{"gpt-4o", "gpt-4o-mini"}, APIKey: key},
				ReadHeaderTimeout: 10 * time.Second,
			}
			failed := make(chan error, 1)
			go func() { failed <- server.ListenAndServe() }()
			fmt.Fprintf(cmd.OutOrStdout(), "mock LLM listens on http://%s/v1\n", addr)
			select {
			case err := <-failed:
				return err
			case <-cmd.Context().Done():
				ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 5*time.Second)
				defer cancel()
				return server.Shutdown(ctx)
			}
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:8099", "listen address")
	cmd.Flags().StringVar(&key, "api-key", "", "bearer token to require")
	return cmd
}
