package commands

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/workflow"
)

// workshop is a project with all that a run needs.
type workshop struct {
	*system
	dev context.Context

	project, agent, tool, workflow string
}

func newWorkshop(t testing.TB, s *system) *workshop {
	t.Helper()
	w := &workshop{system: s, project: s.project(t, "Atlas")}
	w.dev = member(t.Context(), w.project, domain.Developer)
	var err error
	w.tool, _, err = s.CreateTool(w.dev, w.project, tool.Patch{Name: ptr("Echo"), Kind: ptr("function"), AuthType: ptr("none"), Config: domain.Some(json.RawMessage(`{"builtin":"echo"}`))})
	require.NoError(t, err)
	w.agent, _, err = s.CreateAgent(w.dev, w.project, agent.Patch{Name: ptr("Ann"), Runtime: ptr("python"), Model: ptr("gpt-4o"), Provider: ptr("openai"), Tools: domain.Some([]string{w.tool})})
	require.NoError(t, err)
	w.workflow = w.newWorkflow(t, `{}`)
	return w
}

func (w *workshop) newWorkflow(t testing.TB, definition string) string {
	t.Helper()
	var def workflow.Definition
	require.NoError(t, json.Unmarshal([]byte(definition), &def))
	id, _, err := w.CreateWorkflow(w.dev, w.project, workflow.Patch{Name: ptr("Flow"), Definition: &def})
	require.NoError(t, err)
	return id
}

func (w *workshop) start(t *testing.T) string {
	t.Helper()
	id, _, err := w.CreateRun(w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent})
	require.NoError(t, err)
	return id
}

func (w *workshop) state(t *testing.T, id string) run.Run {
	t.Helper()
	r, _, err := Load[run.Run](t.Context(), w.Handler, "run-"+id)
	require.NoError(t, err)
	return r
}

// A run can be started right after what it needs was made, and pins it.
func TestCreateRunPinsVersions(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	_, err := w.UpdateAgent(w.dev, w.agent, agent.Patch{Model: ptr("gpt-5")})
	require.NoError(t, err)
	id, receipt, err := w.CreateRun(w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent, Input: json.RawMessage(`{"q":1}`), Config: json.RawMessage(`{"c":2}`)})
	require.NoError(t, err)
	require.Len(t, receipt.Events, 2)
	_, err = w.UpdateAgent(w.dev, w.agent, agent.Patch{Model: ptr("gpt-6")})
	require.NoError(t, err)

	q := w.state(t, id).Queued()
	require.Equal(t, w.project, q.ProjectID)
	require.Equal(t, w.workflow, q.WorkflowID)
	require.Equal(t, 1, q.WorkflowVersion)
	require.Equal(t, []string{"dev", "manual", "member", Region}, []string{q.Env, q.Trigger, q.TriggeredBy, q.Region})
	require.Equal(t, `{"q":1}`, string(q.Input))
	require.Equal(t, 2, q.Plan.Agents[w.agent].Version)
	require.Equal(t, "gpt-5", q.Plan.Agents[w.agent].Spec.Model)
	require.Equal(t, 1, q.Plan.Tools[w.tool].Version)
	require.Equal(t, time.Hour, q.Deadline.Sub(q.At))
	require.Equal(t, "agent", q.Plan.Definition.Nodes[0].ID)
	require.Equal(t, 4, q.Plan.Definition.Nodes[0].Retry.MaxAttempts, "maxRetries of the workflow, and the first attempt")
	step, _ := w.state(t, id).Step("agent")
	require.Equal(t, run.StepReady, step.Status)
}

func TestCreateRunIsRepeatable(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	ctx := WithCommandID(w.dev, NewID())
	id, receipt, err := w.CreateRun(ctx, NewRun{WorkflowID: w.workflow, AgentID: w.agent})
	require.NoError(t, err)
	again, repeated, err := w.CreateRun(ctx, NewRun{WorkflowID: w.workflow, AgentID: w.agent})
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.True(t, repeated.Unchanged)
	require.Equal(t, receipt.Position, repeated.Position)
	require.Len(t, w.history(t, "run-"+id), 2)
}

