package agent

import "encoding/json"

// Spec is the definition of an agent, used alike by command, event, view, run
// plan and API body. Every change of it makes a new immutable version.
type Spec struct {
	Name          string          `json:"name"`
	Runtime       string          `json:"runtime"`  // python, node
	Model         string          `json:"model"`    // free text, e.g. gpt-4o
	Provider      string          `json:"provider"` // free text, e.g. openai
	Env           string          `json:"env"`      // dev, staging, prod
	Temperature   float64         `json:"temperature"`
	Concurrency   int             `json:"concurrency"` // 1 to 100
	PromptSummary string          `json:"promptSummary"`
	Tools         []string        `json:"tools"` // tool ids, never nil
	Autoscale     Autoscale       `json:"autoscale"`
	Status        string          `json:"status"` // active, inactive
	Metadata      json.RawMessage `json:"metadata,omitempty"`
}

// Autoscale bounds the number of instances; TargetCPU is in percent.
type Autoscale struct {
	Min       int `json:"min"`
	Max       int `json:"max"`
	TargetCPU int `json:"targetCpu"`
}
