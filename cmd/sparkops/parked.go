package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sparkops/control-plane/processes"
)

func processesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "processes",
		Short: "See and redrive what processes could not handle",
		Long: `A process parks an event when its command is refused in a way nobody expected.
Events after it go on. Mend the cause, then redrive.`,
	}
	cmd.AddCommand(processesParked(), processesRedrive())
	return cmd
}

func processNames() []string {
	var names []string
	for _, p := range processes.All() {
		names = append(names, p.Name)
	}
	return names
}

func completeProcesses(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return processNames(), cobra.ShellCompDirectiveNoFileComp
}

// withProcesses attaches to the running system for the time of one command.
func withProcesses(cmd *cobra.Command, work func(ctx context.Context, s *processes.Service) error) error {
	return withRunner(cmd, func(ctx context.Context, o operated) error {
		s, err := processes.New(processes.Service{Handler: o.handler})
		if err != nil {
			return err
		}
		return work(ctx, s)
	})
}

func processesParked() *cobra.Command {
	return &cobra.Command{
		Use: "parked <process>", Short: "List the parked events of a process, oldest first",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withProcesses(cmd, func(ctx context.Context, s *processes.Service) error {
				parked, err := s.Parked(ctx, args[0])
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "EVENT\tTYPE\tSTREAM\tPARKED AT\tREASON")
				for _, e := range parked {
					fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", e.ID, e.Type, e.Stream, e.At.Format(time.RFC3339), e.Error)
				}
				return table.Flush()
			})
		},
	}
}

func processesRedrive() *cobra.Command {
	return &cobra.Command{
		Use: "redrive <process> [event]...", Short: "Handle parked events again: those named, or all",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withProcesses(cmd, func(ctx context.Context, s *processes.Service) error {
				done, err := s.Redrive(ctx, args[0], args[1:])
				fmt.Fprintf(cmd.OutOrStdout(), "%d events handled\n", done)
				return err
			})
		},
	}
}
