package commands

import (
	"context"

	"github.com/sparkops/control-plane/domain/agent"
)

// CreateAgent makes an agent in a project and returns its id.
func (h *Handler) CreateAgent(ctx context.Context, projectID string, p agent.Patch) (string, Receipt, error) {
	if err := h.inProject(ctx, "agents:write", projectID); err != nil {
		return "", Receipt{}, err
	}
	id := NewIDFor(ctx, "agent")
	receipt, err := Execute(ctx, h, agent.Create{AgentID: id, ProjectID: projectID, Patch: p})
	return id, receipt, err
}

// UpdateAgent changes some fields, which makes a new version.
func (h *Handler) UpdateAgent(ctx context.Context, id string, p agent.Patch) (Receipt, error) {
	return Execute(ctx, h, agent.Update{AgentID: id, Patch: p})
}

// DeleteAgent takes an agent out of lists.
func (h *Handler) DeleteAgent(ctx context.Context, id string) (Receipt, error) {
	return Execute(ctx, h, agent.Delete{AgentID: id})
}