func TestCreateRunTakesTheRightVersion(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	version := func() int { return w.state(t, w.start(t)).Queued().WorkflowVersion }
	for range 2 {
		_, _, err := w.AddWorkflowVersion(w.dev, w.workflow, NewVersion{})
		require.NoError(t, err)
	}
	require.Equal(t, 3, version(), "the newest draft")
	_, err := w.ReleaseWorkflowVersion(w.dev, w.workflow, 2)
	require.NoError(t, err)
	require.Equal(t, 2, version(), "the newest released")
	for _, n := range []int{1, 2, 3} {
		_, err := w.DeprecateWorkflowVersion(w.dev, w.workflow, n)
		require.NoError(t, err)
	}
	_, _, err = w.CreateRun(w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent})
	requireFailure(t, err, domain.Conflict, "WORKFLOW_HAS_NO_VERSION")
}

func TestCreateRunRefuses(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	elsewhere := newWorkshop(t, w.system)
	bareTool := w.newWorkflow(t, `{"nodes":[{"id":"a","type":"tool","tool":"`+elsewhere.tool+`"}]}`)
	named := w.newWorkflow(t, `{"nodes":[{"id":"a","type":"agent","agent":"`+elsewhere.agent+`"}]}`)
	ok := NewRun{WorkflowID: w.workflow, AgentID: w.agent}
	for name, c := range map[string]struct {
		ctx  context.Context
		in   NewRun
		kind domain.Kind
		code string
	}{
		"nobody":                    {t.Context(), ok, domain.Unauthorized, "UNAUTHENTICATED"},
		"stranger":                  {as(t.Context(), domain.Developer), ok, domain.NotFound, "NOT_FOUND"},
		"viewer":                    {member(t.Context(), w.project, domain.Viewer), ok, domain.Forbidden, "FORBIDDEN"},
		"no workflow":               {w.dev, NewRun{}, domain.Invalid, "VALIDATION_FAILED"},
		"unknown workflow":          {w.dev, NewRun{WorkflowID: NewID()}, domain.NotFound, "NOT_FOUND"},
		"unknown workflow, admin":   {as(t.Context(), domain.Admin), NewRun{WorkflowID: NewID()}, domain.NotFound, "NOT_FOUND"},
		"workflow of others":        {w.dev, NewRun{WorkflowID: elsewhere.workflow, AgentID: w.agent}, domain.NotFound, "NOT_FOUND"},
		"no agent":                  {w.dev, NewRun{WorkflowID: w.workflow}, domain.Invalid, "VALIDATION_FAILED"},
		"unknown agent":             {w.dev, NewRun{WorkflowID: w.workflow, AgentID: NewID()}, domain.NotFound, "NOT_FOUND"},
		"agent of another project":  {as(t.Context(), domain.Admin), NewRun{WorkflowID: w.workflow, AgentID: elsewhere.agent}, domain.NotFound, "NOT_FOUND"},
		"tool of another project":   {w.dev, NewRun{WorkflowID: bareTool}, domain.NotFound, "NOT_FOUND"},
		"agent of a node elsewhere": {w.dev, NewRun{WorkflowID: named}, domain.NotFound, "NOT_FOUND"},
		"env":                       {w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent, Env: "moon"}, domain.Invalid, "VALIDATION_FAILED"},
		"trigger":                   {w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent, Trigger: "whim"}, domain.Invalid, "VALIDATION_FAILED"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := w.CreateRun(c.ctx, c.in)
			requireFailure(t, err, c.kind, c.code)
		})
	}
}

