package embedded

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// writeMetadataLocked appends a $metadata event to meta, the metastream of e, and makes it effective.
func (l *eventLog) writeMetadataLocked(meta, e *entry, data []byte) error {
	event := proposed{id: newEventID(), eventType: metadataEvent, json: true, data: data}
	if _, err := l.writeEventsLocked(meta, []proposed{event}); err != nil {
		return err
	}
	e.tentative.rules, e.tentative.hasMeta = parseRules(true, data), true
	l.touchLocked(e)
	return nil
}

// writeEventsLocked adds events to the open group and returns the position of the last one.
func (l *eventLog) writeEventsLocked(e *entry, events []proposed) (position uint64, err error) {
	created := ticks(l.now())
	for i := range events {
		if position, err = l.writeEventLocked(e.stream, e.tentative.last+1, created, &events[i]); err != nil {
			// Storage batches live in memory and do not refuse writes.
			return 0, fmt.Errorf("add event to batch: %w", err)
		}
		e.tentative.last++
	}
	l.touchLocked(e)
	return position, nil
}

func (l *eventLog) writeEventLocked(stream string, revision, created int64, p *proposed) (uint64, error) {
	g, position := l.open, l.next
	if need := recordSize(stream, p); cap(l.arena)-len(l.arena) < need {
		l.arena = make([]byte, 0, max(arenaChunk, need))
	}
	start := len(l.arena)
	l.arena = appendRecord(l.arena, stream, revision, position, created, p)
	value := l.arena[start:len(l.arena):len(l.arena)]
	l.scratch = appendEventKey(l.scratch[:0], position)
	if err := g.batch.Set(l.scratch, value, nil); err != nil {
		return 0, err
	}
	g.records = append(g.records, record{
		position: position, revision: revision, created: created, id: p.id,
		stream: stream, eventType: p.eventType, wire: value[recordHeaderSize:],
	})
	g.bytes += len(value)
	l.next = position + uint64(len(value))
	return position, nil
}

func (l *eventLog) touchLocked(e *entry) {
	if e.lastGroup == l.open {
		return
	}
	e.lastGroup = l.open
	l.open.touched = append(l.open.touched, e)
	l.heads.pinLocked(e)
}

func newEventID() eventID { return eventID(uuid.New()) }

// ticks is t in the 100 ns units of EventStoreDB.
func ticks(t time.Time) int64 { return t.UnixNano() / 100 }
