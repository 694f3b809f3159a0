package http

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/embedded"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
	"github.com/sparkops/control-plane/readmodels/vault"
)

// patience bounds every wait; the machine may be busy with other packages.
const patience = 60 * time.Second

// system is the whole stack without workers and processes: an event store, a
// database, projections that follow it, and a server.
type system struct {
	handler *commands.Handler
	views   *readmodels.Views
	runner  *projections.Runner
	server  *Server
	url     string
	owner   *client
	log     *safeBuffer

	stopProjections, stopEventStore, dropDatabase func()
}

// mainTB lets fixtures of the whole package use helpers that want a test.
type mainTB struct {
	testing.TB
	cleanups []func()
}

func (m *mainTB) Helper()                   {}
func (m *mainTB) Context() context.Context  { return context.Background() }
func (m *mainTB) Cleanup(f func())          { m.cleanups = append(m.cleanups, f) }
func (m *mainTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (m *mainTB) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (m *mainTB) FailNow()                  { panic("the fixture failed") }
func (m *mainTB) Logf(string, ...any)       {}
func (m *mainTB) TempDir() string {
	dir, _ := os.MkdirTemp("", "http-test")
	m.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
func (m *mainTB) close() {
	for i := len(m.cleanups) - 1; i >= 0; i-- {
		m.cleanups[i]()
	}
}

var (
	packageTB = &mainTB{}
	shared    = sync.OnceValue(func() *system { return newSystem(packageTB) })
)

func TestMain(m *testing.M) {
	code := m.Run()
	packageTB.close()
	os.Exit(code)
}

// newSystem starts a stack of its own and registers its owner.
func newSystem(t testing.TB) *system {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	node, err := embedded.Open(t.Context(), embedded.Options{Addr: "127.0.0.1:0", Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { _ = node.Close() })
	store, err := eventstore.Open(eventstore.Config{URL: node.ConnectionString(), CallTimeout: 5 * time.Second, Logger: quiet}, catalog.Registry())
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	keys, err := vault.DirStore(t.TempDir())
	require.NoError(t, err)
	sealed, err := vault.New(keys, []byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	database := pgtest.Database(t)
	require.NoError(t, readmodels.Migrate(t.Context(), database))
	views, err := readmodels.Open(t.Context(), database, readmodels.Options{Vault: sealed.Open, Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(views.Close)
	runner, err := projections.New(t.Context(), projections.Runner{Store: store, DatabaseURL: database, Views: views, Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(runner.Close)
	moving, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = runner.Run(moving) })
	stopProjections := func() { stop(); running.Wait() }
	t.Cleanup(stopProjections)
	engine, err := expr.New()
	require.NoError(t, err)
	handler, err := commands.New(commands.Handler{
		Store: store, Views: views, Vault: sealed, Expr: engine, Logger: quiet, PersonalProjects: true,
		Secrets: commands.Secrets{
			JWT: []byte("jwt secret of the tests, long enough"), APIKey: []byte("pepper of the tests"), Master: []byte("master of the tests"),
		},
	})
	require.NoError(t, err)
	s := &system{handler: handler, views: views, runner: runner, log: &safeBuffer{}, stopProjections: stopProjections}
	s.stopEventStore = func() { require.NoError(t, node.Close()) }
	s.dropDatabase = func() {
		config, err := pgx.ParseConfig(database)
		require.NoError(t, err)
		name := config.Database
		config.Database = "postgres"
		admin, err := pgx.ConnectConfig(context.Background(), config)
		require.NoError(t, err)
		_, err = admin.Exec(context.Background(), "drop database "+pgx.Identifier{name}.Sanitize()+" with (force)")
		require.NoError(t, err)
		require.NoError(t, admin.Close(context.Background()))
	}
	s.server, s.url = s.serve(t, Config{})
	require.Eventually(t, func() bool {
		builds, err := views.Builds(context.Background())
		live := 0
		for _, b := range builds {
			if b.State == "live" {
				live++
			}
		}
		return err == nil && live == len(projections.All())
	}, patience, 20*time.Millisecond, "the projections must come up")
	s.owner = s.register(t, "owner@example.com", "")
	return s
}

// serve starts one more server on the stack, with some settings changed.
func (s *system) serve(t testing.TB, c Config) (*Server, string) {
	t.Helper()
	c.Handler, c.Views, c.Projections = s.handler, s.views, s.runner
	if c.Limits == (Limits{}) {
		c.Limits = Limits{PerMinute: 1_000_000, Burst: 1_000_000, LoginFailure: 1_000_000, Registration: 1_000_000, Streams: 100}
	}
	if c.CORSOrigins == nil {
		c.CORSOrigins = []string{"http://localhost:8080"}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if c.Gatherer == nil {
		registry := prometheus.NewRegistry()
		c.Registerer, c.Gatherer = registry, registry
	}
	c.Version = "test"
	server, err := New(c)
	require.NoError(t, err)
	listening := httptest.NewServer(server)
	t.Cleanup(func() { listening.CloseClientConnections(); listening.Close(); server.follower.Close() })
	return server, listening.URL
}

// client speaks to the API as somebody.
type client struct {
	url    string
	token  string
	key    string
	userID string
	header map[string]string // sent with every request
}

type object = map[string]any

// answer is what came back.
type reply struct {
	Status int
	Header http.Header
	Text   string
	JSON   any
}

func (a reply) object() object {
	o, _ := a.JSON.(object)
	return o
}

// with returns the client with more headers, given in pairs.
func (c *client) with(pairs ...string) *client {
	changed := *c
	changed.header = map[string]string{}
	for name, value := range c.header {
		changed.header[name] = value
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		changed.header[pairs[i]] = pairs[i+1]
	}
	return &changed
}

// try sends one request under /api/v1; a string body is sent as it is.
func (c *client) try(t testing.TB, method, path string, body any) reply {
	t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		require.NoError(t, err)
		reader = bytes.NewReader(data)
	}
	if !strings.HasPrefix(path, "/health") && !strings.HasPrefix(path, "/ready") && !strings.HasPrefix(path, "/metrics") && !strings.HasPrefix(path, "/docs") && !strings.HasPrefix(path, "/debug") {
		path = prefix + path
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, reader)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.key != "" {
		req.Header.Set("X-API-Key", c.key)
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	a := reply{Status: res.StatusCode, Header: res.Header, Text: string(text)}
	_ = json.Unmarshal(text, &a.JSON)
	return a
}

// do requires a status and returns the answer.
func (c *client) do(t testing.TB, status int, method, path string, body any) reply {
	t.Helper()
	a := c.try(t, method, path, body)
	require.Equal(t, status, a.Status, "%s %s: %s", method, path, a.Text)
	require.NotNil(t, a.JSON, "%s %s answers JSON", method, path)
	return a
}

// get requires 200 and an object.
func (c *client) get(t testing.TB, path string) object {
	t.Helper()
	return c.do(t, http.StatusOK, http.MethodGet, path, nil).object()
}

const password = "correct horse battery"

// register makes an account and logs in.
func (s *system) register(t testing.TB, email, role string) *client {
	t.Helper()
	c := &client{url: s.url}
	body := object{"email": email, "name": "Some One", "password": password}
	if role != "" {
		body["role"] = role
	}
	c.userID = c.do(t, http.StatusCreated, http.MethodPost, "/auth/register", body).object()["id"].(string)
	c.login(t, email)
	return c
}

func (c *client) login(t testing.TB, email string) {
	t.Helper()
	tokens := c.do(t, http.StatusOK, http.MethodPost, "/auth/login", object{"email": email, "password": password}).object()
	c.token = tokens["access_token"].(string)
}

var people atomic.Int64

// user makes an account of a role; the owner does so.
func (s *system) user(t testing.TB, role domain.Role) *client {
	t.Helper()
	email := fmt.Sprintf("person%d@example.com", people.Add(1))
	made := s.owner.do(t, http.StatusCreated, http.MethodPost, "/users", object{"email": email, "name": "Person", "password": password, "role": role})
	c := &client{url: s.url, userID: made.object()["id"].(string)}
	c.login(t, email)
	return c
}

// things are one of everything in a project of its own.
type things struct {
	project, agent, tool, workflow, run, member string
}

func (c *client) project(t testing.TB) string {
	t.Helper()
	return c.do(t, http.StatusCreated, http.MethodPost, "/projects", object{"name": "Some project"}).object()["id"].(string)
}

// make creates one of everything in a project.
func (c *client) make(t testing.TB, project string) things {
	t.Helper()
	created := func(path string, body object) string {
		return c.do(t, http.StatusCreated, http.MethodPost, path, body).object()["id"].(string)
	}
	m := things{project: project}
	m.agent = created("/agents", object{"name": "agent", "projectId": project})
	m.tool = created("/tools", object{"name": "tool", "kind": "api", "authType": "none", "projectId": project})
	m.workflow = created("/workflows", object{"name": "workflow", "projectId": project, "definition": object{}})
	m.run = created("/runs", object{"workflow_id": m.workflow, "agent_id": m.agent})
	return m
}

// problem requires an error answer in its documented shape and returns it.
func requireProblem(t testing.TB, a reply, status int, code string) object {
	t.Helper()
	require.Equal(t, status, a.Status, "%s", a.Text)
	require.Equal(t, problemType, a.Header.Get("Content-Type"))
	p := a.object()
	require.NotNil(t, p, a.Text)
	require.Equal(t, code, p["code"], "%s", a.Text)
	require.EqualValues(t, status, p["status"])
	require.NotEmpty(t, p["message"])
	require.Equal(t, p["message"], p["detail"])
	require.NotEmpty(t, p["title"])
	require.Contains(t, p["type"], "/docs#problem-")
	require.NotEmpty(t, p["instance"])
	require.Equal(t, a.Header.Get("X-Request-Id"), p["requestId"])
	require.IsType(t, []any{}, p["details"])
	return p
}

// fields returns the names of the broken fields of a problem, in order.
func fields(p object) []string {
	var names []string
	for _, d := range p["details"].([]any) {
		names = append(names, d.(object)["field"].(string))
	}
	return names
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
