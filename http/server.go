package http

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
)

// Config is what a Server is made of. Handler and Views are required.
type Config struct {
	Handler     *commands.Handler
	Views       *readmodels.Views
	Projections *projections.Runner // nil: this node rebuilds nothing

	CORSOrigins    []string // browser origins allowed to call, exact
	TrustedProxies []string // CIDRs whose X-Forwarded-For counts
	Limits         Limits

	// TestTool carries out one call of a tool, for POST /tools/{id}/test.
	TestTool func(ctx context.Context, toolID string, input json.RawMessage) (output json.RawMessage, err error)
	// AdvanceClock moves the clock of the process and returns the new time;
	// nil, the safe state, leaves POST /debug/clock out.
	AdvanceClock func(time.Duration) time.Time
	// Ready holds one check for each dependency, by the name that is shown.
	Ready map[string]func(context.Context) error

	Version      string
	DrainTimeout time.Duration // how long Run waits for requests when it stops; 0: 10 seconds

	Logger     *slog.Logger          // nil: slog.Default()
	Registerer prometheus.Registerer // nil: metrics are not registered
	Gatherer   prometheus.Gatherer   // nil: the default one; what /metrics shows
}

// Server serves the API. It is safe for concurrent use.
type Server struct {
	config   Config
	limits   Limits
	log      *slog.Logger
	handler  *commands.Handler
	views    *readmodels.Views
	follower *commands.Follower

	echo       *echo.Echo
	api        huma.API
	operations []declared
	metrics    httpMetrics
	spec       description

	requests, failures, registrations *limiter
	streams                           *streamCounter
	pingEvery, recheckEvery           time.Duration // of live streams

	stopping   chan struct{}  // closed when Run begins to drain
	background sync.WaitGroup // what goes on after its request; ends with stopping
}

// New returns a server. It fails on settings that make no sense and on a route
// without a declared permission.
func New(c Config) (*Server, error) {
	if c.Handler == nil || c.Views == nil {
		return nil, errors.New("http: a server needs a command handler and views")
	}
	s, err := newServer(c)
	if err != nil {
		return nil, err
	}
	s.handler, s.views, s.follower = c.Handler, c.Views, commands.NewFollower(c.Handler)
	return s, nil
}

// newServer builds everything that needs no dependency, which is all that the
// description of the API takes.
func newServer(c Config) (*Server, error) {
	configureHuma()
	s := &Server{config: c, limits: c.Limits.withDefaults(), log: c.Logger, stopping: make(chan struct{}), pingEvery: pingEvery, recheckEvery: recheckEvery}
	if s.log == nil {
		s.log = slog.Default()
	}
	var err error
	if s.metrics, err = newHTTPMetrics(c.Registerer); err != nil {
		return nil, err
	}
	if err := s.makeLimiters(); err != nil {
		return nil, err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	if e.IPExtractor, err = addressOf(c.TrustedProxies); err != nil {
		return nil, err
	}
	e.HTTPErrorHandler = func(err error, c echo.Context) { writeProblem(c, err) }
	e.Use(s.observe, secure, cors(c.CORSOrigins), s.identify, s.limit)
	s.echo, s.api = e, humaecho.New(e, apiConfig())
	s.routes()
	if err := s.describe(); err != nil {
		return nil, err
	}
	return s, s.checkPermissions()
}

func (s *Server) makeLimiters() (err error) {
	if s.requests, err = newLimiter(s.limits.PerMinute, s.limits.Burst); err != nil {
		return err
	}
	if s.failures, err = newLimiter(s.limits.LoginFailure, s.limits.LoginFailure); err != nil {
		return err
	}
	if s.registrations, err = newLimiter(s.limits.Registration, s.limits.Registration); err != nil {
		return err
	}
	s.streams = newStreamCounter(s.limits.Streams)
	return nil
}

// routes adds every operation, resource by resource.
func (s *Server) routes() {
	s.authRoutes()
	s.userRoutes()
	s.apiKeyRoutes()
	s.projectRoutes()
	s.memberRoutes()
	s.agentRoutes()
	s.toolRoutes()
	s.workflowRoutes()
	s.runRoutes()
	s.historyRoutes()
	s.projectionRoutes()
	s.systemRoutes()
	s.pageRoutes()
}

// checkPermissions fails on a route that no operation has declared, and on a
// permission nobody has defined.
func (s *Server) checkPermissions() error {
	known := map[string]bool{}
	for _, d := range s.operations {
		if _, ok := domain.Grants[d.permission]; !ok {
			return fmt.Errorf("http: %s %s declares the permission %q, which is not defined", d.method, d.path, d.permission)
		}
		known[d.method+" "+echoPath(d.path)] = true
	}
	for _, route := range s.echo.Routes() {
		if route.Method != echo.RouteNotFound && !known[route.Method+" "+route.Path] {
			return fmt.Errorf("http: %s %s declares no permission", route.Method, route.Path)
		}
	}
	return nil
}

// echoPath writes a path of the description as the router does.
func echoPath(path string) string {
	return strings.NewReplacer("{", ":", "}", "").Replace(path)
}

// addressOf says whose address a request has: the connection's, or, behind
// trusted proxies, the last one they did not add themselves.
func addressOf(trusted []string) (echo.IPExtractor, error) {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect(), nil
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, cidr := range trusted {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("http: trusted proxy %q is no CIDR such as 10.0.0.0/8", cidr)
		}
		options = append(options, echo.TrustIPRange(&net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
	}
	return echo.ExtractIPFromXFFHeader(options...), nil
}

// ServeHTTP answers one request, for tests and for embedding.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Bounds of a connection. Answers are bounded one by one: see observe.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
	writeTimeout      = time.Minute
)

// Run serves on the listener until the context ends. It then ends live
// streams, lets requests finish within the drain timeout, and returns nil. It
// runs once, and closes the listener.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	close(s.stopping)
	timeout := s.config.DrainTimeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := server.Shutdown(draining); err != nil {
		s.log.WarnContext(ctx, "requests were cut off at the end of the drain", "error", err)
		_ = server.Close() // the listener is closed already; connections are dropped
	}
	<-failed
	s.background.Wait()
	s.follower.Close()
	return nil
}
