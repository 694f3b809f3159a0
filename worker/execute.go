package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
	"github.com/sparkops/control-plane/worker/tool"
)

// execute carries out a task. A panic in it is a failure of the attempt, not
// of the worker.
func (w *Worker) execute(r *running) (out outcome) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		w.Logger.Error("task panicked", "run", r.task.RunID, "step", r.task.Step, "panic", p, "stack", string(debug.Stack()))
		out = failed("WORKER_PANIC", "The worker met a fault of its own in this step.")
		out.retryable = true
	}()
	switch r.task.Type {
	case workflow.NodeTool:
		return w.toolNode(r)
	case workflow.NodeAgent:
		return w.agentNode(r)
	default:
		return failed("NODE_UNSUPPORTED", fmt.Sprintf("This worker does not carry out nodes of type %q.", r.task.Type))
	}
}

// stopped returns the outcome of an attempt whose context has ended.
func (r *running) stopped() outcome {
	cause := context.Cause(r.ctx)
	if !errors.Is(cause, errGone) && !errors.Is(cause, errClose) {
		cause = errDrain
	}
	return outcome{stopped: cause}
}

// failure turns the error of a tool or of the journal into an outcome.
func (r *running) failure(err error) outcome {
	var e *tool.Error
	switch {
	case r.ctx.Err() != nil && !errors.As(err, &e):
		return r.stopped()
	case errors.Is(err, errGone), errors.Is(err, errDrain), errors.Is(err, errClose):
		return outcome{stopped: err}
	case errors.As(err, &e) && e.Unknown:
		return outcome{failure: unknownOutcome(e), cause: err}
	case errors.As(err, &e):
		return outcome{failure: failureOf(e), retryable: e.Retryable, retryAfter: e.RetryAfter, cause: e.Cause}
	default:
		out := failed("WORKER_FAILED", "The worker could not carry out the step.")
		out.retryable, out.cause = true, err
		return out
	}
}

func failureOf(e *tool.Error) *run.Failure {
	return &run.Failure{Code: e.Code, Message: e.Message, Details: e.Details}
}

// unknownOutcome is a failure after which nobody knows whether the call took
// effect, and repeating it would do harm: it waits for an operator.
func unknownOutcome(e *tool.Error) *run.Failure {
	details, _ := json.Marshal(map[string]string{"cause": e.Code}) // cannot fail
	return &run.Failure{Code: run.CodeOutcomeUnknown, Message: "Nobody knows whether the call took effect: " + e.Message, Details: details}
}

// toolNode makes the one call of a tool node.
func (w *Worker) toolNode(r *running) outcome {
	t := r.task
	called, err := w.Tools.Resolve(t.NodeSpec.Tool, t.Tools)
	if err != nil {
		return r.failure(err)
	}
	if schema := called.Parameters(); len(schema) > 0 {
		if err := tool.CheckArguments(schema, t.Input); err != nil {
			return r.failure(err)
		}
	}
	call := tool.Call{Key: callKey(t, run.CallTool, 1), Arguments: t.Input, Attempt: t.Attempt}
	if !called.Effect() {
		out, err := w.timed(run.CallTool, func() (json.RawMessage, error) { return called.Call(r.ctx, call) })
		if err != nil {
			return r.failure(err)
		}
		return outcome{output: out}
	}
	j := w.journal(r)
	j.skipFinished() // only failures are recorded for the node itself: see the package comment
	intent := run.Call{Kind: run.CallTool, Name: toolName(t), Tool: t.NodeSpec.Tool, Key: call.Key, Request: t.Input}
	seq, key, err := j.begin(intent)
	if err != nil {
		return r.failure(err)
	}
	call.Key = key
	started := w.Clock()
	out, err := w.timed(run.CallTool, func() (json.RawMessage, error) { return called.Call(r.ctx, call) })
	if err == nil {
		return outcome{output: out}
	}
	if failure := known(t, intent.Tool, err); failure != nil {
		if err := j.finish(seq, run.CallResult{Failure: failure, Duration: w.Clock().Sub(started)}); err != nil {
			return r.failure(err)
		}
	}
	return r.failure(err)
}

// known returns the failure to record of a call that certainly had no effect,
// or none that counts; nil where the call must stay open, to be made again
// under its key. A call given up before anything was sent stays open too,
// unless that would pass for an unknown outcome.
func known(t Task, id string, err error) *run.Failure {
	var e *tool.Error
	if errors.As(err, &e) {
		if e.Unknown {
			return nil
		}
		return failureOf(e)
	}
	if plan, ok := t.Tools[id]; ok && !plan.RepeatSafe() {
		return &run.Failure{Code: "CALL_NOT_MADE", Message: "The worker stopped before the call was made."}
	}
	return nil
}

// timed makes a call and measures it.
func (w *Worker) timed(kind string, call func() (json.RawMessage, error)) (json.RawMessage, error) {
	started := w.Clock()
	out, err := call()
	result := "ok"
	if err != nil {
		result = "failed"
	}
	w.metrics.call(kind, result, w.Clock().Sub(started))
	return out, err
}

func toolName(t Task) string {
	if plan, ok := t.Tools[t.NodeSpec.Tool]; ok && plan.Spec.Name != "" {
		return clip(plan.Spec.Name, 255)
	}
	return clip(t.NodeSpec.Tool, 255)
}
