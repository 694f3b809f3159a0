package run_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/domaintest"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/workflow"
)

// TestSimulation drives random workflows with a virtual clock through workers
// that are late, get lost and repeat themselves, and people who pause, resume
// and cancel at any moment. After every command the promises of the package
// are checked; at the end the run must come to its end.
func TestSimulation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 60).Draw(t, "actions") {
			w.act()
		}
		w.settle()
	})
}

// TestTimeAloneComesToAnEnd: without any worker, timers lead every run to its
// end or to a pause.
func TestTimeAloneComesToAnEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 15).Draw(t, "actions") {
			w.act()
		}
		for range 2000 {
			wake, ok := w.run.NextWake()
			if !ok {
				break
			}
			w.jump(wake)
			w.do(run.Advance{RunID: "r1", Expr: words{}})
		}
		if !w.run.Ended() && !w.run.Paused() {
			t.Fatalf("the run is neither over nor paused: %v", w.run.Why(w.now))
		}
	})
}

// world is one run, its stream and everybody who has to do with it.
type world struct {
	*rapid.T
	events []domain.Event
	run    run.Run
	now    time.Time

	held   []run.Held                  // every lease there ever was
	last   domaintest.Decider[run.Run] // to be repeated
	issued map[string]domain.Nanos     // costs by call
	done   map[string]bool             // steps that succeeded
	risky  map[string]bool             // calls that may have happened and must not be repeated
	idx    map[int]string              // step by number
	token  int64
	ends   int
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, now: t0, issued: map[string]domain.Nanos{}, done: map[string]bool{}, risky: map[string]bool{}, idx: map[int]string{}}
	q := run.Queue{
		RunID: "r1", ProjectID: "p1", WorkflowID: "w1", WorkflowVersion: 1, AgentID: "a1", Env: "dev", Trigger: "manual",
		Input: raw(`{"x":1}`), Plan: run.Plan{Definition: drawDefinition(t), Tools: tools()}, Expr: words{},
	}
	w.do(q)
	return w
}

func drawDefinition(t *rapid.T) workflow.Definition {
	span := func(label string, values ...time.Duration) workflow.Duration {
		return workflow.Duration(rapid.SampledFrom(values).Draw(t, label))
	}
	def := workflow.Definition{Settings: workflow.Settings{
		MaxDuration:  span("maxDuration", 0, time.Hour, 90*time.Second),
		MaxSteps:     rapid.SampledFrom([]int{0, 0, 0, 3}).Draw(t, "maxSteps"),
		MaxCostNanos: rapid.SampledFrom([]int64{0, 0, 25}).Draw(t, "maxCost"),
	}}
	n := rapid.IntRange(1, 9).Draw(t, "nodes")
	incoming := make([]int, n)
	outgoing := make([]int, n)
	for to := 1; to < n; to++ {
		for from := range to {
			if rapid.IntRange(0, 2).Draw(t, "edge") == 0 {
				def.Edges = append(def.Edges, workflow.Edge{From: name(from), To: name(to)})
				outgoing[from]++
				incoming[to]++
			}
		}
	}
	kinds := make([]string, n)
	for i := range n {
		kinds[i] = rapid.SampledFrom([]string{"tool", "tool", "agent", "wait", "decision"}).Draw(t, "type")
		if kinds[i] == "decision" && outgoing[i] == 0 {
			kinds[i] = "wait"
		}
		def.Nodes = append(def.Nodes, drawNode(t, name(i), kinds[i], incoming[i], span))
	}
	fallback := map[string]bool{}
	for i, e := range def.Edges {
		from := slices.IndexFunc(def.Nodes, func(n workflow.Node) bool { return n.ID == e.From })
		if kinds[from] != "decision" {
			continue
		}
		def.Edges[i].When = rapid.SampledFrom([]string{"", "true", "false", "false", name(from) + "=1", "boom"}).Draw(t, "when")
		if def.Edges[i].When == "" && fallback[e.From] {
			def.Edges[i].When = "false"
		}
		fallback[e.From] = fallback[e.From] || def.Edges[i].When == ""
	}
	if broken := workflow.CheckDefinition(def, anything{}); len(broken) > 0 {
		t.Fatalf("the drawn definition is not valid: %v", broken)
	}
	return workflow.Normalize(def, workflow.Spec{MaxRetries: 2})
}

