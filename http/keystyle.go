package http

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sparkops/control-plane/domain"
)

// Clients write keys in camelCase and snake_case, also mixed in one body. This
// file brings bodies and query parameters into the style the Go types use.
// Free-form objects (settings, metadata, definition …) are never touched.

// keys maps every accepted spelling of the keys of one object to the canonical
// one. A nil *keys marks a value whose inside is left alone.
type keys struct {
	canonical map[string]string
	inner     map[string]*keys // by canonical key, for nested typed objects
}

// keysOf derives the accepted spellings from a schema. An object without
// declared properties is free-form.
func keysOf(registry huma.Registry, schema *huma.Schema) *keys {
	for schema != nil && schema.Ref != "" {
		schema = registry.SchemaFromRef(schema.Ref)
	}
	if schema == nil || len(schema.Properties) == 0 {
		return nil
	}
	k := &keys{canonical: map[string]string{}, inner: map[string]*keys{}}
	for name, property := range schema.Properties {
		for _, spelling := range spellings(name) {
			k.canonical[spelling] = name
		}
		if inner := keysOf(registry, property); inner != nil {
			k.inner[name] = inner
		}
	}
	return k
}

// pageSize are the synonyms of the number of entries on a page.
var pageSize = []string{"page_size", "pageSize", "limit"}

// queryKeys derives the accepted spellings of query parameters from the tags
// of an input type.
func queryKeys(t reflect.Type) map[string]string {
	canonical := map[string]string{}
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("query"), ",")
		if name == "" {
			continue
		}
		for _, spelling := range spellings(name) {
			canonical[spelling] = name
		}
		if name == "page_size" {
			for _, spelling := range pageSize {
				canonical[spelling] = name
			}
		}
	}
	return canonical
}

// spellings returns a key in both styles, in its own one first.
func spellings(name string) []string {
	return []string{name, snake(name), camel(name)}
}

func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func camel(name string) string {
	var b strings.Builder
	up := false
	for i, r := range name {
		switch {
		case r == '_' && i > 0:
			up = true
		case up:
			b.WriteRune(unicode.ToUpper(r))
			up = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// styled is what bringing an input into one style found out.
type styled struct {
	names  map[string]string // every spelling -> sent, of top-level keys
	fields []domain.Field    // keys given twice with different values
}

func (s *styled) twice(path, first, second string) {
	s.fields = append(s.fields, domain.Field{Field: path, Message: fmt.Sprintf("is given twice, as %s and as %s, with different values", first, second)})
}

// named notes how a key was written, so that errors name it like that.
func (s *styled) named(name, sent string) {
	for _, spelling := range spellings(name) {
		s.names[spelling] = sent
	}
}

// body rewrites a JSON value that checkJSON has accepted. Keys nobody declared
// are dropped; a key given twice must have the same value. What is not an
// object is returned as it is, for the schema to refuse.
func (s *styled) body(k *keys, path string, data []byte) ([]byte, error) {
	if k == nil || len(data) == 0 || bytes.TrimSpace(data)[0] != '{' {
		return data, nil
	}
	type entry struct {
		sent  string
		value json.RawMessage
	}
	found := map[string]entry{}
	var order []string
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		sent, _ := token.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("read value: %w", err)
		}
		name, known := k.canonical[sent]
		if !known {
			continue
		}
		if value, err = s.body(k.inner[name], path+sent+".", value); err != nil {
			return nil, err
		}
		first, again := found[name]
		switch {
		case again && !sameJSON(first.value, value):
			s.twice(path+sent, first.sent, sent)
		case !again:
			found[name] = entry{sent, value}
			order = append(order, name)
			if path == "" {
				s.named(name, sent)
			}
		}
	}
	var out bytes.Buffer
	out.WriteByte('{')
	for i, name := range order {
		if i > 0 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, "%q:", name)
		out.Write(found[name].value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// sameJSON compares two JSON values; the order of an object's keys does not count.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}

// query brings query parameters into one style. Empty values and the words
// undefined and null are what a client writes for "none", and count as absent.
func (s *styled) query(canonical map[string]string, sent url.Values) url.Values {
	out := url.Values{}
	from := map[string]string{}
	for key, values := range sent {
		name, known := canonical[key]
		if !known {
			continue
		}
		for _, value := range values {
			if value == "" || value == "undefined" || value == "null" {
				continue
			}
			switch first, again := from[name]; {
			case again && out.Get(name) != value:
				s.twice(key, first, key)
			case !again:
				from[name] = key
				out.Set(name, value)
				s.named(name, key)
			}
			if strings.ContainsRune(value, 0) || !validText(value) {
				s.fields = append(s.fields, domain.Field{Field: key, Message: "must be text without NUL"})
			}
		}
	}
	return out
}

func validText(s string) bool { return strings.ToValidUTF8(s, "") == s }
