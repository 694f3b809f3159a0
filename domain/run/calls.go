package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

// The kinds of calls.
const (
	CallModel = "model"
	CallTool  = "tool"
)

const maxCalls = 10_000 // of one step

// CallKey returns the idempotency key of a call: the same whenever the call is
// repeated by a later attempt.
func CallKey(runID, step string, seq int) string {
	return fmt.Sprintf("%s/%s/%d", runID, step, seq)
}

// StartCall records that an external effect is about to happen. A call that an
// earlier attempt started and that has no result is started again under its
// recorded key. When the run has used up its costs, a model call ends it
// instead (COST_LIMIT): look for Failed among the events.
type StartCall struct {
	Held
	Call Call
}

// Decide records the intent.
func (c StartCall) Decide(r Run, now time.Time) ([]domain.Event, error) {
	s, err := c.step(r)
	if err != nil {
		return nil, err
	}
	if err := domain.InvalidFields(c.check()); err != nil {
		return nil, err
	}
	if err := checkPayload("request", c.Call.Request, MaxPayload); err != nil {
		return nil, err
	}
	call := c.Call
	if call.Key == "" {
		call.Key = CallKey(c.RunID, c.Step, call.Seq)
	}
	call.Unsafe = call.Unsafe || call.Kind == CallTool && !r.repeatSafe(s, call)
	if at := s.call(call.Seq); at >= 0 {
		known := s.Calls[at]
		switch {
		case known.Result != nil:
			return nil, domain.Fail(domain.Conflict, "CALL_FINISHED", "The call has a result; use it instead of calling again.")
		case known.Attempt == s.Attempt:
			return nil, nil
		case known.Kind == call.Kind && known.Name == call.Name:
			call.Key, call.Unsafe = known.Key, known.Unsafe
		}
	}
	d := decide(r, now, nil)
	if call.Kind == CallModel && r.overCost(0) {
		d.emit(r.costLimit(s, now))
		return d.events, nil
	}
	d.emit(StepCallStarted{Step: s.Step, Attempt: s.Attempt, Call: call, At: now})
	return d.events, nil
}

func (c StartCall) check() (fields []domain.Field) {
	if c.Call.Seq < 1 || c.Call.Seq > maxCalls {
		fields = append(fields, domain.Field{Field: "seq", Message: fmt.Sprintf("must be between 1 and %d", maxCalls)})
	}
	if c.Call.Kind != CallModel && c.Call.Kind != CallTool {
		fields = append(fields, domain.Field{Field: "kind", Message: "must be one of model, tool"})
	}
	if c.Call.Name == "" || len(c.Call.Name) > 255 {
		fields = append(fields, domain.Field{Field: "name", Message: "must be 1 to 255 bytes"})
	}
	if len(c.Call.Key) > 255 {
		fields = append(fields, domain.Field{Field: "key", Message: "must be at most 255 bytes"})
	}
	return fields
}

// FinishCall records how a call ended. It is accepted from the last holder of
// the step even after the run has ended, so that what was paid is counted.
// When the costs pass the run's limit, it ends the run (COST_LIMIT): look for
// Failed among the events. Repeating it changes nothing.
type FinishCall struct {
	Held
	Seq    int
	Result CallResult
}

// Decide records the result.
func (c FinishCall) Decide(r Run, now time.Time) ([]domain.Event, error) {
	if s, _ := r.Step(c.Step); s.Token == c.Token {
		if at := s.call(c.Seq); at >= 0 && s.Calls[at].Result != nil && s.Calls[at].Attempt == s.Attempt {
			return nil, nil
		}
	}
	s, err := c.step(r)
	if err != nil {
		if !r.Ended() || !slices.Contains(r.endTokens, c.Token) {
			return nil, err
		}
		s, _ = r.Step(c.Step)
	}
	at := s.call(c.Seq)
	if at < 0 || s.Calls[at].Attempt != s.Attempt || s.Calls[at].Result != nil {
		return nil, domain.Fail(domain.Conflict, "CALL_NOT_STARTED", "No call of this number was started under the lease.")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	known, result := s.Calls[at], c.Result
	if result.Failure != nil {
		failure := result.Failure.bounded("CALL_FAILED")
		result.Failure = &failure
	}
	d := decide(r, now, nil)
	d.emit(StepCallFinished{Step: s.Step, Attempt: s.Attempt, Seq: known.Seq, Kind: known.Kind, Name: known.Name, Result: result, At: now})
	if !r.Ended() && d.run.overCost(1) {
		d.emit(d.run.costLimit(s, now))
	}
	return d.events, nil
}

func (c FinishCall) check() error {
	if err := checkPayload("response", c.Result.Response, MaxPayload); err != nil {
		return err
	}
	u := c.Result.Usage
	if c.Result.CostNanos < 0 || min(u.Input, u.CacheRead, u.CacheWrite, u.Output, u.Reasoning) < 0 {
		return domain.InvalidFields([]domain.Field{{Field: "usage", Message: "must not be negative"}})
	}
	return nil
}

// overCost reports whether the run has reached its cost limit (margin 0), or
// passed it (margin 1).
func (r Run) overCost(margin domain.Nanos) bool {
	limit := domain.Nanos(r.queued().Plan.Definition.Settings.MaxCostNanos)
	return limit > 0 && r.cost >= limit.Add(margin)
}

func (r Run) costLimit(s Step, now time.Time) Failed {
	return Failed{
		Reason: Failure{Code: CodeCostLimit, Message: fmt.Sprintf("The run reached its cost limit of %.6f USD.", domain.Nanos(r.queued().Plan.Definition.Settings.MaxCostNanos).USD())},
		Step:   s.Step, At: now,
	}
}

// repeatSafe reports whether a tool call may be repeated when nobody knows
// whether it took effect.
func (r Run) repeatSafe(s Step, call Call) bool {
	tools := r.queued().Plan.Tools
	if t, ok := tools[call.Tool]; ok {
		return t.RepeatSafe()
	}
	if n := r.node(&s); n.Type == workflow.NodeTool {
		t, ok := tools[n.Tool]
		return !ok || t.RepeatSafe()
	}
	for _, t := range tools {
		if t.Spec.Name == call.Name && !t.RepeatSafe() {
			return false
		}
	}
	return true
}

// RepeatSafe reports whether calling the tool twice does no harm: a builtin
// one, an HTTP method that is idempotent by definition, or a configuration
// that says so ("idempotent": true).
func (t ToolPlan) RepeatSafe() bool {
	var config struct {
		URL        string `json:"url"`
		Method     string `json:"method"`
		Idempotent *bool  `json:"idempotent"`
	}
	if len(t.Spec.Config) > 0 && json.Unmarshal(t.Spec.Config, &config) != nil {
		return false
	}
	if config.Idempotent != nil {
		return *config.Idempotent
	}
	if config.URL == "" {
		return true // nothing outside is called
	}
	switch strings.ToUpper(config.Method) {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS":
		return true
	default:
		return false
	}
}