type anything struct{}

func (anything) CheckCondition(string) error { return nil }
func (anything) CheckTemplate(string) error  { return nil }

func (anything) Outputs(string, bool) []string { return nil }

func name(i int) string { return string(rune('a' + i)) }

func drawNode(t *rapid.T, id, kind string, incoming int, span func(string, ...time.Duration) workflow.Duration) workflow.Node {
	n := workflow.Node{ID: id, Type: kind}
	if incoming > 0 {
		n.Join = rapid.SampledFrom([]string{"", "all", "any", "n"}).Draw(t, "join")
		if n.Join == "n" {
			n.JoinN = rapid.IntRange(1, incoming).Draw(t, "joinN")
		}
	}
	switch kind {
	case "decision":
		n.OnExhausted = rapid.SampledFrom([]string{"", "continue"}).Draw(t, "onExhausted")
		return n
	case "wait":
		n.Duration = span("wait", time.Second, time.Minute)
		return n
	case "tool":
		n.Tool = rapid.SampledFrom([]string{"fn", "get", "post"}).Draw(t, "tool")
	}
	if rapid.IntRange(0, 5).Draw(t, "template") == 0 {
		n.Input = raw(`{"t":"${a}"}`)
	}
	n.OnExhausted = rapid.SampledFrom([]string{"", "pause", "fail", "continue"}).Draw(t, "onExhausted")
	n.Retry = &workflow.Retry{
		MaxAttempts: rapid.IntRange(1, 3).Draw(t, "attempts"), InitialInterval: span("interval", time.Second, 20*time.Second),
		MaxElapsed: span("elapsed", 0, 30*time.Second), When: rapid.SampledFrom([]string{"", "", "busy", "boom"}).Draw(t, "when"),
	}
	n.Timeouts = &workflow.Timeouts{
		ScheduleToStart: span("toStart", 0, 40*time.Second), StartToClose: span("toClose", 0, 25*time.Second),
		ScheduleToClose: span("total", 0, 70*time.Second), Heartbeat: span("heartbeat", 0, 5*time.Second),
	}
	return n
}

// act lets somebody do something.
func (w *world) act() {
	switch rapid.SampledFrom([]string{
		"lease", "lease", "lease", "complete", "complete", "complete", "fail", "release", "beat", "start", "finish", "work", "work",
		"time", "wake", "wake", "early", "pause", "resume", "cancel", "hide", "repeat", "repeat", "queue",
	}).Draw(w.T, "action") {
	case "lease":
		w.do(run.Lease{RunID: "r1", Worker: "w", Tickets: w.tickets()})
	case "complete":
		w.do(run.Complete{Held: w.holder(), Output: raw(`1`), Take: rapid.IntRange(0, 3).Draw(w.T, "take"), Expr: words{}})
	case "fail":
		code := rapid.SampledFrom([]string{"BUSY", "OTHER", "OUTCOME_UNKNOWN"}).Draw(w.T, "code")
		w.do(run.Fail{Held: w.holder(), Failure: run.Failure{Code: code}, Retryable: rapid.Bool().Draw(w.T, "retryable"), Expr: words{}})
	case "release":
		w.do(run.ReleaseLease{Held: w.holder(), Expr: words{}})
	case "beat":
		w.do(run.ExtendLease{Held: w.holder()})
	case "work": // what a good worker does, as far as it gets
		w.do(run.Lease{RunID: "r1", Worker: "w", Tickets: w.tickets()})
		held := w.holder()
		for seq := range rapid.IntRange(0, 3).Draw(w.T, "calls") {
			kind := rapid.SampledFrom([]string{"model", "tool"}).Draw(w.T, "kind")
			w.do(run.StartCall{Held: held, Call: run.Call{Seq: seq + 1, Kind: kind, Name: "t"}})
			if rapid.IntRange(0, 3).Draw(w.T, "lost") == 0 {
				return
			}
			w.do(run.FinishCall{Held: held, Seq: seq + 1, Result: run.CallResult{CostNanos: 7}})
		}
	case "start":
		kind := rapid.SampledFrom([]string{"model", "tool"}).Draw(w.T, "kind")
		w.do(run.StartCall{Held: w.holder(), Call: run.Call{Seq: rapid.IntRange(1, 3).Draw(w.T, "seq"), Kind: kind, Name: "t"}})
	case "finish":
		cost := domain.Nanos(rapid.IntRange(0, 10).Draw(w.T, "cost"))
		w.do(run.FinishCall{Held: w.holder(), Seq: rapid.IntRange(1, 3).Draw(w.T, "seq"), Result: run.CallResult{CostNanos: cost}})
	case "time":
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 40).Draw(w.T, "seconds")) * time.Second)
	case "wake":
		if wake, ok := w.run.NextWake(); ok {
			w.jump(wake)
		}
		w.do(run.Advance{RunID: "r1", Expr: words{}})
	case "early":
		w.do(run.Advance{RunID: "r1", Expr: words{}})
	case "pause":
		w.do(run.Pause{RunID: "r1", By: "u"})
	case "resume":
		w.do(run.Resume{RunID: "r1", By: "u", Expr: words{}})
	case "cancel":
		if rapid.IntRange(0, 4).Draw(w.T, "really") == 0 {
			w.do(run.Cancel{RunID: "r1", By: "u"})
		}
	case "hide":
		w.do(run.Hide{RunID: "r1"})
	case "repeat":
		if w.last != nil {
			w.do(w.last)
		}
	case "queue":
		w.do(run.Queue{RunID: "r1", Env: "dev", Trigger: "manual", Expr: words{}})
	}
}

