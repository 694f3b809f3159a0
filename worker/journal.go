package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

// journal numbers the calls of a step, replays those of earlier attempts, and
// records new ones. The calls of a step are a function of its plan, its input
// and the results of the calls before, so the same numbers name the same calls
// in every attempt.
type journal struct {
	w        *Worker
	r        *running
	recorded map[int]run.CallRecord // of earlier attempts, by number
	seq      int                    // of the last call
}

func (w *Worker) journal(r *running) *journal {
	j := &journal{w: w, r: r, recorded: make(map[int]run.CallRecord, len(r.task.Calls))}
	for _, c := range r.task.Calls {
		j.recorded[c.Seq] = c
	}
	return j
}

// callKey is the idempotency key of the n-th call of a kind in a step.
func callKey(t Task, kind string, n int) string {
	return fmt.Sprintf("%s/%s/%s-%d", t.RunID, t.Step, kind, n)
}

// skipFinished moves on to the first call without a result.
func (j *journal) skipFinished() {
	for {
		c, ok := j.recorded[j.seq+1]
		if !ok || c.Result == nil {
			return
		}
		j.seq++
	}
}

// replay returns the recorded result of the next call, if it has one. A
// record that is not of this call is a fault: repeating what was paid for, or
// answering one call with the result of another, would be worse than stopping.
func (j *journal) replay(c run.Call) (result run.CallResult, ok bool, err error) {
	known, ok := j.recorded[j.seq+1]
	if !ok {
		return run.CallResult{}, false, nil
	}
	if known.Kind != c.Kind || known.Name != c.Name {
		return run.CallResult{}, false, fmt.Errorf("call %d is recorded as %s %q and now is %s %q: %w", j.seq+1, known.Kind, known.Name, c.Kind, c.Name, errMismatch)
	}
	if known.Result == nil {
		return run.CallResult{}, false, nil
	}
	j.seq++
	return *known.Result, true, nil
}

// begin records the intent of the next call, under the key of an attempt that
// had begun it already. Nothing is begun by a draining worker, or without the
// lease.
func (j *journal) begin(c run.Call) (seq int, key string, err error) {
	if j.r.ctx.Err() != nil {
		return 0, "", j.r.stopped().stopped
	}
	if j.w.isDraining() {
		return 0, "", errDrain
	}
	j.seq++
	c.Seq = j.seq
	if known, ok := j.recorded[c.Seq]; ok && known.Key != "" {
		c.Key = known.Key
	}
	if len(c.Request) > run.MaxPayload {
		c.Request = json.RawMessage(fmt.Sprintf(`{"omitted":"larger than %d KiB"}`, run.MaxPayload>>10))
	}
	j.r.calling.Store(true)
	err = j.w.retry(j.r.task, "start call", func(ctx context.Context) error { return j.w.Tasks.StartCall(ctx, j.r.task, c) })
	if err != nil {
		j.r.calling.Store(false)
		return 0, "", j.lost(err)
	}
	return c.Seq, c.Key, nil
}

// finish records how a call ended.
func (j *journal) finish(seq int, result run.CallResult) error {
	defer j.r.calling.Store(false)
	err := j.w.retry(j.r.task, "finish call", func(ctx context.Context) error { return j.w.Tasks.FinishCall(ctx, j.r.task, seq, result) })
	if err != nil {
		return j.lost(err)
	}
	return nil
}

// lost says what a refused report of a call means for the attempt.
func (j *journal) lost(err error) error {
	switch {
	case gone(err):
		return errGone
	case domain.KindOf(err) == domain.Invalid, domain.KindOf(err) == domain.TooLarge:
		return err
	default:
		return errGone // the drain is over, or the control plane is: the lease decides
	}
}

// clip shortens a text to so many bytes without cutting a character.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}
