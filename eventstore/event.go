package eventstore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Revision is the number of an event in its stream, from 0. As the state of a
// stream it is the number of its last event.
type Revision int64

// NoStream is the revision of a stream that does not exist.
const NoStream Revision = -1

// Parked is the category of the streams that hold copies of events a process
// could not handle, stored as they are. Reads and subscriptions without
// categories leave it out.
const Parked = "parked"

// ActorRef names who caused an event.
type ActorRef struct {
	Kind  domain.ActorKind `json:"kind"`
	ID    string           `json:"id"`
	KeyID string           `json:"keyId,omitempty"`
}

// Metadata is stored beside each event. The keys of correlation and causation
// are the ones the server's own projections read.
type Metadata struct {
	CorrelationID string    `json:"$correlationId,omitempty"`
	CausationID   string    `json:"$causationId,omitempty"`
	CommandID     string    `json:"commandId"`
	Actor         ActorRef  `json:"actor"`
	ProjectID     string    `json:"projectId,omitempty"`
	At            time.Time `json:"at"` // the time the decision was made with
	BodyHash      string    `json:"bodyHash,omitempty"`
}

// Recorded is a stored event. Event is nil only where the raw events of a
// stream were asked for.
type Recorded struct {
	ID       string
	Stream   string
	Category string
	StreamID string // what follows the category in the stream's name
	Type     string // as stored; Event may have a newer shape
	Revision Revision
	Position uint64    // commit position in $all
	Time     time.Time // Metadata.At where present, else the server's clock
	Event    domain.Event
	Metadata Metadata
	Data     json.RawMessage // the stored bytes; not to be changed
}

// Raw is an event that is stored as it is, outside the registry.
type Raw struct {
	ID       string // a UUID
	Type     string
	Data     json.RawMessage
	Metadata json.RawMessage
}

// Appended is where the last event of an append is.
type Appended struct {
	Position uint64
	Revision Revision
}

// ConflictError reports that a stream is not at the revision an append
// expected. Nothing was stored.
type ConflictError struct {
	Stream   string
	Expected Revision
	Actual   Revision
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("stream %s is at revision %d, expected %d", e.Stream, e.Actual, e.Expected)
}

// Message is what a subscription delivers: exactly one of an event, a position
// up to which nothing more of the subscribed categories comes, or the notice
// that all that was stored has been delivered.
type Message struct {
	Event    *Recorded // may be kept; it is not reused
	Position uint64    // of the event, or the bare position
	CaughtUp bool
}
