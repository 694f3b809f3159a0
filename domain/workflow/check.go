package workflow

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sparkops/control-plane/domain"
)

// Expressions checks the expressions of a definition without running them.
// CheckCondition accepts a CEL expression that yields a boolean, CheckTemplate
// a text with "${ CEL }" in it. Their errors are sentences for users.
type Expressions interface {
	CheckCondition(src string) error
	CheckTemplate(src string) error
	// Outputs returns the steps whose outputs a condition, or a template, that
	// was found correct asks for by name.
	Outputs(src string, template bool) []string
}

// The bounds of a definition.
const (
	MaxNodes           = 500
	MaxEdges           = 2000
	MaxDefinitionBytes = 384 << 10
	MaxExpressionBytes = 8 << 10
	MaxPromptBytes     = 64 << 10
	MaxSpan            = Duration(366 * 24 * time.Hour) // of any duration
	MaxTimeout         = Duration(24 * time.Hour)       // of a workflow's timeoutSeconds

	maxAttempts     = 100
	maxSteps        = 100_000
	maxBackoff      = 100
	maxLimit        = 100_000
	maxNonRetryable = 50
	maxPriority     = 1000
	maxInputDepth   = 64
)

var (
	nodeIDs = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	queues  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	codes   = regexp.MustCompile(`^[A-Z0-9_]{1,64}$`)
)

// CheckDefinition returns every broken rule of a definition as it was sent,
// with its exact path, in the order of the document; none means that a run can
// be carried out by it. Whether the agents and tools it names exist is not
// looked at. Messages never hold submitted values.
func CheckDefinition(def Definition, x Expressions) []domain.Field {
	c := checker{def: def, expressions: x, before: map[int][]bool{}}
	if len(def.Nodes) > MaxNodes {
		c.add("nodes", "has more than %d nodes", MaxNodes)
	}
	if len(def.Edges) > MaxEdges {
		c.add("edges", "has more than %d edges", MaxEdges)
	}
	if len(c.fields) > 0 {
		return c.fields
	}
	if data, err := json.Marshal(def); err != nil || len(data) > MaxDefinitionBytes {
		c.add("", "is larger than %d KiB", MaxDefinitionBytes>>10)
		return c.fields
	}
	c.graph = NewGraph(def)
	c.checkNodes()
	c.checkEdges()
	c.checkPaths()
	c.checkSettings()
	return c.fields
}

type checker struct {
	def         Definition
	expressions Expressions
	graph       *Graph
	before      map[int][]bool // the ancestors of a node, made when they are first asked for
	fields      []domain.Field
}

