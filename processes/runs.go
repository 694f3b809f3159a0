package processes

import (
	"context"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

// Runs cancels the active runs of what is deleted: a project, a workflow, or
// the agent that carries them out.
func Runs() Process {
	return Process{
		Name:       "runs",
		Categories: []string{project.Category, workflow.Category, agent.Category},
		On: func(e eventstore.Recorded) []Command {
			switch e.Event.(type) {
			case project.Deleted:
				return []Command{CancelRuns{Of: readmodels.RunsOf{ProjectID: e.StreamID}, Reason: "The project was deleted.", Position: e.Position}}
			case workflow.Deleted:
				return []Command{CancelRuns{Of: readmodels.RunsOf{WorkflowID: e.StreamID}, Reason: "The workflow was deleted.", Position: e.Position}}
			case agent.Deleted:
				return []Command{CancelRuns{Of: readmodels.RunsOf{AgentID: e.StreamID}, Reason: "The agent was deleted.", Position: e.Position}}
			default:
				return nil
			}
		},
	}
}

// CancelRuns cancels all runs of something that were started before a position.
type CancelRuns struct {
	Of       readmodels.RunsOf
	Reason   string
	Position uint64
}

// Do cancels them. Runs that ended meanwhile are left alone.
func (c CancelRuns) Do(ctx context.Context, h *commands.Handler) error {
	_, err := h.CancelRunsOf(ctx, c.Of, c.Reason, c.Position)
	return err
}
