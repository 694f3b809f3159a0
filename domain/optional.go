package domain

import (
	"bytes"
	"encoding/json"
)

// Optional is a field of a partial update that tells three things apart: absent
// (the zero value: unchanged), null (cleared), and a value.
type Optional[T any] struct {
	Set   bool // the key was present
	Null  bool // with the value null
	Value T
}

// Some returns an Optional that sets v.
func Some[T any](v T) Optional[T] { return Optional[T]{Set: true, Value: v} }

// Cleared returns an Optional that clears the field.
func Cleared[T any]() Optional[T] { return Optional[T]{Set: true, Null: true} }

// Or returns what the field becomes: its present value where the key is
// absent, the zero value where it is null.
func (o Optional[T]) Or(present T) T {
	if !o.Set {
		return present
	}
	return o.Value
}

// IsZero reports absence, for the omitzero option of JSON tags.
func (o Optional[T]) IsZero() bool { return !o.Set }

// UnmarshalJSON reads null or a value.
func (o *Optional[T]) UnmarshalJSON(data []byte) error {
	*o = Optional[T]{Set: true}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		o.Null = true
		return nil
	}
	return json.Unmarshal(data, &o.Value)
}

// MarshalJSON writes the value; null where it is cleared or absent.
func (o Optional[T]) MarshalJSON() ([]byte, error) {
	if !o.Set || o.Null {
		return []byte("null"), nil
	}
	return json.Marshal(o.Value)
}

// Or returns *p, or the present value where p is nil: the field of a partial
// update that cannot be cleared.
func Or[T any](p *T, present T) T {
	if p == nil {
		return present
	}
	return *p
}
