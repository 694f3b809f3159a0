package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Templates of a tool's configuration name parts of the arguments by path:
// "${ input.order.lines[0].id }", or "${ input }" for all of them. They are no
// expressions: nothing is computed.

func decode(raw json.RawMessage, into *any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // large numbers pass through as they are
	return d.Decode(into)
}

func decodeInput(arguments json.RawMessage) (any, error) {
	if len(arguments) == 0 {
		return map[string]any{}, nil
	}
	var v any
	if err := decode(arguments, &v); err != nil {
		return nil, &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments are not valid JSON."}
	}
	return v, nil
}

// next splits text at its first placeholder. ok is false where there is none.
func next(text string) (before, path, after string, ok bool) {
	start := strings.Index(text, "${")
	if start < 0 {
		return text, "", "", false
	}
	end := strings.IndexByte(text[start:], '}')
	if end < 0 {
		return text, "", "", false
	}
	return text[:start], strings.TrimSpace(text[start+2 : start+end]), text[start+end+1:], true
}

func lookup(path string, vars any) (any, error) {
	missing := &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: fmt.Sprintf("The tool's configuration asks for ${ %s }, which the arguments do not have.", path)}
	rest, ok := strings.CutPrefix(path, "input")
	if !ok || rest != "" && rest[0] != '.' && rest[0] != '[' {
		return nil, &Error{Code: "TOOL_CONFIG_INVALID", Message: fmt.Sprintf("The tool's configuration has the template ${ %s }; templates start with input.", path)}
	}
	v, ok := walk(vars, segments(rest))
	if !ok {
		return nil, missing
	}
	return v, nil
}

// segments splits "a.b[0].c" into its names.
func segments(path string) []string {
	path = strings.NewReplacer("[", ".", "]", "").Replace(path)
	var out []string
	for s := range strings.SplitSeq(path, ".") {
		if s = strings.Trim(s, `"' `); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func walk(v any, names []string) (any, bool) {
	for _, name := range names {
		switch at := v.(type) {
		case map[string]any:
			inner, ok := at[name]
			if !ok {
				return nil, false
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// fillValue fills in a JSON value: a string that is one placeholder becomes
// the value itself, any other is filled in as text.
func fillValue(template, vars any) (any, error) {
	switch at := template.(type) {
	case string:
		before, path, after, ok := next(at)
		if ok && before == "" && after == "" {
			return lookup(path, vars)
		}
		return fillText(at, vars, nil)
	case map[string]any:
		out := make(map[string]any, len(at))
		for k, v := range at {
			filled, err := fillValue(v, vars)
			if err != nil {
				return nil, err
			}
			out[k] = filled
		}
		return out, nil
	case []any:
		out := make([]any, 0, len(at))
		for _, v := range at {
			filled, err := fillValue(v, vars)
			if err != nil {
				return nil, err
			}
			out = append(out, filled)
		}
		return out, nil
	default:
		return template, nil
	}
}

// fillText fills in a text; escape, when set, is applied to what is filled in.
func fillText(text string, vars any, escape func(before, value string) string) (string, error) {
	var out strings.Builder
	for {
		before, path, after, ok := next(text)
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		v, err := lookup(path, vars)
		if err != nil {
			return "", err
		}
		value, err := scalar(v)
		if err != nil {
			data, err := answer(v)
			if err != nil {
				return "", err
			}
			value = string(data)
		}
		if escape != nil {
			value = escape(out.String(), value)
		}
		out.WriteString(value)
		text = after
	}
}

var errNoScalar = errors.New("not a scalar")

func scalar(v any) (string, error) {
	switch at := v.(type) {
	case nil:
		return "", nil
	case string:
		return at, nil
	case bool:
		return strconv.FormatBool(at), nil
	case json.Number:
		return at.String(), nil
	case float64:
		return strconv.FormatFloat(at, 'f', -1, 64), nil
	default:
		return "", errNoScalar
	}
}

// urlTemplate is a URL whose parts may be filled in.
type urlTemplate struct {
	text        string
	dynamic     bool // has a placeholder
	dynamicHost bool // … that decides where the request goes
}

func parseURLTemplate(text string) (urlTemplate, error) {
	text = strings.TrimSpace(text)
	t := urlTemplate{text: text}
	_, _, _, t.dynamic = next(text)
	authority := text
	if _, rest, ok := strings.Cut(text, "://"); ok {
		authority = rest
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			authority = rest[:i]
		}
	}
	head := text[:strings.Index(text, authority)+len(authority)]
	t.dynamicHost = strings.Contains(head, "${")
	if t.dynamicHost {
		return t, nil
	}
	u, err := url.Parse(head)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return t, errors.New("url must be an absolute http or https URL")
	}
	if u.User != nil {
		return t, errors.New("url must not hold credentials; store them as the tool's credentials")
	}
	return t, nil
}

// fill makes the URL of a call. What is filled in is escaped for where it
// stands, so it can neither add a path segment nor a parameter; only where the
// host itself is a placeholder it is taken as it is.
func (t urlTemplate) fill(vars any) (*url.URL, error) {
	text, err := fillText(t.text, vars, func(before, value string) string {
		switch {
		case t.dynamicHost && !strings.Contains(before, "?") && strings.Count(before, "/") < 3:
			return value
		case strings.Contains(before, "?"):
			return url.QueryEscape(value)
		default:
			return url.PathEscape(value)
		}
	})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments do not make a valid URL."}
	}
	if t.dynamic {
		for segment := range strings.SplitSeq(u.Path, "/") {
			if segment == "." || segment == ".." {
				return nil, &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments would leave the tool's path."}
			}
		}
	}
	return u, nil
}

// pick returns a part of a JSON document, by JSON pointer or by path.
func pick(body json.RawMessage, where string) (json.RawMessage, error) {
	var v any
	if err := decode(body, &v); err != nil {
		return nil, &Error{Code: "TOOL_BAD_RESPONSE", Message: "The tool's answer is not valid JSON.", Cause: err}
	}
	names := segments(where)
	if strings.HasPrefix(where, "/") {
		names = strings.Split(where[1:], "/")
		for i, n := range names {
			names[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(n)
		}
	}
	part, ok := walk(v, names)
	if !ok {
		return nil, &Error{Code: "TOOL_RESPONSE_MISSING", Message: fmt.Sprintf("The tool's answer has nothing at %q.", where)}
	}
	return answer(part)
}
