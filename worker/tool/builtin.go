package tool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// builtin is a function of the worker itself.
type builtin struct {
	run        func(ctx context.Context, s *Set, c Call) (json.RawMessage, error)
	effect     bool
	parameters json.RawMessage
	set        *Set
}

func (b builtin) Call(ctx context.Context, c Call) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return b.run(ctx, b.set, c)
}
func (b builtin) Effect() bool                { return b.effect }
func (b builtin) Parameters() json.RawMessage { return b.parameters }

// Builtins returns the names of the builtin tools, sorted.
func Builtins() []string { return slices.Sorted(maps.Keys(builtins)) }

var builtins = map[string]builtin{
	"noop": {run: func(context.Context, *Set, Call) (json.RawMessage, error) { return json.RawMessage(`{}`), nil }},

	// echo answers its arguments.
	"echo": {run: func(_ context.Context, _ *Set, c Call) (json.RawMessage, error) {
		if len(c.Arguments) == 0 {
			return json.RawMessage(`{}`), nil
		}
		return c.Arguments, nil
	}},

	// sleep waits, at most an hour, and answers for how long.
	"sleep": {
		run:        sleepFor,
		parameters: json.RawMessage(`{"type":"object","required":["duration"],"properties":{"duration":{"type":["string","number"],"description":"such as \"1.5s\", or seconds"}}}`),
	},

	// add answers the sum, math the result of one operation.
	"add": {
		run:        add,
		parameters: json.RawMessage(`{"type":"object","required":["a","b"],"properties":{"a":{"type":"number"},"b":{"type":"number"}}}`),
	},
	"math": {
		run:        calculate,
		parameters: json.RawMessage(`{"type":"object","required":["op","a","b"],"properties":{"op":{"enum":["add","sub","mul","div","mod","pow","min","max"]},"a":{"type":"number"},"b":{"type":"number"}}}`),
	},

	// fail fails with what it is told to: code, message, retryable (true
	// where absent), and only in attempts before untilAttempt.
	"fail": {
		run:        failing,
		parameters: json.RawMessage(`{"type":"object","properties":{"code":{"type":"string"},"message":{"type":"string"},"retryable":{"type":"boolean"},"retryAfter":{"type":["string","number"]},"untilAttempt":{"type":"integer"}}}`),
	},

	// counter counts up a number in the worker's memory and answers it. A
	// repeated key is not counted again. Its calls are recorded like those of
	// a tool with an effect outside.
	"counter": {
		run:        count,
		effect:     true,
		parameters: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"},"by":{"type":"integer"}}}`),
	},
}

func (s *Set) builtin(name string, parameters json.RawMessage) (Tool, error) {
	b, ok := builtins[name]
	if !ok {
		return nil, &Error{Code: "TOOL_UNKNOWN", Message: fmt.Sprintf("There is no such builtin tool; there are %s.", strings.Join(Builtins(), ", "))}
	}
	b.set = s
	if len(parameters) > 0 {
		b.parameters = parameters
	}
	return b, nil
}

// read decodes the arguments of a builtin.
func read[T any](c Call) (T, error) {
	var v T
	if len(c.Arguments) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(c.Arguments, &v); err != nil {
		return v, &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments are not of the form the tool takes.", Cause: err}
	}
	return v, nil
}

func answer(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, &Error{Code: "TOOL_FAILED", Message: "The result cannot be written as JSON.", Cause: err}
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func sleepFor(ctx context.Context, _ *Set, c Call) (json.RawMessage, error) {
	in, err := read[struct {
		Duration Duration `json:"duration"`
	}](c)
	if err != nil {
		return nil, err
	}
	d := min(max(time.Duration(in.Duration), 0), time.Hour)
	if err := sleep(ctx, d); err != nil {
		return nil, err
	}
	return answer(map[string]string{"slept": d.String()})
}

type operands struct {
	Op   string  `json:"op"`
	A, B float64 // matched without case
}

func add(_ context.Context, _ *Set, c Call) (json.RawMessage, error) {
	in, err := read[operands](c)
	if err != nil {
		return nil, err
	}
	return number(in.A + in.B)
}

func calculate(_ context.Context, _ *Set, c Call) (json.RawMessage, error) {
	in, err := read[operands](c)
	if err != nil {
		return nil, err
	}
	switch in.Op {
	case "add":
		return number(in.A + in.B)
	case "sub":
		return number(in.A - in.B)
	case "mul":
		return number(in.A * in.B)
	case "div":
		return number(in.A / in.B)
	case "mod":
		return number(math.Mod(in.A, in.B))
	case "pow":
		return number(math.Pow(in.A, in.B))
	case "min":
		return number(min(in.A, in.B))
	case "max":
		return number(max(in.A, in.B))
	default:
		return nil, &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The operation is not one the tool knows."}
	}
}

func number(x float64) (json.RawMessage, error) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil, &Error{Code: "TOOL_FAILED", Message: "The result is not a number."}
	}
	return answer(map[string]float64{"result": x})
}

func failing(_ context.Context, _ *Set, c Call) (json.RawMessage, error) {
	in, err := read[struct {
		Code         string   `json:"code"`
		Message      string   `json:"message"`
		Retryable    *bool    `json:"retryable"`
		RetryAfter   Duration `json:"retryAfter"`
		UntilAttempt int      `json:"untilAttempt"`
	}](c)
	if err != nil {
		return nil, err
	}
	if in.UntilAttempt > 0 && c.Attempt >= in.UntilAttempt {
		return answer(map[string]int{"attempt": c.Attempt})
	}
	return nil, &Error{
		Code: cmp.Or(in.Code, "TOOL_FAILED"), Message: cmp.Or(in.Message, "The tool was told to fail."),
		Retryable: in.Retryable == nil || *in.Retryable, RetryAfter: max(time.Duration(in.RetryAfter), 0),
	}
}

// counters are numbers by name, and what each key has counted.
type counters struct {
	values map[string]int64
	seen   map[string]int64
	order  []string // of seen, oldest first
}

const keysRemembered = 100_000

func newCounters() counters {
	return counters{values: map[string]int64{}, seen: map[string]int64{}}
}

func count(_ context.Context, s *Set, c Call) (json.RawMessage, error) {
	in, err := read[struct {
		Name string `json:"name"`
		By   *int64 `json:"by"`
	}](c)
	if err != nil {
		return nil, err
	}
	by := int64(1)
	if in.By != nil {
		by = *in.By
	}
	return answer(map[string]int64{"count": s.counters.add(&s.mu, in.Name, c.Key, by)})
}

func (c *counters) add(mu *sync.Mutex, name, key string, by int64) int64 {
	mu.Lock()
	defer mu.Unlock()
	id := name + "\x00" + key
	if value, ok := c.seen[id]; ok && key != "" {
		return value
	}
	c.values[name] += by
	if key != "" {
		c.seen[id] = c.values[name]
		if c.order = append(c.order, id); len(c.order) > keysRemembered {
			delete(c.seen, c.order[0])
			c.order = c.order[1:]
		}
	}
	return c.values[name]
}

// Count returns what the builtin counter has counted under a name.
func (s *Set) Count(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters.values[name]
}
