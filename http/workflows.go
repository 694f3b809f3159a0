package http

import (
	"context"
	"net/http"
	"strconv"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/readmodels"
)

func (s *Server) workflowRoutes() {
	register(s, operation{
		id: "list-workflows", method: http.MethodGet, path: "/workflows", tag: "workflows", reads: []string{"workflows"},
		summary: "List workflows, newest first", permission: "workflows:list",
	}, s.listWorkflows)
	register(s, operation{
		id: "get-workflow", method: http.MethodGet, path: "/workflows/{id}", tag: "workflows", reads: []string{"workflows"},
		summary: "One workflow with the graph of its newest version", permission: "workflows:read",
	}, s.getWorkflow)
	register(s, operation{
		id: "create-workflow", method: http.MethodPost, path: "/workflows", tag: "workflows", status: http.StatusCreated,
		summary: "Make a workflow, with version 1 as a draft", permission: "workflows:write",
	}, s.createWorkflow)
	register(s, operation{
		id: "update-workflow", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/workflows/{id}", tag: "workflows",
		summary: "Change some fields of a workflow; a changed graph makes a new draft version", permission: "workflows:write",
	}, s.updateWorkflow)
	register(s, operation{
		id: "delete-workflow", method: http.MethodDelete, path: "/workflows/{id}", tag: "workflows",
		summary: "Delete a workflow; its active runs are cancelled, its history stays", permission: "workflows:delete",
	}, s.deleteWorkflow)
	register(s, operation{
		id: "get-workflow-analytics", method: http.MethodGet, path: "/workflows/{id}/analytics", tag: "workflows", reads: []string{"workflows", "runs"},
		summary: "Figures of a workflow's runs", permission: "workflows:read",
	}, s.workflowAnalytics)
	s.versionRoutes()
}

// WorkflowsInput selects workflows.
type WorkflowsInput struct {
	Paging
	ProjectID string   `query:"project_id"`
	Status    string   `query:"status" enum:"draft,active,inactive,archived"`
	Tags      []string `query:"tags" maxItems:"50" doc:"Workflows that have all of these, separated by commas."`
	Search    string   `query:"search" maxLength:"255" doc:"Part of the name."`
}

func (s *Server) listWorkflows(ctx context.Context, in *WorkflowsInput) (*Plain[List[readmodels.Workflow]], error) {
	filter := readmodels.WorkflowFilter{ProjectID: in.ProjectID, Status: in.Status, Tags: in.Tags, Search: in.Search}
	found, err := s.views.Workflows(ctx, visibleTo(ctx), filter, in.page())
	if err != nil {
		return nil, err
	}
	return listOf(found, in.Paging), nil
}