// tickets are those of a worker that looked at an old list.
func (w *world) tickets() []run.Ticket {
	var tickets []run.Ticket
	for _, s := range w.run.Steps() {
		if rapid.Bool().Draw(w.T, "ticket") {
			tickets = append(tickets, run.Ticket{Step: s.Step, Attempt: max(1, s.Attempt-rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(w.T, "old"))})
		}
	}
	return tickets
}

// holder is anybody who ever held a step, or nobody.
func (w *world) holder() run.Held {
	if len(w.held) == 0 {
		return run.Held{RunID: "r1", Step: "a", Attempt: 1, Token: 1}
	}
	newest := len(w.held) - 1
	return w.held[rapid.IntRange(max(0, newest-3), newest).Draw(w.T, "holder")]
}

func (w *world) jump(to time.Time) {
	if to.After(w.now) {
		w.now = to
	}
}

// settle lets reliable workers and a patient operator bring the run to its end.
func (w *world) settle() {
	for round := 0; !w.run.Ended(); round++ {
		if round > 500 {
			w.Fatalf("the run does not come to its end: %v", w.run.Why(w.now))
		}
		before := len(w.events)
		if w.run.Paused() {
			w.do(run.Resume{RunID: "r1", By: "u", Expr: words{}})
		}
		for _, s := range w.run.Steps() {
			w.do(run.Lease{RunID: "r1", Worker: "w", Tickets: []run.Ticket{{Step: s.Step, Attempt: s.Attempt}}})
			if now, _ := w.run.Step(s.Step); now.Status == run.StepRunning {
				w.do(run.Complete{Held: run.Held{RunID: "r1", Step: s.Step, Attempt: now.Attempt, Token: now.Token}, Output: raw(`1`), Expr: words{}})
			}
		}
		if len(w.events) == before {
			soonest := w.now.Add(time.Second)
			if wake, ok := w.run.NextWake(); ok && wake.Before(soonest) {
				soonest = wake
			}
			w.jump(soonest)
			w.do(run.Advance{RunID: "r1", Expr: words{}})
		}
	}
	w.checkOutcome()
}

