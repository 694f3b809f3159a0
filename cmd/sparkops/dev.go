package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func devCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process, with embedded event store and private Postgres",
		Long: `Runs the API, projections, processes and a worker in one process, on an embedded
event store and a private Postgres, both kept in the data directory. kill -9 at
any moment loses nothing that was acknowledged. Set EVENTSTORE_URL or
DATABASE_URL to use one of your own instead.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			ctx, out, begun := cmd.Context(), cmd.OutOrStdout(), time.Now()
			fmt.Fprintf(out, "SparkOps %s is starting …\n", buildVersion())
			defer func() { _ = removeEndpoints(cfg) }()
			err = runNode(ctx, cfg, allRoles, true, func(n *node, api net.Listener) {
				go n.welcome(ctx, out, api.Addr().String(), begun)
			})
			if err == nil {
				fmt.Fprintln(out, "SparkOps has stopped; everything is kept in "+cfg.DataDir)
			}
			return err
		},
	}
}

// welcome waits until the node can be used and then says how.
func (n *node) welcome(ctx context.Context, out io.Writer, addr string, begun time.Time) {
	base := "http://" + strings.Replace(addr, "127.0.0.1", "localhost", 1)
	err := writeEndpoints(n.cfg, endpoints{API: "http://" + addr, EventStoreURL: n.eventStoreURL, DatabaseURL: n.databaseURL, PID: os.Getpid()})
	if err != nil {
		n.log.Warn("cannot note the addresses for the other commands", "error", err)
	}
	if err := n.awaitReady(ctx, func() { n.logProgress(ctx) }); err != nil {
		return
	}
	dir, err := filepath.Abs(n.cfg.DataDir)
	if err != nil {
		dir = n.cfg.DataDir
	}
	fmt.Fprintf(out, `
SparkOps %s is ready after %s. Embedded mode: for one machine, without TLS.

  REST API      %s/api/v1        API docs  %s/docs
  Health        %s/health        Metrics   %s/metrics
  EventStoreDB  %s
  Data          %s
`, buildVersion(), time.Since(begun).Round(10*time.Millisecond), base, base, base, base, n.eventStoreURL, dir)
	for _, note := range n.notes {
		fmt.Fprintln(out, "  Note          "+note)
	}
	fmt.Fprintf(out, `
Try it in a second terminal:

  curl %s/health
  curl -X POST %s/api/v1/auth/register -H 'Content-Type: application/json' \
    -d '{"email":"ada@example.com","name":"Ada","password":"correct horse battery"}'

Ctrl-C stops everything; nothing is lost.
`, base, base)
}

func serveCommand() *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the roles of a production node",
		Long: `Runs the given roles against the event store and the Postgres of the
configuration. Any number of nodes may run side by side: one of them moves each
projection and the timers, and the others take over when it dies.

  api        the REST API
  projector  keeps the read models
  processes  reacts to events: timers, clean-up, accounts
  worker     carries out steps of the queues WORKER_QUEUES`,
		Example: "  sparkops serve\n  sparkops serve --roles api,projector",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			roles, err := parseRoles(roles)
			if err != nil {
				return exitError{2, err}
			}
			return runNode(cmd.Context(), cfg, roles, false, func(n *node, api net.Listener) {
				address := ""
				if api != nil {
					address = api.Addr().String()
				}
				n.log.Info("node started", "node", n.name, "roles", n.roles, "address", address, "version", buildVersion())
			})
		},
	}
	cmd.Flags().StringSliceVar(&roles, "roles", nil, "roles of this node, of "+strings.Join(allRoles, ", ")+" (default all)")
	_ = cmd.RegisterFlagCompletionFunc("roles", cobra.FixedCompletions(allRoles, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