func (s *Server) getWorkflow(ctx context.Context, in *ReadOne) (*Found[readmodels.Workflow], error) {
	w, err := s.views.Workflow(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	return &Found[readmodels.Workflow]{etag(w.Revision), w}, mayRead(ctx, "workflows:read", w.ProjectID)
}

// CreateWorkflowInput asks for a workflow.
type CreateWorkflowInput struct {
	Writing
	Body NewWorkflow
}

// NewWorkflow is a workflow in a project. An empty definition stands for one
// step carried out by the run's agent.
type NewWorkflow struct {
	ProjectID string `json:"projectId"`
	workflow.Patch
}

func (s *Server) createWorkflow(ctx context.Context, in *CreateWorkflowInput) (*Saved[readmodels.Workflow], error) {
	id, receipt, err := s.handler.CreateWorkflow(ctx, in.Body.ProjectID, in.Body.Patch)
	if err != nil {
		return nil, err
	}
	saved, err := s.savedWorkflow(ctx, id, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/workflows/" + id
	return saved, nil
}

// UpdateWorkflowInput changes a workflow.
type UpdateWorkflowInput struct {
	Writing
	ID
	Body workflow.Patch
}

func (s *Server) updateWorkflow(ctx context.Context, in *UpdateWorkflowInput) (*Saved[readmodels.Workflow], error) {
	receipt, err := s.handler.UpdateWorkflow(ctx, in.ID.ID, in.Body)
	if err != nil {
		return nil, err
	}
	return s.savedWorkflow(ctx, in.ID.ID, receipt)
}

func (s *Server) savedWorkflow(ctx context.Context, id string, receipt commands.Receipt) (*Saved[readmodels.Workflow], error) {
	written, lag := s.settled(ctx, receipt, "workflows")
	read := func() (readmodels.Workflow, error) { return s.views.Workflow(ctx, visibleTo(ctx), id) }
	view, err := show(lag, read, func() (readmodels.Workflow, error) {
		w, revision, err := commands.Load[workflow.Workflow](ctx, s.handler, domain.StreamName(workflow.Category, id))
		view := readmodels.Workflow{WorkflowRecord: readmodels.WorkflowRecord{
			ID: id, ProjectID: w.ProjectID, CurrentVersion: len(w.Versions), Versions: []readmodels.WorkflowVersion{},
			CreatedAt: madeAt(id), UpdatedAt: receipt.At, Revision: int64(revision),
		}, Spec: w.Spec}
		for i, v := range w.Versions {
			view.Versions = append(view.Versions, readmodels.WorkflowVersion{Version: i + 1, Status: v.Status, CreatedAt: madeAt(id), UpdatedAt: receipt.At})
			view.Definition = &v.Definition
		}
		return view, err
	})
	return &Saved[readmodels.Workflow]{written, view}, err
}

func (s *Server) deleteWorkflow(ctx context.Context, in *ChangeOne) (*Saved[Gone], error) {
	receipt, err := s.handler.DeleteWorkflow(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "workflows")
	return &Saved[Gone]{written, Gone{in.ID.ID, true}}, nil
}

func (s *Server) workflowAnalytics(ctx context.Context, in *ReadOne) (*Plain[readmodels.WorkflowAnalytics], error) {
	w, err := s.views.Workflow(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	if err := mayRead(ctx, "workflows:read", w.ProjectID); err != nil {
		return nil, err
	}
	figures, err := s.views.WorkflowAnalytics(ctx, visibleTo(ctx), in.ID.ID)
	return &Plain[readmodels.WorkflowAnalytics]{figures}, err
}

// versionRoutes adds the immutable versions of a workflow's graph.
func (s *Server) versionRoutes() {
	register(s, operation{
		id: "list-workflow-versions", method: http.MethodGet, path: "/workflows/{id}/versions", tag: "workflows", reads: []string{"workflows"},
		summary: "The versions of a workflow, ascending, without their graphs", permission: "workflows:read",
	}, s.listVersions)
	register(s, operation{
		id: "get-workflow-version", method: http.MethodGet, path: "/workflows/{id}/versions/{version}", tag: "workflows", reads: []string{"workflows"},
		summary: "One version with its graph", permission: "workflows:read",
	}, s.getVersion)
	register(s, operation{
		id: "add-workflow-version", method: http.MethodPost, path: "/workflows/{id}/versions", tag: "workflows", status: http.StatusCreated,
		summary: "Make a version, and release it at once where status says so", permission: "workflows:write",
	}, s.addVersion)
	register(s, operation{
		id: "change-workflow-version", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/workflows/{id}/versions/{version}", tag: "workflows",
		summary: "Release or deprecate a version", permission: "workflows:write",
	}, s.changeVersion)
}

func (s *Server) listVersions(ctx context.Context, in *ReadOne) (*Plain[Items[readmodels.WorkflowVersion]], error) {
	found, err := s.views.WorkflowVersions(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	return itemsOf(found), nil
}

// VersionNumber names one version of a workflow.
type VersionNumber struct {
	ID
	Version int `path:"version" minimum:"1" maximum:"1000000"`
}

// ReadVersion selects one version.
type ReadVersion struct {
	Reading
	VersionNumber
}

func (s *Server) getVersion(ctx context.Context, in *ReadVersion) (*Plain[readmodels.WorkflowVersion], error) {
	found, err := s.views.WorkflowVersion(ctx, visibleTo(ctx), in.ID.ID, in.Version)
	return &Plain[readmodels.WorkflowVersion]{found}, err
}

// AddVersionInput asks for a version.
type AddVersionInput struct {
	Writing
	ID
	Body *commands.NewVersion
}

func (s *Server) addVersion(ctx context.Context, in *AddVersionInput) (*Saved[readmodels.WorkflowVersion], error) {
	asked := domain.Or(in.Body, commands.NewVersion{})
	number, receipt, err := s.handler.AddWorkflowVersion(ctx, in.ID.ID, asked)
	if err != nil {
		return nil, err
	}
	saved, err := s.savedVersion(ctx, in.ID.ID, number, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/workflows/" + in.ID.ID + "/versions/" + strconv.Itoa(number)
	return saved, nil
}

// ChangeVersionInput releases or deprecates a version.
type ChangeVersionInput struct {
	Writing
	VersionNumber
	Body VersionChange
}

// VersionChange is the new state of a version.
type VersionChange struct {
	Status workflow.VersionStatus `json:"status" enum:"released,deprecated"`
}

func (s *Server) changeVersion(ctx context.Context, in *ChangeVersionInput) (*Saved[readmodels.WorkflowVersion], error) {
	change := s.handler.ReleaseWorkflowVersion
	if in.Body.Status == workflow.Deprecated {
		change = s.handler.DeprecateWorkflowVersion
	}
	receipt, err := change(ctx, in.ID.ID, in.Version)
	if err != nil {
		return nil, err
	}
	return s.savedVersion(ctx, in.ID.ID, in.Version, receipt)
}

func (s *Server) savedVersion(ctx context.Context, id string, number int, receipt commands.Receipt) (*Saved[readmodels.WorkflowVersion], error) {
	written, lag := s.settled(ctx, receipt, "workflows")
	read := func() (readmodels.WorkflowVersion, error) {
		return s.views.WorkflowVersion(ctx, visibleTo(ctx), id, number)
	}
	view, err := show(lag, read, func() (readmodels.WorkflowVersion, error) {
		w, _, err := commands.Load[workflow.Workflow](ctx, s.handler, domain.StreamName(workflow.Category, id))
		v, _ := w.Version(number)
		return readmodels.WorkflowVersion{Version: number, Status: v.Status, CreatedAt: receipt.At, UpdatedAt: receipt.At, Definition: &v.Definition}, err
	})
	return &Saved[readmodels.WorkflowVersion]{written, view}, err
}
