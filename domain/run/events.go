package run

import (
	"encoding/json"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Category is the stream category; a run's stream is "run-<id>".
const Category = "run"

// Queued starts a run. Its first steps are scheduled by the same append.
type Queued struct {
	RunID           string          `json:"runId"`
	ProjectID       string          `json:"projectId"`
	WorkflowID      string          `json:"workflowId"`
	WorkflowVersion int             `json:"workflowVersion"`
	AgentID         string          `json:"agentId,omitempty"` // the run's own agent
	Env             string          `json:"env"`               // dev, staging, prod
	Trigger         string          `json:"trigger"`           // manual, schedule, webhook, event
	TriggeredBy     string          `json:"triggeredBy"`       // user id or process name
	Region          string          `json:"region"`
	Input           json.RawMessage `json:"input,omitempty"`
	Config          json.RawMessage `json:"config,omitempty"` // free-form object of the caller
	Plan            Plan            `json:"plan"`
	RetryOf         string          `json:"retryOf,omitempty"`
	Retries         int             `json:"retries,omitempty"`
	At              time.Time       `json:"at"`
	Deadline        time.Time       `json:"deadline"` // end of settings.maxDuration
}

// Started marks the first time a worker took a step or a wait began.
type Started struct {
	At time.Time `json:"at"`
}

// StepScheduled makes a step (or its next attempt) ready for a worker from
// NotBefore on; StartBy is the end of its scheduleToStart timeout. When a
// paused run is resumed it comes again for an attempt that was ready before.
type StepScheduled struct {
	Step      string          `json:"step"` // unique in the run; the node id (map items and loop turns append to it)
	Node      string          `json:"node"`
	Idx       int             `json:"idx"` // from 1, in the order steps were first scheduled
	Type      string          `json:"type"`
	Name      string          `json:"name"`
	Attempt   int             `json:"attempt"` // from 1
	Queue     string          `json:"queue,omitempty"`
	Priority  int             `json:"priority,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`     // on attempt 1 only
	InputFrom []string        `json:"inputFrom,omitempty"` // instead of a large Input: the steps whose outputs, by step, make it; InputOfRun alone: the run's input
	Prompt    string          `json:"prompt,omitempty"`    // agent step, on attempt 1 only: the instruction with its templates filled in
	At        time.Time       `json:"at"`
	NotBefore time.Time       `json:"notBefore"`
	StartBy   time.Time       `json:"startBy"`
}

// StepStarted hands an attempt to a worker. Token is the fencing token: it
// grows with every lease of the run, and only the newest one of a step counts.
type StepStarted struct {
	Step       string    `json:"step"`
	Attempt    int       `json:"attempt"`
	Token      int64     `json:"token"`
	Worker     string    `json:"worker"`
	At         time.Time `json:"at"`
	LeaseUntil time.Time `json:"leaseUntil"`
	CloseBy    time.Time `json:"closeBy"` // end of startToClose or scheduleToClose, the sooner
}

// StepLeaseExtended is a heartbeat that moved the end of the lease.
type StepLeaseExtended struct {
	Step       string          `json:"step"`
	Token      int64           `json:"token"`
	LeaseUntil time.Time       `json:"leaseUntil"`
	Details    json.RawMessage `json:"details,omitempty"` // survive to the next attempt
}

// StepLeaseReleased gives an attempt back unfinished (a draining worker); the
// step is ready again at once and the attempt does not count.
type StepLeaseReleased struct {
	Step    string    `json:"step"`
	Token   int64     `json:"token"`
	At      time.Time `json:"at"`
	StartBy time.Time `json:"startBy,omitzero"` // end of the new scheduleToStart timeout
}

// StepCallStarted records the intent of an external effect before it happens.
type StepCallStarted struct {
	Step    string    `json:"step"`
	Attempt int       `json:"attempt"`
	Call    Call      `json:"call"`
	At      time.Time `json:"at"`
}

// StepCallFinished records its result. A finished call is never made again.
type StepCallFinished struct {
	Step    string     `json:"step"`
	Attempt int        `json:"attempt"`
	Seq     int        `json:"seq"`
	Kind    string     `json:"kind"`
	Name    string     `json:"name"`
	Result  CallResult `json:"result"`
	At      time.Time  `json:"at"`
}

// StepWaiting suspends a wait step until a time.
type StepWaiting struct {
	Step  string    `json:"step"`
	Node  string    `json:"node"`
	Idx   int       `json:"idx"`
	Name  string    `json:"name"`
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
}

// StepSucceeded ends a step. Branch holds the target nodes a decision chose.
// For decisions it is the step's only event and carries Idx, Type and Name.
type StepSucceeded struct {
	Step    string          `json:"step"`
	Node    string          `json:"node"`
	Idx     int             `json:"idx"`
	Type    string          `json:"type"`
	Name    string          `json:"name"`
	Attempt int             `json:"attempt"`
	Output  json.RawMessage `json:"output,omitempty"`
	Branch  []string        `json:"branch,omitempty"`
	At      time.Time       `json:"at"`
}

// StepFailed ends an attempt. Where Final is false a StepScheduled of the next
// attempt follows in the same append, or, in a paused run, in the append that
// resumes it. Continued says that the run goes on although the step failed
// (onExhausted: continue).
type StepFailed struct {
	Step      string    `json:"step"`
	Node      string    `json:"node"`
	Idx       int       `json:"idx"`
	Type      string    `json:"type"`
	Name      string    `json:"name"`
	Attempt   int       `json:"attempt"`
	Failure   Failure   `json:"failure"`
	Retryable bool      `json:"retryable"`
	Final     bool      `json:"final"`
	Continued bool      `json:"continued,omitempty"`
	At        time.Time `json:"at"`
}

// StepSkipped records that no live branch reaches a node.
type StepSkipped struct {
	Step   string    `json:"step"`
	Node   string    `json:"node"`
	Idx    int       `json:"idx"`
	Type   string    `json:"type"`
	Name   string    `json:"name"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Paused holds the run until somebody resumes or cancels it: nothing more is
// scheduled or handed out and the clock of the run's deadline stands still.
// What workers hold at that moment goes on and is recorded. Step is the
// exhausted step that caused it, "" when somebody asked for it.
type Paused struct {
	Reason Failure   `json:"reason"`
	Step   string    `json:"step,omitempty"`
	At     time.Time `json:"at"`
}

// Resumed continues a paused run: its exhausted steps are scheduled again by
// the same append, with their retries counted anew (attempt numbers go on).
type Resumed struct {
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Deadline time.Time `json:"deadline,omitzero"` // the run's deadline, moved by the time it was paused
}

// Succeeded, Failed, Cancelled and TimedOut are the terminal events: a run has
// exactly one of them. After it only StepCallFinished (a paid call that was
// under way) and Hidden can follow.
type Succeeded struct {
	Output     json.RawMessage `json:"output,omitempty"`
	OutputFrom []string        `json:"outputFrom,omitempty"` // instead of a large Output: the steps whose outputs, by step, make it
	At         time.Time       `json:"at"`
}
type Failed struct {
	Reason Failure   `json:"reason"`
	Step   string    `json:"step,omitempty"`
	At     time.Time `json:"at"`
}
type Cancelled struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}
type TimedOut struct {
	At time.Time `json:"at"`
}

// Hidden takes a finished run out of lists; its history stays.
type Hidden struct {
	At time.Time `json:"at"`
}

func (Queued) EventType() string            { return "RunQueued" }
func (Started) EventType() string           { return "RunStarted" }
func (StepScheduled) EventType() string     { return "RunStepScheduled" }
func (StepStarted) EventType() string       { return "RunStepStarted" }
func (StepLeaseExtended) EventType() string { return "RunStepLeaseExtended" }
func (StepLeaseReleased) EventType() string { return "RunStepLeaseReleased" }
func (StepCallStarted) EventType() string   { return "RunStepCallStarted" }
func (StepCallFinished) EventType() string  { return "RunStepCallFinished" }
func (StepWaiting) EventType() string       { return "RunStepWaiting" }
func (StepSucceeded) EventType() string     { return "RunStepSucceeded" }
func (StepFailed) EventType() string        { return "RunStepFailed" }
func (StepSkipped) EventType() string       { return "RunStepSkipped" }
func (Paused) EventType() string            { return "RunPaused" }
func (Resumed) EventType() string           { return "RunResumed" }
func (Succeeded) EventType() string         { return "RunSucceeded" }
func (Failed) EventType() string            { return "RunFailed" }
func (Cancelled) EventType() string         { return "RunCancelled" }
func (TimedOut) EventType() string          { return "RunTimedOut" }
func (Hidden) EventType() string            { return "RunHidden" }

// Register adds the events of this category to the registry.
func Register(r *domain.Registry) {
	domain.Register[Queued](r)
	domain.Register[Started](r)
	domain.Register[StepScheduled](r)
	domain.Register[StepStarted](r)
	domain.Register[StepLeaseExtended](r)
	domain.Register[StepLeaseReleased](r)
	domain.Register[StepCallStarted](r)
	domain.Register[StepCallFinished](r)
	domain.Register[StepWaiting](r)
	domain.Register[StepSucceeded](r)
	domain.Register[StepFailed](r)
	domain.Register[StepSkipped](r)
	domain.Register[Paused](r)
	domain.Register[Resumed](r)
	domain.Register[Succeeded](r)
	domain.Register[Failed](r)
	domain.Register[Cancelled](r)
	domain.Register[TimedOut](r)
	domain.Register[Hidden](r)
}
