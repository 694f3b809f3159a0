package projections

import (
	"embed"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

// Projection is one set of tables and how events change them. Its name is also
// the start of its schemas' names.
type Projection struct {
	Name       string
	Version    int      // of the tables and of what events do to them; raise it with either
	Categories []string // of the events it follows
	Schema     string   // DDL, run with the new schema as search_path
	New        func() Applier
}

// Applier queues the SQL of the events of one batch after the other. It is used
// by one goroutine.
type Applier interface {
	// Apply takes the next event. An event of a category of the projection that
	// it knows nothing of is an error (errUnhandled), not silence.
	Apply(b *pgx.Batch, r eventstore.Recorded) error
	// Flush queues what Apply held back, at the end of the batch.
	Flush(b *pgx.Batch)
}

// each is an Applier that queues the SQL of an event at once.
type each func(*pgx.Batch, eventstore.Recorded) error

func (f each) Apply(b *pgx.Batch, r eventstore.Recorded) error { return f(b, r) }
func (f each) Flush(*pgx.Batch)                                {}

// eachEvent makes the New of projections that need no folding.
func eachEvent(f each) func() Applier { return func() Applier { return f } }

//go:embed sql/*.sql
var schemas embed.FS

func ddl(name string) string {
	text, err := schemas.ReadFile("sql/" + name + ".sql")
	if err != nil {
		panic("projections: " + err.Error()) // embedded when the program was built
	}
	return string(text)
}

// All returns the projections of this program, by name.
func All() []Projection {
	all := []Projection{
		{Name: "accounts", Categories: []string{user.Category, session.Category, apikey.Category}, New: eachEvent(applyAccount)},
		{Name: "agents", Categories: []string{agent.Category, project.Category}, New: eachEvent(applyAgent)},
		{Name: "projects", Categories: []string{project.Category}, New: eachEvent(applyProject)},
		{Name: "runs", Categories: []string{run.Category, project.Category}, New: newRunsFold},
		{Name: "tools", Categories: []string{tool.Category, project.Category}, New: eachEvent(applyTool)},
		{Name: "workflows", Categories: []string{workflow.Category, project.Category}, New: eachEvent(applyWorkflow)},
	}
	for i := range all {
		all[i].Version, all[i].Schema = readmodels.Versions[all[i].Name], ddl(all[i].Name)
	}
	return all
}

// errUnhandled says that a projection has no rule for an event.
var errUnhandled = errors.New("the projection has no rule for this event")

func unhandled(r eventstore.Recorded) error {
	return fmt.Errorf("%w: %T", errUnhandled, r.Event)
}

// registers lists the events of each category a projection can follow.
var registers = map[string]func(*domain.Registry){
	agent.Category:    agent.Register,
	apikey.Category:   apikey.Register,
	project.Category:  project.Register,
	run.Category:      run.Register,
	session.Category:  session.Register,
	tool.Category:     tool.Register,
	user.Category:     user.Register,
	workflow.Category: workflow.Register,
}

// Check reports a projection that has no rule for an event of its categories,
// not even one that ignores it. Runner refuses to start then: a new event
// cannot be forgotten.
func Check(all []Projection) error {
	for _, p := range all {
		if p.Version < 1 {
			return fmt.Errorf("projection %s: its version is missing in readmodels.Versions", p.Name)
		}
		for _, category := range p.Categories {
			register, known := registers[category]
			if !known {
				return fmt.Errorf("projection %s: nobody knows the events of category %q", p.Name, category)
			}
			registry := domain.NewRegistry()
			register(registry)
			for _, name := range registry.Names() {
				if err := p.handles(registry, category, name); err != nil {
					return fmt.Errorf("projection %s: event %s: %w", p.Name, name, err)
				}
			}
		}
	}
	return nil
}

func (p Projection) handles(registry *domain.Registry, category, name string) error {
	t, current := registry.Type(name)
	if !current {
		return nil // read as a newer one, which is checked
	}
	event, _ := reflect.Zero(t).Interface().(domain.Event)
	return p.New().Apply(&pgx.Batch{}, eventstore.Recorded{Category: category, Type: name, Event: event})
}

// byName returns one of the projections of this program.
func byName(all []Projection, name string) (Projection, error) {
	i := slices.IndexFunc(all, func(p Projection) bool { return p.Name == name })
	if i < 0 {
		return Projection{}, domain.Fail(domain.NotFound, "PROJECTION_UNKNOWN", "There is no projection of that name.")
	}
	return all[i], nil
}
