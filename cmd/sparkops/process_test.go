package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary be the program: the end-to-end tests start it
// again with this variable set, so that what they kill is the real thing, with
// the race detector in it.
func TestMain(m *testing.M) {
	if os.Getenv("SPARKOPS_TEST_RUN_MAIN") == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is one running sparkops, in its own process group.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	url    string
	output *lockedBuffer
	done   chan struct{}
	err    error
}

// patience bounds every wait of the end-to-end tests; they run beside other
// packages on two cores, with the race detector.
const patience = 120 * time.Second

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs `sparkops args…` in a working directory of its own and returns at
// once. The group is killed when the test ends, whatever happened.
func start(t testing.TB, environment []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, output: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(append(os.Environ(), "SPARKOPS_TEST_RUN_MAIN=1", "LOG_FORMAT=json"), environment...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of sparkops %s:\n%s", strings.Join(args, " "), tail(p.output.String(), 120))
		}
	})
	return p
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ready waits until the node answers 200 on /ready.
func (p *process) ready() {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		res, err := http.Get(p.url + "/ready")
		if err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("%d %s", res.StatusCode, body)
		}
		select {
		case <-p.done:
			p.t.Fatalf("ended before it was ready: %v\n%s", p.err, tail(p.output.String(), 60))
		case <-time.After(25 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not ready in time: %v", err)
		}
	}
}

// get returns the body of a page outside the API.
func (p *process) get(path string) string {
	p.t.Helper()
	res, err := http.Get(p.url + path)
	require.NoError(p.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(p.t, err)
	require.Equal(p.t, http.StatusOK, res.StatusCode)
	return string(body)
}

// kill ends the whole process group at once, like a power failure of the
// process, and waits for its end.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// stop sends SIGTERM and requires a clean end.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
		require.NoError(p.t, p.err, tail(p.output.String(), 40))
	case <-time.After(patience):
		p.t.Fatal("did not stop after SIGTERM")
	}
}

// devAt starts `sparkops dev` on a data directory and waits until it is ready.
func devAt(t testing.TB, dir string, environment ...string) *process {
	t.Helper()
	port := unusedPort(t)
	p := start(t, append([]string{
		"PORT=" + strconv.Itoa(port), "EVENTSTORE_PORT=" + strconv.Itoa(unusedPort(t)),
		"SPARKOPS_DATA_DIR=" + dir, "RATE_LIMIT_PER_MINUTE=1000000", "RATE_LIMIT_BURST=100000",
	}, environment...), "dev")
	p.url = "http://127.0.0.1:" + strconv.Itoa(port)
	p.ready()
	return p
}

func unusedPort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// client speaks to the REST API as one signed-in user.
type client struct {
	t     testing.TB
	base  string
	token string
}

type object = map[string]any

// errTransport marks an answer that never came: the server was killed.
var errTransport = errors.New("no answer")

// send makes one request and returns the whole answer.
func (c *client) send(method, path string, body any, headers ...string) (*http.Response, []byte, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		require.NoError(c.t, err)
		reader = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !strings.HasPrefix(path, "/debug/") {
		path = "/api/v1" + path
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	require.NoError(c.t, err)
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, errors.Join(errTransport, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, nil, errors.Join(errTransport, err)
	}
	return res, data, nil
}

// try sends one request; the status is 0 when there was no whole answer.
func (c *client) try(method, path string, body any, headers ...string) (int, []byte, error) {
	res, data, err := c.send(method, path, body, headers...)
	if err != nil {
		return 0, nil, err
	}
	return res.StatusCode, data, nil
}

// do requires a status and returns the parsed answer.
func (c *client) do(status int, method, path string, body any, headers ...string) object {
	c.t.Helper()
	got, data, err := c.try(method, path, body, headers...)
	require.NoError(c.t, err)
	require.Equal(c.t, status, got, "%s %s: %s", method, path, data)
	var answer object
	require.NoError(c.t, json.Unmarshal(data, &answer), "%s", data)
	return answer
}

// list requires 200 and a bare array.
func (c *client) list(path string) []object {
	c.t.Helper()
	got, data, err := c.try(http.MethodGet, path, nil)
	require.NoError(c.t, err)
	require.Equal(c.t, http.StatusOK, got, "GET %s: %s", path, data)
	var answer []object
	require.NoError(c.t, json.Unmarshal(data, &answer), "%s", data)
	return answer
}

// signIn registers a user (unless it exists) and logs in.
func signIn(t testing.TB, base, email string) *client {
	t.Helper()
	c := &client{t: t, base: base}
	status, data, err := c.try(http.MethodPost, "/auth/register", object{"email": email, "name": "Test User", "password": testPassword})
	require.NoError(t, err)
	require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusConflict}, status, "%s", data)
	answer := c.do(http.StatusOK, http.MethodPost, "/auth/login", object{"email": email, "password": testPassword})
	c.token = answer["access_token"].(string)
	return c
}

// finalStatuses are the frontend's four final run states.
var finalStatuses = map[string]bool{"succeeded": true, "failed": true, "cancelled": true, "timeout": true}

// awaitRun polls a run until it has ended, and returns it.
func (c *client) awaitRun(id string) object {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(20 * time.Millisecond) // a client that polls
	defer ticker.Stop()
	for {
		run := c.do(http.StatusOK, http.MethodGet, "/runs/"+id, nil)
		if finalStatuses[run["status"].(string)] {
			return run
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("run %s has not ended: %v; why: %v", id, run, c.do(http.StatusOK, http.MethodGet, "/runs/"+id+"/why", nil))
		}
		<-ticker.C
	}
}

// history returns every event of a run, oldest first.
func (c *client) history(id string) []object {
	c.t.Helper()
	var all []object
	path := "/runs/" + id + "/events?limit=100"
	for {
		answer := c.do(http.StatusOK, http.MethodGet, path, nil)
		for _, e := range answer["items"].([]any) {
			all = append(all, e.(object))
		}
		next, _ := answer["nextCursor"].(string)
		if next == "" {
			return all
		}
		path = "/runs/" + id + "/events?limit=100&cursor=" + next
	}
}

// leftovers returns the pids of processes whose command line names dir.
func leftovers(t testing.TB, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // not Linux: nothing to look at
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte(dir)) {
			found = append(found, pid)
		}
	}
	return found
}

// lines returns the JSON log lines of the process.
func (p *process) lines() []object {
	var parsed []object
	scanner := bufio.NewScanner(strings.NewReader(p.output.String()))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var line object
		if json.Unmarshal(scanner.Bytes(), &line) == nil {
			parsed = append(parsed, line)
		}
	}
	return parsed
}

// unusedListener holds a port until the test ends.
func unusedListener(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// idOf returns the id of an answer's resource, or "".
func idOf(data []byte) string {
	var answer struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(data, &answer)
	return answer.ID
}
