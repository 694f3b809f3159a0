package tool

import (
	"encoding/json"
	"strings"

	"github.com/sparkops/control-plane/domain"
)

// Patch is a partial definition: absent fields stay as they are, null clears.
type Patch struct {
	Name            *string                          `json:"name,omitempty"`
	Kind            *string                          `json:"kind,omitempty"`
	AuthType        *string                          `json:"authType,omitempty"`
	Description     domain.Optional[string]          `json:"description,omitzero"`
	RateLimitPerMin domain.Optional[int]             `json:"rateLimitPerMin,omitzero"` // 0 means none
	Provider        domain.Optional[string]          `json:"provider,omitzero"`
	Scopes          domain.Optional[[]string]        `json:"scopes,omitzero"`
	Env             *string                          `json:"env,omitempty"`
	Config          domain.Optional[json.RawMessage] `json:"config,omitzero"`
	Status          *string                          `json:"status,omitempty"`

	// AuthConfig is the object of credentials. It is sealed before it gets to
	// a command and no part of the Spec.
	AuthConfig domain.Optional[json.RawMessage] `json:"authConfig,omitzero"`
}

// Kinds and AuthTypes are the union of what clients send; a value is kept and
// answered exactly as sent.
var (
	Kinds     = []string{"api", "webhook", "database", "function", "mcp", "integration", "custom", "http", "db", "saas", "browser", "search", "storage", "builtin"}
	AuthTypes = []string{"none", "api_key", "apikey", "bearer", "oauth", "basic", "custom"}
)

// Default is what a patch is laid on when a tool is created.
func Default() Spec { return Spec{AuthType: "none", Env: "dev", Status: "active"} }

// On returns the spec that results from laying the patch on s. It shares
// nothing that changes with either.
func (p Patch) On(s Spec) Spec {
	s.Name = strings.TrimSpace(domain.Or(p.Name, s.Name))
	s.Kind = domain.Or(p.Kind, s.Kind)
	s.AuthType = domain.Or(p.AuthType, s.AuthType)
	if p.Description.Set {
		s.Description = pointer(p.Description)
	}
	if p.RateLimitPerMin.Set {
		s.RateLimitPerMin = pointer(p.RateLimitPerMin)
	}
	if s.RateLimitPerMin != nil && *s.RateLimitPerMin == 0 {
		s.RateLimitPerMin = nil
	}
	s.Provider = strings.TrimSpace(p.Provider.Or(s.Provider))
	s.Scopes = append([]string(nil), p.Scopes.Or(s.Scopes)...)
	s.Env = domain.Or(p.Env, s.Env)
	s.Config = domain.Canonical(p.Config.Or(s.Config))
	s.Status = domain.Or(p.Status, s.Status)
	return s
}

func pointer[T any](o domain.Optional[T]) *T {
	if o.Null {
		return nil
	}
	return &o.Value
}

// Check returns every rule the spec breaks.
func (s Spec) Check() error { return domain.InvalidFields(s.broken()) }

func (s Spec) broken() domain.Broken {
	var b domain.Broken
	b.Name("name", s.Name)
	b.OneOf("kind", s.Kind, Kinds...)
	b.OneOf("authType", s.AuthType, AuthTypes...)
	if s.Description != nil {
		b.Text("description", *s.Description, 0, 4000)
	}
	if s.RateLimitPerMin != nil {
		b.Between("rateLimitPerMin", *s.RateLimitPerMin, 0, 1_000_000)
	}
	b.Text("provider", s.Provider, 0, 100)
	b.Strings("scopes", s.Scopes, 100, 200)
	b.OneOf("env", s.Env, "dev", "staging", "prod")
	b.Object("config", s.Config)
	b.OneOf("status", s.Status, "active", "inactive")
	return b
}

// Check returns every rule a tool made by the patch would break, its
// credentials included.
func (p Patch) Check(present Spec) error {
	b := p.On(present).broken()
	b.Object("authConfig", domain.Canonical(p.AuthConfig.Value))
	return b.Err()
}
