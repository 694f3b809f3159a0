package commands

import (
	"context"

	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// request holds the facts of one request. It is copied on every change, so a
// context derived from another never alters it.
type request struct {
	actor       domain.Actor
	commandID   string
	made        bool // the command id was made for this request, so nobody can have used it before
	correlation string
	causation   string
	expected    *eventstore.Revision
	bodyHash    string
}

type requestKey struct{}

func requestOf(ctx context.Context) request {
	r, _ := ctx.Value(requestKey{}).(request)
	return r
}

func withRequest(ctx context.Context, change func(*request)) context.Context {
	r := requestOf(ctx)
	change(&r)
	return context.WithValue(ctx, requestKey{}, r)
}

// WithActor says who asks. Without it nobody does, and only public commands
// are allowed.
func WithActor(ctx context.Context, a domain.Actor) context.Context {
	return withRequest(ctx, func(r *request) { r.actor = a })
}

// ActorFrom returns who asks; the zero Actor where nobody was named.
func ActorFrom(ctx context.Context) domain.Actor { return requestOf(ctx).actor }

// WithCommandID names the command, so that executing it again returns the
// first outcome. Without it every Execute is a command of its own.
func WithCommandID(ctx context.Context, id string) context.Context {
	return withRequest(ctx, func(r *request) { r.commandID, r.made = id, false })
}

// CommandIDFrom returns the id set by WithCommandID, "" where there is none.
func CommandIDFrom(ctx context.Context) string { return requestOf(ctx).commandID }

// WithCausation links the events to the request or event that led to them. An
// empty correlation id means the command starts a chain of its own, an empty
// causation id that the command itself is the cause.
func WithCausation(ctx context.Context, correlationID, causationID string) context.Context {
	return withRequest(ctx, func(r *request) { r.correlation, r.causation = correlationID, causationID })
}

// WithExpected states the revision the caller has seen (If-Match). Execute
// then refuses any other with domain.StaleRevision and never retries.
func WithExpected(ctx context.Context, revision eventstore.Revision) context.Context {
	return withRequest(ctx, func(r *request) { r.expected = &revision })
}

// WithBodyHash records a hash of the request body in the events' metadata.
func WithBodyHash(ctx context.Context, hash string) context.Context {
	return withRequest(ctx, func(r *request) { r.bodyHash = hash })
}

// SubCommand returns the context of one named part of a use-case: its command
// id is derived from the use-case's, so that repeating the use-case repeats no
// part of it. A stated revision belongs to the main part and is dropped. The
// use-case must have an id: see named.
func SubCommand(ctx context.Context, name string) context.Context {
	return withRequest(ctx, func(r *request) {
		r.commandID = SubCommandID(r.commandID, name)
		r.expected = nil
	})
}

// SubCommandID derives the id of a part from the id of the whole: the UUIDv5
// of the name in the namespace of the command id.
func SubCommandID(commandID, name string) string {
	return uuid.NewSHA1(commandKey(commandID), []byte(name)).String()
}

// named returns a context that certainly has a command id, for use-cases that
// derive the ids of their parts from it. repeatable says that the caller chose
// the id.
func named(ctx context.Context) (_ context.Context, repeatable bool) {
	if r := requestOf(ctx); r.commandID != "" {
		return ctx, !r.made
	}
	return withRequest(ctx, func(r *request) { r.commandID, r.made = NewID(), true }), false
}

// unnamed drops the command id, for use-cases whose answer cannot be given a
// second time (a token): each repetition is a new command.
func unnamed(ctx context.Context) context.Context {
	return withRequest(ctx, func(r *request) { r.commandID, r.made, r.expected = "", false, nil })
}

// NewIDFor returns the id of something that the command makes: derived from a
// command id that the caller chose, so that repeating it makes nothing twice,
// else new.
func NewIDFor(ctx context.Context, name string) string {
	if r := requestOf(ctx); r.commandID != "" && !r.made {
		return SubCommandID(r.commandID, "id of "+name)
	}
	return NewID()
}

// NewID returns a new UUIDv7.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }
