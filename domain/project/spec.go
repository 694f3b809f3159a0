package project

import "encoding/json"

// Spec is the definition of a project, used alike by command, event, view and
// API body.
type Spec struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Status      string          `json:"status"`             // active, archived, draft
	Settings    json.RawMessage `json:"settings,omitempty"` // free-form object
	Metadata    json.RawMessage `json:"metadata,omitempty"` // free-form object
}
