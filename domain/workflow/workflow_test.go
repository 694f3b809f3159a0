package workflow_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/workflow"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func graph(t *testing.T, body string) *workflow.Definition {
	t.Helper()
	var def workflow.Definition
	require.NoError(t, json.Unmarshal([]byte(body), &def))
	return &def
}

func patch(t *testing.T, body string) workflow.Patch {
	t.Helper()
	var p workflow.Patch
	require.NoError(t, json.Unmarshal([]byte(body), &p))
	return p
}

func spec(change func(*workflow.Spec)) workflow.Spec {
	s := workflow.Default()
	s.Name = "Nightly"
	change(&s)
	return s
}

const waits = `{"nodes":[{"id":"rest","type":"wait","duration":"90s"}]}`

func created(t *testing.T) workflow.Created {
	t.Helper()
	return workflow.Created{WorkflowID: "w1", ProjectID: "p1", Spec: spec(func(*workflow.Spec) {}), Definition: *graph(t, waits), AuthorUserID: "anna"}
}

func TestCreateWorkflow(t *testing.T) {
	t.Parallel()
	none := domaintest.Given[workflow.Workflow](t)
	none.When(workflow.Create{WorkflowID: "w1", ProjectID: "p1", AuthorUserID: "anna",
		Patch: patch(t, `{"name":"Nightly ","description":"","tags":[" a "],"definition":{},"triggerType":"manual"}`)}, now).
		Then(workflow.Created{WorkflowID: "w1", ProjectID: "p1", AuthorUserID: "anna", Spec: spec(func(s *workflow.Spec) { s.Tags = []string{"a"} })})
	none.When(workflow.Create{WorkflowID: "w1", ProjectID: "p1", AuthorUserID: "anna", Patch: patch(t, `{"name":"Nightly","definition":`+waits+`}`)}, now).
		Then(created(t))
	none.When(workflow.Create{WorkflowID: "w1", ProjectID: "p1",
		Patch: patch(t, `{"tags":["a","a"],"status":"x","triggerType":"x","timeoutSeconds":59,"maxRetries":11,"definition":{"edges":[{"from":"a","to":"b"}]}}`)}, now).
		ThenError(domain.Invalid, "VALIDATION_FAILED")
	none.When(workflow.Create{WorkflowID: "w1", ProjectID: "p1", Patch: patch(t, `{"tags":["a","a"],"status":"x","triggerType":"x","timeoutSeconds":59,"maxRetries":11}`)}, now).
		ThenInvalid("name", "tags[1]", "status", "triggerType", "timeoutSeconds", "maxRetries")
	domaintest.Given[workflow.Workflow](t, created(t)).
		When(workflow.Create{WorkflowID: "w1", ProjectID: "p1"}, now).ThenError(domain.Conflict, "WORKFLOW_EXISTS")
}

func TestOnlyAChangedGraphMakesAVersion(t *testing.T) {
	t.Parallel()
	given := domaintest.Given[workflow.Workflow](t, created(t))
	given.When(workflow.Update{WorkflowID: "w1", Patch: patch(t, `{"name":"Nightly","tags":[],"definition":{"nodes":[{"id":"rest","type":"wait","duration":90}]}}`)}, now).Then()
	given.When(workflow.Update{WorkflowID: "w1", Patch: patch(t, `{"name":"Daily"}`)}, now).
		Then(workflow.Updated{Spec: spec(func(s *workflow.Spec) { s.Name = "Daily" })})
	given.When(workflow.Update{WorkflowID: "w1", AuthorUserID: "ben", Patch: patch(t, `{"definition":{}}`)}, now).
		Then(workflow.VersionAdded{Version: 2, AuthorUserID: "ben"})
	given.When(workflow.Update{WorkflowID: "w1", AuthorUserID: "ben", Patch: patch(t, `{"description":"d","definition":{"nodes":[{"id":"rest","type":"wait","duration":"2m"}]}}`)}, now).
		Then(workflow.Updated{Spec: spec(func(s *workflow.Spec) { s.Description = "d" })},
			workflow.VersionAdded{Version: 2, AuthorUserID: "ben", Definition: *graph(t, `{"nodes":[{"id":"rest","type":"wait","duration":"2m"}]}`)})
	given.When(workflow.Update{WorkflowID: "w1", Patch: patch(t, `{"timeoutSeconds":0}`)}, now).ThenInvalid("timeoutSeconds")
}

