package commands

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/readmodels"
)

// Worker is who carries out steps, and which queues it serves.
type Worker struct {
	ID     string
	Queues []string
}

// RunFacts are what a worker knows of the run besides its step.
type RunFacts = run.Facts

// Task is one attempt of a step in the hands of a worker, with all it needs.
type Task struct {
	RunID     string          `json:"runId"`
	ProjectID string          `json:"projectId"`
	Step      string          `json:"step"`
	Node      string          `json:"node"`
	Type      string          `json:"type"`
	Queue     string          `json:"queue"`
	Attempt   int             `json:"attempt"`
	Token     int64           `json:"token"` // the fencing token
	Input     json.RawMessage `json:"input"`

	NodeSpec workflow.Node           `json:"nodeSpec"` // its prompt with the templates filled in
	Agent    *run.AgentPlan          `json:"agent,omitempty"`
	Tools    map[string]run.ToolPlan `json:"tools,omitempty"` // the node's, or those of its agent

	// Calls are those of this and of earlier attempts, by number: finished ones
	// with their result, so that nothing paid is repeated, and those nobody
	// knows the result of, to be made again under their key.
	Calls   []run.CallRecord `json:"calls,omitempty"`
	Details json.RawMessage  `json:"details,omitempty"` // of the last heartbeat, also of an earlier attempt

	LeaseUntil time.Time `json:"leaseUntil"`
	CloseBy    time.Time `json:"closeBy"`
	Run        RunFacts  `json:"run"`

	worker Worker // who holds it
}

func (t Task) held() run.Held {
	return run.Held{RunID: t.RunID, Step: t.Step, Attempt: t.Attempt, Token: t.Token}
}

// taskOf describes what a worker has just leased.
func taskOf(r run.Run, step string, w Worker) (Task, bool) {
	s, ok := r.Step(step)
	if !ok || s.Status != run.StepRunning {
		return Task{}, false
	}
	n, plan := r.Node(s), r.Plan()
	var by *run.AgentPlan
	if n.Type == workflow.NodeAgent {
		id := n.Agent
		if id == "" {
			id = r.Facts().AgentID
		}
		if a, ok := plan.Agents[id]; ok {
			by = &a
		}
	}
	calls := make([]run.CallRecord, len(s.Calls))
	for i, c := range s.Calls {
		calls[i] = *c
	}
	return Task{
		RunID: r.ID(), ProjectID: r.ProjectID(), Step: s.Step, Node: s.Node, Type: s.Type, Queue: s.Queue,
		Attempt: s.Attempt, Token: s.Token, Input: r.StepInput(s),
		NodeSpec: n, Agent: by, Tools: taskTools(plan, n, by), Calls: calls, Details: s.Details,
		LeaseUntil: s.LeaseUntil, CloseBy: s.CloseBy, Run: r.Facts(), worker: w,
	}, true
}

// leasedTasks describes every lease a command took.
func leasedTasks(r run.Run, events []domain.Event, w Worker) []Task {
	var tasks []Task
	for _, e := range events {
		if s, ok := e.(run.StepStarted); ok {
			if t, ok := taskOf(r, s.Step, w); ok {
				tasks = append(tasks, t)
			}
		}
	}
	return tasks
}

// seen is a command on a run that remembers the state it led to.
type seen struct {
	Command[run.Run]
	after *run.Run
}

// Decide decides and remembers.
func (c seen) Decide(r run.Run, now time.Time) ([]domain.Event, error) {
	events, err := c.Command.Decide(r, now)
	if err == nil {
		for _, e := range events {
			r = r.Evolve(e)
		}
		*c.after = r
	}
	return events, err
}

// seenNew is seen for a command that starts its stream.
type seenNew struct{ seen }

// CreatesStream marks the command.
func (seenNew) CreatesStream() {}

// inner returns the command itself, for the name in metrics.
func (c seen) inner() any { return c.Command }

// executeSeen carries out a command and returns the run after it. The command
// is safe to repeat by itself (its token, or what is ready), so it needs no id.
func (h *Handler) executeSeen(ctx context.Context, cmd Command[run.Run]) (run.Run, Receipt, error) {
	var after run.Run
	receipt, err := Execute(unnamed(ctx), h, seen{Command: cmd, after: &after})
	return after, receipt, err
}

