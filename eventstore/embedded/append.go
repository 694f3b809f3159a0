package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

var errDiskFull = errors.New("disk is almost full")

// outcome is the answer to a write. It may be given to a client once group, if any, is published.
type outcome struct {
	status   outcomeStatus
	last     int64  // the stream's last revision: of the written events, or the actual one
	position uint64 // of the last event written
	group    *group
}

type outcomeStatus uint8

const (
	outcomeDone outcomeStatus = iota
	outcomeWrong
	outcomeDeleted
)

// appendOp is one append on its way. Its knowledge about ids and metadata in storage is gathered without holding
// the log's lock and used only while the head it was gathered for is still the current one.
type appendOp struct {
	log    *eventLog
	stream *entry
	owner  *entry // of a metastream: the stream it describes
	meta   *entry // $$stream, once an un-delete needs it
	want   expectation
	events []proposed
	rules  rules // of a metastream: what the last event says

	compared     bool // the ids differ from the stored ones
	firstDiffers bool
	absentAt     int64 // the first id was not in storage when this was the last published revision
	lookups      int
	metaRevision int64 // which metadata event metaData is
	metaData     []byte

	finished bool
	out      outcome
}

const (
	notLookedUp = -2
	maxLookups  = 8
)

// append writes events atomically and consecutively after the stream's last event if it is where the caller
// expects it, and returns once they are durable and visible. A repeat of an earlier append is answered as that
// one was, without writing.
func (l *eventLog) append(ctx context.Context, stream string, want expectation, events []proposed) (outcome, error) {
	op := appendOp{log: l, want: want, events: events, absentAt: notLookedUp, metaRevision: notLookedUp}
	defer op.release()
	var err error
	if op.stream, err = l.acquire(ctx, stream); err != nil {
		return outcome{}, err
	}
	if owner, ok := metastreamOwner(stream); ok {
		if op.owner, err = l.acquire(ctx, owner); err != nil {
			return outcome{}, err
		}
		if len(events) > 0 {
			last := &events[len(events)-1]
			op.rules = parseRules(last.json, last.data)
		}
	}
	for {
		l.mu.Lock()
		work, err := op.stepLocked()
		l.mu.Unlock()
		if err != nil {
			return outcome{}, err
		}
		if work != nil {
			if err := work(ctx); err != nil {
				return outcome{}, err
			}
		}
		if op.finished {
			return op.out, l.wait(ctx, op.out.group)
		}
	}
}

// metastreamOwner names the stream that a metastream describes. The metadata of a metastream has no effect.
func metastreamOwner(stream string) (owner string, ok bool) {
	if !isMetastream(stream) {
		return "", false
	}
	owner = stream[len(metastreamPrefix):]
	return owner, !isMetastream(owner)
}

func (op *appendOp) release() {
	l := op.log
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range []*entry{op.stream, op.owner, op.meta} {
		if e != nil {
			l.heads.unpinLocked(e)
		}
	}
}

func (op *appendOp) finish(status outcomeStatus, last int64, position uint64, g *group) {
	op.finished = true
	op.out = outcome{status: status, last: last, position: position, group: g}
}

// stepLocked decides and, if it can, writes. Otherwise it returns the work to do before it is called again.
func (op *appendOp) stepLocked() (work func(context.Context) error, err error) {
	l, e := op.log, op.stream
	if l.shut {
		return nil, errShutdown
	}
	h := e.tentative
	if op.owner != nil && op.owner.tentative.tombstoned() {
		op.finish(outcomeDeleted, h.last, 0, op.owner.lastGroup)
		return nil, nil
	}
	switch check(h, op.want, len(op.events)) {
	case verdictDeleted:
		op.finish(outcomeDeleted, h.last, 0, e.lastGroup)
		return nil, nil
	case verdictWrong:
		op.finish(outcomeWrong, h.last, 0, e.lastGroup)
		return nil, nil
	case verdictCompareIDs:
		if !op.compared {
			return op.compareIDs(h.last, e.lastGroup), nil
		}
		if !op.firstDiffers || op.want.kind != expectNoStream || !h.softDeleted() {
			op.finish(outcomeWrong, h.last, 0, e.lastGroup)
			return nil, nil
		}
	case verdictLookupIDs:
		if work, err := op.knownLocked(); work != nil || err != nil {
			return work, err
		}
	case verdictWrite:
	}
	return op.writeLocked()
}

func (op *appendOp) writeLocked() (work func(context.Context) error, err error) {
	l, e := op.log, op.stream
	h := e.tentative
	if len(op.events) == 0 {
		op.finish(outcomeDone, h.last, l.visible.Load(), e.lastGroup)
		return nil, nil
	}
	if !l.space.enough() {
		return nil, errDiskFull
	}
	if l.open.bytes >= maxGroupBytes {
		return op.waitForRoomLocked(), nil
	}
	if h.softDeleted() {
		if op.meta == nil {
			return op.acquireMeta, nil
		}
		if op.meta.tentative.last != op.metaRevision {
			return op.readMetadata(op.meta.tentative.last, op.meta.lastGroup), nil
		}
	}
	position, err := l.writeEventsLocked(e, op.events)
	if err != nil {
		return nil, err
	}
	op.finish(outcomeDone, e.tentative.last, position, l.open)
	switch {
	case op.owner != nil:
		err = op.applyMetadataLocked()
	case h.softDeleted():
		err = l.writeMetadataLocked(op.meta, e, withTruncateBefore(op.metaData, h.last+1))
	}
	l.open.appends++
	l.signal()
	return nil, err
}

