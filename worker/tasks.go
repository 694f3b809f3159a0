package worker

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

// Task is one attempt of a step, leased to this worker.
type Task = commands.Task

// Tasks is where the worker gets its tasks and takes their results: the
// commands.Handler of the same process, or its counterpart over HTTP. What
// each method does and refuses is said there.
type Tasks interface {
	LeaseTasks(ctx context.Context, w commands.Worker, most int, wait time.Duration) ([]Task, error)
	HeartbeatTask(ctx context.Context, t Task, details json.RawMessage) (leaseUntil time.Time, err error)
	StartCall(ctx context.Context, t Task, c run.Call) error
	FinishCall(ctx context.Context, t Task, seq int, r run.CallResult) error
	CompleteTask(ctx context.Context, t Task, output json.RawMessage, take int) (next []Task, err error)
	FailTask(ctx context.Context, t Task, f run.Failure, retryable bool, retryAfter time.Duration) error
	ReleaseTask(ctx context.Context, t Task) error
}

var _ Tasks = (*commands.Handler)(nil)

// gone reports whether an answer means that the task is not ours any more.
func gone(err error) bool {
	switch domain.KindOf(err) {
	case domain.Conflict:
		return !lostRace(err)
	case domain.NotFound, domain.Forbidden, domain.Unauthorized:
		return true
	default:
		return false
	}
}

// transient reports whether the same report may be taken a moment later.
func transient(err error) bool {
	switch domain.KindOf(err) {
	case domain.Unavailable, domain.OutcomeUnknown, domain.StorageFull, domain.RateLimited:
		return true
	case domain.Conflict:
		return lostRace(err)
	default:
		return false
	}
}

// lostRace is the one conflict that says nothing about the task.
func lostRace(err error) bool {
	var e *domain.Error
	return errors.As(err, &e) && e.Code == "CONCURRENT_UPDATE"
}
