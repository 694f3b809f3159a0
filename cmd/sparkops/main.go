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

	"github.com/sparkops/control-plane/domain"
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
	if err := execute(ctx, newRootCommand()); err != nil {
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

// exitCode is the exit status of docs/operations.md.
func exitCode(err error) int {
	var e exitError
	if errors.As(err, &e) {
		return e.code
	}
	switch domain.KindOf(err) {
	case domain.Invalid, domain.Malformed:
		return 2
	case domain.NotFound:
		return 3
	default:
		return 1
	}
}

// execute runs the command the arguments name. What fails before the command
// itself has begun is a matter of usage.
func execute(ctx context.Context, root *cobra.Command) error {
	begun := false
	var prepare func(*cobra.Command)
	prepare = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			prepare(sub)
		}
		switch run := c.RunE; {
		case run != nil:
			c.RunE = func(c *cobra.Command, args []string) error {
				begun = true
				return run(c, args)
			}
		case c.HasSubCommands(): // without a RunE it would take any argument for a wish for help
			c.Args = cobra.NoArgs
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
	prepare(root)
	err := root.ExecuteContext(ctx)
	if err != nil && !begun {
		return exitError{2, err}
	}
	return err
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