// LeaseTasks hands up to max ready steps of the worker's queues to it, and
// waits up to wait for the first. An empty list is no error. It needs
// tasks:work in the projects of the runs; steps of other projects are left
// alone.
func (h *Handler) LeaseTasks(ctx context.Context, w Worker, most int, wait time.Duration) ([]Task, error) {
	if most <= 0 || len(w.Queues) == 0 {
		return nil, nil
	}
	until := time.Now().Add(wait)
	for {
		seat, leave := h.desk.sit(w, ActorFrom(ctx), most)
		tasks, err := h.leaseReady(ctx, w, most)
		if err == nil && len(tasks) == 0 {
			err = h.awaitTasks(ctx, w, seat, time.Until(until))
		}
		leave()
		select {
		case given := <-seat.tasks:
			tasks = append(tasks, given...)
		default:
		}
		if err != nil {
			h.giveBack(ctx, tasks)
			return nil, err
		}
		tasks = append(tasks, h.leaseOffered(ctx, w, seat, most-len(tasks))...)
		if len(tasks) > 0 || !time.Now().Before(until) {
			return tasks, nil
		}
	}
}

// giveBack releases what was leased to a worker that is gone.
func (h *Handler) giveBack(ctx context.Context, tasks []Task) {
	for _, t := range tasks {
		if err := h.ReleaseTask(context.WithoutCancel(ctx), t); err != nil {
			h.leaseFailed(ctx, t.RunID, err) // its lease runs out
		}
	}
}

// awaitTasks returns when there may be a step, or after wait.
func (h *Handler) awaitTasks(ctx context.Context, w Worker, seat *seat, wait time.Duration) error {
	if wait <= 0 || len(seat.offers) > 0 {
		return nil
	}
	h.desk.idle(seat)
	inner, stop := context.WithCancel(ctx)
	defer stop()
	told := make(chan error, 1)
	go func() { told <- h.Views.WaitTasks(inner, w.Queues, wait) }()
	select {
	case err := <-told:
		return err
	case offers := <-seat.offers:
		seat.offers <- offers // for LeaseTasks; nobody else reads
	case tasks := <-seat.tasks:
		seat.tasks <- tasks
	}
	stop()
	<-told
	return ctx.Err()
}

// leaseOffered leases what the worker was offered while it waited, and passes
// on what is more than it wants.
func (h *Handler) leaseOffered(ctx context.Context, w Worker, seat *seat, most int) []Task {
	var offers []offer
	select {
	case offers = <-seat.offers:
	default:
	}
	most = min(most, len(offers))
	h.desk.give(offers[most:])
	byRun := map[string][]run.Ticket{}
	for _, o := range offers[:most] {
		byRun[o.runID] = append(byRun[o.runID], o.ticket)
	}
	var tasks []Task
	for runID, tickets := range byRun {
		leased, err := h.leaseRun(ctx, w, runID, tickets)
		if err != nil {
			h.leaseFailed(ctx, runID, err)
		}
		tasks = append(tasks, leased...)
	}
	return tasks
}

// leaseReady claims ready steps in the read model and leases them. A claim is
// a hint: what is not leased after all is free again after a few seconds. It
// fails when the log takes no lease at all.
func (h *Handler) leaseReady(ctx context.Context, w Worker, most int) ([]Task, error) {
	refs, err := h.Views.ClaimReadyTasks(ctx, w.ID, w.Queues, h.Now(), most)
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	order, byRun := groupByRun(refs)
	leased, failed := make([][]Task, len(order)), make([]error, len(order))
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, runID := range order {
		all.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; all.Done() }()
			leased[i], failed[i] = h.leaseRun(ctx, w, runID, byRun[runID])
		}()
	}
	all.Wait()
	var tasks []Task
	for _, some := range leased {
		tasks = append(tasks, some...)
	}
	if down := slices.IndexFunc(failed, outage); down >= 0 && len(tasks) == 0 {
		return nil, failed[down] // it is the same for all of them, and the worker's to say
	}
	for i, err := range failed {
		if err != nil {
			h.leaseFailed(ctx, order[i], err)
		}
	}
	return tasks, ctx.Err()
}

// outage reports whether a command failed because the log takes none.
func outage(err error) bool {
	switch domain.KindOf(err) {
	case domain.Unavailable, domain.OutcomeUnknown, domain.StorageFull:
		return true
	default:
		return false
	}
}

