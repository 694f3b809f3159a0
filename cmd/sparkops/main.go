// Command sparkops is the SparkOps control plane in one binary: everything on
// one machine (dev), the production roles (serve), the embedded event store by
// itself (eventstore), and the tools of operators and auditors.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker; a plain `go build` takes it from the build
// information.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { // a second signal ends the process at once
		<-ctx.Done()
		stop()
	}()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "sparkops: "+err.Error())
		}
		os.Exit(exitCode(err))
	}
}

// exitError carries the exit status of a command that has already said what
// is wrong.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var e exitError
	if errors.As(err, &e) {
		return e.code
	}
	return 1
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sparkops",
		Short: "The control plane for AI agents",
		Long: `SparkOps keeps users, projects, agents, tools, workflows and runs as events
in EventStoreDB, serves them as a REST API, and carries runs out.

Start with "sparkops dev": everything in one process, nothing to install but
the Postgres binaries, and every run can be replayed event by event.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	bindFlags(root.PersistentFlags())
	root.AddCommand(
		devCommand(), serveCommand(), eventstoreCommand(), mockLLMCommand(),
		migrateCommand(), projectionsCommand(), processesCommand(), replayCommand(), userCommand(),
		openapiCommand(), doctorCommand(), versionCommand(), docsCommand(),
	)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "sparkops %s (%s %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}
