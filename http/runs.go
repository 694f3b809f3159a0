package http

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/readmodels"
)

func (s *Server) runRoutes() {
	register(s, operation{
		id: "list-runs", method: http.MethodGet, path: "/runs", tag: "runs", reads: []string{"runs"},
		summary: "List runs, newest first", permission: "runs:list",
	}, s.listRuns)
	register(s, operation{
		id: "create-run", method: http.MethodPost, path: "/runs", tag: "runs", status: http.StatusCreated,
		summary: "Start a run of a workflow's newest released version, else of its newest draft", permission: "runs:write",
	}, s.createRun)
	register(s, operation{
		id: "get-run", method: http.MethodGet, path: "/runs/{id}", tag: "runs", reads: []string{"runs"},
		summary: "One run, now or as it was", permission: "runs:read",
	}, s.getRun)
	register(s, operation{
		id: "list-run-steps", method: http.MethodGet, path: "/runs/{id}/steps", tag: "runs", reads: []string{"runs"},
		summary: "The steps that have started, now or as they were", permission: "runs:read",
	}, s.listSteps)
	register(s, operation{
		id: "cancel-run", method: http.MethodPatch, also: []string{http.MethodPost}, path: "/runs/{id}/cancel", tag: "runs",
		summary: "Cancel an active run", permission: "runs:write",
	}, s.changeRunWith((*commands.Handler).CancelRun))
	register(s, operation{
		id: "pause-run", method: http.MethodPatch, also: []string{http.MethodPost}, path: "/runs/{id}/pause", tag: "runs",
		summary: "Hold an active run", permission: "runs:write",
	}, s.changeRunWith((*commands.Handler).PauseRun))
	register(s, operation{
		id: "resume-run", method: http.MethodPost, also: []string{http.MethodPatch}, path: "/runs/{id}/resume", tag: "runs",
		summary: "Continue a paused run, with its retries counted anew", permission: "runs:write",
	}, s.changeRunWith(func(h *commands.Handler, ctx context.Context, id, _ string) (commands.Receipt, error) {
		return h.ResumeRun(ctx, id)
	}))
	register(s, operation{
		id: "retry-run", method: http.MethodPost, path: "/runs/{id}/retry", tag: "runs", status: http.StatusCreated,
		summary: "Start a new run in place of one that failed, was cancelled or timed out", permission: "runs:write",
	}, s.retryRun)
	register(s, operation{
		id: "delete-run", method: http.MethodDelete, path: "/runs/{id}", tag: "runs",
		summary: "Take a finished run out of lists; its history stays", permission: "runs:write",
	}, s.deleteRun)
}

// RunsInput selects runs.
type RunsInput struct {
	Paging
	ProjectID   string `query:"project_id"`
	WorkflowID  string `query:"workflow_id"`
	AgentID     string `query:"agent_id"`
	Status      string `query:"status" enum:"queued,running,succeeded,failed,cancelled,timeout,pending,completed" doc:"pending means queued, completed means succeeded."`
	Env         string `query:"env" enum:"dev,staging,prod"`
	Trigger     string `query:"trigger" enum:"manual,schedule,webhook,event"`
	TriggeredBy string `query:"triggered_by" doc:"User id."`
	RetryOf     string `query:"retry_of" doc:"Id of the run that was retried."`
}

// RunList is one page of runs.
type RunList struct {
	Runs       []readmodels.Run `json:"runs"`
	Total      int              `json:"total"`
	Page       int              `json:"page"`
	Limit      int              `json:"limit"`
	PageSize   int              `json:"pageSize"`
	TotalPages int              `json:"totalPages"`
	NextCursor string           `json:"nextCursor,omitempty"`
}

func (s *Server) listRuns(ctx context.Context, in *RunsInput) (*Plain[RunList], error) {
	found, err := s.views.Runs(ctx, visibleTo(ctx), readmodels.RunFilter{
		ProjectID: in.ProjectID, WorkflowID: in.WorkflowID, AgentID: in.AgentID, Status: in.Status,
		Env: in.Env, Trigger: in.Trigger, TriggeredBy: in.TriggeredBy, RetryOf: in.RetryOf,
	}, in.page())
	if err != nil {
		return nil, err
	}
	l := listOf(found, in.Paging).Body
	return &Plain[RunList]{RunList{
		Runs: l.Items, Total: l.Total, Page: l.Page, Limit: l.PageSize, PageSize: l.PageSize, TotalPages: l.TotalPages, NextCursor: l.NextCursor,
	}}, nil
}

// CreateRunInput starts a run.
type CreateRunInput struct {
	Writing
	Body NewRun
}