// applyMetadataLocked makes new metadata effective. Metadata for a soft-deleted stream brings it back, empty.
func (op *appendOp) applyMetadataLocked() error {
	l, owner := op.log, op.owner
	last := &op.events[len(op.events)-1]
	if owner.tentative.softDeleted() {
		var data []byte
		if last.json {
			data = last.data
		}
		return l.writeMetadataLocked(op.stream, owner, withTruncateBefore(data, owner.tentative.last+1))
	}
	owner.tentative.rules, owner.tentative.hasMeta = op.rules, true
	l.touchLocked(owner)
	return nil
}

func (op *appendOp) waitForRoomLocked() func(context.Context) error {
	l := op.log
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room := l.room
	return func(ctx context.Context) error {
		select {
		case <-room:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-l.failed:
			return errFailed
		}
	}
}

// compareIDs finds out whether the events after the expected revision, up to the last one when it was checked, are
// the ones to be written. Those events are final, so the answer stays true whatever is appended meanwhile; what is
// appended meanwhile may not be synced and does not count.
func (op *appendOp) compareIDs(last int64, unpublished *group) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := op.log.wait(ctx, unpublished); err != nil {
			return err
		}
		revision := int64(noEvents)
		if op.want.kind == expectRevision {
			revision = op.want.revision
		}
		var position uint64
		for i := range op.events {
			if revision++; revision > last {
				op.compared, op.firstDiffers = true, i == 0
				return nil
			}
			at, id, found, err := op.log.lookupIndex(op.stream.stream, revision)
			if err != nil {
				return err
			}
			if !found || id != op.events[i].id {
				op.compared, op.firstDiffers = true, i == 0
				return nil
			}
			position = at
		}
		op.finish(outcomeDone, revision, position, nil)
		return nil
	}
}

// knownLocked returns the work that finds out whether the first event is already in the stream, or nil if it is
// known not to be.
func (op *appendOp) knownLocked() (work func(context.Context) error, err error) {
	l, e := op.log, op.stream
	first := op.events[0].id
	if e.lastGroup != nil && l.unpublishedLocked(e, first) {
		unpublished := e.lastGroup
		return func(ctx context.Context) error { return l.wait(ctx, unpublished) }, nil
	}
	if op.absentAt == e.published.last {
		return nil, nil
	}
	if op.lookups >= maxLookups {
		// The stream moves faster than its index can be asked from outside the lock.
		if _, found, err := l.lookupID(e.stream, first); err != nil || !found {
			return nil, err
		}
	}
	op.lookups++
	return op.lookupIDs(e.published.last, e.tentative.last, e.lastGroup), nil
}

// lookupIDs looks for the events in the stream as it was when its head had the given revisions. What it finds beyond
// may not be synced: then the append is looked at anew.
func (op *appendOp) lookupIDs(published, last int64, unpublished *group) func(context.Context) error {
	return func(ctx context.Context) error {
		l, stream := op.log, op.stream.stream
		revision, found, err := l.lookupID(stream, op.events[0].id)
		if err != nil {
			return err
		}
		if !found {
			op.absentAt = published
			return nil
		}
		if err := l.wait(ctx, unpublished); err != nil || revision > last {
			return err
		}
		for i := range op.events[1:] {
			revision, found, err = l.lookupID(stream, op.events[i+1].id)
			if err != nil || found && revision > last {
				return err
			}
			if !found {
				op.finish(outcomeWrong, last, 0, nil)
				return nil
			}
		}
		position, _, _, err := l.lookupIndex(stream, revision)
		op.finish(outcomeDone, revision, position, nil)
		return err
	}
}

func (op *appendOp) acquireMeta(ctx context.Context) (err error) {
	op.meta, err = op.log.acquire(ctx, metastreamPrefix+op.stream.stream)
	return err
}

func (op *appendOp) readMetadata(revision int64, unpublished *group) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := op.log.wait(ctx, unpublished); err != nil {
			return err
		}
		data, err := op.log.metadataAt(op.meta.stream, revision)
		if err != nil {
			return err
		}
		op.metaRevision, op.metaData = revision, data
		return nil
	}
}

// unpublishedLocked tells whether an event with the id is written to the stream but not yet published.
func (l *eventLog) unpublishedLocked(e *entry, id eventID) bool {
	for _, g := range []*group{l.committing, l.open} {
		if g == nil {
			continue
		}
		for i := range g.records {
			if g.records[i].id == id && g.records[i].stream == e.stream {
				return true
			}
		}
	}
	return false
}

// lookupID returns the newest revision under which the stream holds an event id.
func (l *eventLog) lookupID(stream string, id eventID) (revision int64, found bool, err error) {
	value, closer, err := l.db.Get(appendIDKey(nil, hashStream(stream), id))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look up event id: %w", err)
	}
	revision = int64(binary.BigEndian.Uint64(value))
	if err := closer.Close(); err != nil {
		return 0, false, fmt.Errorf("look up event id: %w", err)
	}
	// Two streams may share a hash: only the index of the stream itself proves it.
	_, stored, found, err := l.lookupIndex(stream, revision)
	return revision, found && stored == id, err
}