// do decides a command and checks everything that must hold.
func (w *world) do(c domaintest.Decider[run.Run]) {
	before := w.run
	events, err := c.Decide(w.run, w.now)
	again, errAgain := c.Decide(w.run, w.now)
	if !reflect.DeepEqual(events, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		w.Fatalf("%T is not pure", c)
	}
	if err != nil {
		var known *domain.Error
		if len(events) > 0 || !errors.As(err, &known) || known.Kind != domain.Conflict {
			w.Fatalf("%T: %v %v", c, events, err)
		}
	}
	w.checkCommand(c, events, err)
	for _, e := range events {
		w.checkEvent(e)
		w.events = append(w.events, stored(w.T, e))
		w.run = w.run.Evolve(w.events[len(w.events)-1])
	}
	w.last = c
	w.checkState()
	if len(events) > 0 && before.Exists() && describe(before) == describe(w.run) {
		if _, beat := c.(run.ExtendLease); !beat {
			w.Fatalf("%T: events that change nothing: %v", c, events)
		}
	}
}

// stored returns an event as it comes back from the log.
func stored(t *rapid.T, e domain.Event) domain.Event {
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatalf("encode %T: %v", e, err)
	}
	back := reflect.New(reflect.TypeOf(e))
	if err := json.Unmarshal(text, back.Interface()); err != nil {
		t.Fatalf("decode %T: %v", e, err)
	}
	if got := back.Elem().Interface(); !reflect.DeepEqual(got, e) {
		t.Fatalf("%T changes by being stored:\n%#v\n%#v", e, e, got)
	}
	return back.Elem().Interface().(domain.Event)
}

// checkCommand: who does not hold the newest lease changes nothing, cancel
// always wins, and time alone decides only what is due.
func (w *world) checkCommand(c domaintest.Decider[run.Run], events []domain.Event, err error) {
	var held run.Held
	switch c := c.(type) {
	case run.Complete:
		held = c.Held
	case run.Fail:
		held = c.Held
	case run.ReleaseLease:
		held = c.Held
	case run.ExtendLease:
		held = c.Held
	case run.StartCall:
		held = c.Held
	case run.Cancel:
		if !w.run.Ended() && len(events) != 1 {
			w.Fatalf("cancel did not win: %v %v", events, err)
		}
		return
	case run.Advance:
		wake, ok := w.run.NextWake()
		if due := ok && !wake.After(w.now); due != (len(events) > 0) {
			w.Fatalf("due is %v, decided %v", due, events)
		}
		return
	default:
		return
	}
	s, _ := w.run.Step(held.Step)
	if holds := s.Status == run.StepRunning && s.Token == held.Token && !w.run.Ended(); !holds && len(events) > 0 {
		w.Fatalf("%T under an old lease decided %v", c, events)
	}
}

func (w *world) checkEvent(e domain.Event) {
	if w.run.Ended() {
		switch e.(type) {
		case run.StepCallFinished, run.Hidden:
		default:
			w.Fatalf("%T after the end", e)
		}
	}
	switch e := e.(type) {
	case run.Succeeded, run.Failed, run.Cancelled, run.TimedOut:
		if w.ends++; w.ends > 1 {
			w.Fatalf("a second end: %#v", e)
		}
		if _, timeout := e.(run.TimedOut); timeout && w.run.Paused() {
			w.Fatalf("the clock of a paused run went on")
		}
	case run.StepScheduled:
		if w.run.Paused() {
			w.Fatalf("scheduled while paused: %#v", e)
		}
		w.checkNumber(e.Idx, e.Step)
	case run.StepStarted:
		if w.run.Paused() || e.Token <= w.token || e.LeaseUntil.Before(w.now) {
			w.Fatalf("lease %#v", e)
		}
		w.token = e.Token
		w.held = append(w.held, run.Held{RunID: "r1", Step: e.Step, Attempt: e.Attempt, Token: e.Token})
	case run.StepSucceeded:
		if w.done[e.Step] {
			w.Fatalf("step %s succeeded twice", e.Step)
		}
		w.done[e.Step] = true
		w.checkNumber(e.Idx, e.Step)
	case run.StepSkipped:
		w.checkNumber(e.Idx, e.Step)
	case run.StepCallStarted:
		key := fmt.Sprintf("%s/%d", e.Step, e.Call.Seq)
		if w.risky[key] {
			w.Fatalf("call %s is repeated although it may have taken effect", key)
		}
		if e.Call.Unsafe {
			w.risky[key] = true
		}
	case run.Resumed: // a person has decided that calls may be repeated
		clear(w.risky)
	case run.StepCallFinished:
		delete(w.risky, fmt.Sprintf("%s/%d", e.Step, e.Seq))
		key := fmt.Sprintf("%s/%d", e.Step, e.Seq)
		if _, twice := w.issued[key]; twice {
			w.Fatalf("call %s finished twice", key)
		}
		w.issued[key] = e.Result.CostNanos
	}
}

