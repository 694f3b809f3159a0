// Package worker carries out the tasks of runs: agent loops and tool calls.
// The worker leases tasks, keeps their leases alive while it works, and
// records what came of them. It decides nothing about a run: everything that
// follows from a result, a failure or a lost lease is decided by the control
// plane, and a result that comes too late is refused there by its token.
//
// # What is recorded when
//
// The intent of a call that has an effect outside is recorded before it, its
// result after it:
//
//   - model and tool calls of an agent: StartCall, the call, FinishCall. A
//     later attempt replays the recorded results into the conversation and
//     repeats nothing that was paid for.
//   - an http tool node: StartCall, the request, then CompleteTask with the
//     output, which is its result; a failure whose outcome is known is recorded
//     by FinishCall before FailTask.
//   - a builtin tool node has no effect outside: only CompleteTask or FailTask.
//
// A call that was started and has no result is repeated with the same key, by
// the next attempt. One that does harm when repeated never gets that far: the
// control plane pauses the run (OUTCOME_UNKNOWN) and only hands the step out
// again when an operator has resumed it, which is the permission to repeat.
//
// # The output of an agent step
//
// The model's last answer, when it is a JSON object (alone or in one fenced
// block); else {"text": "<the answer>"}.
package worker
