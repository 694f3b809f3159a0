package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// operator runs operators' commands against the node of a data directory.
type operator struct {
	t   *testing.T
	dir string
}

// succeeds runs a command that must exit with 0 and returns what it printed.
func (o operator) succeeds(args ...string) string {
	o.t.Helper()
	output, code := runToEnd(o.t, []string{"SPARKOPS_DATA_DIR=" + o.dir}, args...)
	require.Zero(o.t, code, "%v: %s", args, output)
	return output
}

// fails runs a command that must end with an exit status and one clear line.
func (o operator) fails(code int, line string, args ...string) {
	o.t.Helper()
	output, got := runToEnd(o.t, []string{"SPARKOPS_DATA_DIR=" + o.dir}, args...)
	require.Equal(o.t, code, got, "%v: %s", args, output)
	require.Equal(o.t, 1, strings.Count(output, "\n"), "%v: one line, not\n%s", args, output)
	require.True(o.t, strings.HasPrefix(output, "sparkops: "), output)
	require.Contains(o.t, output, line, "%v", args)
}

// TestOperatorsCommands tries every command of operators on a running node.
func TestOperatorsCommands(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	p := devAt(t, dir)
	c := signIn(t, p.url, "ops@example.com")
	project := firstProject(c)
	agent := c.do(http.StatusCreated, http.MethodPost, "/agents", agentBody(project, "ops"))["id"].(string)
	workflow := c.do(http.StatusCreated, http.MethodPost, "/workflows", object{
		"name": "tour", "projectId": project, "tags": []string{}, "definition": tourDefinition(),
	})["id"].(string)
	id := c.do(http.StatusCreated, http.MethodPost, "/runs", object{
		"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{"topic": "operators"},
	})["id"].(string)
	require.Equal(t, "succeeded", c.awaitRun(id)["status"])
	history := c.history(id)
	o := operator{t, dir}

	t.Run("replay", func(t *testing.T) {
		o := operator{t, dir}
		story := o.succeeds("replay", "run", id)
		for _, e := range history {
			require.Contains(t, story, e["type"])
		}
		require.Contains(t, story, "run "+id+" is succeeded")
		half := history[len(history)/2]
		past := o.succeeds("replay", "run", id, "--as-of", fmt.Sprintf("%.0f", half["position"]))
		require.Contains(t, past, "run "+id+" is running")
		require.NotContains(t, past, "RunSucceeded")
		require.Equal(t, past, o.succeeds("replay", "run", id, "--as-of", half["time"].(string)), "a time is as good as a position")
		lines := strings.Split(strings.TrimSpace(o.succeeds("replay", "run", id, "--json")), "\n")
		require.Len(t, lines, len(history))
		for i, line := range lines {
			var e object
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			require.Equal(t, history[i]["type"], e["type"])
			require.Equal(t, history[i]["position"], e["position"])
		}
		o.fails(3, "no run 0190b0f6-6c3b-7b1e-a7d1-0242ac120002", "replay", "run", "0190b0f6-6c3b-7b1e-a7d1-0242ac120002")
		o.fails(3, "no run nonsense", "replay", "run", "nonsense")
		o.fails(3, "no run "+id, "replay", "run", id, "--as-of", "1970-01-01T00:00:00Z")
		o.fails(2, `--as-of "yesterday" is neither`, "replay", "run", id, "--as-of", "yesterday")
		o.fails(2, "accepts 1 arg", "replay", "run")
	})
	t.Run("projections", func(t *testing.T) {
		o := operator{t, dir}
		list := o.succeeds("projections", "list")
		require.Equal(t, 1+len(projectionNames()), strings.Count(list, "\n"), list)
		for _, name := range projectionNames() {
			require.Regexp(t, name+` +\d+ +live +\d+ +0 +\S+-\d+-\S+ +-`, list)
		}
		var statuses []object
		require.NoError(t, json.Unmarshal([]byte(o.succeeds("projections", "list", "--json")), &statuses))
		require.Len(t, statuses, len(projectionNames()))
		before := answers(c, []string{"/runs", "/runs/" + id, "/runs/" + id + "/steps"})
		rebuilt := o.succeeds("projections", "rebuild", "runs", "accounts")
		require.Regexp(t, `^runs: rebuilt and live after \S+\naccounts: rebuilt and live after \S+\n$`, rebuilt)
		require.Equal(t, before, answers(c, []string{"/runs", "/runs/" + id, "/runs/" + id + "/steps"}))
		verified := o.succeeds("projections", "verify", "all")
		require.Equal(t, len(projectionNames()), strings.Count(verified, ", 0 differences\n"), verified)
		o.fails(2, `no projection "nonsense"`, "projections", "rebuild", "nonsense")
		o.fails(2, `no projection "nonsense"`, "projections", "verify", "runs", "nonsense")
		o.fails(2, "requires at least 1 arg", "projections", "verify")
		o.fails(2, "unknown flag: --nonsense", "projections", "list", "--nonsense")
		o.fails(2, `unknown command "nonsense"`, "projections", "nonsense")
	})
	t.Run("user create", func(t *testing.T) {
		o := operator{t, dir}
		file := filepath.Join(t.TempDir(), "password")
		require.NoError(t, os.WriteFile(file, []byte(testPassword+"\n"), 0o600))
		created := strings.TrimSpace(o.succeeds("user", "create", "--email", "second@example.com", "--name", "Second", "--role", "operator", "--password-file", file))
		second := signIn(t, p.url, "second@example.com")
		me := second.do(http.StatusOK, http.MethodGet, "/auth/me", nil)
		require.Equal(t, created, me["id"])
		require.Equal(t, "operator", me["role"])
		o.fails(1, "EMAIL_TAKEN", "user", "create", "--email", "second@example.com", "--name", "Again", "--password-file", file)
		o.fails(2, "role", "user", "create", "--email", "third@example.com", "--name", "Third", "--role", "king", "--password-file", file)
		o.fails(2, "email", "user", "create", "--email", "nonsense", "--name", "Third", "--password-file", file)
		o.fails(2, "no terminal to ask for the password on", "user", "create", "--email", "third@example.com", "--name", "Third")
		o.fails(2, "no such file", "user", "create", "--email", "third@example.com", "--name", "Third", "--password-file", file+".not")
		o.fails(2, `required flag(s) "email", "name" not set`, "user", "create")
		require.NoError(t, os.WriteFile(file, []byte("short\n"), 0o600))
		o.fails(2, "password", "user", "create", "--email", "third@example.com", "--name", "Third", "--password-file", file)
	})
	t.Run("the rest", func(t *testing.T) {
		o := operator{t, dir}
		require.Contains(t, o.succeeds("migrate"), "the database is ready")
		require.Regexp(t, `^sparkops \S+ \(go\S+ \w+/\w+\)\n$`, o.succeeds("version"))
		committed, err := os.ReadFile("../../http/openapi.yaml")
		require.NoError(t, err)
		require.Equal(t, string(committed), o.succeeds("openapi"))
		report := o.succeeds("doctor")
		for _, check := range []string{"program", "postgres", "data directory", "event store", "database", "api"} {
			require.Contains(t, report, "ok    "+check)
		}
		require.NotContains(t, report, "FAIL")
		o.succeeds("doctor", "--health", "--port", p.url[strings.LastIndexByte(p.url, ':')+1:])
		o.fails(1, "connection refused", "doctor", "--health", "--port", fmt.Sprint(unusedPort(t)))
		o.fails(2, `unknown command "nonsense"`, "nonsense")
		for _, group := range [][]string{nil, {"projections"}, {"processes"}, {"replay"}, {"user"}} {
			require.Contains(t, o.succeeds(group...), "Available Commands:", "%v", group)
		}
		o.fails(2, "unknown flag: --nonsense", "dev", "--nonsense")
		o.fails(2, "PORT: not a value of type whole number", "dev", "--port", "many")
		o.fails(2, `unknown role "king"`, "serve", "--roles", "king")
	})
	p.calm(c.token)
	p.stop()
	o.fails(2, "nothing runs on the data directory", "projections", "list")
	o.fails(2, "nothing runs on the data directory", "replay", "run", id)
	o.fails(2, "nothing runs on the data directory", "migrate")
	require.Empty(t, leftovers(t, dir), "nothing is left running")
}

