// Package expr evaluates the expressions of workflows: CEL conditions, and
// templates, which are JSON whose strings hold "${ CEL }".
//
// Evaluation is pure and bounded by a cost limit instead of a clock, so that
// the same expression over the same variables gives the same answer on every
// node, however busy it is. An Engine is safe for concurrent use.
//
// Variables: input (of the run), outputs (by step), run (id, projectId,
// workflowId, workflowVersion, agentId, env, trigger, retries, config), error
// (code, message, details; null outside of retry policies) and attempt.
package expr

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
)

var (
	_ workflow.Expressions = (*Engine)(nil)
	_ run.Evaluator        = (*Engine)(nil)
)

const (
	costLimit      = 1_000_000 // one cheap operation costs 1, a second holds some ten million
	maxSource      = 16 << 10
	maxNodes       = 2_000
	maxDepth       = 100
	cachedPrograms = 4096
	maxResult      = 1 << 20
)

// Engine compiles and evaluates expressions. Compiled ones are remembered.
type Engine struct {
	env      *cel.Env
	programs *lru.Cache[string, *program]
}

// program is a compiled expression and what it looks at.
type program struct {
	cel.Program
	boolean bool     // it may yield a boolean
	steps   []string // the outputs it names
	all     bool     // it looks at outputs as a whole
}

// New returns an engine.
func New() (*Engine, error) {
	env, err := cel.NewEnv(
		cel.Variable("input", cel.DynType),
		cel.Variable("outputs", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("run", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("error", cel.DynType),
		cel.Variable("attempt", cel.IntType),
		cel.OptionalTypes(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.EagerlyValidateDeclarations(true),
		cel.ParserExpressionSizeLimit(maxSource),
		cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ExpressionNestingDepthLimit(maxDepth),
		ext.Strings(), ext.Math(), ext.Lists(), ext.Sets(), ext.Encoders(),
	)
	if err != nil {
		return nil, fmt.Errorf("make expression environment: %w", err)
	}
	programs, err := lru.New[string, *program](cachedPrograms)
	if err != nil {
		return nil, fmt.Errorf("make program cache: %w", err)
	}
	return &Engine{env: env, programs: programs}, nil
}

// Check compiles an expression. Its error is a sentence for users.
func (e *Engine) Check(src string) error {
	_, err := e.compile(src)
	return err
}

// CheckCondition compiles an expression that must yield a boolean. Its error
// is a sentence for users.
func (e *Engine) CheckCondition(src string) error {
	p, err := e.compile(src)
	if err != nil {
		return err
	}
	if !p.boolean {
		return errors.New("is no condition: it does not yield true or false")
	}
	return nil
}

// Condition evaluates an expression that yields a boolean.
func (e *Engine) Condition(src string, vars run.Vars) (bool, error) {
	value, err := e.Eval(context.Background(), src, vars)
	if err != nil {
		return false, err
	}
	yes, ok := value.(bool)
	if !ok {
		return false, errors.New("the condition does not yield true or false")
	}
	return yes, nil
}

// Eval evaluates an expression to a JSON value: nil, bool, int64, uint64,
// float64, string, []any or map[string]any. It ends with an error when ctx
// does.
func (e *Engine) Eval(ctx context.Context, src string, vars run.Vars) (any, error) {
	p, err := e.compile(src)
	if err != nil {
		return nil, err
	}
	value, err := e.eval(ctx, p, vars)
	if err != nil {
		return nil, err
	}
	return toJSON(value, 0)
}

func (e *Engine) eval(ctx context.Context, p *program, vars run.Vars) (value ref.Val, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the expression cannot be evaluated")
		}
	}()
	a := &activation{vars: vars, program: p}
	if ctx.Done() == nil {
		value, _, err = p.Eval(a)
	} else {
		value, _, err = p.ContextEval(ctx, a)
	}
	switch {
	case a.err != nil:
		return nil, a.err
	case err != nil:
		return nil, errors.New(strings.TrimSuffix(err.Error(), "."))
	default:
		return value, nil
	}
}

// compile returns the program of an expression.
func (e *Engine) compile(src string) (*program, error) {
	if p, ok := e.programs.Get(src); ok {
		return p, nil
	}
	if strings.TrimSpace(src) == "" {
		return nil, errors.New("the expression is empty")
	}
	if len(src) > maxSource {
		return nil, fmt.Errorf("the expression is longer than %d KiB", maxSource>>10)
	}
	checked, issues := e.env.Compile(src)
	if issues != nil && issues.Err() != nil {
		return nil, compileError(issues)
	}
	prg, err := e.env.Program(checked, cel.CostLimit(costLimit), cel.InterruptCheckFrequency(1000), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, errors.New("the expression cannot be prepared: " + err.Error())
	}
	p := &program{Program: prg}
	kind := checked.OutputType()
	p.boolean = kind.IsExactType(cel.BoolType) || kind.IsExactType(cel.DynType)
	p.look(checked.NativeRep().Expr())
	e.programs.Add(src, p)
	return p, nil
}

// compileError makes one sentence of the first problem.
func compileError(issues *cel.Issues) error {
	first := issues.Errors()[0]
	message := strings.TrimSpace(strings.TrimPrefix(first.Message, "Syntax error:"))
	if column := first.Location.Column(); column >= 0 {
		return fmt.Errorf("is not a valid expression: line %d, column %d: %s", first.Location.Line(), column+1, message)
	}
	return fmt.Errorf("is not a valid expression: %s", message)
}

// look finds out which outputs an expression can ask for.
func (p *program) look(root ast.Expr) {
	mentions, named := 0, 0
	add := func(name string) {
		named++
		p.steps = append(p.steps, name)
	}
	isOutputs := func(x ast.Expr) bool { return x.Kind() == ast.IdentKind && x.AsIdent() == "outputs" }
	ast.PostOrderVisit(root, ast.NewExprVisitor(func(x ast.Expr) {
		switch x.Kind() {
		case ast.IdentKind:
			if isOutputs(x) {
				mentions++
			}
		case ast.SelectKind:
			if s := x.AsSelect(); isOutputs(s.Operand()) {
				add(s.FieldName())
			}
		case ast.CallKind:
			c := x.AsCall()
			switch c.FunctionName() {
			case operators.Index, operators.OptIndex, operators.OptSelect:
				if len(c.Args()) == 2 && isOutputs(c.Args()[0]) && c.Args()[1].Kind() == ast.LiteralKind {
					if name, ok := c.Args()[1].AsLiteral().Value().(string); ok {
						add(name)
					}
				}
			}
		}
	}))
	p.all = mentions > named
}
