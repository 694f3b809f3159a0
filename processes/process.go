package processes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/google/uuid"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// Process is a rule "whenever this happens, do that".
type Process struct {
	Name       string   // of its checkpoint, its parked stream and its actor
	Categories []string // of the events it looks at

	// On returns the commands an event leads to. It is pure.
	On func(e eventstore.Recorded) []Command
}

// All returns the processes of the control plane.
func All() []Process { return []Process{Runs()} }

// Command is one thing a process asks for, as data.
type Command interface {
	// Do carries it out. Repeating it with the same command id is safe.
	Do(ctx context.Context, h *commands.Handler) error
}

// commandSpace is the namespace of the ids of commands of processes.
var commandSpace = uuid.MustParse("9b1c7e0a-55f6-5c0e-8a54-5a1d6f0d9e27")

// CommandID returns the id of the n-th command a process derives from an event.
func CommandID(process, eventID string, n int) string {
	return uuid.NewSHA1(commandSpace, fmt.Appendf(nil, "%s/%s/%d", process, eventID, n)).String()
}

// attemptTime bounds one try of a command.
const attemptTime = 30 * time.Second

// verdict is what became of an event.
type verdict string

const (
	done   verdict = "done"
	notDue verdict = "not_due" // of one command at least
	parked verdict = "parked"
)

// carryOut carries out what an event leads to. park is called for an event
// that cannot be handled, until it returns nil. The only error is that of a
// context that ended first.
func (s *Service) carryOut(ctx context.Context, p Process, e eventstore.Recorded, park func(ctx context.Context, cause error) error) (verdict, error) {
	result := done
	for n, command := range p.On(e) {
		err := s.until(ctx, p, e, func(ctx context.Context) error { return s.try(ctx, p, e, n, command) })
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return "", ctx.Err()
		case isNotDue(err):
			if result == done {
				result = notDue
			}
		default:
			s.Logger.ErrorContext(ctx, "process: an event is parked", "process", p.Name, "event", e.ID, "type", e.Type, "stream", e.Stream, "error", err)
			if failed := s.until(ctx, p, e, func(ctx context.Context) error { return park(ctx, err) }); failed != nil {
				return "", failed
			}
			return parked, nil
		}
	}
	return result, nil
}

// until repeats something as long as it fails for a reason that passes.
func (s *Service) until(ctx context.Context, p Process, e eventstore.Recorded, do func(context.Context) error) error {
	for failures := 0; ; failures++ {
		err := do(ctx)
		if err == nil || ctx.Err() != nil || !passes(err) {
			return err
		}
		s.metrics.retries.WithLabelValues(p.Name).Inc()
		if failures == 0 {
			s.Logger.WarnContext(ctx, "process: a dependency is down, trying again", "process", p.Name, "event", e.ID, "error", err)
		}
		if err := sleep(ctx, backoff(failures)); err != nil {
			return err
		}
	}
}

// try carries out one command once. A panic in it is an error.
func (s *Service) try(ctx context.Context, p Process, e eventstore.Recorded, n int, c Command) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	ctx = commands.WithActor(ctx, actor(p.Name))
	ctx = commands.WithCommandID(ctx, CommandID(p.Name, e.ID, n))
	correlation := e.Metadata.CorrelationID
	if correlation == "" {
		correlation = e.ID
	}
	return c.Do(commands.WithCausation(ctx, correlation, e.ID), s.Handler)
}

func actor(process string) domain.Actor { return domain.Process("process." + process) }

// isNotDue reports whether an error only says that there is nothing left to do.
func isNotDue(err error) bool {
	kind := domain.KindOf(err)
	return kind == domain.NotFound || kind == domain.Conflict && !lostRace(err)
}

// passes reports whether an error goes away by itself.
func passes(err error) bool {
	switch domain.KindOf(err) {
	case domain.Unavailable, domain.OutcomeUnknown, domain.StorageFull, domain.RateLimited:
		return true
	case domain.Conflict:
		return lostRace(err)
	default:
		return errors.Is(err, context.DeadlineExceeded)
	}
}

// lostRace is the conflict that says nothing about what was asked for.
func lostRace(err error) bool {
	var e *domain.Error
	return errors.As(err, &e) && e.Code == "CONCURRENT_UPDATE"
}

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

// backoff returns a random pause around a time that doubles with each failure.
func backoff(failures int) time.Duration {
	span := min(firstPause<<min(failures, 10), maxPause)
	return span/2 + rand.N(span)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
