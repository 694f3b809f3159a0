package embedded

import "context"

// deleteStream hides all events of a stream by metadata that replaces what was there.
func (l *eventLog) deleteStream(ctx context.Context, stream string, want expectation) (outcome, error) {
	e, err := l.acquire(ctx, stream)
	if err != nil {
		return outcome{}, err
	}
	defer l.release(e)
	meta, err := l.acquire(ctx, metastreamPrefix+stream)
	if err != nil {
		return outcome{}, err
	}
	defer l.release(meta)
	return l.deletion(ctx, e, func() (outcome, error) {
		status := checkDelete(e.tentative, want)
		if status != verdictWrite {
			return refusal(status, e), nil
		}
		position := l.next
		err := l.writeMetadataLocked(meta, e, withTruncateBefore(nil, softDeleted))
		return outcome{last: e.tentative.last, position: position, group: l.open}, err
	})
}

// tombstone ends a stream for ever.
func (l *eventLog) tombstone(ctx context.Context, stream string, want expectation) (outcome, error) {
	e, err := l.acquire(ctx, stream)
	if err != nil {
		return outcome{}, err
	}
	defer l.release(e)
	return l.deletion(ctx, e, func() (outcome, error) {
		status := checkTombstone(e.tentative, want)
		if status != verdictWrite {
			return refusal(status, e), nil
		}
		e.tentative.last = tombstoneRevision - 1
		position, err := l.writeEventsLocked(e, []proposed{{id: newEventID(), eventType: tombstoneEvent}})
		return outcome{last: e.tentative.last, position: position, group: l.open}, err
	})
}

// deletion runs decide under the lock when the log takes writes, and waits for its result to be published.
func (l *eventLog) deletion(ctx context.Context, e *entry, decide func() (outcome, error)) (outcome, error) {
	out, err := func() (outcome, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.shut {
			return outcome{}, errShutdown
		}
		if !l.space.enough() {
			return outcome{}, errDiskFull
		}
		out, err := decide()
		if out.status == outcomeDone && err == nil {
			l.open.appends++
			l.signal()
		}
		return out, err
	}()
	if err != nil {
		return outcome{}, err
	}
	return out, l.wait(ctx, out.group)
}

func refusal(v verdict, e *entry) outcome {
	status := outcomeWrong
	if v == verdictDeleted {
		status = outcomeDeleted
	}
	return outcome{status: status, last: e.tentative.last, group: e.lastGroup}
}
