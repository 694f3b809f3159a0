package domain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Broken collects the rules an input breaks, so that an answer lists them all.
// Its methods add a Field where the rule is broken and nothing otherwise; no
// message holds the submitted value.
type Broken []Field

// Add adds a broken rule.
func (b *Broken) Add(field, format string, args ...any) {
	*b = append(*b, Field{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Err returns nil, or the Invalid error that lists every broken rule.
func (b Broken) Err() error { return InvalidFields(b) }

// Name checks the name of a thing: 1 to 255 characters on one line.
func (b *Broken) Name(field, value string) {
	switch n := utf8.RuneCountInString(value); {
	case n < 1 || n > 255:
		b.Add(field, "must be 1 to 255 characters long")
	case strings.ContainsFunc(value, unicode.IsControl):
		b.Add(field, "must not contain control characters")
	}
}

// Text checks a text of min to max characters; line breaks and tabs are the
// only control characters allowed.
func (b *Broken) Text(field, value string, minimum, maximum int) {
	switch n := utf8.RuneCountInString(value); {
	case minimum == 0 && n > maximum:
		b.Add(field, "must be at most %d characters long", maximum)
	case n < minimum || n > maximum:
		b.Add(field, "must be %d to %d characters long", minimum, maximum)
	case strings.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) }):
		b.Add(field, "must not contain control characters")
	}
}

// OneOf checks an enumeration.
func (b *Broken) OneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		b.Add(field, "must be one of %s", strings.Join(allowed, ", "))
	}
}

// Between checks the bounds of a whole number.
func (b *Broken) Between(field string, value, minimum, maximum int) {
	if value < minimum || value > maximum {
		b.Add(field, "must be %d to %d", minimum, maximum)
	}
}

// Object checks a free-form value: absent, or a JSON object of at most 64 KiB.
func (b *Broken) Object(field string, value json.RawMessage) {
	switch {
	case len(value) == 0:
	case len(value) > 64<<10:
		b.Add(field, "must be at most 64 KiB of JSON")
	case !json.Valid(value) || bytes.TrimSpace(value)[0] != '{':
		b.Add(field, "must be a JSON object")
	}
}

// Strings checks a list of at most count texts of 1 to length characters each,
// none twice.
func (b *Broken) Strings(field string, values []string, count, length int) {
	if len(values) > count {
		b.Add(field, "must have at most %d entries", count)
		return
	}
	for i, v := range values {
		if slices.Contains(values[:i], v) {
			b.Add(fmt.Sprintf("%s[%d]", field, i), "must not be repeated")
			continue
		}
		b.Text(fmt.Sprintf("%s[%d]", field, i), v, 1, length)
	}
}

// Canonical returns JSON in the form in which it is stored, so that equal
// values are equal bytes before and after storing. Null and nothing become
// nil; invalid JSON stays as it is.
func Canonical(raw json.RawMessage) json.RawMessage {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		return nil
	}
	stored, err := json.Marshal(raw)
	if err != nil {
		return raw
	}
	return stored
}
