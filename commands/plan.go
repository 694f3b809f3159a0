package commands

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
)

// builtinPrefix marks tools that are part of the worker.
const builtinPrefix = "builtin:"

// planner finds everything a new run is carried out by, in the streams
// themselves, so that a run can be started right after what it needs was made.
type planner struct {
	handler *Handler
	in      NewRun

	project string
	run     run.Plan
}

// plan returns the command that starts the run, without its id.
func (p *planner) plan(ctx context.Context) (run.Queue, error) {
	if p.in.WorkflowID == "" {
		return run.Queue{}, domain.InvalidFields([]domain.Field{{Field: "workflowId", Message: "is required"}})
	}
	w, err := recent[workflow.Workflow](ctx, p.handler, domain.StreamName(workflow.Category, p.in.WorkflowID))
	if err != nil {
		return run.Queue{}, err
	}
	if err := ActorFrom(ctx).Authorize(domain.NeedIn("runs:write", w.ProjectID, w.Exists())); err != nil {
		return run.Queue{}, err
	}
	if !w.Exists() {
		return run.Queue{}, missing("workflow")
	}
	p.project = w.ProjectID
	if err := p.checkProject(ctx); err != nil {
		return run.Queue{}, err
	}
	if w.Spec.Status == "inactive" || w.Spec.Status == "archived" {
		return run.Queue{}, domain.Fail(domain.Conflict, "WORKFLOW_INACTIVE", "The workflow is %s; set its status to active to run it.", w.Spec.Status)
	}
	version := w.Runnable()
	if version == 0 {
		return run.Queue{}, domain.Fail(domain.Conflict, "WORKFLOW_HAS_NO_VERSION", "Every version of the workflow is deprecated; make a new one to run it.")
	}
	p.run = run.Plan{Definition: effective(w, version)}
	if err := p.pin(ctx); err != nil {
		return run.Queue{}, err
	}
	q := run.Queue{
		ProjectID: p.project, WorkflowID: p.in.WorkflowID, WorkflowVersion: version, AgentID: p.in.AgentID,
		Env: p.in.Env, Trigger: p.in.Trigger, Region: Region, Input: p.in.Input, Config: p.in.Config,
		Plan: p.run, Expr: p.handler.Expr,
	}
	if q.Env == "" {
		q.Env = "dev"
	}
	if q.Trigger == "" {
		q.Trigger = "manual"
	}
	if len(q.Input) == 0 {
		q.Input = []byte("{}")
	}
	return q, nil
}

func (p *planner) checkProject(ctx context.Context) error {
	state, err := recent[project.Project](ctx, p.handler, domain.StreamName(project.Category, p.project))
	switch {
	case err != nil:
		return err
	case !state.Exists():
		return missing("workflow")
	case state.Spec.Status == "archived":
		return domain.Fail(domain.Conflict, "PROJECT_ARCHIVED", "The project is archived; set its status to active to run workflows.")
	default:
		return nil
	}
}

// pin adds the agents and tools of the definition to the plan.
func (p *planner) pin(ctx context.Context) error {
	if p.in.AgentID != "" {
		if err := p.pinAgent(ctx, p.in.AgentID, "agentId"); err != nil {
			return err
		}
	}
	for i, n := range p.run.Definition.Nodes {
		at := fmt.Sprintf("definition.nodes[%d]", i)
		switch {
		case n.Type == workflow.NodeAgent && n.Agent == "" && p.in.AgentID == "":
			return domain.InvalidFields([]domain.Field{{Field: "agentId", Message: "is required: the workflow leaves its agent to the run"}})
		case n.Type == workflow.NodeAgent && n.Agent != "":
			if err := p.pinAgent(ctx, n.Agent, at+".agent"); err != nil {
				return err
			}
		case n.Type == workflow.NodeTool:
			if err := p.pinTool(ctx, n.Tool, at+".tool", true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *planner) pinAgent(ctx context.Context, id, at string) error {
	if _, done := p.run.Agents[id]; done {
		return nil
	}
	a, err := recent[agent.Agent](ctx, p.handler, domain.StreamName(agent.Category, id))
	if err != nil {
		return err
	}
	if !a.Exists() || a.ProjectID != p.project {
		return missingPart(at, "agent")
	}
	if a.Spec.Status == "inactive" {
		return domain.Fail(domain.Conflict, "AGENT_INACTIVE", "The agent %q is inactive; set its status to active to run it.", a.Spec.Name)
	}
	if p.run.Agents == nil {
		p.run.Agents = map[string]run.AgentPlan{}
	}
	p.run.Agents[id] = run.AgentPlan{Version: a.Version, Spec: a.Spec}
	// An agent goes on without the tools that were taken away from it.
	for _, toolID := range a.Spec.Tools {
		if err := p.pinTool(ctx, toolID, "", false); err != nil {
			return err
		}
	}
	return nil
}

// pinTool adds a tool. One that is gone or switched off is an error only where
// it is required.
func (p *planner) pinTool(ctx context.Context, id, at string, required bool) error {
	if _, done := p.run.Tools[id]; done || strings.HasPrefix(id, builtinPrefix) {
		return nil
	}
	t, err := recent[tool.Tool](ctx, p.handler, domain.StreamName(tool.Category, id))
	switch {
	case err != nil:
		return err
	case !t.Exists() || t.ProjectID != p.project:
		if required {
			return missingPart(at, "tool")
		}
		return nil
	case t.Spec.Status == "inactive":
		if required {
			return domain.Fail(domain.Conflict, "TOOL_INACTIVE", "The tool %q is inactive; set its status to active to run it.", t.Spec.Name)
		}
		return nil
	}
	if p.run.Tools == nil {
		p.run.Tools = map[string]run.ToolPlan{}
	}
	p.run.Tools[id] = run.ToolPlan{Version: t.Version, Spec: t.Spec, AuthSealed: t.AuthSealed}
	return nil
}

func missing(what string) error {
	return domain.Fail(domain.NotFound, "NOT_FOUND", "There is no such %s.", what)
}

// missingPart is about a thing the caller, or the workflow, refers to.
func missingPart(at, what string) error {
	e := domain.Fail(domain.NotFound, "NOT_FOUND", "There is no such %s in the workflow's project.", what)
	e.Fields = []domain.Field{{Field: at, Message: "names no " + what + " of the workflow's project"}}
	return e
}

// taskTools returns the tools a node may call: its own, or its agent's.
func taskTools(plan run.Plan, n workflow.Node, a *run.AgentPlan) map[string]run.ToolPlan {
	tools := map[string]run.ToolPlan{}
	for id, t := range plan.Tools {
		if id == n.Tool || a != nil && slices.Contains(a.Spec.Tools, id) {
			tools[id] = t
		}
	}
	return tools
}

// recentEnough is how old a definition may be that a new run pins. Changes
// made through this process are seen at once, those made elsewhere after this
// time at the latest.
const recentEnough = 100 * time.Millisecond

// recent returns the state of a stream without asking the store again when it
// was asked a moment ago: under load many runs of one workflow start.
func recent[S State[S]](ctx context.Context, h *Handler, stream string) (S, error) {
	e := entryOf[S](h, stream)
	if state, ok := e.readSince(time.Now().Add(-recentEnough)); ok {
		return state, nil
	}
	snap, err := e.refresh(ctx, h, stream, "")
	return snap.state, err
}
