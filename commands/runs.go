package commands

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/readmodels"
)

// NewRun is what a caller says of a run to start.
type NewRun struct {
	WorkflowID string          `json:"workflowId"`
	AgentID    string          `json:"agentId,omitempty"` // the run's own agent; needed where a node names none
	Env        string          `json:"env,omitempty"`     // dev where absent
	Trigger    string          `json:"trigger,omitempty"` // manual where absent
	Input      json.RawMessage `json:"inputData,omitempty"`
	Config     json.RawMessage `json:"config,omitempty"`
}

// Region is where runs are carried out: there is one.
const Region = "us-east-1"

// CreateRun starts a run of the newest released version of a workflow, else of
// its newest draft, and returns its id. It pins the versions of everything the
// run is carried out by. It needs runs:write in the workflow's project. Unknown
// or invisible workflows, agents and tools are NotFound; those that are
// switched off, and a workflow without a usable version, are Conflicts.
func (h *Handler) CreateRun(ctx context.Context, in NewRun) (string, Receipt, error) {
	return h.queueRun(ctx, in, "", 0)
}

// RetryRun starts a new run in place of one that failed, was cancelled or timed
// out: with its input, agent and trigger, of the workflow as it is now. It
// returns the new run's id. Any other run is a Conflict (RUN_NOT_RETRYABLE). It
// needs runs:write in the project.
func (h *Handler) RetryRun(ctx context.Context, runID string) (string, Receipt, error) {
	old, _, err := Load[run.Run](ctx, h, domain.StreamName(run.Category, runID))
	if err != nil {
		return "", Receipt{}, err
	}
	if err := ActorFrom(ctx).Authorize(domain.NeedIn("runs:write", old.ProjectID(), old.Exists())); err != nil {
		return "", Receipt{}, err
	}
	if !old.Exists() {
		return "", Receipt{}, domain.Missing()
	}
	switch old.Status() {
	case run.StatusFailed, run.StatusCancelled, run.StatusTimeout:
	default:
		return "", Receipt{}, domain.Fail(domain.Conflict, "RUN_NOT_RETRYABLE", "Only a run that failed, was cancelled or timed out can be retried; this one is %s.", old.Status())
	}
	q := old.Queued()
	in := NewRun{WorkflowID: q.WorkflowID, AgentID: q.AgentID, Env: q.Env, Trigger: q.Trigger, Input: q.Input, Config: q.Config}
	return h.queueRun(ctx, in, runID, q.Retries+1)
}

func (h *Handler) queueRun(ctx context.Context, in NewRun, retryOf string, retries int) (string, Receipt, error) {
	p := planner{handler: h, in: in}
	queue, err := p.plan(ctx)
	if err != nil {
		return "", Receipt{}, err
	}
	queue.RunID = NewIDFor(ctx, run.Category) // a repeated command finds the run it made
	queue.TriggeredBy, queue.RetryOf, queue.Retries = ActorFrom(ctx).ID, retryOf, retries
	receipt, err := h.queueAndLease(ctx, queue)
	if err != nil {
		return "", Receipt{}, err
	}
	return queue.RunID, receipt, nil
}

// queueAndLease starts a run. When a worker of this process waits for work, its
// first steps are leased to it by the same append.
func (h *Handler) queueAndLease(ctx context.Context, queue run.Queue) (receipt Receipt, err error) {
	var tasks []Task
	seat := h.desk.reserve(queue.ProjectID, queue.FirstQueues())
	if seat != nil {
		defer func() { h.desk.settle(seat, tasks) }()
		queue.Worker, queue.Take, queue.Queues = seat.worker.ID, seat.max, seat.worker.Queues
	}
	var after run.Run
	receipt, err = Execute(ctx, h, seenNew{seen{Command: queue, after: &after}})
	if err != nil {
		return Receipt{}, err
	}
	if seat != nil && !receipt.Unchanged {
		tasks = leasedTasks(after, receipt.Events, seat.worker)
	}
	h.desk.offer(queue.RunID, queue.ProjectID, receipt)
	return receipt, nil
}

