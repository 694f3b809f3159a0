package expr_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain/run"
)

func newEngine(t testing.TB) *expr.Engine {
	t.Helper()
	e, err := expr.New()
	require.NoError(t, err)
	return e
}

// vars are those of a run with the outputs a, b-c and list.
func vars() run.Vars {
	outputs := map[string]string{
		"a":    `{"count": 3, "score": 0.5, "big": 9007199254740993, "name": "Ann \"<b>\""}`,
		"b-c":  `null`,
		"list": `[1, 2, 3]`,
	}
	return run.Vars{
		Input:   json.RawMessage(`{"city": "Oslo", "n": 2, "ratio": 1.0, "tags": ["x", "y"]}`),
		Output:  func(step string) (json.RawMessage, bool) { raw, ok := outputs[step]; return json.RawMessage(raw), ok },
		Outputs: func() []string { return []string{"a", "b-c", "list"} },
		Run:     run.Facts{ID: "r1", Env: "prod", WorkflowVersion: 4, Trigger: "manual", Config: json.RawMessage(`{"k": 1}`)},
		Attempt: 2,
	}
}

func TestEval(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for src, want := range map[string]any{
		`input.n + 1`:                                   int64(3),
		`input.n * 2`:                                   int64(4),
		`input.n > 1.5`:                                 true,
		`input.ratio`:                                   1.0,
		`outputs.a.big`:                                 int64(9007199254740993),
		`outputs.a.big + 1`:                             int64(9007199254740994),
		`outputs.a.score < 1`:                           true,
		`outputs["b-c"]`:                                nil,
		`outputs["b-c"] == null`:                        true,
		`has(outputs.nothing)`:                          false,
		`has(outputs.a) && has(outputs.list)`:           true,
		`outputs.?nothing.orValue("none")`:              "none",
		`outputs.?nothing`:                              nil,
		`size(outputs)`:                                 int64(3),
		`outputs.exists(k, k == "list")`:                true,
		`"a" in outputs`:                                true,
		`outputs.list.map(x, x * x)`:                    []any{int64(1), int64(4), int64(9)},
		`outputs.list.filter(x, x > 1)`:                 []any{int64(2), int64(3)},
		`input.tags.join("+")`:                          "x+y",
		`{"n": input.n, "t": [true, null]}`:             map[string]any{"n": int64(2), "t": []any{true, nil}},
		`run.env == "prod" && run.workflowVersion == 4`: true,
		`run.config.k`:                                  int64(1),
		`attempt`:                                       int64(2),
		`error == null`:                                 true,
		`duration("90s")`:                               "1m30s",
		`timestamp("2024-01-02T03:04:05Z")`:             "2024-01-02T03:04:05Z",
		`b"abc"`:                                        "YWJj",
		`uint(7)`:                                       uint64(7),
		`math.greatest(1, 5, 3)`:                        int64(5),
		`[1, 2].exists(i, outputs.list[i] == 3)`:        true,
	} {
		got, err := e.Eval(context.Background(), src, vars())
		require.NoError(t, err, src)
		require.Equal(t, want, got, src)
	}
}

func TestEvalSeesErrorOfRetry(t *testing.T) {
	t.Parallel()
	v := vars()
	v.Error = &run.Failure{Code: "TOOL_HTTP_503", Message: "busy", Details: json.RawMessage(`{"status": 503}`)}
	yes, err := newEngine(t).Condition(`error.code.startsWith("TOOL_HTTP_5") && error.details.status >= 500 && attempt < 3`, v)
	require.NoError(t, err)
	require.True(t, yes)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	require.NoError(t, e.CheckCondition(`input.x == 1`))
	require.NoError(t, e.CheckCondition(`input.flag`))
	require.EqualError(t, e.CheckCondition(`1 + 1`), "is no condition: it does not yield true or false")
	require.EqualError(t, e.CheckCondition(` `), "the expression is empty")
	require.EqualError(t, e.CheckCondition(`nobody.x`), "is not a valid expression: line 1, column 1: undeclared reference to 'nobody'")
	require.ErrorContains(t, e.CheckCondition(`input.x ==`), "is not a valid expression: line 1, column 11:")
	require.ErrorContains(t, e.CheckCondition(strings.Repeat("!", 20<<10)+"true"), "longer than")
	require.Error(t, e.CheckCondition(strings.Repeat("(", 400)+"true"+strings.Repeat(")", 400)))

	require.NoError(t, e.CheckTemplate(`no expression, $5 {}`))
	require.NoError(t, e.CheckTemplate(`${input.a} and ${ {"k": "}"}["k"] }`))
	require.EqualError(t, e.CheckTemplate(`Hello ${input.name`), `an expression is not closed: "${" without "}"`)
	require.ErrorContains(t, e.CheckTemplate(`${ }`), "empty")
	require.ErrorContains(t, e.CheckTemplate(`${ 1 + }`), "is not a valid expression")
}

