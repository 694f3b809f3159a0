package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/readmodels/postgres"
)

// Secrets of the rig's nodes; no log may show them.
const (
	rigJWTSecret    = "Wq3v8PzLr0sYd5tNf2hXc7kBm1jGu9aE"
	rigAPIKeySecret = "Zr4w9QaMs1tZe6uOg3iYd8lCn2kHv0bF"
	rigSecretsKey   = "As5x0RbNt2uAf7vPh4jZe9mDo3lIw1cG"
	testPassword    = "Lorem ipsum dolor sit 42"
)

// rig is a production system in small, of processes that a test stops, kills
// and starts again: an event store, a Postgres and nodes.
type rig struct {
	t         *testing.T
	world     *effects
	storeDir  string
	storePort int
	database  string
}

// newRig plans a rig on a database; nothing of it runs yet.
func newRig(t *testing.T, database string) *rig {
	t.Helper()
	return &rig{t: t, world: newEffects(t), storeDir: dataDir(t), storePort: unusedPort(t), database: database}
}

// startStore starts the event store, always on the same directory and port, and
// waits until it answers.
func (r *rig) startStore() *process {
	r.t.Helper()
	p := start(r.t, []string{"SPARKOPS_DATA_DIR=" + r.storeDir, "EVENTSTORE_PORT=" + strconv.Itoa(r.storePort)}, "eventstore")
	p.says("event store ready")
	return p
}

// environment is what nodes and operators' commands need to find the system.
func (r *rig) environment() []string {
	return []string{
		"EVENTSTORE_URL=esdb://127.0.0.1:" + strconv.Itoa(r.storePort) + "?tls=false", "DATABASE_URL=" + r.database, "HOST=127.0.0.1",
		"EGRESS_ALLOW=127.0.0.0/8", "JWT_SECRET=" + rigJWTSecret, "API_KEY_SECRET=" + rigAPIKeySecret, "SECRETS_KEY=" + rigSecretsKey,
		"RATE_LIMIT_PER_MINUTE=1000000", "RATE_LIMIT_BURST=100000",
	}
}

// serve starts a node and waits until it is ready.
func (r *rig) serve(environment ...string) *process {
	r.t.Helper()
	port := unusedPort(r.t)
	p := start(r.t, append(append(r.environment(), "PORT="+strconv.Itoa(port)), environment...), "serve")
	p.url = "http://127.0.0.1:" + strconv.Itoa(port)
	p.ready()
	return p
}

// verifyAll requires that every read model is what the log says.
func (r *rig) verifyAll() {
	r.t.Helper()
	output, code := runToEnd(r.t, r.environment(), "projections", "verify", "all")
	require.Zero(r.t, code, output)
	require.NotContains(r.t, strings.ReplaceAll(output, " 0 differences", ""), "differences", output)
}

// runToEnd runs a command that ends by itself and returns what it printed and
// its exit status.
func runToEnd(t testing.TB, environment []string, args ...string) (output string, code int) {
	t.Helper()
	p := start(t, environment, args...)
	return p.end()
}

// end waits for the end of a process that ends by itself.
func (p *process) end() (output string, code int) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%v has not ended by itself", p.cmd.Args[1:])
	}
	return p.output.String(), p.cmd.ProcessState.ExitCode()
}

// says waits until the process has printed a text.
func (p *process) says(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.output.String(), text) || p.ended() }, patience, 10*time.Millisecond)
	require.Contains(p.t, p.output.String(), text)
}

// ended reports whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// page returns status and body of a page outside the API.
func (p *process) page(path string) (int, string) {
	p.t.Helper()
	res, err := http.Get(p.url + path)
	require.NoError(p.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(p.t, err)
	return res.StatusCode, string(body)
}

// notReady waits until /ready is a 503 that names a dependency, while /health
// stays 200.
func (p *process) notReady(dependency string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		status, body := p.page("/ready")
		var problem struct {
			Details []struct{ Field string }
		}
		if status != http.StatusServiceUnavailable || json.Unmarshal([]byte(body), &problem) != nil {
			return false
		}
		for _, d := range problem.Details {
			if d.Field == dependency {
				return true
			}
		}
		return false
	}, patience, 20*time.Millisecond, "/ready names %s", dependency)
	status, body := p.page("/health")
	require.Equal(p.t, http.StatusOK, status, body)
}

// recovery is how long everything takes to go on by itself after a fault.
const recovery = 15 * time.Second

// secondStart is how long the embedded mode takes to be ready on a directory it
// has been on before, however it ended.
const secondStart = 5 * time.Second

