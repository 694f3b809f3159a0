package workflow

import "github.com/sparkops/control-plane/domain"

// Category is the stream category; a workflow's stream is "workflow-<id>".
const Category = "workflow"

// Created starts a workflow with version 1 as a draft.
type Created struct {
	WorkflowID   string     `json:"workflowId"`
	ProjectID    string     `json:"projectId"`
	Spec         Spec       `json:"spec"`
	Definition   Definition `json:"definition"`
	AuthorUserID string     `json:"authorUserId"`
}

// Updated replaces everything but the graph.
type Updated struct {
	Spec Spec `json:"spec"`
}

// VersionAdded makes a new draft version of the graph.
type VersionAdded struct {
	Version      int        `json:"version"`
	Definition   Definition `json:"definition"`
	AuthorUserID string     `json:"authorUserId"`
	Note         string     `json:"note,omitempty"`
}

// VersionReleased makes a version the one new runs take; VersionDeprecated
// takes it out of use for new runs.
type VersionReleased struct {
	Version int `json:"version"`
}
type VersionDeprecated struct {
	Version int `json:"version"`
}

// Deleted takes the workflow out of lists; its active runs are cancelled.
type Deleted struct{}

func (Created) EventType() string           { return "WorkflowCreated" }
func (Updated) EventType() string           { return "WorkflowUpdated" }
func (VersionAdded) EventType() string      { return "WorkflowVersionAdded" }
func (VersionReleased) EventType() string   { return "WorkflowVersionReleased" }
func (VersionDeprecated) EventType() string { return "WorkflowVersionDeprecated" }
func (Deleted) EventType() string           { return "WorkflowDeleted" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Created](r)
	domain.Register[Updated](r)
	domain.Register[VersionAdded](r)
	domain.Register[VersionReleased](r)
	domain.Register[VersionDeprecated](r)
	domain.Register[Deleted](r)
}
