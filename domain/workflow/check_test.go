package workflow_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

// phrases accepts every expression without the word "bad".
type phrases struct{}

func (phrases) CheckCondition(src string) error { return phrases{}.CheckTemplate(src) }

func (phrases) CheckTemplate(src string) error {
	if strings.Contains(src, "bad") {
		return errors.New("is not a valid expression")
	}
	return nil
}

func (phrases) Outputs(src string, _ bool) []string {
	if _, name, ok := strings.Cut(src, "outputs."); ok {
		return []string{strings.TrimRight(name, "} ")}
	}
	return nil
}

func parsed(t testing.TB, src string) workflow.Definition {
	t.Helper()
	var def workflow.Definition
	require.NoError(t, json.Unmarshal([]byte(src), &def))
	return def
}

func broken(t testing.TB, src string) []string {
	t.Helper()
	var found []string
	for _, f := range workflow.CheckDefinition(parsed(t, src), phrases{}) {
		found = append(found, strings.TrimPrefix(f.Field, "definition.")+" "+f.Message)
	}
	return found
}

func TestCheckAcceptsWhatTheProductDescribes(t *testing.T) {
	t.Parallel()
	for name, src := range map[string]string{
		"nothing":  `{}`,
		"one node": `{"nodes":[{"id":"a","type":"agent","duration":null,"retry":null}]}`,
		"everything": `{"nodes":[
			{"id":"start","type":"agent","name":"Plan it","agent":"a1","prompt":"${ input.q }","input":{"q":["${input.q}",1]},"queue":"gpu","priority":-5,
			 "retry":{"maxAttempts":3,"initialInterval":"2s","backoff":1.5,"maxInterval":"1m","jitter":"none","maxElapsed":600,"nonRetryable":["TOOL_HTTP_400"],"when":"attempt < 3"},
			 "timeouts":{"scheduleToStart":"1m","startToClose":"2m","scheduleToClose":"1h","heartbeat":"5s"},"onExhausted":"continue",
			 "limits":{"maxTurns":5,"maxToolCalls":5,"maxTokens":1000,"maxCostNanos":5,"maxIdenticalCalls":2,"maxConsecutiveErrors":2}},
			{"id":"which-way","type":"decision","onExhausted":"continue"},
			{"id":"w","type":"wait","duration":"90s","join":"any"},
			{"id":"t_1","type":"tool","tool":"builtin:echo","input":"${outputs.start}"},
			{"id":"end","type":"tool","tool":"t1","join":"n","joinN":2}],
			"edges":[{"source":"start","target":"which-way"},{"from":"which-way","to":"w","when":"input.ok"},{"from":"which-way","to":"t_1"},{"from":"w","to":"end"},{"from":"t_1","to":"end"}],
			"settings":{"maxDuration":"2h","maxSteps":10,"maxCostNanos":5,"priority":3}}`,
	} {
		require.Empty(t, broken(t, src), name)
		require.Empty(t, workflow.CheckDefinition(workflow.Normalize(parsed(t, src), workflow.Spec{MaxRetries: 3}), phrases{}), name+", normalised")
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	node := func(rest string) string { return `{"nodes":[{"id":"a",` + rest + `}]}` }
	for src, want := range map[string][]string{
		`{"nodes":[{"id":"a b","type":"agent"},{"id":"x","type":"agent"},{"id":"x","type":"agent"},{"type":"agent"}]}`: {
			"nodes[0].id must be 1 to 64 letters, digits, '_' or '-'", "nodes[2].id is used by an earlier node", "nodes[3].id must be 1 to 64 letters, digits, '_' or '-'"},
		node(`"type":"human"`):                  {"nodes[0].type must be one of agent, tool, decision, wait"},
		node(`"type":"agent","name":"a\u0007"`): {"nodes[0].name must be at most 255 characters without control characters"},
		node(`"type":"tool"`):                   {"nodes[0].tool is required: the id of a tool, or builtin:<name>"},
		node(`"type":"tool","tool":"builtin:"`): {"nodes[0].tool must be the id of a tool, or builtin:<name>"},
		node(`"type":"wait"`):                   {`nodes[0].duration must be a duration longer than zero, such as "30s" or "5m"`},
		node(`"type":"wait","duration":-5`):     {`nodes[0].duration must be a duration longer than zero, such as "30s" or "5m"`},
		node(`"type":"wait","duration":"soon"`): {`nodes[0].duration must be a duration longer than zero, such as "30s" or "5m"`},
		node(`"type":"agent","retry":{"maxElapsed":"1 day"},"timeouts":{"heartbeat":9999999999999}`): {
			`nodes[0].retry.maxElapsed must be a duration longer than zero, such as "30s" or "5m"`, `nodes[0].timeouts.heartbeat must be a duration longer than zero, such as "30s" or "5m"`},
		node(`"type":"wait","duration":"20000h"`):         {"nodes[0].duration must be at most 366 days"},
		node(`"type":"agent","tool":"t","duration":"1s"`): {"nodes[0].tool is not allowed on a node of type agent", "nodes[0].duration is not allowed on a node of type agent"},
		node(`"type":"agent","prompt":"${bad}","input":{"k":["x",{"y":"${bad}"}]}`): {
			"nodes[0].prompt is not a valid expression", "nodes[0].input.k[1].y is not a valid expression"},
		node(`"type":"agent","input":[1]`):                   {`nodes[0].input must be an object, or a string of the form "${ expression }"`},
		node(`"type":"agent","queue":"a b","priority":5000`): {"nodes[0].queue must be 1 to 64 letters, digits, '.', '_' or '-'", "nodes[0].priority must be between -1000 and 1000"},
		node(`"type":"agent","onExhausted":"explode"`):       {"nodes[0].onExhausted must be one of pause, fail, continue"},
		node(`"type":"agent","retry":{"maxAttempts":-1,"initialInterval":"2m","backoff":0.5,"maxInterval":"1m","jitter":"half","nonRetryable":["no code"],"when":"bad"}`): {
			"nodes[0].retry.maxAttempts must be between 1 and 100", "nodes[0].retry.backoff must be between 1 and 100", "nodes[0].retry.maxInterval is shorter than initialInterval",
			"nodes[0].retry.jitter must be one of full, none", "nodes[0].retry.nonRetryable[0] must be an error code of 1 to 64 upper-case letters, digits and '_'", "nodes[0].retry.when is not a valid expression"},
		node(`"type":"agent","timeouts":{"startToClose":"-1s","heartbeat":"10ms"},"limits":{"maxTurns":-1,"maxTokens":-1}`): {
			`nodes[0].timeouts.startToClose must be a duration longer than zero, such as "30s" or "5m"`, "nodes[0].timeouts.heartbeat must be at least 1s",
			"nodes[0].limits.maxTurns must be between 1 and 100000", "nodes[0].limits.maxTokens must not be negative"},
		node(`"type":"agent","join":"any"`):             {"nodes[0].join needs edges that lead to the node"},
		node(`"type":"agent","join":"n","joinN":1`):     {"nodes[0].joinN must be between 1 and the number of edges that lead to the node"},
		node(`"type":"agent","join":"all","joinN":1`):   {"nodes[0].joinN is allowed with join n only"},
		node(`"type":"agent","join":"some"`):            {"nodes[0].join must be one of all, any, n"},
		node(`"type":"decision","onExhausted":"pause"`): {"nodes[0].onExhausted must be fail or continue: a decision gives the same answer when it is repeated", "nodes[0] is a decision node without outgoing edges"},
		`{"nodes":[{"id":"a","type":"agent"},{"id":"b","type":"agent"}],"edges":[{"from":"a","to":"c"},{"from":"x"},{"from":"a","to":"b","when":"true"},{"from":"a","to":"b"}]}`: {
			"edges[0].to names no node of the definition", "edges[1].from names no node of the definition", "edges[1].to names no node of the definition",
			"edges[2].when is allowed on edges that leave a decision node only", "edges[3] repeats an earlier edge; join its conditions by || instead"},
		`{"nodes":[{"id":"d","type":"decision"},{"id":"a","type":"agent"},{"id":"b","type":"agent"}],"edges":[{"from":"d","to":"a"},{"from":"d","to":"b"}]}`: {
			"edges[1] is a second default edge of its decision node; all but one need a when"},
		`{"nodes":[{"id":"d","type":"decision"},{"id":"a","type":"agent"}],"edges":[{"from":"d","to":"a","when":"bad"}]}`: {"edges[0].when is not a valid expression"},
		`{"nodes":[{"id":"s","type":"agent"},{"id":"a","type":"agent"},{"id":"b","type":"agent"},{"id":"c","type":"agent"},{"id":"x","type":"agent"}],
			"edges":[{"from":"s","to":"x"},{"from":"a","to":"b"},{"from":"b","to":"a"},{"from":"b","to":"c"}]}`: {
			"edges[2] closes a cycle: edges[1], edges[2]", "nodes[1] is reached from no start node", "nodes[2] is reached from no start node", "nodes[3] is reached from no start node"},
		`{"nodes":[{"id":"a","type":"agent"}],"edges":[{"from":"a","to":"a"}]}`: {"edges[0] closes a cycle: edges[0]", "nodes[0] is reached from no start node"},
		`{"nodes":[{"id":"w","type":"wait","duration":"2h"}],"settings":{"maxDuration":"1h"}}`: {
			"nodes[0].duration is longer than settings.maxDuration, so that no run could end"},
		node(`"type":"wait","duration":"25h"`): {"nodes[0].duration is longer than a day; set settings.maxDuration, so that runs can end"},
		`{"nodes":[{"id":"d","type":"decision"},{"id":"a","type":"agent","prompt":"${outputs.d}","retry":{"when":"outputs.a"}},{"id":"b","type":"agent","input":{"k":"${outputs.a}","l":"${outputs.gone}"}}],
			"edges":[{"from":"d","to":"a","when":"outputs.b"},{"from":"d","to":"b"}]}`: {
			"nodes[1].retry.when asks for the output of a step that is not before it", "nodes[2].input.k asks for the output of a step that is not before it",
			"nodes[2].input.l asks for the output of a step that is no node of the definition", "edges[0].when asks for the output of a step that is not before it"},
		`{"settings":{"maxDuration":"1ms","maxSteps":-1,"maxCostNanos":-1,"priority":-2000}}`: {
			"settings.maxDuration must be at least 1s", "settings.maxSteps must be between 1 and 100000", "settings.maxCostNanos must not be negative", "settings.priority must be between -1000 and 1000"},
	} {
		require.Equal(t, want, broken(t, src), src)
	}
}

func TestCheckBounds(t *testing.T) {
	t.Parallel()
	many := workflow.Definition{}
	for i := range 501 {
		many.Nodes = append(many.Nodes, workflow.Node{ID: fmt.Sprint("n", i), Type: "agent"})
	}
	require.Equal(t, []domain.Field{{Field: "definition.nodes", Message: "has more than 500 nodes"}}, workflow.CheckDefinition(many, phrases{}))
	many.Nodes = many.Nodes[:500]
	require.Empty(t, workflow.CheckDefinition(many, phrases{}))
	for range 2001 {
		many.Edges = append(many.Edges, workflow.Edge{From: "n0", To: "n1"})
	}
	require.Equal(t, []domain.Field{{Field: "definition.edges", Message: "has more than 2000 edges"}}, workflow.CheckDefinition(many, phrases{}))
	large := workflow.Definition{}
	for i := range 8 {
		large.Nodes = append(large.Nodes, workflow.Node{ID: fmt.Sprint("n", i), Type: "agent", Prompt: strings.Repeat("x", 60<<10)})
	}
	require.Equal(t, []domain.Field{{Field: "definition", Message: "is larger than 384 KiB"}}, workflow.CheckDefinition(large, phrases{}))
	large.Nodes = []workflow.Node{{ID: "a", Type: "agent", Prompt: strings.Repeat("x", 65<<10)}}
	require.Equal(t, "definition.nodes[0].prompt", workflow.CheckDefinition(large, phrases{})[0].Field)
	deep := workflow.Node{ID: "a", Type: "agent", Input: json.RawMessage(`{"k":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + `}`)}
	require.Contains(t, workflow.CheckDefinition(workflow.Definition{Nodes: []workflow.Node{deep}}, phrases{})[0].Message, "nested deeper")
}

// A chain of the largest size is checked without deep trouble.
func TestCheckLongChain(t *testing.T) {
	t.Parallel()
	def := workflow.Definition{}
	for i := range workflow.MaxNodes {
		def.Nodes = append(def.Nodes, workflow.Node{ID: fmt.Sprint("n", i), Type: "tool", Tool: "builtin:echo"})
		if i > 0 {
			def.Edges = append(def.Edges, workflow.Edge{From: fmt.Sprint("n", i-1), To: fmt.Sprint("n", i)})
		}
	}
	require.Empty(t, workflow.CheckDefinition(def, phrases{}))
	def.Edges = append(def.Edges, workflow.Edge{From: "n499", To: "n0"})
	found := workflow.CheckDefinition(def, phrases{})
	require.Equal(t, "definition.edges[499]", found[0].Field)
	require.Len(t, found, 501)
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	empty := workflow.Normalize(workflow.Definition{}, workflow.Spec{TimeoutSeconds: 90, MaxRetries: 2})
	minute, hour := workflow.Duration(time.Minute), workflow.Duration(time.Hour)
	require.Equal(t, workflow.Definition{
		Nodes: []workflow.Node{{
			ID: "agent", Type: "agent", Name: "prompt", Join: "all", Queue: "default", OnExhausted: "pause",
			Retry:    &workflow.Retry{MaxAttempts: 3, InitialInterval: workflow.Duration(time.Second), Backoff: 2, MaxInterval: minute, Jitter: "full", MaxElapsed: hour},
			Timeouts: &workflow.Timeouts{ScheduleToStart: hour, StartToClose: 10 * minute, Heartbeat: minute},
			Limits:   &workflow.AgentLimits{MaxTurns: 50, MaxToolCalls: 50, MaxIdenticalCalls: 3, MaxConsecutiveErrors: 5},
		}},
		Settings: workflow.Settings{MaxDuration: workflow.Duration(90 * time.Second), MaxSteps: 1000},
	}, empty)
	require.Equal(t, empty, workflow.Normalize(empty, workflow.Spec{}), "twice changes nothing more")

	given := parsed(t, `{"nodes":[{"id":"d","type":"decision"},{"id":"w","type":"wait","duration":"1s"},{"id":"t","type":"tool","tool":"x","retry":{"initialInterval":"5m"},"onExhausted":"fail"}],"settings":{"priority":7,"maxDuration":"3h"}}`)
	before := parsed(t, `{"nodes":[{"id":"d","type":"decision"},{"id":"w","type":"wait","duration":"1s"},{"id":"t","type":"tool","tool":"x","retry":{"initialInterval":"5m"},"onExhausted":"fail"}],"settings":{"priority":7,"maxDuration":"3h"}}`)
	got := workflow.Normalize(given, workflow.Spec{TimeoutSeconds: 60, MaxRetries: 0})
	require.Equal(t, before, given, "the argument stays as it is")
	require.Equal(t, workflow.Node{ID: "d", Type: "decision", Name: "d", Join: "all", OnExhausted: "fail"}, got.Nodes[0])
	require.Equal(t, workflow.Node{ID: "w", Type: "wait", Name: "w", Join: "all", Duration: workflow.Duration(time.Second)}, got.Nodes[1])
	require.Equal(t, []any{7, "fail", 1, workflow.Duration(5 * time.Minute)}, []any{got.Nodes[2].Priority, got.Nodes[2].OnExhausted, got.Nodes[2].Retry.MaxAttempts, got.Nodes[2].Retry.MaxInterval})
	require.Equal(t, 3*hour, got.Settings.MaxDuration)
	require.Equal(t, "pause", workflow.DefaultOnExhausted("tool"))
	require.Equal(t, "fail", workflow.DefaultOnExhausted("decision"))
}

func TestEdgeTakesTheNamesOfBuilders(t *testing.T) {
	t.Parallel()
	def := parsed(t, `{"edges":[{"source":"a","target":"b"},{"from":"x","to":"y","source":"a","target":"b","when":"w"}]}`)
	require.Equal(t, []workflow.Edge{{From: "a", To: "b"}, {From: "x", To: "y", When: "w"}}, def.Edges)
}

func TestGraph(t *testing.T) {
	t.Parallel()
	g := workflow.NewGraph(parsed(t, `{"nodes":[{"id":"c"},{"id":"a"},{"id":"b"},{"id":"d"}],"edges":[{"from":"a","to":"b"},{"from":"b","to":"c"},{"from":"a","to":"c"},{"from":"a","to":"gone"}]}`))
	require.Equal(t, []int{1, 3, 2, 0}, g.Order)
	require.Equal(t, []bool{false, true, true, false}, g.Ancestors(0))
	require.Equal(t, []bool{false, false, false, false}, g.Ancestors(1))
	require.Len(t, g.Edges, 3)
	i, ok := g.Index("d")
	require.True(t, ok)
	require.Equal(t, 3, i)
}

func FuzzCheckDefinition(f *testing.F) {
	f.Add(`{"nodes":[{"id":"a","type":"agent"}],"edges":[{"from":"a","to":"a"}]}`)
	f.Add(`{"nodes":[{"id":"a","type":"wait","duration":1e300}]}`)
	f.Fuzz(func(t *testing.T, src string) {
		var def workflow.Definition
		if json.Unmarshal([]byte(src), &def) != nil {
			return
		}
		if len(workflow.CheckDefinition(def, phrases{})) > 0 {
			return
		}
		normal := workflow.Normalize(def, workflow.Spec{TimeoutSeconds: 86400})
		require.Empty(t, workflow.CheckDefinition(normal, phrases{}))
		require.Len(t, workflow.NewGraph(normal).Order, len(normal.Nodes))
	})
}
