package agent

import (
	"encoding/json"
	"strings"

	"github.com/sparkops/control-plane/domain"
)

// Patch is a partial definition: absent fields stay as they are, null clears.
// The bounds of autoscaling can be given nested or flat.
type Patch struct {
	Name          *string                          `json:"name,omitempty"`
	Runtime       *string                          `json:"runtime,omitempty"`
	Model         *string                          `json:"model,omitempty"`
	Provider      *string                          `json:"provider,omitempty"`
	Env           *string                          `json:"env,omitempty"`
	Temperature   *float64                         `json:"temperature,omitempty"`
	Concurrency   *int                             `json:"concurrency,omitempty"`
	PromptSummary domain.Optional[string]          `json:"promptSummary,omitzero"`
	Tools         domain.Optional[[]string]        `json:"tools,omitzero"`
	Autoscale     *AutoscalePatch                  `json:"autoscale,omitempty"`
	Status        *string                          `json:"status,omitempty"`
	Metadata      domain.Optional[json.RawMessage] `json:"metadata,omitzero"`

	AutoscaleMin       *int `json:"autoscaleMin,omitempty"`
	AutoscaleMax       *int `json:"autoscaleMax,omitempty"`
	AutoscaleTargetCPU *int `json:"autoscaleTargetCpu,omitempty"`
}

// AutoscalePatch is a partial Autoscale.
type AutoscalePatch struct {
	Min       *int `json:"min,omitempty"`
	Max       *int `json:"max,omitempty"`
	TargetCPU *int `json:"targetCpu,omitempty"`
}

// Default is what a patch is laid on when an agent is created.
func Default() Spec {
	return Spec{
		Runtime: "python", Model: "gpt-4o", Provider: "openai", Env: "dev",
		Temperature: 0.7, Concurrency: 4, Tools: []string{},
		Autoscale: Autoscale{Min: 1, Max: 10, TargetCPU: 70}, Status: "active",
	}
}

// On returns the spec that results from laying the patch on s. It shares
// nothing that changes with either.
func (p Patch) On(s Spec) Spec {
	s.Name = strings.TrimSpace(domain.Or(p.Name, s.Name))
	s.Runtime = domain.Or(p.Runtime, s.Runtime)
	s.Model = strings.TrimSpace(domain.Or(p.Model, s.Model))
	s.Provider = strings.TrimSpace(domain.Or(p.Provider, s.Provider))
	s.Env = domain.Or(p.Env, s.Env)
	s.Temperature = domain.Or(p.Temperature, s.Temperature)
	s.Concurrency = domain.Or(p.Concurrency, s.Concurrency)
	s.PromptSummary = p.PromptSummary.Or(s.PromptSummary)
	s.Tools = append([]string{}, p.Tools.Or(s.Tools)...)
	nested := domain.Or(p.Autoscale, AutoscalePatch{})
	s.Autoscale.Min = domain.Or(p.AutoscaleMin, domain.Or(nested.Min, s.Autoscale.Min))
	s.Autoscale.Max = domain.Or(p.AutoscaleMax, domain.Or(nested.Max, s.Autoscale.Max))
	s.Autoscale.TargetCPU = domain.Or(p.AutoscaleTargetCPU, domain.Or(nested.TargetCPU, s.Autoscale.TargetCPU))
	s.Status = domain.Or(p.Status, s.Status)
	s.Metadata = domain.Canonical(p.Metadata.Or(s.Metadata))
	return s
}

// flat reports whether the patch gives the bounds of autoscaling in flat keys,
// so that errors name the keys the caller used.
func (p Patch) flat() bool {
	return p.AutoscaleMin != nil || p.AutoscaleMax != nil || p.AutoscaleTargetCPU != nil
}

// Check returns every rule the spec breaks.
func (s Spec) Check() error { return s.check(false) }

func (s Spec) check(flat bool) error {
	low, high, cpu := "autoscale.min", "autoscale.max", "autoscale.targetCpu"
	if flat {
		low, high, cpu = "autoscaleMin", "autoscaleMax", "autoscaleTargetCpu"
	}
	var b domain.Broken
	b.Name("name", s.Name)
	b.OneOf("runtime", s.Runtime, "python", "node")
	b.Text("model", s.Model, 1, 100)
	b.Text("provider", s.Provider, 1, 100)
	b.OneOf("env", s.Env, "dev", "staging", "prod")
	if !(s.Temperature >= 0 && s.Temperature <= 10) {
		b.Add("temperature", "must be 0 to 10")
	}
	b.Between("concurrency", s.Concurrency, 1, 100)
	b.Text("promptSummary", s.PromptSummary, 0, 20000)
	b.Strings("tools", s.Tools, 100, 100)
	b.Between(low, s.Autoscale.Min, 1, 100)
	b.Between(high, s.Autoscale.Max, 1, 100)
	if s.Autoscale.Min > s.Autoscale.Max {
		b.Add(low, "must not be above %s", high)
	}
	b.Between(cpu, s.Autoscale.TargetCPU, 1, 100)
	b.OneOf("status", s.Status, "active", "inactive")
	b.Object("metadata", s.Metadata)
	return b.Err()
}