func (w *world) checkNumber(idx int, step string) {
	if known, ok := w.idx[idx]; ok && known != step || idx < 1 {
		w.Fatalf("number %d of %s is that of %s", idx, step, known)
	}
	w.idx[idx] = step
}

// checkState: nothing is ever stuck, and sums are sums.
func (w *world) checkState() {
	var cost domain.Nanos
	for _, c := range w.issued {
		cost += c
	}
	if w.run.Cost() != cost {
		w.Fatalf("costs %d, calls cost %d", w.run.Cost(), cost)
	}
	for _, s := range w.run.Steps() {
		if s.Status == run.StepRunning && (w.run.Ended() || s.Token == 0) {
			w.Fatalf("step %s runs without lease or run", s.Step)
		}
	}
	if w.run.Ended() != (w.ends == 1) {
		w.Fatalf("ended %v after %d ends", w.run.Ended(), w.ends)
	}
	if w.run.Ended() || w.run.Paused() {
		return
	}
	if len(w.run.Why(w.now)) == 0 {
		w.Fatalf("nothing says what the run waits for")
	}
	wake, ok := w.run.NextWake()
	if !ok {
		w.Fatalf("the run will never wake")
	}
	if wake.Before(w.now) {
		wake = w.now
	}
	if events, err := (run.Advance{RunID: "r1", Expr: words{}}).Decide(w.run, wake); err != nil || len(events) == 0 {
		w.Fatalf("nothing happens at %v: %v", wake, err)
	}
}

// checkOutcome compares with the meaning of the definition: which nodes the
// run must have reached, given how decisions and steps ended.
func (w *world) checkOutcome() {
	if describe(run.Fold(w.events)) != describe(w.run) {
		w.Fatalf("the stream folds to another state")
	}
	if w.run.Status() != run.StatusSucceeded {
		return
	}
	def, live := w.run.Plan().Definition, map[workflow.Edge]bool{}
	for _, n := range def.Nodes {
		s, ok := w.run.Step(n.ID)
		if !ok {
			w.Fatalf("node %s was forgotten", n.ID)
		}
		in, alive := 0, 0
		for _, e := range def.Edges {
			if e.To == n.ID {
				in++
				if live[e] {
					alive++
				}
			}
		}
		reached := in == 0 || alive > 0
		if n.Join == "n" && in > 0 {
			reached = alive >= n.JoinN
		}
		if reached == (s.Status == run.StepSkip) {
			w.Fatalf("node %s: reached %v, but %s", n.ID, reached, s.Status)
		}
		if s.Status != run.StepDone && s.Status != run.StepSkip && !s.Continued {
			w.Fatalf("node %s is %s in a run that succeeded", n.ID, s.Status)
		}
		for _, e := range def.Edges {
			if e.From == n.ID && s.Status != run.StepSkip {
				live[e] = n.Type != "decision" || slices.Contains(s.Branch, e.To)
			}
		}
	}
}

// describe writes down everything a state answers.
func describe(r run.Run) string {
	text, _ := json.Marshal(map[string]any{
		"status": r.Status(), "phase": r.Phase(), "reason": r.StatusReason(), "steps": r.Steps(), "output": r.Output(), "cost": r.Cost(),
		"times": []time.Time{r.QueuedAt(), r.StartedAt(), r.EndedAt(), r.Deadline()}, "why": r.Why(t0), "hidden": r.Hidden(), "ended": r.Ended(),
	})
	return string(text)
}
