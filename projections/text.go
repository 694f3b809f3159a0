package projections

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// clean makes a text Postgres takes: it has no NUL and is valid UTF-8. Events
// hold what callers and workers sent; what cannot be stored must not stop a
// projection for ever.
func clean(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	return s
}

func cleanAll(texts []string) []string {
	cleaned := make([]string, len(texts))
	for i, s := range texts {
		cleaned[i] = clean(s)
	}
	return cleaned
}

// optional is nil for "".
func optional(s string) *string {
	if s == "" {
		return nil
	}
	s = clean(s)
	return &s
}

// payload is JSON as text; nil where it is absent.
func payload(raw json.RawMessage) *string {
	if len(raw) == 0 {
		return nil
	}
	s := clean(string(raw))
	return &s
}

// document is a value as JSON text, for columns that hold one as a whole.
func document(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return clean(string(raw)), nil
}
