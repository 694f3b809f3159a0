package workflow

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Workflow is the fold of a workflow's stream.
type Workflow struct {
	ID        string
	ProjectID string
	Spec      Spec
	Versions  []Version // version n is Versions[n-1]
	Deleted   bool
}

// Version is one immutable version of the graph.
type Version struct {
	Status     VersionStatus
	Definition Definition
}

// Exists reports whether there is such a workflow, not deleted.
func (w Workflow) Exists() bool { return w.ID != "" && !w.Deleted }

// Runnable returns the version a new run takes: the newest released one, else
// the newest draft. It is 0 when every version is deprecated.
func (w Workflow) Runnable() int {
	for _, status := range []VersionStatus{Released, Draft} {
		for i, v := range slices.Backward(w.Versions) {
			if v.Status == status {
				return i + 1
			}
		}
	}
	return 0
}

// Version returns version n; ok is false where there is none.
func (w Workflow) Version(n int) (v Version, ok bool) {
	if n < 1 || n > len(w.Versions) {
		return Version{}, false
	}
	return w.Versions[n-1], true
}

// Evolve returns the state after an event.
func (w Workflow) Evolve(event domain.Event) Workflow {
	switch e := event.(type) {
	case Created:
		w.ID, w.ProjectID, w.Spec = e.WorkflowID, e.ProjectID, e.Spec
		w.Versions = []Version{{Status: Draft, Definition: e.Definition}}
	case Updated:
		w.Spec = e.Spec
	case VersionAdded:
		w.Versions = append(slices.Clone(w.Versions), Version{Status: Draft, Definition: e.Definition})
	case VersionReleased:
		w.Versions = withStatus(w.Versions, e.Version, Released)
	case VersionDeprecated:
		w.Versions = withStatus(w.Versions, e.Version, Deprecated)
	case Deleted:
		w.Deleted = true
	default:
		panic(fmt.Sprintf("workflow: no rule for %T", event))
	}
	return w
}

func withStatus(versions []Version, n int, status VersionStatus) []Version {
	next := slices.Clone(versions)
	if n >= 1 && n <= len(next) {
		next[n-1].Status = status
	}
	return next
}

// canonical returns the graph as it comes back from the log, so that a graph
// compares the same before and after storing.
func canonical(def Definition) Definition {
	raw, err := json.Marshal(def)
	if err != nil {
		return def
	}
	var stored Definition
	if err := json.Unmarshal(raw, &stored); err != nil {
		return def
	}
	return stored
}

func sameGraph(a, b Definition) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Create starts a workflow in a project, with version 1 as a draft.
type Create struct {
	WorkflowID   string
	ProjectID    string
	Patch        Patch
	AuthorUserID string
	Expressions  Expressions
}

func (c Create) Stream() string { return domain.StreamName(Category, c.WorkflowID) }
func (c Create) CreatesStream() {}

func (c Create) Needs(w Workflow) domain.Need {
	return domain.Need{Permission: "workflows:write", Project: cmp.Or(w.ProjectID, c.ProjectID)}
}

func (c Create) Decide(w Workflow, _ time.Time) ([]domain.Event, error) {
	if w.ID != "" {
		return nil, domain.Fail(domain.Conflict, "WORKFLOW_EXISTS", "The workflow exists already.")
	}
	spec, def := c.Patch.On(Default()), domain.Or(c.Patch.Definition, Definition{})
	if err := check(spec, &def, c.Expressions); err != nil {
		return nil, err
	}
	return []domain.Event{Created{
		WorkflowID: c.WorkflowID, ProjectID: c.ProjectID, Spec: spec, Definition: canonical(def), AuthorUserID: c.AuthorUserID,
	}}, nil
}

// Update changes some fields. A graph that differs from the newest version's
// makes a new draft version; nothing else does.
type Update struct {
	WorkflowID   string
	Patch        Patch
	AuthorUserID string
	Expressions  Expressions
}

func (c Update) Stream() string               { return domain.StreamName(Category, c.WorkflowID) }
func (c Update) Needs(w Workflow) domain.Need { return writeNeed(w) }

