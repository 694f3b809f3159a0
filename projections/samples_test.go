package projections_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/projections"
)

func TestEveryEventIsHandled(t *testing.T) {
	t.Parallel()
	require.NoError(t, projections.Check(projections.All()))
}

// Every sample goes through every projection that follows its category, alone
// and after the events that begin a stream of its kind: this also proves that
// all SQL parses.
func TestEverySampleIsApplied(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	start(t, p.runner(t, projections.Runner{Views: p.views}))
	all := samples(t)
	firsts := map[string]string{
		user.Category: "UserRegistered", session.Category: "SessionStarted", apikey.Category: "APIKeyCreated",
		project.Category: "ProjectCreated", agent.Category: "AgentCreated", tool.Category: "ToolCreated",
		workflow.Category: "WorkflowCreated", run.Category: "RunQueued", claim.EmailCategory: "ClaimTaken",
	}
	registers := map[string]func(*domain.Registry){
		user.Category: user.Register, session.Category: session.Register, apikey.Category: apikey.Register,
		project.Category: project.Register, agent.Category: agent.Register, tool.Category: tool.Register,
		workflow.Category: workflow.Register, run.Category: run.Register, claim.EmailCategory: claim.Register,
	}
	var last uint64
	seen := []string{}
	for category, register := range registers {
		registry := domain.NewRegistry()
		register(registry)
		for _, name := range registry.Names() {
			event, ok := all[name]
			require.True(t, ok, "sample of %s", name)
			seen = append(seen, name)
			last = p.append(t, category+"-"+name+"-alone", at(1), event)
			if first := firsts[category]; first != name {
				last = p.append(t, category+"-"+name+"-later", at(1), all[first], event)
			}
		}
	}
	slices.Sort(seen)
	require.Len(t, slices.Compact(seen), len(all), "samples of no known category")
	p.waitFor(t, last)
}
