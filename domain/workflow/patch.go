package workflow

import (
	"strings"

	"github.com/sparkops/control-plane/domain"
)

// Patch is a partial definition: absent fields stay as they are, null clears.
// Definition is the graph; a changed one makes a new version.
type Patch struct {
	Name                *string                   `json:"name,omitempty"`
	Description         domain.Optional[string]   `json:"description,omitzero"`
	Tags                domain.Optional[[]string] `json:"tags,omitzero"`
	Status              *string                   `json:"status,omitempty"`
	TriggerType         *string                   `json:"triggerType,omitempty"`
	TimeoutSeconds      *int                      `json:"timeoutSeconds,omitempty"`
	MaxRetries          *int                      `json:"maxRetries,omitempty"`
	EnableApproval      *bool                     `json:"enableApproval,omitempty"`
	EnableNotifications *bool                     `json:"enableNotifications,omitempty"`
	Definition          *Definition               `json:"definition,omitempty"`
}

// Default is what a patch is laid on when a workflow is created.
func Default() Spec {
	return Spec{
		Tags: []string{}, Status: "draft", TriggerType: "manual",
		TimeoutSeconds: 3600, MaxRetries: 3, EnableNotifications: true,
	}
}

// On returns the spec that results from laying the patch on s. It shares
// nothing that changes with either.
func (p Patch) On(s Spec) Spec {
	s.Name = strings.TrimSpace(domain.Or(p.Name, s.Name))
	s.Description = p.Description.Or(s.Description)
	s.Tags = append([]string{}, p.Tags.Or(s.Tags)...)
	for i, tag := range s.Tags {
		s.Tags[i] = strings.TrimSpace(tag)
	}
	s.Status = domain.Or(p.Status, s.Status)
	s.TriggerType = domain.Or(p.TriggerType, s.TriggerType)
	s.TimeoutSeconds = domain.Or(p.TimeoutSeconds, s.TimeoutSeconds)
	s.MaxRetries = domain.Or(p.MaxRetries, s.MaxRetries)
	s.EnableApproval = domain.Or(p.EnableApproval, s.EnableApproval)
	s.EnableNotifications = domain.Or(p.EnableNotifications, s.EnableNotifications)
	return s
}

// Check returns every rule the spec breaks.
func (s Spec) Check() error { return s.broken().Err() }

func (s Spec) broken() domain.Broken {
	var b domain.Broken
	b.Name("name", s.Name)
	b.Text("description", s.Description, 0, 4000)
	b.Strings("tags", s.Tags, 50, 100)
	b.OneOf("status", s.Status, "draft", "active", "inactive", "archived")
	b.OneOf("triggerType", s.TriggerType, "manual", "scheduled", "event", "api", "webhook")
	b.Between("timeoutSeconds", s.TimeoutSeconds, 60, 86400)
	b.Between("maxRetries", s.MaxRetries, 0, 10)
	return b
}

// check returns every rule broken by a spec and, where one is given, by a
// graph.
func check(s Spec, def *Definition, x Expressions) error {
	b := s.broken()
	if def != nil {
		b = append(b, CheckDefinition(*def, x)...)
	}
	return b.Err()
}
