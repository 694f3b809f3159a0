package http

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

func jsonLog(b *safeBuffer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, nil))
}

// sent is one server-sent event, or a comment.
type sent struct {
	id, name, comment string
	data              object
}

// stream follows a live stream; the channel closes when it ends.
func (c *client) stream(t testing.TB, path string) <-chan sent {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+prefix+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+c.token)
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	events := make(chan sent, 1000)
	go func() {
		defer close(events)
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<22)
		var e sent
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				_ = json.Unmarshal([]byte(value), &e.data)
			case ":", "":
				if name == "" && value != "" {
					events <- sent{comment: value}
				} else if e.name != "" {
					events <- e
					e = sent{}
				}
			}
		}
	}()
	return events
}

// worked makes a run of a graph with a queue of its own, so that only the
// caller carries it out.
func (c *client) worked(t testing.TB) (runID string, worker commands.Worker) {
	t.Helper()
	project := c.project(t)
	queue := fmt.Sprint("queue-", people.Add(1))
	tool := c.do(t, 201, "POST", "/tools", object{"name": "secretive", "kind": "function", "authType": "bearer", "projectId": project,
		"config": object{"builtin": "echo"}, "authConfig": object{"token": "hush"}}).object()["id"]
	workflow := c.do(t, 201, "POST", "/workflows", object{"name": "two steps", "projectId": project, "definition": object{
		"nodes": []object{
			{"id": "one", "type": "tool", "tool": tool, "queue": queue, "input": object{"n": 1}},
			{"id": "two", "type": "tool", "tool": "builtin:echo", "queue": queue, "onExhausted": "fail", "retry": object{"maxAttempts": 1}},
		},
		"edges": []object{{"from": "one", "to": "two"}},
	}}).object()["id"]
	made := c.do(t, 201, "POST", "/runs", object{"workflow_id": workflow, "input_data": object{"topic": "x"}}).object()
	return made["id"].(string), commands.Worker{ID: "tester", Queues: []string{queue}}
}

func (s *system) lease(t testing.TB, w commands.Worker) commands.Task {
	t.Helper()
	ctx := commands.WithActor(t.Context(), domain.Process("process.tester"))
	var tasks []commands.Task
	require.Eventually(t, func() bool {
		var err error
		tasks, err = s.handler.LeaseTasks(ctx, w, 1, time.Second)
		require.NoError(t, err)
		return len(tasks) == 1
	}, patience, time.Millisecond)
	return tasks[0]
}

func (s *system) complete(t testing.TB, task commands.Task, output string) {
	t.Helper()
	ctx := commands.WithActor(t.Context(), domain.Process("process.tester"))
	_, err := s.handler.CompleteTask(ctx, task, json.RawMessage(output), 0)
	require.NoError(t, err)
}

func TestHistoryAndAsOf(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	id, worker := c.worked(t)
	live := c.stream(t, "/runs/"+id+"/stream")
	require.Contains(t, c.get(t, "/runs/"+id+"/why")["summary"], "waits for a worker")
	s.complete(t, s.lease(t, worker), `{"said":"first"}`)
	s.complete(t, s.lease(t, worker), `{"said":"second"}`)

	var streamed []sent
	for e := range live {
		streamed = append(streamed, e)
	}
	var items []any
	for path := "/runs/" + id + "/events?limit=2"; path != ""; {
		page := c.get(t, path)
		require.LessOrEqual(t, len(page["items"].([]any)), 2)
		items = append(items, page["items"].([]any)...)
		path = ""
		if next, ok := page["nextCursor"].(string); ok {
			path = "/runs/" + id + "/events?limit=2&cursor=" + next
		}
	}
	require.Equal(t, len(items), len(streamed), "the stream is the history")
	var last float64
	for i, item := range items {
		e := item.(object)
		require.Equal(t, float64(i), e["revision"])
		require.Greater(t, e["position"], last)
		last = e["position"].(float64)
		require.Equal(t, strconv.FormatFloat(last, 'f', 0, 64), streamed[i].id)
		require.Equal(t, e["type"], streamed[i].name)
		require.Equal(t, e, streamed[i].data)
		requireTime(t, e["time"])
		require.NotContains(t, fmt.Sprint(e["data"]), "authSealed:v1", "no sealed credentials")
	}
	first := items[0].(object)
	require.Equal(t, "RunQueued", first["type"])
	require.Equal(t, object{"kind": "user", "id": c.userID}, first["actor"])
	require.Equal(t, "RunSucceeded", items[len(items)-1].(object)["type"])
	after := c.get(t, fmt.Sprintf("/runs/%s/events?after=%.0f", id, items[2].(object)["position"]))
	require.Equal(t, items[3:], after["items"])

	t.Run("the fold of everything is what the read model shows", func(t *testing.T) {
		var shown object
		require.Eventually(t, func() bool {
			shown = c.get(t, "/runs/"+id)
			return shown["status"] == "succeeded"
		}, patience, 10*time.Millisecond)
		folded := c.get(t, fmt.Sprintf("/runs/%s?as_of=%.0f", id, last))
		require.Equal(t, shown, folded)
		require.Equal(t, c.get(t, "/runs/"+id+"?asOf="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), folded)
		steps := c.do(t, 200, "GET", "/runs/"+id+"/steps", nil).JSON
		require.Equal(t, steps, c.do(t, 200, "GET", fmt.Sprintf("/runs/%s/steps?as_of=%.0f", id, last), nil).JSON)
		require.Len(t, steps, 2)
		one := steps.([]any)[0].(object)
		require.Equal(t, 1.0, one["idx"])
		require.Equal(t, true, one["success"])
		require.Equal(t, object{"said": "first"}, one["response"])
		requireTime(t, one["startedAt"])
	})
	t.Run("the run at its beginning", func(t *testing.T) {
		past := c.get(t, fmt.Sprintf("/runs/%s?as_of=%.0f", id, first["position"]))
		require.Equal(t, "queued", past["status"])
		require.Nil(t, past["endedAt"])
		require.Equal(t, []any{}, c.do(t, 200, "GET", fmt.Sprintf("/runs/%s/steps?as_of=%.0f", id, first["position"]), nil).JSON)
		require.Equal(t, past, c.get(t, "/runs/"+id+"?as_of="+first["time"].(string)))
	})
	t.Run("a stream goes on where it was left", func(t *testing.T) {
		var again []sent
		for e := range c.with("Last-Event-ID", streamed[2].id).stream(t, "/runs/"+id+"/stream") {
			again = append(again, e)
		}
		require.Equal(t, streamed[3:], again)
		for e := range c.stream(t, "/runs/"+id+"/stream?after="+streamed[len(streamed)-1].id) {
			t.Fatalf("everything was seen, got %v", e)
		}
		requireProblem(t, c.with("Last-Event-ID", "x").try(t, "GET", "/runs/"+id+"/stream", nil), 422, "VALIDATION_FAILED")
	})
	t.Run("strangers see none of it", func(t *testing.T) {
		stranger := s.user(t, domain.Developer)
		for _, path := range []string{"", "/steps", "/events", "/stream", "/why", "?as_of=9999999999", "/steps?as_of=9999999999"} {
			requireProblem(t, stranger.try(t, "GET", "/runs/"+id+path, nil), 404, "NOT_FOUND")
			requireProblem(t, (&client{url: s.url}).try(t, "GET", "/runs/"+id+path, nil), 401, "UNAUTHENTICATED")
		}
		auditor := s.user(t, domain.Auditor)
		auditor.get(t, "/runs/"+id+"/events")
	})
}

