package domain

import (
	"errors"
	"fmt"
)

// Kind classifies an error by what its caller can do about it. Package http
// maps each kind to one status code, in one table.
type Kind string

// The kinds. Anything that is not a *Error is internal: its text is logged
// and never shown.
const (
	Malformed      Kind = "malformed"       // the request could not be read at all (400)
	Unauthorized   Kind = "unauthorized"    // no credential, or one that does not count (401)
	Forbidden      Kind = "forbidden"       // visible, but the role or scope is too low (403)
	NotFound       Kind = "not_found"       // unknown, or not visible to the actor (404)
	Conflict       Kind = "conflict"        // contradicts the present state (409)
	StaleRevision  Kind = "stale_revision"  // If-Match names another revision (412)
	TooLarge       Kind = "too_large"       // larger than the store takes (413)
	Invalid        Kind = "invalid"         // readable, but breaks a rule; Fields says which (422)
	RateLimited    Kind = "rate_limited"    // too many requests (429)
	Unavailable    Kind = "unavailable"     // a dependency does not answer; try again (503)
	StorageFull    Kind = "storage_full"    // the event store takes no more appends (507)
	OutcomeUnknown Kind = "outcome_unknown" // the append may or may not be stored; repeating the same command id is safe (503)
)

// ErrUnknownEvent is wrapped by Registry errors for unregistered names.
var ErrUnknownEvent = errors.New("unknown event type")

// Field is one broken rule of an input.
type Field struct {
	Field   string `json:"field"`   // JSON path in the caller's key style, e.g. "definition.nodes[2].retry.backoff"
	Message string `json:"message"` // one sentence, without the submitted value
}

// Error is what a caller may know of a failure. Message is a sentence for
// users and never holds submitted values, secrets or internals.
type Error struct {
	Kind    Kind
	Code    string // stable, UPPER_SNAKE, e.g. EMAIL_TAKEN
	Message string
	Fields  []Field
	Cause   error // logged, never shown
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// Fail returns an Error of a kind with a stable code and a formatted message
// for users.
func Fail(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidFields returns an Invalid error that lists every broken rule, or nil
// where the list is empty. The result is an untyped nil error then, so that it
// can be returned directly.
func InvalidFields(fields []Field) error {
	if len(fields) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Code: "VALIDATION_FAILED", Message: "The request is not valid: " + fields[0].Field + ": " + fields[0].Message, Fields: fields}
}

// KindOf returns the kind of the first *Error in err's chain, or "" when there
// is none (an internal error).
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
