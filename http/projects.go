package http

import (
	"context"
	"net/http"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/readmodels"
)

// everyProject names the projections that a deleted project leaves.
var everyProject = []string{"projects", "agents", "tools", "workflows", "runs"}

func (s *Server) projectRoutes() {
	register(s, operation{
		id: "list-projects", method: http.MethodGet, path: "/projects", tag: "projects", reads: []string{"projects"},
		summary: "List projects, newest first", permission: "projects:list",
	}, s.listProjects)
	register(s, operation{
		id: "get-project", method: http.MethodGet, path: "/projects/{id}", tag: "projects", reads: []string{"projects"},
		summary: "One project", permission: "projects:read",
	}, s.getProject)
	register(s, operation{
		id: "create-project", method: http.MethodPost, path: "/projects", tag: "projects", status: http.StatusCreated,
		summary: "Make a project", permission: "projects:write", system: true,
	}, s.createProject)
	register(s, operation{
		id: "update-project", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/projects/{id}", tag: "projects",
		summary: "Change some fields of a project", permission: "projects:write",
	}, s.updateProject)
	register(s, operation{
		id: "delete-project", method: http.MethodDelete, path: "/projects/{id}", tag: "projects",
		summary: "Delete a project with everything in it; its history stays", permission: "projects:admin",
	}, s.deleteProject)
}

// ProjectsInput selects projects.
type ProjectsInput struct {
	Paging
	Status string `query:"status" enum:"active,archived,draft"`
	Search string `query:"search" maxLength:"255" doc:"Part of the name."`
}

func (s *Server) listProjects(ctx context.Context, in *ProjectsInput) (*Plain[List[readmodels.Project]], error) {
	found, err := s.views.Projects(ctx, visibleTo(ctx), readmodels.ProjectFilter{Status: in.Status, Search: in.Search}, in.page())
	if err != nil {
		return nil, err
	}
	return listOf(found, in.Paging), nil
}

func (s *Server) getProject(ctx context.Context, in *ReadOne) (*Found[readmodels.Project], error) {
	p, err := s.views.Project(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	return &Found[readmodels.Project]{etag(p.Revision), p}, mayRead(ctx, "projects:read", p.ID)
}

// CreateProjectInput asks for a project.
type CreateProjectInput struct {
	Writing
	Body project.Patch
}

func (s *Server) createProject(ctx context.Context, in *CreateProjectInput) (*Saved[readmodels.Project], error) {
	id, receipt, err := s.handler.CreateProject(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	saved, err := s.savedProject(ctx, id, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/projects/" + id
	return saved, nil
}

// UpdateProjectInput changes a project.
type UpdateProjectInput struct {
	Writing
	ID
	Body project.Patch
}

func (s *Server) updateProject(ctx context.Context, in *UpdateProjectInput) (*Saved[readmodels.Project], error) {
	receipt, err := s.handler.UpdateProject(ctx, in.ID.ID, in.Body)
	if err != nil {
		return nil, err
	}
	return s.savedProject(ctx, in.ID.ID, receipt)
}

func (s *Server) savedProject(ctx context.Context, id string, receipt commands.Receipt) (*Saved[readmodels.Project], error) {
	written, lag := s.settled(ctx, receipt, "projects")
	// Its maker is a member only since the request began, so that what it may
	// see is asked without looking at memberships; the command has authorised it.
	read := func() (readmodels.Project, error) { return s.views.Project(ctx, readmodels.Visible{All: true}, id) }
	view, err := show(lag, read, func() (readmodels.Project, error) {
		p, revision, err := commands.Load[project.Project](ctx, s.handler, domain.StreamName(project.Category, id))
		view := readmodels.Project{
			ProjectRecord: readmodels.ProjectRecord{ID: id, CreatedAt: madeAt(id), UpdatedAt: receipt.At, Revision: int64(revision)}, Spec: p.Spec,
		}
		for user, role := range p.Members {
			if role == domain.Owner {
				view.OwnerUserID = user
			}
		}
		return view, err
	})
	return &Saved[readmodels.Project]{written, view}, err
}

func (s *Server) deleteProject(ctx context.Context, in *ChangeOne) (*Saved[Gone], error) {
	receipt, err := s.handler.DeleteProject(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, everyProject...)
	return &Saved[Gone]{written, Gone{in.ID.ID, true}}, nil
}