func (c Update) Decide(w Workflow, _ time.Time) ([]domain.Event, error) {
	if !w.Exists() {
		return nil, domain.Missing()
	}
	spec := c.Patch.On(w.Spec)
	if err := check(spec, c.Patch.Definition, c.Expressions); err != nil {
		return nil, err
	}
	var events []domain.Event
	if !reflect.DeepEqual(spec, w.Spec) {
		events = append(events, Updated{Spec: spec})
	}
	if def := c.Patch.Definition; def != nil && !sameGraph(canonical(*def), w.newest().Definition) {
		events = append(events, VersionAdded{
			Version: len(w.Versions) + 1, Definition: canonical(*def), AuthorUserID: c.AuthorUserID,
		})
	}
	return events, nil
}

func (w Workflow) newest() Version { return w.Versions[len(w.Versions)-1] }

func writeNeed(w Workflow) domain.Need {
	return domain.NeedIn("workflows:write", w.ProjectID, w.Exists())
}

// AddVersion makes a new version, of the newest one's graph where none is
// given, and releases it at once where that is asked for.
type AddVersion struct {
	WorkflowID   string
	Definition   *Definition
	Note         string
	Status       VersionStatus // draft (where absent) or released
	AuthorUserID string
	Expressions  Expressions
}

func (c AddVersion) Stream() string               { return domain.StreamName(Category, c.WorkflowID) }
func (c AddVersion) Needs(w Workflow) domain.Need { return writeNeed(w) }

func (c AddVersion) Decide(w Workflow, _ time.Time) ([]domain.Event, error) {
	if !w.Exists() {
		return nil, domain.Missing()
	}
	var b domain.Broken
	b.Text("note", c.Note, 0, 2000)
	b.OneOf("status", cmp.Or(string(c.Status), string(Draft)), string(Draft), string(Released))
	if c.Definition != nil {
		b = append(b, CheckDefinition(*c.Definition, c.Expressions)...)
	}
	if err := b.Err(); err != nil {
		return nil, err
	}
	n, def := len(w.Versions)+1, w.newest().Definition
	if c.Definition != nil {
		def = canonical(*c.Definition)
	}
	events := []domain.Event{VersionAdded{Version: n, Definition: def, AuthorUserID: c.AuthorUserID, Note: c.Note}}
	if c.Status == Released {
		events = append(events, VersionReleased{Version: n})
	}
	return events, nil
}

// Release makes a version one that new runs take. Allowed for drafts, and for
// deprecated versions that are to come back.
type Release struct {
	WorkflowID string
	Version    int
}

func (c Release) Stream() string               { return domain.StreamName(Category, c.WorkflowID) }
func (c Release) Needs(w Workflow) domain.Need { return writeNeed(w) }

func (c Release) Decide(w Workflow, _ time.Time) ([]domain.Event, error) {
	version, ok := w.Version(c.Version)
	switch {
	case !w.Exists() || !ok:
		return nil, domain.Missing()
	case version.Status == Released:
		return nil, nil
	default:
		return []domain.Event{VersionReleased{Version: c.Version}}, nil
	}
}

// Deprecate takes a version out of use for new runs. Allowed for drafts and
// released versions.
type Deprecate struct {
	WorkflowID string
	Version    int
}

func (c Deprecate) Stream() string               { return domain.StreamName(Category, c.WorkflowID) }
func (c Deprecate) Needs(w Workflow) domain.Need { return writeNeed(w) }

func (c Deprecate) Decide(w Workflow, _ time.Time) ([]domain.Event, error) {
	version, ok := w.Version(c.Version)
	switch {
	case !w.Exists() || !ok:
		return nil, domain.Missing()
	case version.Status == Deprecated:
		return nil, nil
	default:
		return []domain.Event{VersionDeprecated{Version: c.Version}}, nil
	}
}

// Delete takes the workflow out of lists.
type Delete struct{ WorkflowID string }

func (c Delete) Stream() string { return domain.StreamName(Category, c.WorkflowID) }

func (c Delete) Needs(w Workflow) domain.Need {
	return domain.NeedIn("workflows:delete", w.ProjectID, w.Exists())
}

func (c Delete) Decide(w Workflow, _ time.Time) ([]domain.Event, error) {
	if !w.Exists() {
		return nil, domain.Missing()
	}
	return []domain.Event{Deleted{}}, nil
}
