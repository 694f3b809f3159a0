package workflow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// checkCondition checks an expression that is evaluated at a node.
func (c *checker) checkCondition(at string, node int, src string) {
	switch {
	case src == "":
	case len(src) > MaxExpressionBytes:
		c.add(at, "is longer than %d KiB", MaxExpressionBytes>>10)
	default:
		if err := c.expressions.CheckCondition(src); err != nil {
			c.add(at, "%s", err)
			return
		}
		c.checkOutputs(at, node, src, false)
	}
}

func (c *checker) checkTemplate(at string, node int, src string) {
	if !strings.Contains(src, "${") {
		return
	}
	if err := c.expressions.CheckTemplate(src); err != nil {
		c.add(at, "%s", err)
		return
	}
	c.checkOutputs(at, node, src, true)
}

// checkOutputs reports outputs that can never be there: those of no node, and
// those of a node that is not before the one that asks.
func (c *checker) checkOutputs(at string, node int, src string, template bool) {
	for _, name := range c.expressions.Outputs(src, template) {
		i, known := c.graph.Index(name)
		if !known {
			c.add(at, "asks for the output of a step that is no node of the definition")
			return
		}
		if c.before[node] == nil {
			c.before[node] = c.graph.Ancestors(node)
		}
		if !c.before[node][i] {
			c.add(at, "asks for the output of a step that is not before it")
			return
		}
	}
}

// checkInput checks that the input is an object and every template in it.
func (c *checker) checkInput(at string, node int, raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		c.add(at, "is not valid JSON")
		return
	}
	switch value.(type) {
	case map[string]any, string:
		c.checkTemplates(at, node, value, 0)
	default:
		c.add(at, "must be an object, or a string of the form \"${ expression }\"")
	}
}

func (c *checker) checkTemplates(at string, node int, value any, depth int) {
	if depth > maxInputDepth {
		c.add(at, "is nested deeper than %d levels", maxInputDepth)
		return
	}
	switch v := value.(type) {
	case string:
		c.checkTemplate(at, node, v)
	case []any:
		for i, item := range v {
			c.checkTemplates(fmt.Sprintf("%s[%d]", at, i), node, item, depth+1)
		}
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			c.checkTemplates(at+"."+k, node, v[k], depth+1)
		}
	}
}