func TestEvalFails(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for src, want := range map[string]string{
		`outputs.nothing.x`:     "no such key: nothing",
		`input.city + 1`:        "no such overload",
		`1 / 0`:                 "division by zero",
		`1.0 / 0.0`:             "JSON cannot hold",
		`type(1)`:               "JSON cannot hold",
		`outputs.list[7]`:       "index out of bounds",
		`int(input.city)`:       "type conversion error",
		`9223372036854775807+1`: "overflow",
	} {
		_, err := e.Eval(context.Background(), src, vars())
		require.ErrorContains(t, err, want, src)
	}
	_, err := e.Condition(`input.city`, vars())
	require.EqualError(t, err, "the condition does not yield true or false")
	v := vars()
	v.Input = json.RawMessage(`{`)
	_, err = e.Eval(context.Background(), `input`, v)
	require.EqualError(t, err, "a variable of the expression is no JSON")
}

func TestEvalIsBounded(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	list := "[" + strings.TrimSuffix(strings.Repeat("1,", 200), ",") + "]"
	v := run.Vars{Input: json.RawMessage(list)}
	_, err := e.Eval(context.Background(), `input.all(a, input.all(b, input.all(c, input.all(d, a + b + c + d > 0))))`, v)
	require.ErrorContains(t, err, "cost limit")
	_, err = e.Template(json.RawMessage(`"${input.map(a, input.map(b, input.map(c, \"0123456789\")))}"`), run.Vars{Input: json.RawMessage(list)})
	require.Error(t, err)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = e.Eval(ctx, `input.all(a, input.all(b, a + b > 0))`, v)
	require.ErrorContains(t, err, "interrupted")
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for src, want := range map[string]string{
		`{"a": 1, "b": [null, true, 1.50, 12345678901234567890]}`: `{"a": 1, "b": [null, true, 1.50, 12345678901234567890]}`,
		`"${ input.n }"`:                       `2`,
		`{"n": "${input.n}", "keep": 1.50}`:    `{"keep":1.50,"n":2}`,
		`"${outputs.a}"`:                       `{"big":9007199254740993,"count":3,"name":"Ann \"<b>\"","score":0.5}`,
		`"Hi ${outputs.a.name}, ${input.n} x"`: `"Hi Ann \"<b>\", 2 x"`,
		`" ${input.n}"`:                        `" 2"`,
		`"${input.n}${input.n}"`:               `"22"`,
		`"${input.tags}: ${outputs[\"b-c\"]}"`: `"[\"x\",\"y\"]: null"`,
		`"costs $${input.n} or $5"`:            `"costs ${input.n} or $5"`,
		`"${ {\"k\": \"}\"} }"`:                `{"k":"}"}`,
		`"${ '}' + \"{\" } ${ r'\\' }"`:        `"}{ \\"`,
		`"${ '''it's }''' }"`:                  `"it's }"`,
		`{"${input.n}": "key stays"}`:          `{"${input.n}":"key stays"}`,
		`{"deep": [{"x": ["${input.city}"]}]}`: `{"deep":[{"x":["Oslo"]}]}`,
		`"\u0024{input.n}"`:                    `2`,
		`"${ // a comment with }\n input.n }"`: `2`,
	} {
		got, err := e.Template(json.RawMessage(src), vars())
		require.NoError(t, err, src)
		require.Equal(t, want, string(got), src)
	}
	_, err := e.Template(json.RawMessage(`{"a": "${ outputs.gone }"}`), vars())
	require.ErrorContains(t, err, "no such key: gone")
	_, err = e.Template(json.RawMessage(`"${`), vars())
	require.EqualError(t, err, "the template is no JSON")
}