// CancelRun ends an active run at once. It needs runs:write in its project.
func (h *Handler) CancelRun(ctx context.Context, runID, reason string) (Receipt, error) {
	if reason == "" {
		reason = "The run was cancelled by a user."
	}
	return Execute(ctx, h, run.Cancel{RunID: runID, Reason: reason, By: ActorFrom(ctx).ID})
}

// PauseRun holds an active run until ResumeRun. It needs runs:write in its
// project.
func (h *Handler) PauseRun(ctx context.Context, runID, reason string) (Receipt, error) {
	return Execute(ctx, h, run.Pause{RunID: runID, Reason: reason, By: ActorFrom(ctx).ID})
}

// ResumeRun continues a paused run. It needs runs:write in its project.
func (h *Handler) ResumeRun(ctx context.Context, runID string) (Receipt, error) {
	return h.moveRun(ctx, runID, run.Resume{RunID: runID, By: ActorFrom(ctx).ID, Expr: h.Expr})
}

// HideRun takes a finished run out of lists. It needs runs:write in its
// project.
func (h *Handler) HideRun(ctx context.Context, runID string) (Receipt, error) {
	return Execute(ctx, h, run.Hide{RunID: runID})
}

// AdvanceRun decides whatever the time has made due in a run; nothing being
// due is no error. It needs runs:write in its project.
func (h *Handler) AdvanceRun(ctx context.Context, runID string) (Receipt, error) {
	return h.moveRun(ctx, runID, run.Advance{RunID: runID, Expr: h.Expr})
}

// moveRun carries out a command that may make steps ready.
func (h *Handler) moveRun(ctx context.Context, runID string, cmd Command[run.Run]) (Receipt, error) {
	var after run.Run
	receipt, err := Execute(ctx, h, seen{Command: cmd, after: &after})
	if err == nil {
		h.desk.offer(runID, after.ProjectID(), receipt)
	}
	return receipt, err
}

// CancelRunsOf cancels the active runs of a deleted project, workflow or agent
// and returns how many it found. position is that of the deletion: runs started
// before it are all found, those decided in the moment around it by a second
// look.
func (h *Handler) CancelRunsOf(ctx context.Context, of readmodels.RunsOf, reason string, position uint64) (int, error) {
	ctx, _ = named(ctx)
	if err := h.Views.WaitFor(ctx, position, "runs"); err != nil {
		return 0, err
	}
	first, err := h.cancelAll(ctx, of, reason)
	if err != nil {
		return first, err
	}
	timer := time.NewTimer(3 * recentEnough)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return first, ctx.Err()
	}
	head, err := h.Store.Head(ctx)
	if err != nil {
		return first, err
	}
	if err := h.Views.WaitFor(ctx, head, "runs"); err != nil {
		return first, err
	}
	second, err := h.cancelAll(ctx, of, reason)
	return first + second, err
}

func (h *Handler) cancelAll(ctx context.Context, of readmodels.RunsOf, reason string) (int, error) {
	ids, err := h.Views.ActiveRunsOf(ctx, of)
	if err != nil {
		return 0, err
	}
	cancelled := 0
	var failed error
	for _, id := range ids {
		receipt, err := Execute(SubCommand(ctx, "cancel "+id), h, run.Cancel{RunID: id, Reason: reason, By: ActorFrom(ctx).ID})
		switch {
		case err == nil && !receipt.Unchanged:
			cancelled++
		case err == nil || domain.KindOf(err) == domain.Conflict: // over in another way meanwhile
		default:
			failed = errors.Join(failed, err)
		}
	}
	return cancelled, failed
}

// effective returns the definition a run is carried out by.
func effective(w workflow.Workflow, version int) workflow.Definition {
	v, _ := w.Version(version)
	return workflow.Normalize(v.Definition, w.Spec)
}