func (c *checker) add(path, format string, args ...any) {
	full := "definition"
	if path != "" {
		full += "." + path
	}
	c.fields = append(c.fields, domain.Field{Field: full, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) checkNodes() {
	seen := make(map[string]bool, len(c.def.Nodes))
	for i, node := range c.def.Nodes {
		at := fmt.Sprintf("nodes[%d]", i)
		switch {
		case !nodeIDs.MatchString(node.ID):
			c.add(at+".id", "must be 1 to 64 letters, digits, '_' or '-'")
		case seen[node.ID]:
			c.add(at+".id", "is used by an earlier node")
		}
		seen[node.ID] = true
		if !slices.Contains([]string{NodeAgent, NodeTool, NodeDecision, NodeWait}, node.Type) {
			c.add(at+".type", "must be one of agent, tool, decision, wait")
			continue
		}
		if !isText(node.Name, 255) {
			c.add(at+".name", "must be at most 255 characters without control characters")
		}
		c.checkFieldsOfType(at, node)
		c.checkWork(at, i, node)
		c.checkJoin(at, i, node)
	}
}

// checkFieldsOfType reports what a node of this type lacks or cannot have.
func (c *checker) checkFieldsOfType(at string, n Node) {
	work := n.Type == NodeAgent || n.Type == NodeTool
	for _, f := range []struct {
		name         string
		set, allowed bool
	}{
		{"agent", n.Agent != "", n.Type == NodeAgent},
		{"prompt", n.Prompt != "", n.Type == NodeAgent},
		{"limits", n.Limits != nil, n.Type == NodeAgent},
		{"tool", n.Tool != "", n.Type == NodeTool},
		{"duration", n.Duration != 0, n.Type == NodeWait},
		{"input", len(n.Input) > 0, work},
		{"queue", n.Queue != "", work},
		{"priority", n.Priority != 0, work},
		{"retry", n.Retry != nil, work},
		{"timeouts", n.Timeouts != nil, work},
		{"onExhausted", n.OnExhausted != "", work || n.Type == NodeDecision},
	} {
		if f.set && !f.allowed {
			c.add(at+"."+f.name, "is not allowed on a node of type %s", n.Type)
		}
	}
	switch n.Type {
	case NodeTool:
		if n.Tool == "" {
			c.add(at+".tool", "is required: the id of a tool, or builtin:<name>")
		} else if !isText(n.Tool, 128) || n.Tool == "builtin:" {
			c.add(at+".tool", "must be the id of a tool, or builtin:<name>")
		}
	case NodeAgent:
		if !isText(n.Agent, 128) {
			c.add(at+".agent", "must be the id of an agent")
		}
	case NodeWait:
		c.checkSpan(at+".duration", n.Duration, true)
		switch limit := c.def.Settings.MaxDuration; {
		case limit > 0 && n.Duration > limit:
			c.add(at+".duration", "is longer than settings.maxDuration, so that no run could end")
		case limit == 0 && n.Duration > MaxTimeout && n.Duration <= MaxSpan:
			c.add(at+".duration", "is longer than a day; set settings.maxDuration, so that runs can end")
		}
	}
}

// checkWork checks what agent and tool nodes have in common.
func (c *checker) checkWork(at string, i int, n Node) {
	if n.Type == NodeAgent && n.Prompt != "" {
		if len(n.Prompt) > MaxPromptBytes {
			c.add(at+".prompt", "is longer than %d KiB", MaxPromptBytes>>10)
		} else {
			c.checkTemplate(at+".prompt", i, n.Prompt)
		}
	}
	if n.Type == NodeAgent || n.Type == NodeTool {
		c.checkInput(at+".input", i, n.Input)
	}
	if n.Queue != "" && !queues.MatchString(n.Queue) {
		c.add(at+".queue", "must be 1 to 64 letters, digits, '.', '_' or '-'")
	}
	if n.Priority < -maxPriority || n.Priority > maxPriority {
		c.add(at+".priority", "must be between %d and %d", -maxPriority, maxPriority)
	}
	c.checkOnExhausted(at, n)
	if n.Retry != nil {
		c.checkRetry(at+".retry", i, *n.Retry)
	}
	if t := n.Timeouts; t != nil {
		c.checkSpan(at+".timeouts.scheduleToStart", t.ScheduleToStart, false)
		c.checkSpan(at+".timeouts.startToClose", t.StartToClose, false)
		c.checkSpan(at+".timeouts.scheduleToClose", t.ScheduleToClose, false)
		c.checkSpan(at+".timeouts.heartbeat", t.Heartbeat, false)
		if t.Heartbeat > 0 && t.Heartbeat < Duration(time.Second) {
			c.add(at+".timeouts.heartbeat", "must be at least 1s")
		}
	}
	if n.Limits != nil {
		c.checkLimits(at+".limits", *n.Limits)
	}
}

func (c *checker) checkOnExhausted(at string, n Node) {
	switch n.OnExhausted {
	case "", OnExhaustedFail, OnExhaustedContinue:
	case OnExhaustedPause:
		if n.Type == NodeDecision {
			c.add(at+".onExhausted", "must be fail or continue: a decision gives the same answer when it is repeated")
		}
	default:
		c.add(at+".onExhausted", "must be one of pause, fail, continue")
	}
}

func (c *checker) checkRetry(at string, node int, r Retry) {
	c.checkNumber(at+".maxAttempts", r.MaxAttempts, maxAttempts)
	c.checkSpan(at+".initialInterval", r.InitialInterval, false)
	c.checkSpan(at+".maxInterval", r.MaxInterval, false)
	c.checkSpan(at+".maxElapsed", r.MaxElapsed, false)
	if r.Backoff != 0 && (r.Backoff < 1 || r.Backoff > maxBackoff || math.IsNaN(r.Backoff)) {
		c.add(at+".backoff", "must be between 1 and %d", maxBackoff)
	}
	if r.MaxInterval > 0 && r.InitialInterval > r.MaxInterval {
		c.add(at+".maxInterval", "is shorter than initialInterval")
	}
	if r.Jitter != "" && r.Jitter != JitterFull && r.Jitter != JitterNone {
		c.add(at+".jitter", "must be one of full, none")
	}
	if len(r.NonRetryable) > maxNonRetryable {
		c.add(at+".nonRetryable", "has more than %d codes", maxNonRetryable)
	}
	for i, code := range r.NonRetryable {
		if !codes.MatchString(code) {
			c.add(fmt.Sprintf("%s.nonRetryable[%d]", at, i), "must be an error code of 1 to 64 upper-case letters, digits and '_'")
		}
	}
	c.checkCondition(at+".when", node, r.When)
}

func (c *checker) checkLimits(at string, l AgentLimits) {
	c.checkNumber(at+".maxTurns", l.MaxTurns, maxLimit)
	c.checkNumber(at+".maxToolCalls", l.MaxToolCalls, maxLimit)
	c.checkNumber(at+".maxIdenticalCalls", l.MaxIdenticalCalls, maxLimit)
	c.checkNumber(at+".maxConsecutiveErrors", l.MaxConsecutiveErrors, maxLimit)
	if l.MaxTokens < 0 {
		c.add(at+".maxTokens", "must not be negative")
	}
	if l.MaxCostNanos < 0 {
		c.add(at+".maxCostNanos", "must not be negative")
	}
}

func (c *checker) checkJoin(at string, i int, n Node) {
	incoming := len(c.graph.In[i])
	switch n.Join {
	case "", JoinAll:
		if n.JoinN != 0 {
			c.add(at+".joinN", "is allowed with join n only")
		}
	case JoinAny:
		if n.JoinN != 0 {
			c.add(at+".joinN", "is allowed with join n only")
		}
		if incoming == 0 {
			c.add(at+".join", "needs edges that lead to the node")
		}
	case JoinN:
		if n.JoinN < 1 || n.JoinN > incoming {
			c.add(at+".joinN", "must be between 1 and the number of edges that lead to the node")
		}
	default:
		c.add(at+".join", "must be one of all, any, n")
	}
}

func (c *checker) checkEdges() {
	type pair struct{ from, to string }
	seen := make(map[pair]bool, len(c.def.Edges))
	defaults := map[int]bool{}
	for i, edge := range c.def.Edges {
		at := fmt.Sprintf("edges[%d]", i)
		from, known := c.graph.Index(edge.From)
		if !known {
			c.add(at+".from", "names no node of the definition")
		}
		if _, known := c.graph.Index(edge.To); !known {
			c.add(at+".to", "names no node of the definition")
		}
		if seen[pair{edge.From, edge.To}] {
			c.add(at, "repeats an earlier edge; join its conditions by || instead")
		}
		seen[pair{edge.From, edge.To}] = true
		switch {
		case !known:
		case c.graph.Nodes[from].Type != NodeDecision:
			if edge.When != "" {
				c.add(at+".when", "is allowed on edges that leave a decision node only")
			}
		case edge.When != "":
			c.checkCondition(at+".when", from, edge.When)
		case defaults[from]:
			c.add(at, "is a second default edge of its decision node; all but one need a when")
		default:
			defaults[from] = true
		}
	}
	for i, node := range c.def.Nodes {
		if node.Type == NodeDecision && len(c.graph.Out[i]) == 0 {
			c.add(fmt.Sprintf("nodes[%d]", i), "is a decision node without outgoing edges")
		}
	}
}

// checkPaths reports cycles and what lies behind them.
func (c *checker) checkPaths() {
	loop := c.graph.cycle()
	if loop == nil {
		return
	}
	var positions []string
	for _, e := range loop {
		positions = append(positions, fmt.Sprintf("edges[%d]", c.graph.Edges[e].Position))
	}
	last := c.graph.Edges[loop[len(loop)-1]]
	c.add(fmt.Sprintf("edges[%d]", last.Position), "closes a cycle: %s", strings.Join(positions, ", "))

	reached := make([]bool, len(c.graph.Nodes))
	var visit func(int)
	visit = func(i int) {
		reached[i] = true
		for _, e := range c.graph.Out[i] {
			if to := c.graph.Edges[e].To; !reached[to] {
				visit(to)
			}
		}
	}
	for i := range c.graph.Nodes {
		if len(c.graph.In[i]) == 0 {
			visit(i)
		}
	}
	for i, ok := range reached {
		if !ok {
			c.add(fmt.Sprintf("nodes[%d]", i), "is reached from no start node")
		}
	}
}

func (c *checker) checkSettings() {
	s := c.def.Settings
	c.checkSpan("settings.maxDuration", s.MaxDuration, false)
	if s.MaxDuration > 0 && s.MaxDuration < Duration(time.Second) {
		c.add("settings.maxDuration", "must be at least 1s")
	}
	c.checkNumber("settings.maxSteps", s.MaxSteps, maxSteps)
	if s.MaxCostNanos < 0 {
		c.add("settings.maxCostNanos", "must not be negative")
	}
	if s.Priority < -maxPriority || s.Priority > maxPriority {
		c.add("settings.priority", "must be between %d and %d", -maxPriority, maxPriority)
	}
}

func (c *checker) checkSpan(at string, d Duration, required bool) {
	switch {
	case d == 0 && !required:
	case d <= 0:
		c.add(at, "must be a duration longer than zero, such as \"30s\" or \"5m\"")
	case d > MaxSpan:
		c.add(at, "must be at most %d days", int(MaxSpan.Std().Hours()/24))
	}
}

// checkNumber checks an integer whose zero value means the default.
func (c *checker) checkNumber(at string, n, limit int) {
	if n < 0 || n > limit {
		c.add(at, "must be between 1 and %d", limit)
	}
}

// isText reports whether s is printable text of at most so many characters.
func isText(s string, limit int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= limit && !strings.ContainsFunc(s, unicode.IsControl)
}
