package workflow

// Spec is the definition of a workflow but for its graph, which is versioned
// by itself.
type Spec struct {
	Name                string   `json:"name"`
	Description         string   `json:"description"`
	Tags                []string `json:"tags"`           // never nil
	Status              string   `json:"status"`         // draft, active, inactive, archived
	TriggerType         string   `json:"triggerType"`    // manual, scheduled, event, api, webhook
	TimeoutSeconds      int      `json:"timeoutSeconds"` // 60 to 86400, default 3600: bounds a whole run
	MaxRetries          int      `json:"maxRetries"`     // 0 to 10, default 3: default of a node's retry.maxAttempts is this plus one
	EnableApproval      bool     `json:"enableApproval"`
	EnableNotifications bool     `json:"enableNotifications"`
}

// VersionStatus is the life of one version: draft, released, deprecated.
type VersionStatus string

// The states of a version. A released one is immutable for ever.
const (
	Draft      VersionStatus = "draft"
	Released   VersionStatus = "released"
	Deprecated VersionStatus = "deprecated"
)
