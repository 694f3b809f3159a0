package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
)

func projectionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "projections",
		Short: "List, rebuild and verify the read models of a running system",
	}
	cmd.AddCommand(projectionsList(), projectionsRebuild(), projectionsVerify())
	return cmd
}

// operated is a running system with a runner for its projections.
type operated struct {
	*backends
	runner *projections.Runner
}

// withRunner attaches to the running system for the time of one command.
func withRunner(cmd *cobra.Command, work func(ctx context.Context, o operated) error) error {
	cfg, err := loadConfig(cmd.Flags())
	if err != nil {
		return exitError{2, err}
	}
	log := newLogger(cfg)
	if !cfg.set["LOG_LEVEL"] { // the command's own output says what matters
		cfg.LogLevel = "warn"
		log = newLogger(cfg)
	}
	slog.SetDefault(log)
	b, err := attach(cmd.Context(), cfg, log)
	if err != nil {
		return err
	}
	defer b.close(context.WithoutCancel(cmd.Context()))
	runner, err := projections.New(cmd.Context(), projections.Runner{Store: b.store, DatabaseURL: b.databaseURL, Views: b.views, Logger: log})
	if err != nil {
		return err
	}
	defer runner.Close()
	return work(cmd.Context(), operated{b, runner})
}

func projectionsList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "Every build of every projection: version, state, position, lag, owner", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRunner(cmd, func(ctx context.Context, o operated) error {
				statuses, err := o.runner.Lag(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(statuses)
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "PROJECTION\tVERSION\tSTATE\tPOSITION\tEVENTS BEHIND\tOWNER\tERROR")
				for _, s := range statuses {
					owner, failure := s.Owner, "-"
					if owner == "" {
						owner = "nobody"
					}
					if s.Error != nil {
						failure = *s.Error
					}
					fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\t%s\t%s\n", s.Name, s.Version, s.State, s.Position, atMost(s.Events), owner, failure)
				}
				return table.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "machine-readable")
	return cmd
}

// atMost writes a count of events behind, which is counted up to a limit.
func atMost(events int64) string {
	if events >= projections.LagLimit {
		return fmt.Sprintf("%d or more", projections.LagLimit)
	}
	return strconv.FormatInt(events, 10)
}

func projectionNames() []string { return slices.Sorted(maps.Keys(readmodels.Versions)) }

// chosen returns the projections named, or all for "all".
func chosen(args []string) ([]string, error) {
	if len(args) == 1 && args[0] == "all" {
		return projectionNames(), nil
	}
	for _, name := range args {
		if readmodels.Versions[name] == 0 {
			return nil, exitError{2, fmt.Errorf("there is no projection %q: all, or some of %v", name, projectionNames())}
		}
	}
	return args, nil
}

func completeProjections(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return append(projectionNames(), "all"), cobra.ShellCompDirectiveNoFileComp
}

func projectionsRebuild() *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild <name>... | all",
		Short: "Build read models anew beside the live ones, and switch when they have caught up",
		Args:  cobra.MinimumNArgs(1), ValidArgsFunction: completeProjections,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := chosen(args)
			if err != nil {
				return err
			}
			return withRunner(cmd, func(ctx context.Context, o operated) error {
				for _, name := range names {
					begun, bar := time.Now(), newProgress("rebuild "+name)
					err := o.runner.Rebuild(ctx, name, func(p projections.Progress) { bar.at(p.Position, p.Head) })
					bar.done()
					if err != nil {
						return err
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s: rebuilt and live after %s\n", name, time.Since(begun).Round(time.Millisecond))
				}
				return nil
			})
		},
	}
}

func projectionsVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify <name>... | all",
		Short: "Replay the log into scratch tables and compare them with the live ones, row by row",
		Long:  "Changes nothing. The exit status is 1 when a row differs.",
		Args:  cobra.MinimumNArgs(1), ValidArgsFunction: completeProjections,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := chosen(args)
			if err != nil {
				return err
			}
			return withRunner(cmd, func(ctx context.Context, o operated) error {
				wrong := 0
				for _, name := range names {
					bar := newProgress("verify " + name)
					report, err := o.runner.Verify(ctx, name, func(p projections.Progress) { bar.at(p.Position, p.Head) })
					bar.done()
					if err != nil {
						return err
					}
					for _, d := range report.Differences {
						fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s: %s\n", name, d.Table, d.Side, d.Row)
					}
					rows := 0
					for _, t := range report.Tables {
						rows += t.Rows
					}
					wrong += report.Total
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %d rows compared as of position %d, %d differences\n", name, rows, report.Position, report.Total)
				}
				if wrong > 0 {
					return fmt.Errorf("%d differences from the log: rebuild the projection", wrong)
				}
				return nil
			})
		},
	}
}
