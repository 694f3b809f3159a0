package project

import "github.com/sparkops/control-plane/domain"

// Category is the stream category; a project's stream is "project-<id>".
const Category = "project"

// Created starts a project; its creator owns it.
type Created struct {
	ProjectID   string `json:"projectId"`
	OwnerUserID string `json:"ownerUserId"`
	Slug        string `json:"slug"` // unique in the system
	Spec        Spec   `json:"spec"`
}

// Updated replaces the definition.
type Updated struct {
	Spec Spec `json:"spec"`
}

// Deleted takes the project and everything in it out of lists; its history stays.
type Deleted struct{}

// MemberAdded, MemberRoleChanged and MemberRemoved keep the members. The
// owner is a member from creation, with the role owner.
type MemberAdded struct {
	UserID string      `json:"userId"`
	Role   domain.Role `json:"role"`
}
type MemberRoleChanged struct {
	UserID string      `json:"userId"`
	Role   domain.Role `json:"role"`
}
type MemberRemoved struct {
	UserID string `json:"userId"`
}

func (Created) EventType() string           { return "ProjectCreated" }
func (Updated) EventType() string           { return "ProjectUpdated" }
func (Deleted) EventType() string           { return "ProjectDeleted" }
func (MemberAdded) EventType() string       { return "ProjectMemberAdded" }
func (MemberRoleChanged) EventType() string { return "ProjectMemberRoleChanged" }
func (MemberRemoved) EventType() string     { return "ProjectMemberRemoved" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Created](r)
	domain.Register[Updated](r)
	domain.Register[Deleted](r)
	domain.Register[MemberAdded](r)
	domain.Register[MemberRoleChanged](r)
	domain.Register[MemberRemoved](r)
}
