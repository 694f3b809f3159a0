package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/stretchr/testify/require"
)

// tourDefinition is the README's workflow: an agent, a decision, two parallel
// branches of which one waits, and a join.
func tourDefinition() object {
	return object{
		"nodes": []object{
			{"id": "research", "type": "agent", "prompt": "Summarise ${ input.topic } in one sentence."},
			{"id": "route", "type": "decision"},
			{"id": "publish", "type": "tool", "tool": "builtin:echo", "input": object{"channel": "web", "topic": "${ input.topic }"}},
			{"id": "pause", "type": "wait", "duration": "300ms"},
			{"id": "archive", "type": "tool", "tool": "builtin:echo", "input": object{"channel": "archive"}},
			{"id": "reject", "type": "tool", "tool": "builtin:fail", "input": object{"code": "REJECTED", "message": "the topic is not wanted"},
				"retry": object{"maxAttempts": 1}, "onExhausted": "fail"},
			{"id": "done", "type": "tool", "tool": "builtin:echo"},
		},
		"edges": []object{
			{"from": "research", "to": "route"},
			{"from": "route", "to": "reject", "when": "input.topic == 'spam'"},
			{"from": "route", "to": "publish"},
			{"from": "publish", "to": "pause"}, {"from": "publish", "to": "archive"},
			{"from": "pause", "to": "done"}, {"from": "archive", "to": "done"},
		},
	}
}

// TestUserStory is the README's tour on the real program, and what a user
// would try next.
func TestUserStory(t *testing.T) {
	dir := dataDir(t)
	p := devAt(t, dir)
	require.Eventually(t, func() bool {
		return strings.Contains(p.output.String(), "REST API      "+strings.Replace(p.url, "127.0.0.1", "localhost", 1))
	}, patience, 20*time.Millisecond, "the banner names the address")
	c := signIn(t, p.url, "ada@example.com")
	require.Equal(t, "owner", c.do(200, "GET", "/auth/me", nil)["role"], "the first user owns the system")

	project := firstProject(c)
	agent := c.do(201, "POST", "/agents", agentBody(project, "researcher"))["id"].(string)
	workflow := c.do(201, "POST", "/workflows", object{
		"name": "tour", "projectId": project, "description": "", "tags": []string{"demo"}, "trigger_type": "manual", "definition": tourDefinition(),
	})["id"].(string)
	startRun := func(topic string) string {
		return c.do(201, "POST", "/runs", object{
			"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{"topic": topic},
		})["id"].(string)
	}

	t.Run("a run is watched live and replayed", func(t *testing.T) {
		id := startRun("event sourcing")
		live := watch(t, c, id)
		run := c.awaitRun(id)
		require.Equal(t, "succeeded", run["status"], "%v", run)
		require.Greater(t, run["tokensPrompt"], 0.0)
		history := c.history(id)
		require.Equal(t, "RunQueued", history[0]["type"])
		require.Equal(t, "RunSucceeded", history[len(history)-1]["type"])
		var types []string
		for _, e := range history {
			types = append(types, e["type"].(string))
		}
		require.Equal(t, types, <-live, "the live stream is the history")

		half := history[len(history)/2]
		past := c.do(200, "GET", fmt.Sprintf("/runs/%s?as_of=%.0f", id, half["position"]), nil)
		require.Equal(t, "running", past["status"], "%v", past)
		require.Nil(t, past["endedAt"])

		skipped := 0
		for _, e := range history {
			if e["type"] == "RunStepSkipped" {
				skipped++
			}
		}
		require.Equal(t, 1, skipped, "the branch not taken")
		require.Equal(t, types, stockRead(t, dir, "run-"+id), "a stock client reads the same events")
	})

	t.Run("a failed run is retried as a new one", func(t *testing.T) {
		id := startRun("spam")
		failed := c.awaitRun(id)
		require.Equal(t, "failed", failed["status"])
		require.Equal(t, "REJECTED", failed["statusReason"].(object)["code"])
		again := c.do(201, "POST", "/runs/"+id+"/retry", nil)
		require.Equal(t, id, again["retryOf"])
		require.EqualValues(t, 1, again["retries"])
		require.Equal(t, "failed", c.awaitRun(again["id"].(string))["status"])
		require.Equal(t, "failed", c.do(200, "GET", "/runs/"+id, nil)["status"], "the old run is unchanged")
	})

	t.Run("a waiting run says why and is cancelled", func(t *testing.T) {
		waiting := c.do(201, "POST", "/workflows", object{
			"name": "waits", "projectId": project, "tags": []string{},
			"definition": object{"nodes": []object{{"id": "nap", "type": "wait", "duration": "1h"}}, "edges": []object{}},
		})["id"].(string)
		id := c.do(201, "POST", "/runs", object{"workflow_id": waiting, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{}})["id"].(string)
		why := c.do(200, "GET", "/runs/"+id+"/why", nil)
		require.Contains(t, fmt.Sprint(why), "nap")
		require.Equal(t, "cancelled", c.do(200, "PATCH", "/runs/"+id+"/cancel", nil)["status"])
		require.Equal(t, "cancelled", c.do(200, "PATCH", "/runs/"+id+"/cancel", nil)["status"], "again: unchanged")
		require.Equal(t, "RUN_ENDED", c.do(409, "POST", "/runs/"+c.do(201, "POST", "/runs/"+id+"/retry", nil)["retryOf"].(string)+"/resume", nil)["code"])
	})

	t.Run("a cancel reaches the worker at once", func(t *testing.T) {
		long := c.do(201, "POST", "/workflows", object{
			"name": "long", "projectId": project, "tags": []string{},
			"definition": object{"nodes": []object{{"id": "sleep", "type": "tool", "tool": "builtin:sleep", "input": object{"duration": "5m"}}}, "edges": []object{}},
		})["id"].(string)
		id := c.do(201, "POST", "/runs", object{"workflow_id": long, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{}})["id"].(string)
		running := func(want string) func() bool {
			return func() bool { return strings.Contains(p.get("/metrics"), "\nsparkops_worker_running "+want+"\n") }
		}
		require.Eventually(t, running("1"), patience, 20*time.Millisecond)
		cancelled := time.Now()
		c.do(200, "PATCH", "/runs/"+id+"/cancel", nil)
		require.Eventually(t, running("0"), patience, 20*time.Millisecond)
		require.Less(t, time.Since(cancelled), 8*time.Second, "before the heartbeat of 10 s would have told it")
	})

	t.Run("an empty definition is the agent itself", func(t *testing.T) {
		empty := c.do(201, "POST", "/workflows", object{"name": "empty", "projectId": project, "description": "", "tags": []string{}, "definition": object{}, "trigger_type": "manual"})["id"].(string)
		id := c.do(201, "POST", "/runs", object{"workflow_id": empty, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{}})["id"].(string)
		require.Equal(t, "succeeded", c.awaitRun(id)["status"])
		steps := c.list("/runs/" + id + "/steps")
		require.Len(t, steps, 1)
		require.Equal(t, "prompt", steps[0]["type"])
	})

	metrics := p.get("/metrics")
	for _, name := range monitoredMetrics(t) {
		require.Contains(t, metrics, name, "used by a dashboard or an alert")
	}
	for _, line := range p.lines() {
		require.NotContains(t, fmt.Sprint(line), testPassword, "no password in the log")
		require.NotContains(t, fmt.Sprint(line), c.token, "no token in the log")
	}
	begun := time.Now()
	p.stop()
	require.Less(t, time.Since(begun), 60*time.Second)
	require.Empty(t, leftovers(t, dir), "nothing is left running")
}