func TestVersions(t *testing.T) {
	t.Parallel()
	first := domaintest.Given[workflow.Workflow](t, created(t))
	first.When(workflow.AddVersion{WorkflowID: "w1", Note: "again", AuthorUserID: "ben"}, now).
		Then(workflow.VersionAdded{Version: 2, Definition: *graph(t, waits), AuthorUserID: "ben", Note: "again"})
	first.When(workflow.AddVersion{WorkflowID: "w1", Definition: &workflow.Definition{}, Status: workflow.Released, AuthorUserID: "ben"}, now).
		Then(workflow.VersionAdded{Version: 2, AuthorUserID: "ben"}, workflow.VersionReleased{Version: 2})
	first.When(workflow.AddVersion{WorkflowID: "w1", Status: "deprecated", Note: "\x00"}, now).ThenInvalid("note", "status")
	first.When(workflow.Release{WorkflowID: "w1", Version: 1}, now).Then(workflow.VersionReleased{Version: 1})
	first.When(workflow.Release{WorkflowID: "w1", Version: 2}, now).ThenError(domain.NotFound, "NOT_FOUND")
	first.When(workflow.Release{WorkflowID: "w1", Version: 0}, now).ThenError(domain.NotFound, "NOT_FOUND")

	released := domaintest.Given[workflow.Workflow](t, created(t), workflow.VersionReleased{Version: 1})
	released.When(workflow.Release{WorkflowID: "w1", Version: 1}, now).Then()
	released.When(workflow.Deprecate{WorkflowID: "w1", Version: 1}, now).Then(workflow.VersionDeprecated{Version: 1})
	deprecated := domaintest.Given[workflow.Workflow](t, created(t), workflow.VersionDeprecated{Version: 1})
	deprecated.When(workflow.Deprecate{WorkflowID: "w1", Version: 1}, now).Then()
	deprecated.When(workflow.Release{WorkflowID: "w1", Version: 1}, now).Then(workflow.VersionReleased{Version: 1})
}

func TestRunnable(t *testing.T) {
	t.Parallel()
	added := func(n int) workflow.VersionAdded { return workflow.VersionAdded{Version: n} }
	for _, c := range []struct {
		history []domain.Event
		want    int
	}{
		{nil, 1},
		{[]domain.Event{added(2)}, 2},
		{[]domain.Event{workflow.VersionReleased{Version: 1}, added(2)}, 1},
		{[]domain.Event{workflow.VersionReleased{Version: 1}, added(2), workflow.VersionReleased{Version: 2}, added(3)}, 2},
		{[]domain.Event{workflow.VersionReleased{Version: 1}, added(2), workflow.VersionDeprecated{Version: 1}}, 2},
		{[]domain.Event{workflow.VersionDeprecated{Version: 1}}, 0},
	} {
		w := domaintest.Fold[workflow.Workflow](t, append([]domain.Event{created(t)}, c.history...)...)
		require.Equal(t, c.want, w.Runnable(), "%v", c.history)
	}
	require.Zero(t, workflow.Workflow{}.Runnable())
}

func TestDeletedWorkflowIsNotFound(t *testing.T) {
	t.Parallel()
	domaintest.Given[workflow.Workflow](t, created(t)).When(workflow.Delete{WorkflowID: "w1"}, now).Then(workflow.Deleted{})
	for _, command := range []domaintest.Decider[workflow.Workflow]{
		workflow.Update{WorkflowID: "w1"}, workflow.AddVersion{WorkflowID: "w1"}, workflow.Release{WorkflowID: "w1", Version: 1},
		workflow.Deprecate{WorkflowID: "w1", Version: 1}, workflow.Delete{WorkflowID: "w1"},
	} {
		domaintest.Given[workflow.Workflow](t).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
		domaintest.Given[workflow.Workflow](t, created(t), workflow.Deleted{}).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
	}
}
