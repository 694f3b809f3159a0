package http

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/readmodels"
)

func (s *Server) agentRoutes() {
	register(s, operation{
		id: "list-agents", method: http.MethodGet, path: "/agents", tag: "agents", reads: []string{"agents"},
		summary: "List agents, newest first", permission: "agents:list",
	}, s.listAgents)
	register(s, operation{
		id: "get-agent", method: http.MethodGet, path: "/agents/{id}", tag: "agents", reads: []string{"agents"},
		summary: "One agent", permission: "agents:read",
	}, s.getAgent)
	register(s, operation{
		id: "create-agent", method: http.MethodPost, path: "/agents", tag: "agents", status: http.StatusCreated,
		summary: "Make an agent", permission: "agents:write",
	}, s.createAgent)
	register(s, operation{
		id: "update-agent", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/agents/{id}", tag: "agents",
		summary: "Change some fields of an agent, which makes a new version", permission: "agents:write",
	}, s.updateAgent)
	register(s, operation{
		id: "delete-agent", method: http.MethodDelete, path: "/agents/{id}", tag: "agents",
		summary: "Delete an agent; its active runs are cancelled, its history stays", permission: "agents:delete",
	}, s.deleteAgent)
	register(s, operation{
		id: "get-agent-health", method: http.MethodGet, path: "/agents/{id}/health", tag: "agents", reads: []string{"agents", "runs"},
		summary: "Health of an agent and figures of its runs", permission: "agents:read",
	}, s.agentHealth)
}

// AgentsInput selects agents.
type AgentsInput struct {
	Paging
	ProjectID string `query:"project_id"`
	Env       string `query:"env" enum:"dev,staging,prod"`
	Health    string `query:"health" enum:"healthy,degraded,unhealthy"`
	Status    string `query:"status" enum:"active,inactive"`
	Search    string `query:"search" maxLength:"255" doc:"Part of the name."`
}

func (s *Server) listAgents(ctx context.Context, in *AgentsInput) (*Plain[List[readmodels.Agent]], error) {
	filter := readmodels.AgentFilter{ProjectID: in.ProjectID, Env: in.Env, Health: in.Health, Status: in.Status, Search: in.Search}
	found, err := s.views.Agents(ctx, visibleTo(ctx), filter, in.page())
	if err != nil {
		return nil, err
	}
	return listOf(found, in.Paging), nil
}

func (s *Server) getAgent(ctx context.Context, in *ReadOne) (*Found[readmodels.Agent], error) {
	a, err := s.views.Agent(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	return &Found[readmodels.Agent]{etag(a.Revision), a}, mayRead(ctx, "agents:read", a.ProjectID)
}

// CreateAgentInput asks for an agent.
type CreateAgentInput struct {
	Writing
	Body NewAgent
}

// NewAgent is an agent in a project. What is absent gets its default.
type NewAgent struct {
	ProjectID string `json:"projectId"`
	agent.Patch
}

func (s *Server) createAgent(ctx context.Context, in *CreateAgentInput) (*Saved[readmodels.Agent], error) {
	id, receipt, err := s.handler.CreateAgent(ctx, in.Body.ProjectID, in.Body.Patch)
	if err != nil {
		return nil, err
	}
	saved, err := s.savedAgent(ctx, id, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/agents/" + id
	return saved, nil
}

// UpdateAgentInput changes an agent.
type UpdateAgentInput struct {
	Writing
	ID
	Body agent.Patch
}

func (s *Server) updateAgent(ctx context.Context, in *UpdateAgentInput) (*Saved[readmodels.Agent], error) {
	receipt, err := s.handler.UpdateAgent(ctx, in.ID.ID, in.Body)
	if err != nil {
		return nil, err
	}
	return s.savedAgent(ctx, in.ID.ID, receipt)
}

func (s *Server) savedAgent(ctx context.Context, id string, receipt commands.Receipt) (*Saved[readmodels.Agent], error) {
	written, lag := s.settled(ctx, receipt, "agents")
	read := func() (readmodels.Agent, error) { return s.views.Agent(ctx, visibleTo(ctx), id) }
	view, err := show(lag, read, func() (readmodels.Agent, error) {
		a, revision, err := commands.Load[agent.Agent](ctx, s.handler, domain.StreamName(agent.Category, id))
		made := madeAt(id)
		if len(a.Spec.Metadata) == 0 {
			a.Spec.Metadata = json.RawMessage("{}")
		}
		return readmodels.Agent{AgentRecord: readmodels.AgentRecord{
			ID: id, ProjectID: a.ProjectID, Version: a.Version, Health: "healthy", LastHeartbeat: made,
			CreatedAt: made, UpdatedAt: receipt.At, Revision: int64(revision),
		}, Spec: a.Spec}, err
	})
	return &Saved[readmodels.Agent]{written, view}, err
}

func (s *Server) deleteAgent(ctx context.Context, in *ChangeOne) (*Saved[Gone], error) {
	receipt, err := s.handler.DeleteAgent(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "agents")
	return &Saved[Gone]{written, Gone{in.ID.ID, true}}, nil
}

// AgentHealth is how an agent is doing.
type AgentHealth struct {
	Health        string                  `json:"health" doc:"healthy, degraded or unhealthy."`
	LastHeartbeat time.Time               `json:"lastHeartbeat"`
	Metrics       readmodels.AgentMetrics `json:"metrics"`
}

func (s *Server) agentHealth(ctx context.Context, in *ReadOne) (*Plain[AgentHealth], error) {
	a, err := s.views.Agent(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	if err := mayRead(ctx, "agents:read", a.ProjectID); err != nil {
		return nil, err
	}
	metrics, err := s.views.AgentMetrics(ctx, visibleTo(ctx), in.ID.ID)
	return &Plain[AgentHealth]{AgentHealth{Health: a.Health, LastHeartbeat: a.LastHeartbeat, Metrics: metrics}}, err
}
