package run

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// StepStatus is where a step stands.
type StepStatus string

// The states of a step. Failed is the end of it unless the run is paused: then
// resuming schedules it again.
const (
	StepReady     StepStatus = "ready"     // waits for a worker, from NotBefore on
	StepRunning   StepStatus = "running"   // a worker holds it
	StepWait      StepStatus = "waiting"   // waits until a time
	StepDone      StepStatus = "succeeded" //
	StepFail      StepStatus = "failed"    //
	StepSkip      StepStatus = "skipped"   // no live branch reaches it
	StepCancelled StepStatus = "cancelled" // the run ended before it did
)

// Step is the state of one step of a run. Values handed out are never changed.
type Step struct {
	Step, Node, Type, Name string
	Idx                    int
	Status                 StepStatus
	Attempt                int // the present or last one, from 1
	Queue                  string
	Priority               int

	Input     json.RawMessage
	InputFrom []string
	Prompt    string
	Output    json.RawMessage
	Branch    []string
	Failure   *Failure // of the last failed attempt
	Continued bool     // failed, and the run went on
	Details   json.RawMessage

	ScheduledAt time.Time // first
	NotBefore   time.Time
	StartBy     time.Time // while ready
	StartedAt   time.Time // first
	EndedAt     time.Time
	Until       time.Time // while waiting

	// The lease of the present attempt, or of the last one.
	Token      int64
	Worker     string
	LeasedAt   time.Time
	LeaseUntil time.Time
	CloseBy    time.Time

	Calls []*CallRecord // in the order they were first started
	Usage domain.Usage
	Cost  domain.Nanos

	failedToken int64 // the lease under which the last attempt failed

	base  int       // attempts before the run was last resumed
	since time.Time // when the first attempt after base was scheduled
	held  bool      // resuming the run schedules it again
	again bool      // … as the next attempt, else as the present one
}

// CallRecord is one external effect and, once it is known, how it ended.
type CallRecord struct {
	Call
	Attempt    int         `json:"attempt"` // that last started it
	StartedAt  time.Time   `json:"startedAt"`
	FinishedAt time.Time   `json:"finishedAt,omitzero"`
	Result     *CallResult `json:"result,omitempty"` // nil: not finished, or nobody knows
}

// hasOutput says that expressions can ask for the output of the step.
func (s *Step) hasOutput() bool { return s.Status == StepDone || s.Continued }

// isOpen says that the step keeps the run from ending.
func (s *Step) isOpen() bool {
	return s.Status == StepReady || s.Status == StepRunning || s.Status == StepWait || s.held
}

// call returns the position of a call in Calls, -1 where there is none.
func (s *Step) call(seq int) int {
	return slices.IndexFunc(s.Calls, func(c *CallRecord) bool { return c.Seq == seq })
}

// withCall returns the calls with one replaced or, at -1, added.
func (s *Step) withCall(at int, c *CallRecord) []*CallRecord {
	calls := slices.Clone(s.Calls)
	if at < 0 {
		return append(calls, c)
	}
	calls[at] = c
	return calls
}

// unknownCall returns a call that must not be repeated although nobody knows
// how it ended.
func (s *Step) unknownCall() (*CallRecord, bool) {
	for _, c := range s.Calls {
		if c.Unsafe && c.Result == nil && c.Attempt > s.base {
			return c, true
		}
	}
	return nil, false
}

// vector is a list of steps that shares what it does not change with the
// values it was made from: changing one of a thousand steps copies two small
// blocks.
type vector struct {
	blocks []*block
	size   int
}

const blockSize = 32

type block [blockSize]*Step

func (v vector) get(i int) *Step {
	if i < 0 || i >= v.size {
		return nil
	}
	if b := v.blocks[i/blockSize]; b != nil {
		return b[i%blockSize]
	}
	return nil
}

// with returns the vector with one step replaced; it grows as needed.
func (v vector) with(i int, s *Step) vector {
	size := max(v.size, i+1)
	blocks := make([]*block, (size+blockSize-1)/blockSize)
	copy(blocks, v.blocks)
	changed := block{}
	if b := blocks[i/blockSize]; b != nil {
		changed = *b
	}
	changed[i%blockSize] = s
	blocks[i/blockSize] = &changed
	return vector{blocks: blocks, size: size}
}

// all yields the steps that exist.
func (v vector) all(yield func(int, *Step) bool) {
	for i := range v.size {
		if s := v.get(i); s != nil && !yield(i, s) {
			return
		}
	}
}