func groupByRun(refs []readmodels.TaskRef) (order []string, byRun map[string][]run.Ticket) {
	byRun = map[string][]run.Ticket{}
	for _, ref := range refs {
		if _, known := byRun[ref.RunID]; !known {
			order = append(order, ref.RunID)
		}
		byRun[ref.RunID] = append(byRun[ref.RunID], run.Ticket{Step: ref.Step, Attempt: ref.Attempt})
	}
	return order, byRun
}

func (h *Handler) leaseRun(ctx context.Context, w Worker, runID string, tickets []run.Ticket) ([]Task, error) {
	after, receipt, err := h.executeSeen(ctx, run.Lease{RunID: runID, Worker: w.ID, Tickets: tickets})
	if err != nil || receipt.Unchanged {
		return nil, err
	}
	return leasedTasks(after, receipt.Events, w), nil
}

// leaseFailed tells what kept a step from being leased: it stays ready.
func (h *Handler) leaseFailed(ctx context.Context, runID string, err error) {
	if domain.KindOf(err) == domain.NotFound || errors.Is(err, context.Canceled) {
		return // of a project the worker has no part in
	}
	h.Logger.WarnContext(ctx, "a ready step could not be leased", "run", runID, "error", err)
}

// HeartbeatTask tells that the worker is alive and returns how long the lease
// lasts now. Details, if any, survive to the next attempt. A Conflict of code
// LEASE_LOST or RUN_ENDED tells the worker to stop.
func (h *Handler) HeartbeatTask(ctx context.Context, t Task, details json.RawMessage) (leaseUntil time.Time, err error) {
	after, _, err := h.executeSeen(ctx, run.ExtendLease{Held: t.held(), Details: details})
	if err != nil {
		return time.Time{}, err
	}
	s, _ := after.Step(t.Step)
	return s.LeaseUntil, nil
}

// StartCall records that an external effect is about to happen; it must not
// happen when this fails. CALL_FINISHED says that its result is known already,
// RUN_ENDED also that the run has used up its costs.
func (h *Handler) StartCall(ctx context.Context, t Task, c run.Call) error {
	after, _, err := h.executeSeen(ctx, run.StartCall{Held: t.held(), Call: c})
	return endedMeanwhile(after, err)
}

// FinishCall records how a call ended. A Conflict of code RUN_ENDED says that
// the result is recorded and its costs ended the run.
func (h *Handler) FinishCall(ctx context.Context, t Task, seq int, r run.CallResult) error {
	after, _, err := h.executeSeen(ctx, run.FinishCall{Held: t.held(), Seq: seq, Result: r})
	return endedMeanwhile(after, err)
}

func endedMeanwhile(r run.Run, err error) error {
	if err == nil && r.Ended() {
		return run.EndedError(r)
	}
	return err
}

// CompleteTask records the result of a step, schedules what follows and leases
// up to take of it to the same worker, all in one append. Repeating it changes
// nothing and leases nothing.
func (h *Handler) CompleteTask(ctx context.Context, t Task, output json.RawMessage, take int) (next []Task, err error) {
	after, receipt, err := h.executeSeen(ctx, run.Complete{
		Held: t.held(), Output: output, Take: take, Queues: t.worker.Queues, Expr: h.Expr,
	})
	if err != nil {
		return nil, err
	}
	h.desk.offer(t.RunID, t.ProjectID, receipt)
	if receipt.Unchanged {
		return nil, nil
	}
	return leasedTasks(after, receipt.Events, t.worker), nil
}

// FailTask ends an attempt without a result; the node's retry policy decides
// what follows. retryAfter is a delay the other side asked for.
func (h *Handler) FailTask(ctx context.Context, t Task, f run.Failure, retryable bool, retryAfter time.Duration) error {
	_, receipt, err := h.executeSeen(ctx, run.Fail{Held: t.held(), Failure: f, Retryable: retryable, RetryAfter: retryAfter, Expr: h.Expr})
	if err == nil {
		h.desk.offer(t.RunID, t.ProjectID, receipt)
	}
	return err
}

// ReleaseTask gives an attempt back unfinished, for a worker that drains; the
// attempt does not count.
func (h *Handler) ReleaseTask(ctx context.Context, t Task) error {
	_, _, err := h.executeSeen(ctx, run.ReleaseLease{Held: t.held(), Expr: h.Expr})
	return err
}
