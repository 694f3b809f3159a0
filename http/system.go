package http

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sparkops/control-plane/domain"
)

// raw adds a route that is no operation of the API.
func (s *Server) raw(path string, permission domain.Permission, handler echo.HandlerFunc, methods ...string) {
	for _, method := range methods {
		s.operations = append(s.operations, declared{method: method, path: path, permission: permission})
		s.echo.Add(method, path, handler)
	}
}

// systemRoutes adds what probes and scrapers ask, and the clock of tests.
func (s *Server) systemRoutes() {
	s.raw("/health", "auth:public", s.health, http.MethodGet, http.MethodHead)
	s.raw("/ready", "auth:public", s.ready, http.MethodGet, http.MethodHead)
	gatherer := s.config.Gatherer
	if gatherer == nil {
		gatherer = prometheus.DefaultGatherer
	}
	metrics := promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	s.raw("/metrics", "auth:public", echo.WrapHandler(metrics), http.MethodGet)
	if s.config.AdvanceClock != nil {
		register(s, operation{
			id: "advance-clock", method: http.MethodPost, path: "/debug/clock", outside: true,
			tag: "operations", summary: "Move the clock of this process (tests only)",
			permission: "clock:write", system: true,
		}, s.advanceClock)
	}
}

// health says that the process answers at all.
func (s *Server) health(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]string{"status": "ok", "version": s.config.Version})
}

// readyCheck is the state of one dependency.
type readyCheck struct {
	Status  string `json:"status"` // ok, failing
	Message string `json:"message,omitempty"`
}

const readyTimeout = 3 * time.Second

// ready says whether the process can do its work, and otherwise which of its
// dependencies fails.
func (s *Server) ready(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readyTimeout)
	defer cancel()
	checks := s.checkAll(ctx)
	var failing []domain.Field
	for name, check := range checks {
		if check.Status != "ok" {
			failing = append(failing, domain.Field{Field: name, Message: check.Message})
		}
	}
	select {
	case <-s.stopping:
		failing = append(failing, domain.Field{Field: "process", Message: "is stopping"})
	default:
	}
	if len(failing) == 0 {
		return c.JSON(http.StatusOK, map[string]any{"status": "ready", "checks": checks})
	}
	slices.SortFunc(failing, func(a, b domain.Field) int { return strings.Compare(a.Field, b.Field) })
	names := make([]string, len(failing))
	for i, f := range failing {
		names[i] = f.Field
	}
	p := newProblem(http.StatusServiceUnavailable, "NOT_READY", "Not ready: "+strings.Join(names, ", ")+".", failing)
	p.retryAfter = 1
	return p
}

// checkAll runs the checks side by side.
func (s *Server) checkAll(ctx context.Context) map[string]readyCheck {
	var mu sync.Mutex
	var group sync.WaitGroup
	checks := make(map[string]readyCheck, len(s.config.Ready))
	for name, check := range s.config.Ready {
		group.Go(func() {
			err := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			checks[name] = readyCheck{Status: "ok"}
			if err != nil { // a problem is noted in the request, which the checks share
				checks[name] = readyCheck{Status: "failing", Message: problemOf(ctx, err).Message}
			}
		})
	}
	group.Wait()
	return checks
}

// ClockInput moves the clock.
type ClockInput struct {
	Body ClockAdvance
}

// ClockAdvance says by how much.
type ClockAdvance struct {
	Advance string `json:"advance" doc:"A duration such as 90s or 24h." example:"1h"`
}

// ClockTime is the time after the clock was moved.
type ClockTime struct {
	Now time.Time `json:"now"`
}

func (s *Server) advanceClock(_ context.Context, in *ClockInput) (*Plain[ClockTime], error) {
	d, err := time.ParseDuration(in.Body.Advance)
	if err != nil || d < 0 {
		return nil, domain.InvalidFields([]domain.Field{{Field: "advance", Message: "must be a duration such as 90s or 24h, not below zero"}})
	}
	return &Plain[ClockTime]{ClockTime{Now: s.config.AdvanceClock(d)}}, nil
}