// NewRun says what to run.
type NewRun struct {
	WorkflowID string                           `json:"workflowId"`
	AgentID    domain.Optional[string]          `json:"agentId,omitzero" doc:"The run's own agent; needed where a node of the workflow names none."`
	Env        domain.Optional[string]          `json:"env,omitzero" doc:"dev, staging or prod; dev where absent."`
	Trigger    domain.Optional[string]          `json:"trigger,omitzero" doc:"manual, schedule, webhook or event; manual where absent."`
	InputData  domain.Optional[json.RawMessage] `json:"inputData,omitzero"`
	Config     domain.Optional[json.RawMessage] `json:"config,omitzero"`
}

func (s *Server) createRun(ctx context.Context, in *CreateRunInput) (*Saved[readmodels.Run], error) {
	b := in.Body
	id, receipt, err := s.handler.CreateRun(ctx, commands.NewRun{
		WorkflowID: b.WorkflowID, AgentID: b.AgentID.Value, Env: b.Env.Value, Trigger: b.Trigger.Value,
		Input: domain.Canonical(b.InputData.Value), Config: domain.Canonical(b.Config.Value),
	})
	if err != nil {
		return nil, err
	}
	return s.startedRun(ctx, id, receipt)
}

func (s *Server) startedRun(ctx context.Context, id string, receipt commands.Receipt) (*Saved[readmodels.Run], error) {
	saved, err := s.savedRun(ctx, id, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/runs/" + id
	return saved, nil
}

func (s *Server) savedRun(ctx context.Context, id string, receipt commands.Receipt) (*Saved[readmodels.Run], error) {
	written, lag := s.settled(ctx, receipt, "runs")
	read := func() (readmodels.Run, error) { return s.views.Run(ctx, visibleTo(ctx), id) }
	view, err := show(lag, read, func() (readmodels.Run, error) { return s.runAt(ctx, id, commands.Moment{}) })
	return &Saved[readmodels.Run]{written, view}, err
}

// RunAsOf selects a run at a moment.
type RunAsOf struct {
	Reading
	ID
	AsOf string `query:"as_of" maxLength:"64" doc:"A position or a time (RFC 3339): the run as it was then, folded from its events."`
}

func (s *Server) getRun(ctx context.Context, in *RunAsOf) (*Found[readmodels.Run], error) {
	at, past, err := momentOf(in.AsOf)
	if err != nil {
		return nil, err
	}
	var r readmodels.Run
	if past {
		r, err = s.runAt(ctx, in.ID.ID, at)
	} else {
		r, err = s.views.Run(ctx, visibleTo(ctx), in.ID.ID)
	}
	if err != nil {
		return nil, err
	}
	return &Found[readmodels.Run]{etag(r.Revision), r}, mayRead(ctx, "runs:read", r.ProjectID)
}

// StepsInput selects the steps of a run.
type StepsInput struct {
	RunAsOf
	All bool `query:"all" doc:"Also steps that have not started."`
}

func (s *Server) listSteps(ctx context.Context, in *StepsInput) (*Plain[[]readmodels.Step], error) {
	at, past, err := momentOf(in.AsOf)
	if err != nil {
		return nil, err
	}
	var steps []readmodels.Step
	if past {
		steps, err = s.stepsAt(ctx, in.ID.ID, at, in.All)
	} else {
		steps, err = s.views.Steps(ctx, visibleTo(ctx), in.ID.ID, s.handler.Now(), in.All)
	}
	return &Plain[[]readmodels.Step]{steps}, err
}

// RunChangeInput changes a run; it takes an empty body.
type RunChangeInput struct {
	Writing
	ID
	Body *RunChange
}

// RunChange says why.
type RunChange struct {
	Reason string `json:"reason,omitempty" maxLength:"500"`
}

// changeRunWith makes the handler of a command on one run.
func (s *Server) changeRunWith(change func(h *commands.Handler, ctx context.Context, id, reason string) (commands.Receipt, error)) func(context.Context, *RunChangeInput) (*Saved[readmodels.Run], error) {
	return func(ctx context.Context, in *RunChangeInput) (*Saved[readmodels.Run], error) {
		receipt, err := change(s.handler, ctx, in.ID.ID, domain.Or(in.Body, RunChange{}).Reason)
		if err != nil {
			return nil, err
		}
		return s.savedRun(ctx, in.ID.ID, receipt)
	}
}

func (s *Server) retryRun(ctx context.Context, in *RunChangeInput) (*Saved[readmodels.Run], error) {
	id, receipt, err := s.handler.RetryRun(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	return s.startedRun(ctx, id, receipt)
}

func (s *Server) deleteRun(ctx context.Context, in *ChangeOne) (*Saved[Gone], error) {
	state, _, err := commands.Load[run.Run](ctx, s.handler, domain.StreamName(run.Category, in.ID.ID))
	if err != nil {
		return nil, err
	}
	receipt, err := s.handler.HideRun(ctx, in.ID.ID)
	if err == nil && receipt.Unchanged && state.Hidden() && commands.CommandIDFrom(ctx) == "" {
		err = domain.Missing() // it was deleted before
	}
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "runs")
	return &Saved[Gone]{written, Gone{in.ID.ID, true}}, nil
}
