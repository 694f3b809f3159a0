package workflow

import (
	"slices"
	"time"
)

// The defaults of a definition. They guard every run that states nothing else.
const (
	DefaultQueue       = "default"
	DefaultMaxDuration = Duration(time.Hour)
	DefaultMaxSteps    = 1000

	defaultInitialInterval = Duration(time.Second)
	defaultBackoff         = 2.0
	defaultMaxInterval     = Duration(time.Minute)
	defaultMaxElapsed      = Duration(time.Hour)
	defaultScheduleToStart = Duration(time.Hour)
	defaultStartToClose    = Duration(10 * time.Minute)
	defaultHeartbeat       = Duration(time.Minute)

	defaultMaxTurns             = 50
	defaultMaxToolCalls         = 50
	defaultMaxIdenticalCalls    = 3
	defaultMaxConsecutiveErrors = 5
)

// The ways to wait for the branches that lead to a node.
const (
	JoinAll = "all" // every live incoming branch
	JoinAny = "any" // the first one
	JoinN   = "n"   // as many as joinN says
)

// What happens when a step failed for good.
const (
	OnExhaustedPause    = "pause"
	OnExhaustedFail     = "fail"
	OnExhaustedContinue = "continue"
)

// The kinds of jitter of a retry.
const (
	JitterFull = "full"
	JitterNone = "none"
)

// DefaultOnExhausted returns what a node type does when its retries are used
// up: expensive work is kept for an operator, anything else fails the run.
func DefaultOnExhausted(nodeType string) string {
	if nodeType == NodeAgent || nodeType == NodeTool {
		return OnExhaustedPause
	}
	return OnExhaustedFail
}

// Normalize returns the definition with every default filled in. An empty one
// becomes one agent node carried out by the run's agent on the run's input.
// The argument is not changed, and normalising twice changes nothing more.
func Normalize(def Definition, spec Spec) Definition {
	out := Definition{Settings: normalizeSettings(def.Settings, spec), Edges: slices.Clone(def.Edges)}
	nodes := def.Nodes
	if len(nodes) == 0 {
		nodes = []Node{{ID: "agent", Type: NodeAgent, Name: "prompt"}}
	}
	out.Nodes = make([]Node, len(nodes))
	for i, node := range nodes {
		out.Nodes[i] = normalizeNode(node, out.Settings, spec)
	}
	return out
}

func normalizeSettings(s Settings, spec Spec) Settings {
	if s.MaxDuration == 0 {
		s.MaxDuration = DefaultMaxDuration
		if spec.TimeoutSeconds > 0 {
			s.MaxDuration = Duration(time.Duration(spec.TimeoutSeconds) * time.Second)
		}
	}
	setDefault(&s.MaxSteps, DefaultMaxSteps)
	return s
}

func normalizeNode(n Node, settings Settings, spec Spec) Node {
	setDefault(&n.Name, n.ID)
	setDefault(&n.Join, JoinAll)
	if n.Type == NodeDecision {
		setDefault(&n.OnExhausted, DefaultOnExhausted(n.Type))
	}
	if n.Type != NodeAgent && n.Type != NodeTool {
		return n
	}
	setDefault(&n.OnExhausted, DefaultOnExhausted(n.Type))
	setDefault(&n.Queue, DefaultQueue)
	setDefault(&n.Priority, settings.Priority)
	n.Retry = normalizeRetry(n.Retry, spec)
	n.Timeouts = normalizeTimeouts(n.Timeouts)
	if n.Type == NodeAgent {
		n.Limits = normalizeLimits(n.Limits)
	}
	return n
}

func normalizeRetry(given *Retry, spec Spec) *Retry {
	r := valueOf(given)
	r.NonRetryable = slices.Clone(r.NonRetryable)
	setDefault(&r.MaxAttempts, spec.MaxRetries+1)
	setDefault(&r.InitialInterval, defaultInitialInterval)
	setDefault(&r.Backoff, defaultBackoff)
	setDefault(&r.MaxInterval, max(defaultMaxInterval, r.InitialInterval))
	setDefault(&r.Jitter, JitterFull)
	setDefault(&r.MaxElapsed, defaultMaxElapsed)
	return &r
}

func normalizeTimeouts(given *Timeouts) *Timeouts {
	t := valueOf(given)
	setDefault(&t.ScheduleToStart, defaultScheduleToStart)
	setDefault(&t.StartToClose, defaultStartToClose)
	setDefault(&t.Heartbeat, defaultHeartbeat)
	return &t
}

func normalizeLimits(given *AgentLimits) *AgentLimits {
	l := valueOf(given)
	setDefault(&l.MaxTurns, defaultMaxTurns)
	setDefault(&l.MaxToolCalls, defaultMaxToolCalls)
	setDefault(&l.MaxIdenticalCalls, defaultMaxIdenticalCalls)
	setDefault(&l.MaxConsecutiveErrors, defaultMaxConsecutiveErrors)
	return &l
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
