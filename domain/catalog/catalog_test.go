package catalog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/domain/workflow"
)

const folder = "testdata/events"

// samples returns the samples of a stored name, oldest first: <name>.json and,
// for fields that were added since, <name>~2.json and so on. None is ever
// edited or deleted.
func samples(t *testing.T, name string) [][]byte {
	t.Helper()
	var found [][]byte
	for n := 1; ; n++ {
		file := name
		if n > 1 {
			file = fmt.Sprintf("%s~%d", name, n)
		}
		raw, err := os.ReadFile(filepath.Join(folder, file+".json"))
		if n > 1 && os.IsNotExist(err) {
			return found
		}
		require.NoError(t, err, "every stored name keeps a sample for ever")
		found = append(found, raw)
	}
}

func decoded(t *testing.T, registry *domain.Registry, name string) (events []domain.Event) {
	t.Helper()
	for _, raw := range samples(t, name) {
		event, err := registry.Decode(name, raw)
		require.NoError(t, err)
		events = append(events, event)
	}
	return events
}

// TestSamplesAndNamesMatch fails for a registered name without a sample, and
// for a sample nobody can read any more.
func TestSamplesAndNamesMatch(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	want, got := catalog.Registry().Names(), map[string]int{}
	for _, f := range files {
		name, _, _ := strings.Cut(strings.TrimSuffix(f.Name(), ".json"), "~")
		got[name]++
	}
	require.ElementsMatch(t, want, slices.Collect(maps.Keys(got)))
	for _, name := range want {
		require.Len(t, samples(t, name), got[name], "the samples of %s are numbered without gaps", name)
	}
}

// TestSamplesReadAndWriteTheSame holds for the newest sample of each name;
// older ones are only read.
func TestSamplesReadAndWriteTheSame(t *testing.T) {
	t.Parallel()
	registry := catalog.Registry()
	for _, name := range registry.Names() {
		events, raws := decoded(t, registry, name), samples(t, name)
		if _, old := registry.UpcastTarget(name); old {
			continue
		}
		stored, data, err := registry.Encode(events[len(events)-1])
		require.NoError(t, err)
		require.Equal(t, name, stored)
		var text bytes.Buffer
		require.NoError(t, json.Indent(&text, data, "", "  "))
		require.Equal(t, string(raws[len(raws)-1]), text.String()+"\n", name)
	}
}

// TestSamplesSetEveryField makes the samples worth keeping: what no sample
// holds could change its key unseen.
func TestSamplesSetEveryField(t *testing.T) {
	t.Parallel()
	registry := catalog.Registry()
	for _, name := range registry.Names() {
		want, got := map[string]bool{}, map[string]bool{}
		for _, e := range decoded(t, registry, name) {
			event := reflect.ValueOf(e)
			fields(event.Type(), event.Type().Name(), want)
			set(event, event.Type().Name(), got)
		}
		for path := range want {
			require.True(t, got[path], "the samples of %s leave out %s", name, path)
		}
	}
}

var leaves = map[reflect.Type]bool{reflect.TypeFor[time.Time](): true, reflect.TypeFor[json.RawMessage](): true}

// fields collects the path of every field of a type.
func fields(t reflect.Type, path string, into map[string]bool) {
	switch {
	case leaves[t]:
	case t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map:
		fields(t.Elem(), path, into)
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			into[path+"."+f.Name] = true
			fields(f.Type, path+"."+f.Name, into)
		}
	}
}

// set collects the path of every field that is not zero, in any element.
func set(v reflect.Value, path string, into map[string]bool) {
	switch {
	case leaves[v.Type()]:
	case v.Kind() == reflect.Pointer && !v.IsNil():
		set(v.Elem(), path, into)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			set(v.Index(i), path, into)
		}
	case v.Kind() == reflect.Map:
		for _, key := range v.MapKeys() {
			set(v.MapIndex(key), path, into)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				into[path+"."+v.Type().Field(i).Name] = true
				set(f, path+"."+v.Type().Field(i).Name, into)
			}
		}
	}
}

// TestEvolveTakesEverySample feeds each category's samples to its fold, in an
// order that could have happened, and finds no event without a fold.
func TestEvolveTakesEverySample(t *testing.T) {
	t.Parallel()
	registry := catalog.Registry()
	fed := map[string]bool{}
	take := func(names ...string) (events []domain.Event) {
		for _, name := range names {
			fed[name] = true
			events = append(events, decoded(t, registry, name)...)
		}
		return events
	}
	domaintest.CheckEvolve[user.User](t, take("UserRegistered", "UserRenamed", "UserPasswordChanged", "UserRoleChanged", "UserDeactivated", "UserReactivated")...)
	domaintest.CheckEvolve[session.Session](t, take("SessionStarted", "SessionRefreshed", "SessionRevoked")...)
	domaintest.CheckEvolve[apikey.APIKey](t, take("APIKeyCreated", "APIKeyRevoked")...)
	domaintest.CheckEvolve[claim.Claim](t, take("ClaimTaken", "ClaimReleased")...)
	domaintest.CheckEvolve[project.Project](t, take("ProjectCreated", "ProjectUpdated", "ProjectMemberAdded",
		"ProjectMemberRoleChanged", "ProjectMemberRemoved", "ProjectDeleted")...)
	domaintest.CheckEvolve[agent.Agent](t, take("AgentCreated", "AgentUpdated", "AgentDeleted")...)
	domaintest.CheckEvolve[tool.Tool](t, take("ToolCreated", "ToolUpdated", "ToolDeleted")...)
	domaintest.CheckEvolve[workflow.Workflow](t, take("WorkflowCreated", "WorkflowUpdated", "WorkflowVersionAdded",
		"WorkflowVersionReleased", "WorkflowVersionDeprecated", "WorkflowDeleted")...)
	domaintest.CheckEvolve[run.Run](t, take("RunQueued", "RunStarted", "RunStepScheduled", "RunStepStarted", "RunStepLeaseExtended",
		"RunStepLeaseReleased", "RunStepWaiting", "RunStepFailed", "RunPaused", "RunResumed", "RunStepSkipped", "RunStepCallStarted",
		"RunStepCallFinished", "RunStepSucceeded", "RunSucceeded", "RunFailed", "RunCancelled", "RunTimedOut", "RunHidden")...)
	for _, name := range registry.Names() {
		require.True(t, fed[name], "%s is fed to no fold", name)
	}
}

