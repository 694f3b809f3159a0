package domain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
)

// Registry maps stored event names to Go types. It is filled once at start-up
// (package catalog) and only read afterwards, so it needs no lock.
type Registry struct {
	current   map[string]func(json.RawMessage) (Event, error)
	types     map[string]reflect.Type
	upcasters map[string]upcaster
}

type upcaster struct {
	to string
	fn func(json.RawMessage) (json.RawMessage, error)
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{
		current:   map[string]func(json.RawMessage) (Event, error){},
		types:     map[string]reflect.Type{},
		upcasters: map[string]upcaster{},
	}
}

// Register adds event type E under the name its zero value reports. A name
// registered twice, an empty name, or a name starting with "$" (reserved by
// the store) is a programming error and panics, at start-up.
func Register[E Event](r *Registry) {
	var zero E
	name := zero.EventType()
	r.mustBeFree(name)
	r.types[name] = reflect.TypeFor[E]()
	r.current[name] = func(data json.RawMessage) (Event, error) {
		var e E
		if err := json.Unmarshal(data, &e); err != nil {
			return nil, err
		}
		return e, nil
	}
}

// Upcast declares that events stored as oldName are read as New: fn rewrites
// the old JSON into the JSON of New (or of another old name that is itself
// upcast to New, when New is registered by that chain). Code outside the codec
// therefore knows only the newest shape of each event.
func Upcast[New Event](r *Registry, oldName string, fn func(json.RawMessage) (json.RawMessage, error)) {
	var zero New
	r.mustBeFree(oldName)
	r.upcasters[oldName] = upcaster{to: zero.EventType(), fn: fn}
}

func (r *Registry) mustBeFree(name string) {
	_, registered := r.current[name]
	_, upcast := r.upcasters[name]
	switch {
	case name == "" || name[0] == '$':
		panic(fmt.Sprintf("domain: %q is no event name", name))
	case registered || upcast:
		panic(fmt.Sprintf("domain: event name %q is registered twice", name))
	}
}

// Encode returns the stored name and the JSON of e. An event of an
// unregistered type is an error: it could never be read back.
func (r *Registry) Encode(e Event) (name string, data []byte, err error) {
	name = e.EventType()
	if _, ok := r.current[name]; !ok {
		return "", nil, fmt.Errorf("encode event %q: %w", name, ErrUnknownEvent)
	}
	data, err = json.Marshal(e)
	if err != nil {
		return "", nil, fmt.Errorf("encode event %q: %w", name, err)
	}
	return name, data, nil
}

// Decode turns stored bytes into the newest shape of the event. It returns an
// error that wraps ErrUnknownEvent for a name nobody registered: a newer
// writer is ahead of this reader, and skipping would lose the fact.
func (r *Registry) Decode(name string, data []byte) (Event, error) {
	stored := name
	raw := json.RawMessage(data)
	for range len(r.upcasters) + 1 {
		up, ok := r.upcasters[name]
		if !ok {
			break
		}
		next, err := up.fn(bytes.Clone(raw))
		if err != nil {
			return nil, fmt.Errorf("upcast event %q to %q: %w", name, up.to, err)
		}
		name, raw = up.to, next
	}
	decode, ok := r.current[name]
	if !ok {
		return nil, fmt.Errorf("decode event %q: %w", stored, ErrUnknownEvent)
	}
	e, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("decode event %q: %w", stored, err)
	}
	return e, nil
}

// Names returns every stored name that can be read, sorted: the current ones
// and those that are upcast.
func (r *Registry) Names() []string {
	names := make([]string, 0, len(r.current)+len(r.upcasters))
	for n := range r.current {
		names = append(names, n)
	}
	for n := range r.upcasters {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Type returns the Go type registered under a current name, for generated
// documentation. ok is false for names that are only upcast.
func (r *Registry) Type(name string) (t reflect.Type, ok bool) {
	t, ok = r.types[name]
	return t, ok
}

// UpcastTarget returns the name that oldName is read as; ok is false where
// oldName is a current name or unknown.
func (r *Registry) UpcastTarget(oldName string) (name string, ok bool) {
	up, ok := r.upcasters[oldName]
	return up.to, ok
}