// TestDataDirectoryInUse starts second processes on data directories in use:
// they say so in one line and change nothing.
func TestDataDirectoryInUse(t *testing.T) {
	t.Parallel()
	t.Run("dev", func(t *testing.T) {
		t.Parallel()
		dir := dataDir(t)
		p := devAt(t, dir)
		c := signIn(t, p.url, "first@example.com")
		for _, command := range []string{"dev", "eventstore"} {
			output, code := runToEnd(t, []string{
				"SPARKOPS_DATA_DIR=" + dir, "PORT=" + fmt.Sprint(unusedPort(t)), "EVENTSTORE_PORT=" + fmt.Sprint(unusedPort(t)),
			}, command)
			refusedDirectory(t, dir, output, code)
		}
		// The first one is unharmed, and the other commands still find it.
		c.do(http.StatusCreated, http.MethodPost, "/projects", object{"name": "Still here"})
		operator{t, dir}.succeeds("projections", "verify", "all")
		p.stop()
	})
	t.Run("eventstore", func(t *testing.T) {
		t.Parallel()
		dir := dataDir(t)
		store := func() *process {
			return start(t, []string{"SPARKOPS_DATA_DIR=" + dir, "EVENTSTORE_PORT=" + fmt.Sprint(unusedPort(t))}, "eventstore")
		}
		first := store()
		first.says("event store ready")
		output, code := store().end()
		refusedDirectory(t, dir, output, code)
		require.False(t, first.ended())
		first.stop()
		store().says("event store ready")
	})
}

