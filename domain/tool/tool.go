package tool

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Tool is the fold of a tool's stream.
type Tool struct {
	ID         string
	ProjectID  string
	Version    int // of Spec and AuthSealed, from 1
	Spec       Spec
	AuthSealed string // "" without credentials
	Deleted    bool
}

// Exists reports whether there is such a tool, not deleted.
func (t Tool) Exists() bool { return t.ID != "" && !t.Deleted }

// Subject names the key that seals a tool's credentials.
func Subject(toolID string) string { return "tool-" + toolID }

// Evolve returns the state after an event.
func (t Tool) Evolve(event domain.Event) Tool {
	switch e := event.(type) {
	case Created:
		t.ID, t.ProjectID, t.Version, t.Spec, t.AuthSealed = e.ToolID, e.ProjectID, 1, e.Spec, e.AuthSealed
	case Updated:
		t.Version, t.Spec, t.AuthSealed = e.Version, e.Spec, e.AuthSealed
	case Deleted:
		t.Deleted = true
	default:
		panic(fmt.Sprintf("tool: no rule for %T", event))
	}
	return t
}

// Create starts a tool in a project.
type Create struct {
	ToolID     string
	ProjectID  string
	Patch      Patch
	AuthSealed string // what became of Patch.AuthConfig
}

func (c Create) Stream() string { return domain.StreamName(Category, c.ToolID) }
func (c Create) CreatesStream() {}

func (c Create) Needs(t Tool) domain.Need {
	return domain.Need{Permission: "tools:write", Project: cmp.Or(t.ProjectID, c.ProjectID)}
}

func (c Create) Decide(t Tool, _ time.Time) ([]domain.Event, error) {
	if t.ID != "" {
		return nil, domain.Fail(domain.Conflict, "TOOL_EXISTS", "The tool exists already.")
	}
	if err := c.Patch.Check(Default()); err != nil {
		return nil, err
	}
	return []domain.Event{Created{
		ToolID: c.ToolID, ProjectID: c.ProjectID, Spec: c.Patch.On(Default()), AuthSealed: c.AuthSealed,
	}}, nil
}

// Update changes some fields, which makes a new version.
type Update struct {
	ToolID     string
	Patch      Patch
	AuthSealed *string // what became of Patch.AuthConfig; nil: unchanged, "": cleared
}

func (c Update) Stream() string { return domain.StreamName(Category, c.ToolID) }

func (c Update) Needs(t Tool) domain.Need {
	return domain.NeedIn("tools:write", t.ProjectID, t.Exists())
}

func (c Update) Decide(t Tool, _ time.Time) ([]domain.Event, error) {
	if !t.Exists() {
		return nil, domain.Missing()
	}
	if err := c.Patch.Check(t.Spec); err != nil {
		return nil, err
	}
	spec, auth := c.Patch.On(t.Spec), domain.Or(c.AuthSealed, t.AuthSealed)
	if c.AuthSealed == nil && t.AuthSealed != "" && host(spec) != host(t.Spec) {
		return nil, domain.InvalidFields([]domain.Field{{
			Field: "authConfig", Message: "must be sent again, or null: the stored credentials belong to the host that config.url named before",
		}})
	}
	if auth == t.AuthSealed && reflect.DeepEqual(spec, t.Spec) {
		return nil, nil
	}
	return []domain.Event{Updated{Version: t.Version + 1, Spec: spec, AuthSealed: auth}}, nil
}

// host returns the host a tool's credentials are bound to: that of its
// config.url, with the port. "" where there is none.
func host(s Spec) string {
	var config struct {
		URL string `json:"url"`
	}
	if json.Unmarshal(s.Config, &config) != nil {
		return ""
	}
	u, err := url.Parse(config.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// Delete takes the tool out of lists.
type Delete struct{ ToolID string }

func (c Delete) Stream() string { return domain.StreamName(Category, c.ToolID) }

func (c Delete) Needs(t Tool) domain.Need {
	return domain.NeedIn("tools:delete", t.ProjectID, t.Exists())
}

func (c Delete) Decide(t Tool, _ time.Time) ([]domain.Event, error) {
	if !t.Exists() {
		return nil, domain.Missing()
	}
	return []domain.Event{Deleted{}}, nil
}