func TestCreateRunOfWhatIsSwitchedOff(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	withTool := w.newWorkflow(t, `{"nodes":[{"id":"a","type":"tool","tool":"`+w.tool+`"}]}`)
	refused := func(workflowID, code string) {
		t.Helper()
		_, _, err := w.CreateRun(w.dev, NewRun{WorkflowID: workflowID, AgentID: w.agent})
		requireFailure(t, err, domain.Conflict, code)
	}
	_, err := w.UpdateTool(w.dev, w.tool, tool.Patch{Status: ptr("inactive")})
	require.NoError(t, err)
	refused(withTool, "TOOL_INACTIVE")
	require.Empty(t, w.state(t, w.start(t)).Plan().Tools, "an agent goes on without a tool that is switched off")
	_, err = w.UpdateAgent(w.dev, w.agent, agent.Patch{Status: ptr("inactive")})
	require.NoError(t, err)
	refused(w.workflow, "AGENT_INACTIVE")
	_, err = w.UpdateWorkflow(w.dev, w.workflow, workflow.Patch{Status: ptr("archived")})
	require.NoError(t, err)
	refused(w.workflow, "WORKFLOW_INACTIVE")
	_, err = w.UpdateProject(w.dev, w.project, project.Patch{Status: ptr("archived")})
	require.NoError(t, err)
	refused(w.workflow, "PROJECT_ARCHIVED")
	_, err = w.DeleteWorkflow(as(t.Context(), domain.Admin), w.workflow)
	require.NoError(t, err)
	_, _, err = w.CreateRun(w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent})
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestRetryRun(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	id, _, err := w.CreateRun(w.dev, NewRun{WorkflowID: w.workflow, AgentID: w.agent, Env: "prod", Trigger: "webhook", Input: json.RawMessage(`{"q":1}`)})
	require.NoError(t, err)
	_, _, err = w.RetryRun(w.dev, id)
	requireFailure(t, err, domain.Conflict, "RUN_NOT_RETRYABLE")
	_, err = w.CancelRun(w.dev, id, "")
	require.NoError(t, err)

	again, _, err := w.RetryRun(w.dev, id)
	require.NoError(t, err)
	q := w.state(t, again).Queued()
	require.Equal(t, []any{id, 1, "prod", "webhook", `{"q":1}`, w.agent}, []any{q.RetryOf, q.Retries, q.Env, q.Trigger, string(q.Input), q.AgentID})
	_, err = w.CancelRun(w.dev, again, "")
	require.NoError(t, err)
	third, _, err := w.RetryRun(w.dev, again)
	require.NoError(t, err)
	require.Equal(t, 2, w.state(t, third).Queued().Retries)

	_, _, err = w.RetryRun(as(t.Context(), domain.Developer), id)
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
	_, _, err = w.RetryRun(w.dev, NewID())
	requireFailure(t, err, domain.NotFound, "NOT_FOUND")
}

func TestControlOfARun(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	id := w.start(t)
	_, err := w.HideRun(w.dev, id)
	requireFailure(t, err, domain.Conflict, "RUN_ACTIVE")
	_, err = w.PauseRun(w.dev, id, "")
	require.NoError(t, err)
	require.Equal(t, "paused", w.state(t, id).Phase())
	_, err = w.ResumeRun(w.dev, id)
	require.NoError(t, err)
	receipt, err := w.CancelRun(w.dev, id, "")
	require.NoError(t, err)
	require.False(t, receipt.Unchanged)
	again, err := w.CancelRun(w.dev, id, "")
	require.NoError(t, err)
	require.True(t, again.Unchanged)
	require.Equal(t, receipt.Position, again.Position)
	require.Equal(t, "The run was cancelled by a user.", w.state(t, id).StatusReason().Message)
	_, err = w.HideRun(w.dev, id)
	require.NoError(t, err)
	require.True(t, w.state(t, id).Hidden())

	timed := w.start(t)
	receipt, err = w.AdvanceRun(WithActor(t.Context(), domain.Process("timers")), timed)
	require.NoError(t, err)
	require.True(t, receipt.Unchanged)
	w.clock.Add(time.Hour)
	_, err = w.AdvanceRun(WithActor(t.Context(), domain.Process("timers")), timed)
	require.NoError(t, err)
	require.Equal(t, run.StatusTimeout, w.state(t, timed).Status())
	for name, do := range map[string]func(context.Context) error{
		"cancel": func(ctx context.Context) error { _, err := w.CancelRun(ctx, timed, ""); return err },
		"pause":  func(ctx context.Context) error { _, err := w.PauseRun(ctx, timed, ""); return err },
		"resume": func(ctx context.Context) error { _, err := w.ResumeRun(ctx, timed); return err },
	} {
		t.Run(name, func(t *testing.T) {
			requireFailure(t, do(w.dev), domain.Conflict, "RUN_ENDED")
			requireFailure(t, do(as(t.Context(), domain.Developer)), domain.NotFound, "NOT_FOUND")
			requireFailure(t, do(member(t.Context(), w.project, domain.Viewer)), domain.Forbidden, "FORBIDDEN")
		})
	}
}

// Many runs of one workflow do not ask the store for it each time.
func TestCreateRunRemembersDefinitions(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, newSystem(t))
	w.start(t)
	require.Eventually(t, func() bool { // a busy machine may take longer than a definition is remembered
		before := w.reads(t)
		for range 5 {
			w.start(t)
		}
		return w.reads(t) == before
	}, time.Minute, time.Millisecond)
}
