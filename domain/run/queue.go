package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

// Queue makes a run and schedules its first steps; decisions and waits at the
// start are decided by the same append.
type Queue struct {
	RunID           string
	ProjectID       string
	WorkflowID      string
	WorkflowVersion int
	AgentID         string
	Env             string
	Trigger         string
	TriggeredBy     string
	Region          string
	Input           json.RawMessage
	Config          json.RawMessage
	Plan            Plan
	RetryOf         string
	Retries         int

	// Up to Take of the steps that are ready at once are handed to a worker by
	// the same append, when their queue is one of Queues (nil: any).
	Worker string
	Take   int
	Queues []string

	Expr Evaluator
}

// FirstQueues returns the queues of the steps a run begins with, unless they
// stand behind a decision.
func (c Queue) FirstQueues() []string {
	g := workflow.NewGraph(c.Plan.Definition)
	var queues []string
	for i, n := range g.Nodes {
		if len(g.In[i]) == 0 && n.Queue != "" && !slices.Contains(queues, n.Queue) {
			queues = append(queues, n.Queue)
		}
	}
	return queues
}

// Stream returns the run's stream.
func (c Queue) Stream() string { return domain.StreamName(Category, c.RunID) }

// Needs returns the right to start runs in the project.
func (c Queue) Needs(Run) domain.Need {
	return domain.Need{Permission: "runs:write", Project: c.ProjectID}
}

// CreatesStream marks the command as one that starts its stream.
func (c Queue) CreatesStream() {}

// The values of env and trigger.
var (
	Envs     = []string{"dev", "staging", "prod"}
	Triggers = []string{"manual", "schedule", "webhook", "event"}
)

// Decide starts the run; one that exists is a Conflict.
func (c Queue) Decide(r Run, now time.Time) ([]domain.Event, error) {
	if r.Exists() {
		return nil, domain.Fail(domain.Conflict, "RUN_EXISTS", "There is a run of this id.")
	}
	if err := domain.InvalidFields(c.check()); err != nil {
		return nil, err
	}
	plan := c.Plan
	plan.Definition = workflow.Normalize(plan.Definition, workflow.Spec{MaxRetries: 3})
	d := decide(r, now, c.Expr)
	if d.size = len(c.Input) + len(c.Config) + plan.size(); d.size > maxDecision {
		return nil, domain.Fail(domain.TooLarge, "RUN_TOO_LARGE", "The workflow, its agents and tools and the input are larger than %d KiB together.", maxDecision>>10)
	}
	d.emit(Queued{
		RunID: c.RunID, ProjectID: c.ProjectID, WorkflowID: c.WorkflowID, WorkflowVersion: c.WorkflowVersion, AgentID: c.AgentID,
		Env: c.Env, Trigger: c.Trigger, TriggeredBy: c.TriggeredBy, Region: c.Region, Input: c.Input, Config: c.Config,
		Plan: plan, RetryOf: c.RetryOf, Retries: c.Retries,
		At: now, Deadline: now.Add(plan.Definition.Settings.MaxDuration.Std()),
	})
	d.sweep()
	d.finish()
	d.take(c.Worker, c.Take, c.Queues)
	return d.events, nil
}

func (c Queue) check() (fields []domain.Field) {
	add := func(field, format string, args ...any) {
		fields = append(fields, domain.Field{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if !slices.Contains(Envs, c.Env) {
		add("env", "must be one of dev, staging, prod")
	}
	if !slices.Contains(Triggers, c.Trigger) {
		add("trigger", "must be one of manual, schedule, webhook, event")
	}
	if len(c.Input) > MaxPayload {
		add("inputData", "is larger than %d KiB", MaxPayload>>10)
	} else if len(c.Input) > 0 && !json.Valid(c.Input) {
		add("inputData", "is not valid JSON")
	}
	if len(c.Config) > maxInline {
		add("config", "is larger than %d KiB", maxInline>>10)
	} else if len(c.Config) > 0 && !json.Valid(c.Config) {
		add("config", "is not valid JSON")
	}
	return fields
}

// size estimates how large the plan is when it is stored.
func (p Plan) size() int {
	const perItem = 512
	size := 0
	for _, n := range p.Definition.Nodes {
		size += perItem + len(n.Prompt) + len(n.Input) + len(n.Name)
		if n.Retry != nil {
			size += len(n.Retry.When)
		}
	}
	for _, e := range p.Definition.Edges {
		size += 32 + len(e.From) + len(e.To) + len(e.When)
	}
	for _, a := range p.Agents {
		size += perItem + len(a.Spec.PromptSummary) + len(a.Spec.Metadata) + 40*len(a.Spec.Tools)
	}
	for _, t := range p.Tools {
		size += perItem + len(t.Spec.Config) + len(t.AuthSealed)
	}
	return size
}