// watch follows a run's live stream and delivers the types of its events when
// the stream ends.
func watch(t *testing.T, c *client, id string) <-chan []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/api/v1/runs/"+id+"/stream", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	types := make(chan []string, 1)
	go func() {
		defer res.Body.Close()
		var seen []string
		scanner := bufio.NewScanner(res.Body)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			if name, ok := strings.CutPrefix(scanner.Text(), "event: "); ok && strings.HasPrefix(name, "Run") {
				seen = append(seen, name)
			}
		}
		types <- seen
	}()
	return types
}

// stockRead reads a stream with nothing but the official client.
func stockRead(t *testing.T, dir, stream string) []string {
	t.Helper()
	found, err := readEndpoints(Config{DataDir: dir})
	require.NoError(t, err)
	address := found.EventStoreURL
	settings, err := esdb.ParseConnectionString(address)
	require.NoError(t, err)
	store, err := esdb.NewClient(settings)
	require.NoError(t, err)
	defer store.Close()
	events, err := store.ReadStream(context.Background(), stream, esdb.ReadStreamOptions{From: esdb.Start{}}, 10_000)
	require.NoError(t, err)
	defer events.Close()
	var types []string
	for {
		event, err := events.Recv()
		if err != nil {
			return types
		}
		types = append(types, event.Event.EventType)
	}
}

// TestInterrupt is Ctrl-C on a terminal: the whole group gets the signal.
func TestInterrupt(t *testing.T) {
	dir := dataDir(t)
	p := devAt(t, dir)
	require.NoError(t, syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT))
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("did not stop after Ctrl-C")
	}
	require.Empty(t, leftovers(t, dir), "nothing is left running")
}