// Only what an expression names is looked up, so that a run with a thousand
// outputs does not decode them all.
func TestOutputsAreLookedUpByName(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for src, want := range map[string][]string{
		`outputs.a.count`:                                       {"a"},
		`outputs["b-c"] == outputs.a`:                           {"a", "b-c"},
		`has(outputs.gone) || outputs.?a.count.orValue(1) == 3`: {"a", "gone"},
		`outputs[?"a"].hasValue()`:                              {"a"},
		`outputs[run.id + "x"] == 1`:                            {"a", "b-c", "list"},
		`outputs.all(k, outputs[k] != 7)`:                       {"a", "b-c", "list"},
		`true`:                                                  nil,
	} {
		v, asked := vars(), map[string]bool{}
		lookup := v.Output
		v.Output = func(step string) (json.RawMessage, bool) { asked[step] = true; return lookup(step) }
		_, _ = e.Eval(context.Background(), src, v)
		var names []string
		for name := range asked {
			names = append(names, name)
		}
		slices.Sort(names)
		require.Equal(t, want, names, src)
	}
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	require.Equal(t, []string{"a", "b-c"}, e.Outputs(`outputs.a.n == 1 && has(outputs.a) || outputs["b-c"]`, false)[1:])
	require.Equal(t, []string{"a", "b"}, e.Outputs(`x ${outputs.a} outputs.no ${outputs.b.c}`, true))
	require.Empty(t, e.Outputs(`outputs.size() > 1`, false))
	require.Empty(t, e.Outputs(`${`, true))
}

func TestEngineIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				yes, err := e.Condition(`input.n == 2 && outputs.a.count == 3`, vars())
				if err != nil || !yes {
					t.Errorf("%v %v", yes, err)
				}
			}
		})
	}
	all.Wait()
}

func FuzzTemplate(f *testing.F) {
	e := newEngine(f)
	for _, seed := range []string{
		"${input.n}", "a ${outputs.a.count} b", "$${x}", "${'}'}", `${r"\"}`, `${"""}"""}`, "${", "}", "${{}}", "${ // }\n1}", "${b'x'}",
		"${input.tags.map(t, t + t)}", "${1/0}", "${outputs}", "${run}${error}${attempt}", "${duration('1s')}", "${[1,2,3][9]}", "${optional.none()}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		raw, err := json.Marshal(src)
		require.NoError(t, err)
		began := time.Now()
		got, err := e.Template(raw, vars())
		again, errAgain := e.Template(raw, vars())
		require.Less(t, time.Since(began), 30*time.Second)
		require.Equal(t, err == nil, errAgain == nil)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.True(t, json.Valid(got), "%s", got)
		require.JSONEq(t, string(got), string(again))
		require.NoError(t, e.CheckTemplate(src))
	})
}

func FuzzCondition(f *testing.F) {
	e := newEngine(f)
	for _, seed := range []string{"input.n == 2", "true", "has(outputs.a)", "outputs.list.exists(x, x > 2)", "error.code", "1 in [1]", "'a'.matches('(a+)+$')"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		checked := e.CheckCondition(src)
		_, err := e.Condition(src, vars())
		if checked != nil {
			require.Error(t, err)
		}
	})
}

func BenchmarkCondition(b *testing.B) {
	e, v := newEngine(b), vars()
	for b.Loop() {
		if yes, err := e.Condition(`outputs.a.count == 3 && input.n > 1`, v); err != nil || !yes {
			b.Fatal(yes, err)
		}
	}
}