func TestFailedRun(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	id, worker := c.worked(t)
	s.complete(t, s.lease(t, worker), `{}`)
	ctx := commands.WithActor(t.Context(), domain.Process("process.tester"))
	require.NoError(t, s.handler.FailTask(ctx, s.lease(t, worker), failure("BROKEN", "it is broken"), true, 0))
	var failed object
	require.Eventually(t, func() bool {
		failed = c.get(t, "/runs/"+id)
		return failed["status"] == "failed"
	}, patience, 10*time.Millisecond)
	require.Equal(t, object{"code": "BROKEN", "message": "it is broken"}, failed["statusReason"])
	require.Equal(t, "it is broken", failed["errorMessage"])
	require.Equal(t, failed, c.get(t, "/runs/"+id+"?as_of=2099-01-01T00:00:00Z"))
	steps := c.do(t, 200, "GET", "/runs/"+id+"/steps", nil).JSON.([]any)
	require.Equal(t, false, steps[1].(object)["success"])
	require.Equal(t, "it is broken", steps[1].(object)["errorMessage"])
	require.Equal(t, steps, c.do(t, 200, "GET", "/runs/"+id+"/steps?as_of=2099-01-01T00:00:00Z", nil).JSON)
	requireProblem(t, c.try(t, "PATCH", "/runs/"+id+"/cancel", nil), 409, "RUN_ENDED")
	requireProblem(t, c.try(t, "POST", "/runs/"+id+"/resume", nil), 409, "RUN_ENDED")
	require.Contains(t, c.get(t, "/runs/"+id+"/why")["summary"], "BROKEN")
	retried := c.do(t, 201, "POST", "/runs/"+id+"/retry", nil).object()
	require.Equal(t, object{"topic": "x"}, retried["input"])
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	id, _ := c.worked(t)
	paused := c.do(t, 200, "POST", "/runs/"+id+"/pause", object{"reason": "Wait for me."}).object()
	require.Equal(t, "paused", paused["phase"])
	require.Equal(t, paused, c.get(t, "/runs/"+id+"?as_of=2099-01-01T00:00:00Z"))
	require.Contains(t, c.get(t, "/runs/"+id+"/why")["summary"], "Wait for me.")
	resumed := c.do(t, 200, "POST", "/runs/"+id+"/resume", nil).object()
	require.Equal(t, "queued", resumed["phase"])
	require.Nil(t, resumed["statusReason"])
}

func TestStreamsAreBoundedAndChecked(t *testing.T) {
	t.Parallel()
	s := shared()
	server, url := s.serve(t, Config{Limits: Limits{PerMinute: 10_000, Burst: 10_000, LoginFailure: 10, Registration: 10, Streams: 2}})
	server.pingEvery, server.recheckEvery = 20*time.Millisecond, time.Millisecond
	owner := s.user(t, domain.Developer)
	id, _ := owner.worked(t)
	c := *owner
	c.url = url
	one, two := c.stream(t, "/runs/"+id+"/stream"), c.stream(t, "/runs/"+id+"/stream")
	a := c.try(t, "GET", "/runs/"+id+"/stream", nil)
	requireProblem(t, a, 429, "TOO_MANY_STREAMS")
	require.NotEmpty(t, a.Header.Get("Retry-After"))
	for e := range one {
		if e.comment == "ping" {
			break
		}
	}
	c.do(t, 200, "POST", "/auth/logout", nil)
	for range one { // both end, because the login has
	}
	for range two {
	}
}

func failure(code, message string) run.Failure { return run.Failure{Code: code, Message: message} }
