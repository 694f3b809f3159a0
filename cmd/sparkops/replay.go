package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/eventstore"
)

func replayCommand() *cobra.Command {
	replay := &cobra.Command{Use: "replay", Short: "Tell the story of something from the event log"}
	var asOf string
	var asJSON bool
	runs := &cobra.Command{
		Use:   "run <id>",
		Short: "Tell the story of a run, event by event, and where it stands",
		Long: `Reads the run's stream from the event store and nothing else, so it tells the
truth also when the read models are gone. --as-of stops at a position of the log
or at a time and shows the run as it stood then.`,
		Example: `  sparkops replay run 0190b0f6-6c3b-7b1e-a7d1-0242ac120002
  sparkops replay run 0190b0f6-6c3b-7b1e-a7d1-0242ac120002 --as-of 2026-11-22T10:00:00Z
  sparkops replay run 0190b0f6-6c3b-7b1e-a7d1-0242ac120002 --json | jq -c .type`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			until, err := parseMoment(asOf)
			if err != nil {
				return exitError{2, err}
			}
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			return replayRun(cmd.Context(), cfg, args[0], until, asJSON, cmd.OutOrStdout())
		},
	}
	runs.Flags().StringVar(&asOf, "as-of", "", "stop at this log position or RFC 3339 time")
	runs.Flags().BoolVar(&asJSON, "json", false, "one JSON object per event instead of prose")
	replay.AddCommand(runs)
	return replay
}

// moment reports whether an event had happened by then.
type moment func(eventstore.Recorded) bool

func parseMoment(text string) (moment, error) {
	if text == "" {
		return func(eventstore.Recorded) bool { return true }, nil
	}
	if position, err := strconv.ParseUint(text, 10, 64); err == nil {
		return func(e eventstore.Recorded) bool { return e.Position <= position }, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, fmt.Errorf("--as-of %q is neither a log position nor an RFC 3339 time", text)
	}
	return func(e eventstore.Recorded) bool { return !e.Time.After(at) }, nil
}

var errPast = errors.New("past the moment")

func replayRun(ctx context.Context, cfg Config, id string, until moment, asJSON bool, out io.Writer) error {
	if cfg.EventStoreURL == "" {
		found, _, err := attached(cfg)
		if err != nil {
			return err
		}
		cfg = found
	}
	store, err := eventstore.Open(eventstore.Config{URL: cfg.EventStoreURL, Logger: newLogger(cfg)}, catalog.Registry())
	if err != nil {
		return err
	}
	defer store.Close()
	var state run.Run
	var begun time.Time
	encoder := json.NewEncoder(out)
	_, err = store.Read(ctx, domain.StreamName(run.Category, id), 0, func(e eventstore.Recorded) error {
		if !until(e) {
			return errPast
		}
		state = state.Evolve(e.Event)
		if begun.IsZero() {
			begun = e.Time
		}
		if asJSON {
			return encoder.Encode(map[string]any{
				"revision": e.Revision, "position": e.Position, "type": e.Type, "time": e.Time,
				"actor": e.Metadata.Actor, "data": e.Data,
			})
		}
		_, err := fmt.Fprintf(out, "%5d  %10s  %-24s %s\n", e.Revision, "+"+e.Time.Sub(begun).Round(time.Millisecond).String(), e.Type, tell(e.Event))
		return err
	})
	if err != nil && !errors.Is(err, errPast) {
		return err
	}
	if !state.Exists() {
		return exitError{3, fmt.Errorf("the log holds no run %s at that moment", id)}
	}
	if !asJSON {
		summarise(out, state)
	}
	return nil
}

// tell says in a few words what an event means for the run.
func tell(event domain.Event) string {
	switch e := event.(type) {
	case run.Queued:
		return fmt.Sprintf("workflow %s version %d, %s, by %s", e.WorkflowID, e.WorkflowVersion, e.Trigger, e.TriggeredBy)
	case run.StepScheduled:
		if wait := e.NotBefore.Sub(e.At); wait > 0 {
			return fmt.Sprintf("%s: attempt %d in %s", e.Step, e.Attempt, wait.Round(time.Millisecond))
		}
		return fmt.Sprintf("%s: attempt %d", e.Step, e.Attempt)
	case run.StepStarted:
		return fmt.Sprintf("%s: attempt %d by %s, token %d", e.Step, e.Attempt, e.Worker, e.Token)
	case run.StepLeaseExtended:
		return fmt.Sprintf("%s: lease until %s", e.Step, e.LeaseUntil.Format(time.TimeOnly))
	case run.StepLeaseReleased:
		return e.Step + ": given back"
	case run.StepCallStarted:
		return fmt.Sprintf("%s: %s call %d to %s", e.Step, e.Call.Kind, e.Call.Seq, e.Call.Name)
	case run.StepCallFinished:
		return e.Step + ": " + callOutcome(e)
	case run.StepWaiting:
		return fmt.Sprintf("%s: until %s", e.Step, e.Until.Format(time.RFC3339))
	case run.StepSucceeded:
		if len(e.Branch) > 0 {
			return fmt.Sprintf("%s: to %s", e.Step, strings.Join(e.Branch, ", "))
		}
		return fmt.Sprintf("%s: %s", e.Step, short(e.Output))
	case run.StepFailed:
		return fmt.Sprintf("%s: attempt %d: %s: %s", e.Step, e.Attempt, e.Failure.Code, e.Failure.Message)
	case run.StepSkipped:
		return fmt.Sprintf("%s: %s", e.Step, e.Reason)
	case run.Paused:
		return e.Reason.Code + ": " + e.Reason.Message
	case run.Resumed:
		return "by " + e.By
	case run.Succeeded:
		return short(e.Output)
	case run.Failed:
		return e.Reason.Code + ": " + e.Reason.Message
	case run.Cancelled:
		return fmt.Sprintf("by %s: %s", e.By, e.Reason)
	default:
		return ""
	}
}

func callOutcome(e run.StepCallFinished) string {
	took := e.Result.Duration.Round(time.Millisecond)
	if f := e.Result.Failure; f != nil {
		return fmt.Sprintf("%s call %d failed after %s: %s: %s", e.Kind, e.Seq, took, f.Code, f.Message)
	}
	if e.Kind != "model" {
		return fmt.Sprintf("%s call %d took %s", e.Kind, e.Seq, took)
	}
	return fmt.Sprintf("%s call %d took %s, %d tokens in, %d out, %.6f USD", e.Kind, e.Seq, took,
		e.Result.Usage.Prompt(), e.Result.Usage.Completion(), e.Result.CostNanos.USD())
}

func short(data json.RawMessage) string {
	const most = 100
	text := []rune(string(data))
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}

func summarise(out io.Writer, state run.Run) {
	fmt.Fprintf(out, "\nrun %s is %s", state.ID(), state.Status())
	if phase := state.Phase(); phase != string(state.Status()) {
		fmt.Fprintf(out, " (%s)", phase)
	}
	if reason := state.StatusReason(); reason != nil {
		fmt.Fprintf(out, ": %s: %s", reason.Code, reason.Message)
	}
	usage := state.Usage()
	fmt.Fprintf(out, "\n%d tokens in, %d out, %.6f USD\n", usage.Prompt(), usage.Completion(), state.Cost().USD())
}
