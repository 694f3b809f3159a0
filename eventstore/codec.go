package eventstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
)

// commandSpace makes a UUID of command ids that are none.
var commandSpace = uuid.MustParse("8f0c7d52-6c1f-5a0e-9b1e-3d1c4f6a7e21")

// EventID returns the id of the index-th event of a command: UUIDv5(command id, index).
func EventID(commandID string, index int) string {
	return eventID(commandNamespace(commandID), index).String()
}

func commandNamespace(commandID string) uuid.UUID {
	id, err := uuid.Parse(commandID)
	if err != nil {
		return uuid.NewSHA1(commandSpace, []byte(commandID))
	}
	return id
}

func eventID(namespace uuid.UUID, index int) uuid.UUID {
	var digits [20]byte
	return uuid.NewSHA1(namespace, strconv.AppendInt(digits[:0], int64(index), 10))
}

// encode turns the events of one append into what is sent.
func encode(registry *domain.Registry, meta Metadata, events []domain.Event) ([]esdb.EventData, error) {
	metadata, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	namespace := commandNamespace(meta.CommandID)
	encoded := make([]esdb.EventData, len(events))
	for i, event := range events {
		name, data, err := registry.Encode(event)
		if err != nil {
			return nil, err
		}
		encoded[i] = esdb.EventData{
			EventID: eventID(namespace, i), EventType: name, ContentType: esdb.ContentTypeJson, Data: data, Metadata: metadata,
		}
	}
	return encoded, nil
}

func encodeRaw(events []Raw) ([]esdb.EventData, error) {
	encoded := make([]esdb.EventData, len(events))
	for i, event := range events {
		id, err := uuid.Parse(event.ID)
		if err != nil || id == uuid.Nil {
			return nil, fmt.Errorf("encode event %q: the id is no UUID", event.Type)
		}
		if event.Type == "" || event.Type[0] == '$' {
			return nil, fmt.Errorf("encode event: %q is no event type", event.Type)
		}
		encoded[i] = esdb.EventData{
			EventID: id, EventType: event.Type, ContentType: esdb.ContentTypeJson, Data: event.Data, Metadata: event.Metadata,
		}
	}
	return encoded, nil
}

// decoder turns what one reader receives into Recorded. It is used by one
// goroutine at a time. A nil registry leaves the events raw.
type decoder struct {
	registry *domain.Registry
	// The events of one append share their metadata, and readers meet them one
	// after the other.
	lastBytes []byte
	last      Metadata
}

func (d *decoder) decode(e *esdb.RecordedEvent) (Recorded, error) {
	category, id, _ := domain.SplitStream(e.StreamID)
	r := Recorded{
		ID: e.EventID.String(), Stream: e.StreamID, Category: category, StreamID: id, Type: e.EventType,
		Revision: Revision(e.EventNumber), Position: e.Position.Commit, Time: e.CreatedDate, Data: e.Data,
	}
	var err error
	if r.Metadata, err = d.metadata(e.UserMetadata); err != nil {
		return r, fmt.Errorf("read event %d of %s: %w", r.Revision, r.Stream, err)
	}
	if !r.Metadata.At.IsZero() {
		r.Time = r.Metadata.At
	}
	if d.registry == nil {
		return r, nil
	}
	if r.Event, err = d.registry.Decode(r.Type, r.Data); err != nil {
		return r, fmt.Errorf("read event %d of %s: %w", r.Revision, r.Stream, err)
	}
	return r, nil
}

// metadata decodes the metadata of an event. None at all is no error: other
// programs may append to our streams.
func (d *decoder) metadata(stored []byte) (Metadata, error) {
	if len(stored) == 0 {
		return Metadata{}, nil
	}
	if bytes.Equal(stored, d.lastBytes) {
		return d.last, nil
	}
	var m Metadata
	if err := json.Unmarshal(stored, &m); err != nil {
		return Metadata{}, fmt.Errorf("decode metadata: %w", err)
	}
	d.lastBytes, d.last = stored, m
	return m, nil
}
