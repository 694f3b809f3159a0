package commands

import (
	"context"

	"github.com/sparkops/control-plane/domain/workflow"
)

// CreateWorkflow makes a workflow in a project, with version 1 as a draft, and
// returns its id.
func (h *Handler) CreateWorkflow(ctx context.Context, projectID string, p workflow.Patch) (string, Receipt, error) {
	if err := h.inProject(ctx, "workflows:write", projectID); err != nil {
		return "", Receipt{}, err
	}
	id := NewIDFor(ctx, "workflow")
	receipt, err := Execute(ctx, h, workflow.Create{
		WorkflowID: id, ProjectID: projectID, Patch: p, AuthorUserID: ActorFrom(ctx).ID, Expressions: h.Expr,
	})
	return id, receipt, err
}

// UpdateWorkflow changes some fields; a changed graph makes a new draft version.
func (h *Handler) UpdateWorkflow(ctx context.Context, id string, p workflow.Patch) (Receipt, error) {
	return Execute(ctx, h, workflow.Update{WorkflowID: id, Patch: p, AuthorUserID: ActorFrom(ctx).ID, Expressions: h.Expr})
}

// NewVersion is what a version of a workflow is asked for with.
type NewVersion struct {
	Note       string                 `json:"note,omitempty"`
	Definition *workflow.Definition   `json:"definition,omitempty"` // absent: the newest version's
	Status     workflow.VersionStatus `json:"status,omitempty"`     // draft (where absent) or released
}

// AddWorkflowVersion makes a version and returns its number.
func (h *Handler) AddWorkflowVersion(ctx context.Context, id string, n NewVersion) (int, Receipt, error) {
	receipt, err := Execute(ctx, h, workflow.AddVersion{
		WorkflowID: id, Definition: n.Definition, Note: n.Note, Status: n.Status,
		AuthorUserID: ActorFrom(ctx).ID, Expressions: h.Expr,
	})
	for _, event := range receipt.Events {
		if added, ok := event.(workflow.VersionAdded); ok {
			return added.Version, receipt, err
		}
	}
	return 0, receipt, err
}

// ReleaseWorkflowVersion makes a version one that new runs take.
func (h *Handler) ReleaseWorkflowVersion(ctx context.Context, id string, version int) (Receipt, error) {
	return Execute(ctx, h, workflow.Release{WorkflowID: id, Version: version})
}

// DeprecateWorkflowVersion takes a version out of use for new runs.
func (h *Handler) DeprecateWorkflowVersion(ctx context.Context, id string, version int) (Receipt, error) {
	return Execute(ctx, h, workflow.Deprecate{WorkflowID: id, Version: version})
}

// DeleteWorkflow takes a workflow out of lists.
func (h *Handler) DeleteWorkflow(ctx context.Context, id string) (Receipt, error) {
	return Execute(ctx, h, workflow.Delete{WorkflowID: id})
}
