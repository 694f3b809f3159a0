package commands

import (
	"context"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/tool"
)

// ToolPlan returns a tool as a run would pin it now, for one call outside any
// run. It needs tools:write in the tool's project; NotFound where there is
// none.
func (h *Handler) ToolPlan(ctx context.Context, id string) (run.ToolPlan, error) {
	state, _, err := Load[tool.Tool](ctx, h, domain.StreamName(tool.Category, id))
	if err != nil {
		return run.ToolPlan{}, err
	}
	if err := ActorFrom(ctx).Authorize(domain.NeedIn("tools:write", state.ProjectID, state.Exists())); err != nil {
		return run.ToolPlan{}, err
	}
	if !state.Exists() {
		return run.ToolPlan{}, missing("tool")
	}
	return run.ToolPlan{Version: state.Version, Spec: state.Spec, AuthSealed: state.AuthSealed}, nil
}
