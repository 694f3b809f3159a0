package http

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// httpMetrics counts requests by the template of their address, so that ids do
// not make series of their own.
type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	streams  prometheus.Gauge
}

func newHTTPMetrics(r prometheus.Registerer) (httpMetrics, error) {
	m := httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_http_requests_total", Help: "Answered requests by method, route template and class of status.",
		}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sparkops_http_request_duration_seconds", Help: "Time from the first byte of a request to the end of its answer; without live streams.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sparkops_http_requests_in_flight", Help: "Requests being answered.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sparkops_http_streams", Help: "Open live streams.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.inFlight, m.streams} {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("register http metrics: %w", err)
		}
	}
	return m, nil
}

// observe is the outermost middleware: it gives the request its record and its
// id, turns errors and panics into problems, and writes one log line and the
// metrics when the answer has been sent. Neither bodies nor header values nor
// query values get into the log.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		req := c.Request()
		r := &request{id: requestID(req.Header.Get("X-Request-Id")), path: req.URL.Path, address: c.RealIP(), begun: time.Now()}
		c.SetRequest(req.WithContext(withRequest(req.Context(), r)))
		c.Response().Header().Set("X-Request-Id", r.id)
		// What an earlier request of the connection left behind does not count.
		if err := http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("bound the answer: %w", err)
		}
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()
		if err := recovered(next, c); err != nil {
			writeProblem(c, err)
		}
		s.record(c, r)
		return nil
	}
}

// panicError is a panic of a handler, with where it came from.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func recovered(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			panic(v)
		default:
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return next(c)
}

func (s *Server) record(c echo.Context, r *request) {
	route := c.Path()
	if route == "" {
		route = "unmatched"
	}
	status, took := c.Response().Status, time.Since(r.begun)
	s.metrics.requests.WithLabelValues(methodLabel(c.Request().Method), route, strconv.Itoa(status/100)+"xx").Inc()
	if c.Response().Header().Get("Content-Type") != eventStream {
		s.metrics.seconds.WithLabelValues(methodLabel(c.Request().Method), route).Observe(took.Seconds())
	}
	attrs := []slog.Attr{
		slog.String("method", methodLabel(c.Request().Method)), slog.String("route", route), slog.Int("status", status),
		slog.Float64("latencyMs", float64(took.Microseconds())/1000), slog.String("requestId", r.id), slog.String("address", r.address),
	}
	if r.actor.ID != "" {
		attrs = append(attrs, slog.String("userId", r.actor.ID))
	}
	if r.code != "" {
		attrs = append(attrs, slog.String("code", r.code))
	}
	level := slog.LevelInfo
	if unlimited[route] {
		level = slog.LevelDebug // probes and scrapers ask every few seconds
	}
	if r.err != nil && status >= http.StatusInternalServerError {
		attrs = append(attrs, slog.String("error", r.err.Error()))
		if status == http.StatusInternalServerError {
			level = slog.LevelError
		} else {
			level = slog.LevelWarn
		}
		var p *panicError
		if errors.As(r.err, &p) {
			attrs = append(attrs, slog.String("stack", string(p.stack)))
		}
	}
	s.log.LogAttrs(c.Request().Context(), level, "request", attrs...)
}

// methodLabel keeps made-up methods from becoming series and log text.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	default:
		return "OTHER"
	}
}
