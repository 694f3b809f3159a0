package agent_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/domaintest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func patch(t *testing.T, body string) agent.Patch {
	t.Helper()
	var p agent.Patch
	require.NoError(t, json.Unmarshal([]byte(body), &p))
	return p
}

func spec(change func(*agent.Spec)) agent.Spec {
	s := agent.Default()
	s.Name = "Scout"
	change(&s)
	return s
}

func TestCreate(t *testing.T) {
	t.Parallel()
	none := domaintest.Given[agent.Agent](t)
	body := patch(t, `{"name":" Scout ","runtime":"node","model":"claude-3-opus","provider":"openai","env":"prod","temperature":7,
		"concurrency":8,"promptSummary":"","tools":[],"autoscaleMin":2,"autoscaleMax":5,"autoscaleTargetCpu":60}`)
	want := agent.Spec{
		Name: "Scout", Runtime: "node", Model: "claude-3-opus", Provider: "openai", Env: "prod", Temperature: 7, Concurrency: 8,
		Tools: []string{}, Autoscale: agent.Autoscale{Min: 2, Max: 5, TargetCPU: 60}, Status: "active",
	}
	none.When(agent.Create{AgentID: "a1", ProjectID: "p1", Patch: body}, now).
		Then(agent.Created{AgentID: "a1", ProjectID: "p1", Spec: want})
	none.When(agent.Create{AgentID: "a1", ProjectID: "p1", Patch: agent.Patch{Name: ptr("Scout")}}, now).
		Then(agent.Created{AgentID: "a1", ProjectID: "p1", Spec: spec(func(*agent.Spec) {})})
	none.When(agent.Create{AgentID: "a1", ProjectID: "p1"}, now).ThenInvalid("name")
	domaintest.Given[agent.Agent](t, agent.Created{AgentID: "a1", ProjectID: "p1", Spec: want}).
		When(agent.Create{AgentID: "a1", ProjectID: "p1", Patch: body}, now).ThenError(domain.Conflict, "AGENT_EXISTS")
}

func TestEveryBrokenRuleIsListed(t *testing.T) {
	t.Parallel()
	bad := agent.Patch{
		Name: ptr(""), Runtime: ptr("rust"), Model: ptr(""), Provider: ptr(" "), Env: ptr("test"), Temperature: ptr(math.NaN()),
		Concurrency: ptr(0), Tools: domain.Some([]string{"t1", "t1"}), Autoscale: &agent.AutoscalePatch{Min: ptr(9), Max: ptr(3), TargetCPU: ptr(101)},
		Status: ptr("asleep"), Metadata: domain.Some(json.RawMessage(`"x"`)),
	}
	domaintest.Given[agent.Agent](t).When(agent.Create{AgentID: "a1", ProjectID: "p1", Patch: bad}, now).
		ThenInvalid("name", "runtime", "model", "provider", "env", "temperature", "concurrency", "tools[1]",
			"autoscale.min", "autoscale.targetCpu", "status", "metadata")
	domaintest.Given[agent.Agent](t).
		When(agent.Create{AgentID: "a1", ProjectID: "p1", Patch: patch(t, `{"name":"x","autoscaleMin":0,"autoscaleMax":101,"temperature":10.1,"concurrency":101}`)}, now).
		ThenInvalid("temperature", "concurrency", "autoscaleMin", "autoscaleMax")
}

func TestUpdateMakesVersions(t *testing.T) {
	t.Parallel()
	first := spec(func(s *agent.Spec) {
		s.Tools, s.PromptSummary, s.Metadata = []string{"t1"}, "watch", json.RawMessage(`{"k":"\u003c"}`)
	})
	given := domaintest.Given[agent.Agent](t, agent.Created{AgentID: "a1", ProjectID: "p1", Spec: first})
	given.When(agent.Update{AgentID: "a1", Patch: patch(t, `{"temperature":0.7,"name":"Scout","metadata":{"k" : "<"}}`)}, now).Then()
	given.When(agent.Update{AgentID: "a1", Patch: patch(t, `{"temperature":1.5,"promptSummary":null,"tools":null,"metadata":null,"autoscale":{"max":20}}`)}, now).
		Then(agent.Updated{Version: 2, Spec: spec(func(s *agent.Spec) { s.Temperature, s.Autoscale.Max = 1.5, 20 })})
	domaintest.Given[agent.Agent](t, agent.Created{AgentID: "a1", ProjectID: "p1", Spec: first}, agent.Updated{Version: 2, Spec: spec(func(*agent.Spec) {})}).
		When(agent.Update{AgentID: "a1", Patch: agent.Patch{Env: ptr("prod")}}, now).
		Then(agent.Updated{Version: 3, Spec: spec(func(s *agent.Spec) { s.Env = "prod" })})
	given.When(agent.Update{AgentID: "a1", Patch: patch(t, `{"autoscaleMin":50}`)}, now).ThenInvalid("autoscaleMin")
}

func TestDeletedIsNotFound(t *testing.T) {
	t.Parallel()
	created := agent.Created{AgentID: "a1", ProjectID: "p1", Spec: spec(func(*agent.Spec) {})}
	domaintest.Given[agent.Agent](t, created).When(agent.Delete{AgentID: "a1"}, now).Then(agent.Deleted{})
	for _, command := range []domaintest.Decider[agent.Agent]{agent.Update{AgentID: "a1"}, agent.Delete{AgentID: "a1"}} {
		domaintest.Given[agent.Agent](t).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
		domaintest.Given[agent.Agent](t, created, agent.Deleted{}).When(command, now).ThenError(domain.NotFound, "NOT_FOUND")
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	a := domaintest.Fold[agent.Agent](t, agent.Created{AgentID: "a1", ProjectID: "p1", Spec: spec(func(*agent.Spec) {})})
	developer := domain.Actor{Kind: domain.ActorUser, ID: "me", Role: domain.Viewer, Projects: map[string]domain.Role{"p1": domain.Developer}}
	require.NoError(t, developer.Authorize(agent.Update{}.Needs(a)))
	require.Equal(t, domain.Forbidden, domain.KindOf(developer.Authorize(agent.Delete{}.Needs(a))))
	require.NoError(t, developer.Authorize(agent.Create{ProjectID: "p1"}.Needs(agent.Agent{})))
	require.Equal(t, domain.NotFound, domain.KindOf(developer.Authorize(agent.Create{ProjectID: "p2"}.Needs(agent.Agent{}))))
	require.Equal(t, "p1", agent.Create{ProjectID: "p2"}.Needs(a).Project, "the project the stream belongs to, never the one named")
}
