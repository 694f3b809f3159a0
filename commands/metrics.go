package commands

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/domain"
)

// metrics counts what Execute did.
type metrics struct {
	commands *prometheus.CounterVec   // by command and outcome
	seconds  *prometheus.HistogramVec // by command
	retries  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_commands_total", Help: "Commands by name and outcome: ok, unchanged, or the kind of error.",
		}, []string{"command", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sparkops_command_duration_seconds", Help: "Time from asking for a command to its stored outcome.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"command"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sparkops_command_retries_total", Help: "Decisions made again because another writer was faster or an outcome was unknown.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.commands, m.seconds, m.retries} {
		var already prometheus.AlreadyRegisteredError
		if err := r.Register(c); err != nil && !errors.As(err, &already) {
			return m, fmt.Errorf("register command metrics: %w", err)
		}
	}
	return m, nil
}

func (m metrics) observe(cmd any, took time.Duration, receipt Receipt, err error) {
	if wrapper, ok := cmd.(interface{ inner() any }); ok {
		cmd = wrapper.inner()
	}
	name := reflect.TypeOf(cmd).String() // "run.Cancel"
	outcome := "ok"
	switch {
	case err != nil && domain.KindOf(err) == "":
		outcome = "internal"
	case err != nil:
		outcome = string(domain.KindOf(err))
	case receipt.Unchanged:
		outcome = "unchanged"
	}
	m.commands.WithLabelValues(name, outcome).Inc()
	m.seconds.WithLabelValues(name).Observe(took.Seconds())
}
