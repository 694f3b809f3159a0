package http

import (
	"context"
	"strconv"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/readmodels"
)

// momentOf reads as_of: a position or a time. past is false without one.
func momentOf(asOf string) (at commands.Moment, past bool, err error) {
	if asOf == "" {
		return at, false, nil
	}
	if at.Position, err = strconv.ParseUint(asOf, 10, 63); err == nil && at.Position > 0 {
		return at, true, nil
	}
	at.Position = 0
	if at.Time, err = time.Parse(time.RFC3339Nano, asOf); err == nil && !at.Time.IsZero() {
		return at, true, nil
	}
	return at, false, domain.InvalidFields([]domain.Field{{Field: "as_of", Message: "must be a position or a time such as 2026-01-31T12:00:00Z"}})
}

// runAt folds a run from its events, into the same answer the read model gives.
func (s *Server) runAt(ctx context.Context, id string, at commands.Moment) (readmodels.Run, error) {
	past, last, err := s.handler.RunAt(ctx, id, at)
	if err != nil {
		return readmodels.Run{}, err
	}
	view := pastRun(past)
	view.UpdatedAt, view.Revision = last.Time, int64(last.Revision)
	return view, nil
}

func pastRun(r run.Run) readmodels.Run {
	q := r.Queued()
	view := readmodels.Run{
		ID: q.RunID, ProjectID: q.ProjectID, WorkflowID: q.WorkflowID, WorkflowVersion: q.WorkflowVersion,
		AgentID: unlessEmpty(q.AgentID), Env: q.Env, Trigger: q.Trigger, TriggeredBy: q.TriggeredBy, Region: q.Region,
		Status: string(r.Status()), Phase: phase(r), QueuedAt: r.QueuedAt(), StartedAt: r.QueuedAt(), Deadline: r.Deadline(),
		Usage: r.Usage(), TokensPrompt: r.Usage().Prompt(), TokensCompletion: r.Usage().Completion(),
		USDCost: r.Cost().USD(), CostNanos: r.Cost(), Retries: q.Retries, RetryOf: unlessEmpty(q.RetryOf),
		HasHumanInLoop: hasHuman(q.Plan), Input: domain.Canonical(q.Input), Output: domain.Canonical(r.Output()), Config: domain.Canonical(q.Config),
	}
	if !r.StartedAt().IsZero() {
		view.StartedAt = r.StartedAt()
	}
	if ended := r.EndedAt(); !ended.IsZero() {
		took := milliseconds(ended.Sub(view.StartedAt))
		view.EndedAt, view.DurationMs = &ended, &took
	}
	if reason := r.StatusReason(); reason != nil {
		view.StatusReason = &readmodels.Reason{Code: reason.Code, Message: reason.Message}
		if r.Status() != run.StatusCancelled {
			view.ErrorMessage = &view.StatusReason.Message
		}
	}
	var newest time.Time
	for _, step := range r.Steps() {
		for _, call := range step.Calls {
			if call.Result != nil && call.Result.Provider != "" && call.FinishedAt.After(newest) {
				view.Metadata.Provider, newest = call.Result.Provider, call.FinishedAt
			}
		}
	}
	return view
}

// milliseconds rounds as the read model does.
func milliseconds(d time.Duration) int64 { return d.Round(time.Millisecond).Milliseconds() }

func unlessEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func hasHuman(p run.Plan) bool {
	for _, n := range p.Definition.Nodes {
		if n.Type == "human" {
			return true
		}
	}
	return false
}

// phase is the precise state of a run. With parallel branches the liveliest
// one counts.
func phase(r run.Run) string {
	if r.Ended() || r.Paused() {
		return r.Phase()
	}
	ranks := []string{"running", string(r.Status()), "retrying", "waiting"}
	best := len(ranks)
	for _, s := range r.Steps() {
		rank := len(ranks)
		switch {
		case s.Status == run.StepRunning:
			rank = 0
		case s.Status == run.StepReady && s.Attempt > 1:
			rank = 2
		case s.Status == run.StepReady:
			rank = 1
		case s.Status == run.StepWait:
			rank = 3
		}
		best = min(best, rank)
	}
	if best == len(ranks) {
		return string(r.Status())
	}
	return ranks[best]
}

// stepsAt folds the steps of a run from its events.
func (s *Server) stepsAt(ctx context.Context, id string, at commands.Moment, all bool) ([]readmodels.Step, error) {
	past, last, err := s.handler.RunAt(ctx, id, at)
	if err != nil {
		return nil, err
	}
	now := last.Time
	if !at.Time.IsZero() {
		now = at.Time
	}
	steps := []readmodels.Step{}
	for _, step := range past.Steps() {
		if !step.StartedAt.IsZero() || all {
			steps = append(steps, pastStep(past, step, now))
		}
	}
	return steps, nil
}

func pastStep(r run.Run, s run.Step, now time.Time) readmodels.Step {
	view := readmodels.Step{
		ID: r.ID() + ":" + s.Step, RunID: r.ID(), Step: s.Step, Node: s.Node, Idx: s.Idx, Type: s.Type, Kind: s.Type, Name: s.Name,
		Status: stepStatus(r, s), Success: s.Status != run.StepFail, Attempt: s.Attempt, Worker: s.Worker,
		Request: domain.Canonical(r.StepInput(s)), Response: domain.Canonical(s.Output),
		TokensPrompt: s.Usage.Prompt(), TokensCompletion: s.Usage.Completion(), CostNanos: s.Cost, USDCost: s.Cost.USD(),
	}
	if s.Type == workflow.NodeAgent {
		view.Type = "prompt"
	}
	if s.Failure != nil {
		view.ErrorCode, view.ErrorMessage = &s.Failure.Code, &s.Failure.Message
	}
	if view.Status == stepCancelled {
		code, message := "CANCELLED", "The run ended before the step did."
		view.Success, view.ErrorCode, view.ErrorMessage = false, &code, &message
	}
	if !s.StartedAt.IsZero() {
		end := now
		if !s.EndedAt.IsZero() {
			view.EndedAt, end = &s.EndedAt, s.EndedAt
		}
		view.StartedAt = &s.StartedAt
		view.DurationMs = max(milliseconds(end.Sub(s.StartedAt)), 0)
	}
	return view
}

// stepCancelled is the status of a step that its run's end cut off.
const stepCancelled = "cancelled"

func stepStatus(r run.Run, s run.Step) string {
	switch {
	case s.Status == run.StepDone || s.Status == run.StepFail || s.Status == run.StepSkip:
		return string(s.Status)
	case r.Ended():
		return stepCancelled
	case s.StartedAt.IsZero():
		return "queued"
	default:
		return "running"
	}
}
