package embedded

// expectation is the state in which a client expects the stream to be.
type expectation struct {
	kind     expectationKind
	revision int64 // with expectRevision
}

type expectationKind uint8

const (
	expectAny expectationKind = iota
	expectNoStream
	expectExists
	expectRevision
)

// verdict says what to do with a write, given the stream's head.
type verdict uint8

const (
	verdictWrite      verdict = iota // append after the last event
	verdictWrong                     // the expectation does not hold
	verdictDeleted                   // the stream is deleted
	verdictCompareIDs                // a repeat, if the ids stored from the expected revision on are the same
	verdictLookupIDs                 // a repeat, if the ids are known in this stream; else append
)

// check is the expected-revision matrix of an append.
func check(h head, want expectation, events int) verdict {
	if h.tombstoned() {
		return verdictDeleted
	}
	switch want.kind {
	case expectAny:
		return writeUnlessKnown(h, events)
	case expectExists:
		if h.softDeleted() {
			return verdictDeleted
		}
		if h.last == noEvents && !h.hasMeta {
			return verdictWrong
		}
		return writeUnlessKnown(h, events)
	case expectNoStream:
		if h.last == noEvents {
			return verdictWrite
		}
		if events == 0 {
			if h.softDeleted() {
				return verdictWrite
			}
			return verdictWrong
		}
		return verdictCompareIDs
	default:
		switch {
		case want.revision == h.last:
			return verdictWrite
		case want.revision > h.last || events == 0:
			return verdictWrong
		default:
			return verdictCompareIDs
		}
	}
}

func writeUnlessKnown(h head, events int) verdict {
	if h.last == noEvents || events == 0 {
		return verdictWrite
	}
	return verdictLookupIDs
}

// checkDelete is the matrix of a soft delete.
func checkDelete(h head, want expectation) verdict {
	if h.tombstoned() {
		return verdictDeleted
	}
	exists := h.last != noEvents || h.hasMeta
	switch want.kind {
	case expectAny:
		if !exists {
			return verdictWrong
		}
	case expectExists:
		if h.softDeleted() {
			return verdictDeleted
		}
		if !exists {
			return verdictWrong
		}
	case expectNoStream:
		if !exists || h.last != noEvents {
			return verdictWrong
		}
	default:
		if want.revision != h.last {
			return verdictWrong
		}
	}
	return verdictWrite
}

// checkTombstone is the matrix of a hard delete.
func checkTombstone(h head, want expectation) verdict {
	if h.tombstoned() {
		return verdictDeleted
	}
	switch want.kind {
	case expectExists:
		if h.softDeleted() {
			return verdictDeleted
		}
		if h.last == noEvents && !h.hasMeta {
			return verdictWrong
		}
	case expectNoStream:
		if h.last != noEvents {
			return verdictWrong
		}
	case expectRevision:
		if want.revision != h.last {
			return verdictWrong
		}
	}
	return verdictWrite
}
