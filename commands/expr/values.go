package expr

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/sparkops/control-plane/domain/run"
)

// activation resolves the variables of one evaluation, each when it is first
// asked for.
type activation struct {
	vars    run.Vars
	program *program
	err     error // a variable that is no JSON

	input, outputs any
}

var _ cel.Activation = (*activation)(nil)

// Parent returns nil: there is no outer scope.
func (a *activation) Parent() cel.Activation { return nil }

// ResolveName returns the value of a variable.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "input":
		if a.input == nil {
			a.input = a.decode(a.vars.Input)
		}
		return a.input, true
	case "outputs":
		if a.outputs == nil {
			a.outputs = a.visibleOutputs()
		}
		return a.outputs, true
	case "run":
		return a.runFacts(), true
	case "error":
		return a.failure(), true
	case "attempt":
		return int64(a.vars.Attempt), true
	default:
		return nil, false
	}
}

func (a *activation) visibleOutputs() map[string]any {
	names := a.program.steps
	if a.program.all && a.vars.Outputs != nil {
		names = a.vars.Outputs()
	}
	outputs := make(map[string]any, len(names))
	for _, name := range names {
		if a.vars.Output == nil {
			break
		}
		if raw, ok := a.vars.Output(name); ok {
			outputs[name] = a.decode(raw)
		}
	}
	return outputs
}

func (a *activation) runFacts() map[string]any {
	f := a.vars.Run
	return map[string]any{
		"id": f.ID, "projectId": f.ProjectID, "workflowId": f.WorkflowID, "workflowVersion": int64(f.WorkflowVersion),
		"agentId": f.AgentID, "env": f.Env, "trigger": f.Trigger, "retries": int64(f.Retries), "config": a.decode(f.Config),
	}
}

func (a *activation) failure() any {
	f := a.vars.Error
	if f == nil {
		return types.NullValue
	}
	return map[string]any{"code": f.Code, "message": f.Message, "details": a.decode(f.Details)}
}

func (a *activation) decode(raw json.RawMessage) any {
	if len(raw) == 0 {
		return types.NullValue
	}
	value, err := decodeJSON(raw)
	if err != nil {
		a.err = errors.New("a variable of the expression is no JSON")
		return types.NullValue
	}
	return fromJSON(value)
}

// decodeJSON reads one JSON value and keeps its numbers as they are written.
func decodeJSON(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return value, nil
}

// fromJSON turns numbers into what CEL computes with: integers stay integers,
// beyond 64 bits and with a fraction or exponent they are doubles.
func fromJSON(value any) any {
	switch v := value.(type) {
	case nil:
		return types.NullValue
	case json.Number:
		return number(v.String())
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = fromJSON(item)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = fromJSON(item)
		}
		return out
	default:
		return v
	}
}

func number(text string) any {
	if !strings.ContainsAny(text, ".eE") {
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return i
		}
		if u, err := strconv.ParseUint(text, 10, 64); err == nil {
			return u
		}
	}
	f, _ := strconv.ParseFloat(text, 64) // out of range: infinity, which no result can hold
	return f
}

var errNoJSON = errors.New("the expression yields a value that JSON cannot hold")

// toJSON turns the result of an expression into a JSON value.
func toJSON(value ref.Val, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errNoJSON
	}
	switch v := value.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		return uint64(v), nil
	case types.Double:
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, errNoJSON
		}
		return float64(v), nil
	case types.String:
		return string(v), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(v), nil
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return v.Duration.String(), nil
	case *types.Optional:
		if !v.HasValue() {
			return nil, nil
		}
		return toJSON(v.GetValue(), depth+1)
	case traits.Mapper:
		return mapToJSON(v, depth)
	case traits.Lister:
		out := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			item, err := toJSON(it.Next(), depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, item)
		}
		return out, nil
	default:
		return nil, errNoJSON
	}
}

func mapToJSON(v traits.Mapper, depth int) (any, error) {
	out := map[string]any{}
	for it := v.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		item, err := toJSON(v.Get(key), depth+1)
		if err != nil {
			return nil, err
		}
		text, ok := key.ConvertToType(types.StringType).(types.String)
		if !ok {
			return nil, errNoJSON
		}
		out[string(text)] = item
	}
	return out, nil
}
