package project

import (
	"encoding/json"
	"strings"

	"github.com/sparkops/control-plane/domain"
)

// The states of a project.
const (
	Active   = "active"
	Archived = "archived"
	Draft    = "draft"
)

// Patch is a partial definition: absent fields stay as they are, null clears.
type Patch struct {
	Name        *string                          `json:"name,omitempty"`
	Description domain.Optional[string]          `json:"description,omitzero"`
	Status      *string                          `json:"status,omitempty"`
	Settings    domain.Optional[json.RawMessage] `json:"settings,omitzero"`
	Metadata    domain.Optional[json.RawMessage] `json:"metadata,omitzero"`
}

// Default is what a patch is laid on when a project is created.
func Default() Spec { return Spec{Status: Active} }

// On returns the spec that results from laying the patch on s.
func (p Patch) On(s Spec) Spec {
	s.Name = strings.TrimSpace(domain.Or(p.Name, s.Name))
	s.Description = p.Description.Or(s.Description)
	s.Status = domain.Or(p.Status, s.Status)
	s.Settings = domain.Canonical(p.Settings.Or(s.Settings))
	s.Metadata = domain.Canonical(p.Metadata.Or(s.Metadata))
	return s
}

// Check returns every rule the spec breaks.
func (s Spec) Check() error {
	var b domain.Broken
	b.Name("name", s.Name)
	b.Text("description", s.Description, 0, 4000)
	b.OneOf("status", s.Status, Active, Archived, Draft)
	b.Object("settings", s.Settings)
	b.Object("metadata", s.Metadata)
	return b.Err()
}
