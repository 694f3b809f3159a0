package tool

import "github.com/sparkops/control-plane/domain"

// Category is the stream category; a tool's stream is "tool-<id>".
const Category = "tool"

// Created starts a tool at version 1. AuthSealed is its credentials object,
// encrypted under the tool's own key ("" when there are none).
type Created struct {
	ToolID     string `json:"toolId"`
	ProjectID  string `json:"projectId"`
	Spec       Spec   `json:"spec"`
	AuthSealed string `json:"authSealed,omitempty"`
}

// Updated makes a new version. AuthSealed is the whole new value, kept or new.
type Updated struct {
	Version    int    `json:"version"`
	Spec       Spec   `json:"spec"`
	AuthSealed string `json:"authSealed,omitempty"`
}

// Deleted takes the tool out of lists.
type Deleted struct{}

func (Created) EventType() string { return "ToolCreated" }
func (Updated) EventType() string { return "ToolUpdated" }
func (Deleted) EventType() string { return "ToolDeleted" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Created](r)
	domain.Register[Updated](r)
	domain.Register[Deleted](r)
}
