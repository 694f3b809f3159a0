package http

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/readmodels"
)

func (s *Server) toolRoutes() {
	register(s, operation{
		id: "list-tools", method: http.MethodGet, path: "/tools", tag: "tools", reads: []string{"tools"},
		summary: "List tools, newest first", permission: "tools:list",
	}, s.listTools)
	register(s, operation{
		id: "get-tool", method: http.MethodGet, path: "/tools/{id}", tag: "tools", reads: []string{"tools"},
		summary: "One tool, without its credentials", permission: "tools:read",
	}, s.getTool)
	register(s, operation{
		id: "create-tool", method: http.MethodPost, path: "/tools", tag: "tools", status: http.StatusCreated,
		summary: "Make a tool", permission: "tools:write",
	}, s.createTool)
	register(s, operation{
		id: "update-tool", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/tools/{id}", tag: "tools",
		summary: "Change some fields of a tool, which makes a new version", permission: "tools:write",
	}, s.updateTool)
	register(s, operation{
		id: "delete-tool", method: http.MethodDelete, path: "/tools/{id}", tag: "tools",
		summary: "Delete a tool; its history stays", permission: "tools:delete",
	}, s.deleteTool)
	register(s, operation{
		id: "test-tool", method: http.MethodPost, path: "/tools/{id}/test", tag: "tools",
		summary: "Call a tool once, for real", permission: "tools:write", once: true,
	}, s.testTool)
}

// ToolsInput selects tools.
type ToolsInput struct {
	Paging
	ProjectID string `query:"project_id"`
	Kind      string `query:"kind" maxLength:"50"`
	AuthType  string `query:"auth_type" maxLength:"50"`
	Env       string `query:"env" enum:"dev,staging,prod"`
	Status    string `query:"status" enum:"active,inactive"`
	Search    string `query:"search" maxLength:"255" doc:"Part of the name."`
}

func (s *Server) listTools(ctx context.Context, in *ToolsInput) (*Plain[List[readmodels.Tool]], error) {
	filter := readmodels.ToolFilter{
		ProjectID: in.ProjectID, Kind: in.Kind, AuthType: in.AuthType, Env: in.Env, Status: in.Status, Search: in.Search,
	}
	found, err := s.views.Tools(ctx, visibleTo(ctx), filter, in.page())
	if err != nil {
		return nil, err
	}
	return listOf(found, in.Paging), nil
}

func (s *Server) getTool(ctx context.Context, in *ReadOne) (*Found[readmodels.Tool], error) {
	t, err := s.views.Tool(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	return &Found[readmodels.Tool]{etag(t.Revision), t}, mayRead(ctx, "tools:read", t.ProjectID)
}

// CreateToolInput asks for a tool.
type CreateToolInput struct {
	Writing
	Body NewTool
}

// NewTool is a tool in a project. What is absent gets its default.
type NewTool struct {
	ProjectID string `json:"projectId"`
	tool.Patch
}

func (s *Server) createTool(ctx context.Context, in *CreateToolInput) (*Saved[readmodels.Tool], error) {
	id, receipt, err := s.handler.CreateTool(ctx, in.Body.ProjectID, in.Body.Patch)
	if err != nil {
		return nil, err
	}
	saved, err := s.savedTool(ctx, id, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/tools/" + id
	return saved, nil
}

// UpdateToolInput changes a tool.
type UpdateToolInput struct {
	Writing
	ID
	Body tool.Patch
}

func (s *Server) updateTool(ctx context.Context, in *UpdateToolInput) (*Saved[readmodels.Tool], error) {
	receipt, err := s.handler.UpdateTool(ctx, in.ID.ID, in.Body)
	if err != nil {
		return nil, err
	}
	return s.savedTool(ctx, in.ID.ID, receipt)
}

func (s *Server) savedTool(ctx context.Context, id string, receipt commands.Receipt) (*Saved[readmodels.Tool], error) {
	written, lag := s.settled(ctx, receipt, "tools")
	read := func() (readmodels.Tool, error) { return s.views.Tool(ctx, visibleTo(ctx), id) }
	view, err := show(lag, read, func() (readmodels.Tool, error) {
		t, revision, err := commands.Load[tool.Tool](ctx, s.handler, domain.StreamName(tool.Category, id))
		return readmodels.Tool{ToolRecord: readmodels.ToolRecord{
			ID: id, ProjectID: t.ProjectID, Version: t.Version, CreatedAt: madeAt(id), UpdatedAt: receipt.At, Revision: int64(revision),
		}, Spec: t.Spec}, err
	})
	return &Saved[readmodels.Tool]{written, view}, err
}

func (s *Server) deleteTool(ctx context.Context, in *ChangeOne) (*Saved[Gone], error) {
	receipt, err := s.handler.DeleteTool(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "tools")
	return &Saved[Gone]{written, Gone{in.ID.ID, true}}, nil
}

// TestToolInput asks for one call of a tool.
type TestToolInput struct {
	ID
	Body *ToolTest
}

// ToolTest is what the tool is called with.
type ToolTest struct {
	Input json.RawMessage `json:"input,omitempty" doc:"Arguments of the call; an empty object where absent."`
}

// ToolTested is how a call went.
type ToolTested struct {
	Success bool            `json:"success"`
	Message string          `json:"message"`
	Output  json.RawMessage `json:"output,omitempty"`
}

// toolTestTimeout stays below the 30 seconds after which clients give up.
const toolTestTimeout = 20 * time.Second

func (s *Server) testTool(ctx context.Context, in *TestToolInput) (*Plain[ToolTested], error) {
	t, err := s.views.Tool(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	if err := mayRead(ctx, "tools:write", t.ProjectID); err != nil {
		return nil, err
	}
	if s.config.TestTool == nil {
		return nil, domain.Fail(domain.Unavailable, "TOOL_TEST_UNAVAILABLE", "This node does not call tools.")
	}
	input := json.RawMessage("{}")
	if in.Body != nil && len(in.Body.Input) > 0 {
		input = in.Body.Input
	}
	bounded, cancel := context.WithTimeout(ctx, toolTestTimeout)
	defer cancel()
	output, err := s.config.TestTool(bounded, t.ID, input)
	var failure *domain.Error
	switch {
	case err == nil:
		return &Plain[ToolTested]{ToolTested{Success: true, Message: "The tool answered.", Output: output}}, nil
	case domain.KindOf(err) == domain.NotFound:
		return nil, err
	case errors.As(err, &failure):
		return &Plain[ToolTested]{ToolTested{Message: failure.Message}}, nil
	case errors.Is(err, context.DeadlineExceeded):
		return &Plain[ToolTested]{ToolTested{Message: "The tool did not answer in time."}}, nil
	default:
		s.log.InfoContext(ctx, "a tool could not be tested", "tool", t.ID, "error", err)
		return &Plain[ToolTested]{ToolTested{Message: "The tool could not be called."}}, nil
	}
}
