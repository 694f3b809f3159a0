package tool

import "encoding/json"

// Spec is the definition of a tool, used alike by command, event, view, run
// plan and API body. It holds no secret: credentials travel sealed beside it.
type Spec struct {
	Name            string          `json:"name"`
	Kind            string          `json:"kind"`     // stored and answered exactly as sent
	AuthType        string          `json:"authType"` // stored and answered exactly as sent
	Description     *string         `json:"description"`
	RateLimitPerMin *int            `json:"rateLimitPerMin"` // nil: unlimited
	Provider        string          `json:"provider,omitempty"`
	Scopes          []string        `json:"scopes,omitempty"`
	Env             string          `json:"env"`
	Config          json.RawMessage `json:"config,omitempty"` // free-form object; what an http or builtin tool calls
	Status          string          `json:"status"`           // active, inactive
}
