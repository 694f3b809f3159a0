package agent

import (
	"cmp"
	"fmt"
	"reflect"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Agent is the fold of an agent's stream.
type Agent struct {
	ID        string
	ProjectID string
	Version   int // of Spec, from 1
	Spec      Spec
	Deleted   bool
}

// Exists reports whether there is such an agent, not deleted.
func (a Agent) Exists() bool { return a.ID != "" && !a.Deleted }

// Evolve returns the state after an event.
func (a Agent) Evolve(event domain.Event) Agent {
	switch e := event.(type) {
	case Created:
		a.ID, a.ProjectID, a.Version, a.Spec = e.AgentID, e.ProjectID, 1, e.Spec
	case Updated:
		a.Version, a.Spec = e.Version, e.Spec
	case Deleted:
		a.Deleted = true
	default:
		panic(fmt.Sprintf("agent: no rule for %T", event))
	}
	return a
}

// Create starts an agent in a project.
type Create struct {
	AgentID   string
	ProjectID string
	Patch     Patch
}

func (c Create) Stream() string { return domain.StreamName(Category, c.AgentID) }
func (c Create) CreatesStream() {}

func (c Create) Needs(a Agent) domain.Need {
	return domain.Need{Permission: "agents:write", Project: cmp.Or(a.ProjectID, c.ProjectID)}
}

func (c Create) Decide(a Agent, _ time.Time) ([]domain.Event, error) {
	if a.ID != "" {
		return nil, domain.Fail(domain.Conflict, "AGENT_EXISTS", "The agent exists already.")
	}
	spec := c.Patch.On(Default())
	if err := spec.check(c.Patch.flat()); err != nil {
		return nil, err
	}
	return []domain.Event{Created{AgentID: c.AgentID, ProjectID: c.ProjectID, Spec: spec}}, nil
}

// Update changes some fields, which makes a new version.
type Update struct {
	AgentID string
	Patch   Patch
}

func (c Update) Stream() string { return domain.StreamName(Category, c.AgentID) }

func (c Update) Needs(a Agent) domain.Need {
	return domain.NeedIn("agents:write", a.ProjectID, a.Exists())
}

func (c Update) Decide(a Agent, _ time.Time) ([]domain.Event, error) {
	if !a.Exists() {
		return nil, domain.Missing()
	}
	spec := c.Patch.On(a.Spec)
	if err := spec.check(c.Patch.flat()); err != nil {
		return nil, err
	}
	if reflect.DeepEqual(spec, a.Spec) {
		return nil, nil
	}
	return []domain.Event{Updated{Version: a.Version + 1, Spec: spec}}, nil
}

// Delete takes the agent out of lists.
type Delete struct{ AgentID string }

func (c Delete) Stream() string { return domain.StreamName(Category, c.AgentID) }

func (c Delete) Needs(a Agent) domain.Need {
	return domain.NeedIn("agents:delete", a.ProjectID, a.Exists())
}

func (c Delete) Decide(a Agent, _ time.Time) ([]domain.Event, error) {
	if !a.Exists() {
		return nil, domain.Missing()
	}
	return []domain.Event{Deleted{}}, nil
}