// renamed shows how an event changes its shape: its new form under a new
// stored name, and a function from the old JSON to the new.
type renamed struct {
	Given  string `json:"given"`
	Family string `json:"family"`
}

func (renamed) EventType() string { return "PersonRenamed.v2" }

func withRenamed(upcast func(json.RawMessage) (json.RawMessage, error)) *domain.Registry {
	r := domain.NewRegistry()
	domain.Register[renamed](r)
	domain.Upcast[renamed](r, "PersonRenamed", upcast)
	return r
}

func TestUpcast(t *testing.T) {
	t.Parallel()
	r := withRenamed(func(old json.RawMessage) (json.RawMessage, error) {
		var v1 struct{ Name string }
		if err := json.Unmarshal(old, &v1); err != nil {
			return nil, err
		}
		given, family, _ := strings.Cut(v1.Name, " ")
		return json.Marshal(renamed{Given: given, Family: family})
	})
	want := renamed{Given: "Ada", Family: "Lovelace"}
	old, err := r.Decode("PersonRenamed", []byte(`{"name":"Ada Lovelace"}`))
	require.NoError(t, err)
	require.Equal(t, want, old)
	now, err := r.Decode("PersonRenamed.v2", []byte(`{"given":"Ada","family":"Lovelace"}`))
	require.NoError(t, err)
	require.Equal(t, want, now)

	name, data, err := r.Encode(want)
	require.NoError(t, err)
	require.Equal(t, "PersonRenamed.v2", name, "only the newest shape is written")
	require.JSONEq(t, `{"given":"Ada","family":"Lovelace"}`, string(data))
	require.Equal(t, []string{"PersonRenamed", "PersonRenamed.v2"}, r.Names())
	target, ok := r.UpcastTarget("PersonRenamed")
	require.True(t, ok)
	require.Equal(t, "PersonRenamed.v2", target)

	_, err = r.Decode("PersonRenamed", []byte(`{"name":1}`))
	require.ErrorContains(t, err, `upcast event "PersonRenamed"`)
	require.Panics(t, func() { domain.Upcast[renamed](r, "PersonRenamed", nil) })
	require.Panics(t, func() { domain.Register[renamed](r) })
}

func TestUpcastInSteps(t *testing.T) {
	t.Parallel()
	r := withRenamed(func(old json.RawMessage) (json.RawMessage, error) {
		return []byte(strings.ReplaceAll(string(old), "name", "given")), nil
	})
	domain.Upcast[step](r, "PersonCalled", func(old json.RawMessage) (json.RawMessage, error) {
		return []byte(strings.ReplaceAll(string(old), "called", "name")), nil
	})
	event, err := r.Decode("PersonCalled", []byte(`{"called":"Ada"}`))
	require.NoError(t, err)
	require.Equal(t, renamed{Given: "Ada"}, event)
}

// step is an old shape that is upcast further; its stored name is no longer
// registered.
type step struct{}

func (step) EventType() string { return "PersonRenamed" }

func TestUnknownEventsAreRefused(t *testing.T) {
	t.Parallel()
	r := catalog.Registry()
	_, err := r.Decode("RunTeleported", []byte(`{}`))
	require.ErrorIs(t, err, domain.ErrUnknownEvent)
	_, _, err = r.Encode(step{})
	require.ErrorIs(t, err, domain.ErrUnknownEvent)
	_, err = r.Decode("RunStarted", []byte(`{"at":1}`))
	require.Error(t, err)
	require.NotErrorIs(t, err, domain.ErrUnknownEvent)
}

// TestStoredNames keeps names in order: the category in front, a fact behind,
// nothing of the server's.
func TestStoredNames(t *testing.T) {
	t.Parallel()
	categories := []string{"User", "Session", "APIKey", "Claim", "Project", "Agent", "Tool", "Workflow", "Run"}
	for _, name := range catalog.Registry().Names() {
		matched := false
		for _, category := range categories {
			matched = matched || strings.HasPrefix(name, category)
		}
		require.True(t, matched, fmt.Sprintf("%s names no category", name))
	}
}