func refusedDirectory(t *testing.T, dir, output string, code int) {
	t.Helper()
	require.Equal(t, 1, code, output)
	var clear []string
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "sparkops: ") {
			clear = append(clear, line)
		}
	}
	require.Len(t, clear, 1, output)
	require.Contains(t, clear[0], "in use")
	require.Contains(t, clear[0], dir)
}

// TestClock moves the clock of a process: a wait of an hour is over at once.
// Nobody can who was not given the means.
func TestClock(t *testing.T) {
	t.Parallel()
	t.Run("with the flag", func(t *testing.T) {
		t.Parallel()
		p := devAt(t, dataDir(t), "UNSAFE_TEST_CLOCK=true")
		c := signIn(t, p.url, "clock@example.com")
		agent := c.do(http.StatusCreated, http.MethodPost, "/agents", agentBody(firstProject(c), "clock"))["id"].(string)
		id := c.startRun(napWorkflow(c, "1h"), agent, "nap")
		require.Eventually(t, func() bool {
			return c.do(http.StatusOK, http.MethodGet, "/runs/"+id, nil)["phase"] == "waiting"
		}, patience, pollPause)
		c.problemIn(http.StatusUnprocessableEntity, "VALIDATION_FAILED", http.MethodPost, "/debug/clock", object{"advance": "-1h"})
		c.problemIn(http.StatusUnprocessableEntity, "VALIDATION_FAILED", http.MethodPost, "/debug/clock", object{"advance": "soon"})
		nobody := &client{t: t, base: p.url}
		nobody.problemIn(http.StatusUnauthorized, "UNAUTHENTICATED", http.MethodPost, "/debug/clock", object{"advance": "61m"})
		stranger := signIn(t, p.url, "stranger@example.com")
		stranger.problemIn(http.StatusForbidden, "FORBIDDEN", http.MethodPost, "/debug/clock", object{"advance": "61m"})

		c.do(http.StatusOK, http.MethodPost, "/debug/clock", object{"advance": "61m"})
		c = signIn(t, p.url, "clock@example.com") // the token has run out as well
		require.Equal(t, "succeeded", c.awaitRun(id)["status"])
		require.Contains(t, p.output.String(), "UNSAFE_TEST_CLOCK is on")
		p.stop()
	})
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		p := devAt(t, dataDir(t))
		c := signIn(t, p.url, "clock@example.com")
		c.problemIn(http.StatusNotFound, "NOT_FOUND", http.MethodPost, "/debug/clock", object{"advance": "61m"})
		p.stop()
	})
}