// within requires that something took no longer than the product promises.
// These tests share two cores with others, so they fail at four times that.
func within(t testing.TB, promised time.Duration, what string, took time.Duration) {
	t.Helper()
	t.Logf("%s after %s (promised: %s)", what, took.Round(time.Millisecond), promised)
	require.Less(t, took, 4*promised, what)
}

// readyWithin waits for /ready after a fault.
func (p *process) readyWithin(promised time.Duration) {
	p.t.Helper()
	begun := time.Now()
	p.ready()
	within(p.t, promised, "ready", time.Since(begun))
}

// problemIn requires problem details of a status and a code, with Retry-After
// where trying again helps, and returns how long the answer took.
func (c *client) problemIn(status int, code, method, path string, body any, headers ...string) time.Duration {
	c.t.Helper()
	begun := time.Now()
	res, data, err := c.send(method, path, body, headers...)
	took := time.Since(begun)
	require.NoError(c.t, err, "%s %s", method, path)
	require.Equal(c.t, status, res.StatusCode, "%s %s: %s", method, path, data)
	require.Equal(c.t, "application/problem+json", res.Header.Get("Content-Type"), "%s %s", method, path)
	if status == http.StatusServiceUnavailable || status == http.StatusInsufficientStorage {
		seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
		require.NoError(c.t, err, "%s %s: Retry-After", method, path)
		require.Positive(c.t, seconds)
	}
	var problem struct {
		Status  int
		Code    string
		Message string
	}
	require.NoError(c.t, json.Unmarshal(data, &problem))
	require.Equal(c.t, status, problem.Status)
	require.Equal(c.t, code, problem.Code, "%s %s: %s", method, path, data)
	require.NotEmpty(c.t, problem.Message)
	return took
}

// soon is the longest a request may take when a dependency is down. (Clients
// give up after 30 seconds.) Quiet machines need a second or two.
const soon = 12 * time.Second

// calm requires of a process's log what holds whatever happens: no stack
// traces, no secrets, and no message that comes again and again for one cause.
func (p *process) calm(secrets ...string) {
	p.t.Helper()
	output := p.output.String()
	require.NotContains(p.t, output, "goroutine ", "a stack trace in the log")
	require.NotContains(p.t, output, "runtime/debug", "a stack trace in the log")
	require.NotContains(p.t, output, "DATA RACE")
	for _, secret := range append(secrets, rigJWTSecret, rigAPIKeySecret, rigSecretsKey, testPassword) {
		require.NotContains(p.t, output, secret, "a secret in the log")
	}
	times := map[string][]time.Time{}
	for _, line := range p.lines() {
		if line["msg"] == "request" {
			continue // one line for each request is asked for
		}
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(line["time"]))
		require.NoError(p.t, err, "%v", line)
		cause := fmt.Sprint(line["level"], " ", line["msg"])
		times[cause] = append(times[cause], at)
	}
	for cause, all := range times {
		for i := range all {
			if i >= floodLines && all[i].Sub(all[i-floodLines]) < floodSpan {
				p.t.Errorf("%d lines within %s: %s", floodLines+1, all[i].Sub(all[i-floodLines]), cause)
				break
			}
		}
	}
}

// A message may come about once per second: what goes on for longer is said
// once, or more and more seldom.
const (
	floodLines = 12
	floodSpan  = 10 * time.Second
)

// database is a Postgres of one test, which it kills and starts again.
type database struct {
	t      *testing.T
	dir    string
	server *postgres.Server
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	d := &database{t: t, dir: filepath.Join(filepath.Dir(dataDir(t)), "pg")}
	d.start()
	t.Cleanup(func() { _ = d.server.Close(context.Background()) })
	return d
}

func (d *database) start() {
	d.t.Helper()
	server, err := postgres.Start(context.Background(), postgres.Options{
		Dir: d.dir, BinDir: os.Getenv("SPARKOPS_PG_BIN"), Ephemeral: true, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(d.t, err)
	d.server = server
}

func (d *database) url() string { return d.server.URL(postgres.Database) }

// kill ends the server without any shutdown.
func (d *database) kill() {
	d.t.Helper()
	require.NoError(d.t, syscall.Kill(postmaster(d.t, d.server.DataDir()), syscall.SIGKILL))
	<-d.server.Done()
}

// postmaster returns the process id of the server of a cluster.
func postmaster(t testing.TB, cluster string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cluster, "postmaster.pid"))
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	require.NoError(t, err)
	return pid
}

// pollPause is how often a client of the tests asks again.
const pollPause = 20 * time.Millisecond
