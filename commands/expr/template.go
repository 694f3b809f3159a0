package expr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sparkops/control-plane/domain/run"
)

// piece is a part of a template: text, or an expression.
type piece struct {
	text       string
	expression bool
}

// CheckTemplate compiles every expression of a text. Its error is a sentence
// for users.
func (e *Engine) CheckTemplate(src string) error {
	pieces, err := split(src)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if p.expression {
			if _, err := e.compile(p.text); err != nil {
				return err
			}
		}
	}
	return nil
}

// Outputs returns the steps whose outputs a correct condition, or the
// expressions of a correct template, ask for by name.
func (e *Engine) Outputs(src string, template bool) []string {
	pieces := []piece{{text: src, expression: true}}
	if template {
		pieces, _ = split(src)
	}
	var steps []string
	for _, p := range pieces {
		if !p.expression {
			continue
		}
		if program, err := e.compile(p.text); err == nil {
			steps = append(steps, program.steps...)
		}
	}
	return steps
}

// Template replaces the expressions in every string of a JSON value (not in
// keys). A string that is one expression becomes its value, any other gets its
// text: strings as they are, everything else as JSON. "$${" stands for "${".
func (e *Engine) Template(raw json.RawMessage, vars run.Vars) (json.RawMessage, error) {
	if !bytes.Contains(raw, []byte("${")) && !bytes.Contains(raw, []byte(`\u`)) {
		return raw, nil
	}
	value, err := decodeJSON(raw)
	if err != nil {
		return nil, errors.New("the template is no JSON")
	}
	r := renderer{engine: e, vars: vars}
	if value, err = r.render(value); err != nil {
		return nil, err
	}
	return encode(value)
}

// renderer fills in one template and watches the size of what it makes.
type renderer struct {
	engine *Engine
	vars   run.Vars
	size   int
}

func (r *renderer) render(value any) (any, error) {
	switch v := value.(type) {
	case string:
		return r.fill(v)
	case []any:
		for i, item := range v {
			filled, err := r.render(item)
			if err != nil {
				return nil, err
			}
			v[i] = filled
		}
		return v, nil
	case map[string]any:
		for k, item := range v {
			filled, err := r.render(item)
			if err != nil {
				return nil, err
			}
			v[k] = filled
		}
		return v, nil
	default:
		return v, nil
	}
}

// fill replaces the expressions of one string.
func (r *renderer) fill(text string) (any, error) {
	if !strings.Contains(text, "${") {
		return text, nil
	}
	pieces, err := split(text)
	if err != nil {
		return nil, err
	}
	if len(pieces) == 1 && pieces[0].expression {
		value, err := r.eval(pieces[0].text)
		if err != nil {
			return nil, err
		}
		raw, err := encode(value)
		return json.RawMessage(raw), r.grow(len(raw), err)
	}
	var out strings.Builder
	for _, p := range pieces {
		part := p.text
		if p.expression {
			value, err := r.eval(p.text)
			if err != nil {
				return nil, err
			}
			if part, err = asText(value); err != nil {
				return nil, err
			}
		}
		if err := r.grow(len(part), nil); err != nil {
			return nil, err
		}
		out.WriteString(part)
	}
	return out.String(), nil
}

func (r *renderer) eval(src string) (any, error) {
	return r.engine.Eval(context.Background(), src, r.vars)
}

func (r *renderer) grow(n int, err error) error {
	if err != nil {
		return err
	}
	if r.size += n; r.size > maxResult {
		return fmt.Errorf("the result is larger than %d KiB", maxResult>>10)
	}
	return nil
}

func asText(value any) (string, error) {
	if text, ok := value.(string); ok {
		return text, nil
	}
	raw, err := encode(value)
	return string(raw), err
}

// encode writes a JSON value without escaping HTML and with sorted keys.
func encode(value any) (json.RawMessage, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, errNoJSON
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

var errUnclosed = errors.New("an expression is not closed: \"${\" without \"}\"")

// split cuts a text into its pieces.
func split(text string) ([]piece, error) {
	var pieces []piece
	var plain strings.Builder
	for len(text) > 0 {
		at := strings.Index(text, "${")
		if at < 0 {
			break
		}
		if at > 0 && text[at-1] == '$' { // "$${"
			plain.WriteString(text[:at-1] + "${")
			text = text[at+2:]
			continue
		}
		plain.WriteString(text[:at])
		length := closing(text[at+2:])
		if length < 0 {
			return nil, errUnclosed
		}
		if plain.Len() > 0 {
			pieces = append(pieces, piece{text: plain.String()})
			plain.Reset()
		}
		pieces = append(pieces, piece{text: text[at+2 : at+2+length], expression: true})
		text = text[at+2+length+1:]
	}
	plain.WriteString(text)
	if plain.Len() > 0 {
		pieces = append(pieces, piece{text: plain.String()})
	}
	return pieces, nil
}

// closing returns where the brace is that closes an expression, -1 where there
// is none. Braces in strings and comments do not count.
func closing(src string) int {
	depth := 0
	for i := 0; i < len(src); i++ {
		switch c := src[i]; c {
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i
			}
			depth--
		case '/':
			if strings.HasPrefix(src[i:], "//") {
				end := strings.IndexByte(src[i:], '\n')
				if end < 0 {
					return -1
				}
				i += end
			}
		case '"', '\'':
			end := endOfString(src, i)
			if end < 0 {
				return -1
			}
			i = end
		}
	}
	return -1
}

// endOfString returns where the last quote of the string literal at i is.
func endOfString(src string, i int) int {
	quote := src[i : i+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(src[i:], triple) {
		quote = triple
	}
	raw := isRaw(src[:i])
	for j := i + len(quote); j < len(src); j++ {
		switch {
		case src[j] == '\\' && !raw:
			j++
		case strings.HasPrefix(src[j:], quote):
			return j + len(quote) - 1
		}
	}
	return -1
}

// isRaw reports whether a string literal behind this text has the prefix r, in
// which a backslash is a character like any other.
func isRaw(before string) bool {
	prefix := before[len(strings.TrimRight(before, "rRbB")):]
	rest := before[:len(before)-len(prefix)]
	if prefix == "" || len(prefix) > 2 || !strings.ContainsAny(prefix, "rR") {
		return false
	}
	if rest == "" {
		return true
	}
	last := rest[len(rest)-1]
	return !(last == '_' || last >= '0' && last <= '9' || last >= 'a' && last <= 'z' || last >= 'A' && last <= 'Z')
}
