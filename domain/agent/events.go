package agent

import "github.com/sparkops/control-plane/domain"

// Category is the stream category; an agent's stream is "agent-<id>".
const Category = "agent"

// Created starts an agent at version 1.
type Created struct {
	AgentID   string `json:"agentId"`
	ProjectID string `json:"projectId"`
	Spec      Spec   `json:"spec"`
}

// Updated makes a new version with the whole new definition.
type Updated struct {
	Version int  `json:"version"`
	Spec    Spec `json:"spec"`
}

// Deleted takes the agent out of lists; its active runs are cancelled.
type Deleted struct{}

func (Created) EventType() string { return "AgentCreated" }
func (Updated) EventType() string { return "AgentUpdated" }
func (Deleted) EventType() string { return "AgentDeleted" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Created](r)
	domain.Register[Updated](r)
	domain.Register[Deleted](r)
}
