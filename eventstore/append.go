package eventstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
)

const (
	// maxAppendSize is the server's default limit, 1 MiB for a whole append.
	maxAppendSize = 1 << 20
	// attempts of one append, with the same event ids.
	appendAttempts = 2
	leaderPause    = 100 * time.Millisecond
)

// Append stores events at the end of a stream, all or none, where the stream
// is at the expected revision. Repeating an append with the same command id,
// events and expected revision stores nothing and returns the first outcome.
//
// Errors: *ConflictError; domain.TooLarge and domain.StorageFull;
// domain.Unavailable when nothing was stored because the server was not
// reached; domain.OutcomeUnknown when it is not known whether the events are
// stored, after a second attempt within the caller's deadline. An event type
// that is not registered is an internal error.
func (s *Store) Append(ctx context.Context, stream string, expected Revision, meta Metadata, events ...domain.Event) (Appended, error) {
	encoded, err := encode(s.registry, meta, events)
	if err != nil {
		return Appended{}, fmt.Errorf("append to %s: %w", stream, err)
	}
	return s.append(ctx, stream, expected, encoded)
}

// AppendRaw is Append for events outside the registry, which name their own ids.
func (s *Store) AppendRaw(ctx context.Context, stream string, expected Revision, events ...Raw) (Appended, error) {
	encoded, err := encodeRaw(events)
	if err != nil {
		return Appended{}, fmt.Errorf("append to %s: %w", stream, err)
	}
	return s.append(ctx, stream, expected, encoded)
}

func (s *Store) append(ctx context.Context, stream string, expected Revision, events []esdb.EventData) (Appended, error) {
	began := time.Now()
	if err := checkAppend(ctx, stream, expected, events); err != nil {
		s.metrics.appended(err, time.Since(began))
		return Appended{}, err
	}
	appended, err := s.attempts(ctx, stream, expected, events)
	s.metrics.appended(err, time.Since(began))
	return appended, err
}

// checkAppend refuses what the server would, because the library reports such
// refusals as a broken connection.
func checkAppend(ctx context.Context, stream string, expected Revision, events []esdb.EventData) error {
	switch {
	case stream == "" || stream[0] == '$':
		return fmt.Errorf("append: %q is no stream of ours", stream)
	case expected < NoStream:
		return fmt.Errorf("append to %s: no revision is %d", stream, expected)
	case len(events) == 0:
		return fmt.Errorf("append to %s: no events", stream)
	case ctx.Err() != nil:
		return unavailable(context.Cause(ctx))
	}
	size := 0
	for _, e := range events {
		size += len(e.Data) + len(e.Metadata) + 2*len(e.EventType)
	}
	if size > maxAppendSize {
		return domain.Fail(domain.TooLarge, "TOO_LARGE", "The change is larger than the event store takes at once (%d bytes).", maxAppendSize)
	}
	return nil
}

// attempts sends an append until its outcome is known, at most twice.
func (s *Store) attempts(ctx context.Context, stream string, expected Revision, events []esdb.EventData) (Appended, error) {
	unknown := false
	for n := 1; ; n++ {
		appended, err := s.send(ctx, stream, expected, events)
		if err == nil {
			return appended, nil
		}
		switch causeOf(err) {
		case conflict:
			if unknown {
				return s.afterConflict(ctx, stream, expected, events, err)
			}
			return Appended{}, &ConflictError{Stream: stream, Expected: expected, Actual: actualRevision(err)}
		case deleted:
			failure := domain.Fail(domain.Conflict, "STREAM_DELETED", "This was deleted for good.")
			failure.Cause = opaque(err)
			return Appended{}, failure
		case full:
			failure := domain.Fail(domain.StorageFull, "STORAGE_FULL", "The event store has no space left.")
			failure.Cause = opaque(err)
			return Appended{}, failure
		case oversized:
			failure := domain.Fail(domain.TooLarge, "TOO_LARGE", "The change is larger than the event store takes at once.")
			failure.Cause = opaque(err)
			return Appended{}, failure
		case lost:
			unknown = true
		case other:
			return Appended{}, fmt.Errorf("append to %s: %w", stream, opaque(err))
		}
		if namesLeader(err) {
			// The library goes there, and leaks a connection when the leader it
			// was named is gone: not too often, while they elect another.
			_ = sleep(ctx, leaderPause)
		}
		if n < appendAttempts && ctx.Err() == nil && !unconnected(err) {
			continue
		}
		if unknown {
			return Appended{}, outcomeUnknown(err)
		}
		return Appended{}, unavailable(err)
	}
}

func outcomeUnknown(err error) error {
	failure := domain.Fail(domain.OutcomeUnknown, "OUTCOME_UNKNOWN", "It is not known whether the change was stored; repeat the request with the same idempotency key.")
	failure.Cause = opaque(err)
	return failure
}

// send makes one attempt.
func (s *Store) send(ctx context.Context, stream string, expected Revision, events []esdb.EventData) (Appended, error) {
	ctx, cancel := context.WithTimeout(ctx, s.callTimeout)
	defer cancel()
	c, err := s.calls.acquire(ctx)
	if err != nil {
		return Appended{}, &notSentError{err}
	}
	options := esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}
	if expected != NoStream {
		options.ExpectedRevision = esdb.Revision(uint64(expected))
	}
	var result *esdb.WriteResult
	err = c.run(ctx, false, func(ctx context.Context, client *esdb.Client) (err error) {
		result, err = client.AppendToStream(ctx, stream, options, events...)
		return err
	})
	if err != nil {
		if brokenConnection(err) {
			c.retire()
		}
		return Appended{}, err
	}
	return Appended{Position: result.CommitPosition, Revision: Revision(result.NextExpectedVersion)}, nil
}

// afterConflict looks at what is behind a conflict met by a second attempt: our
// own first one, or somebody else. Our events can only be right after the
// expected revision.
func (s *Store) afterConflict(ctx context.Context, stream string, expected Revision, events []esdb.EventData, refusal error) (Appended, error) {
	found, same := 0, true
	var last Recorded
	_, err := s.ReadRaw(ctx, stream, expected+1, func(r Recorded) error {
		if id, err := uuid.Parse(r.ID); err != nil || id != events[found].EventID {
			same = false
			return errEnough
		}
		last = r
		if found++; found == len(events) {
			return errEnough
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return Appended{}, outcomeUnknown(err)
	case same && found == len(events):
		return Appended{Position: last.Position, Revision: last.Revision}, nil
	default:
		return Appended{}, &ConflictError{Stream: stream, Expected: expected, Actual: actualRevision(refusal)}
	}
}

// errEnough ends a read.
var errEnough = errors.New("enough")

// actualRevision reads the stream's revision out of the only place where the
// library keeps it, its text.
func actualRevision(err error) Revision {
	message := err.Error()
	_, rest, found := strings.Cut(message[strings.LastIndex(message, "wrong expected version")+1:], "but got '")
	value, _, ended := strings.Cut(rest, "'")
	if !found || !ended {
		return NoStream
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return NoStream // "no_stream"
	}
	return Revision(n)
}
