package eventstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/domain"
)

// metrics of one store. They work whether or not anybody collects them.
type metrics struct {
	appends    *prometheus.CounterVec
	appendTime prometheus.Histogram
	reads      *prometheus.CounterVec
	reconnects *prometheus.CounterVec
	positions  *prometheus.GaugeVec

	stored     prometheus.Counter // of appends
	registerer prometheus.Registerer
}

func newMetrics() *metrics {
	const namespace, subsystem = "sparkops", "eventstore_client"
	m := &metrics{
		appends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "appends_total", Help: "Appends by outcome.",
		}, []string{"outcome"}),
		appendTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "append_seconds",
			Help:    "Time of an append, with its second attempt where there was one.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 17),
		}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "reads_total", Help: "Reads by kind and outcome.",
		}, []string{"kind", "outcome"}),
		reconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "subscription_reconnects_total", Help: "Times a subscription was lost and made again.",
		}, []string{"subscription"}),
		positions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "subscription_position", Help: "Position of the last message a subscription handled.",
		}, []string{"subscription"}),
	}
	m.stored = m.appends.WithLabelValues("stored")
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.appends, m.appendTime, m.reads, m.reconnects, m.positions}
}

func (m *metrics) register(registerer prometheus.Registerer) error {
	if registerer == nil {
		return nil
	}
	for i, c := range m.collectors() {
		if err := registerer.Register(c); err != nil {
			for _, done := range m.collectors()[:i] {
				registerer.Unregister(done)
			}
			return fmt.Errorf("register metrics of the event store: %w", err)
		}
	}
	m.registerer = registerer
	return nil
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.collectors() {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) appended(err error, took time.Duration) {
	m.appendTime.Observe(took.Seconds())
	if err == nil {
		m.stored.Inc()
		return
	}
	m.appends.WithLabelValues(outcome(err)).Inc()
}

func (m *metrics) read(kind string, err error) {
	result := "ok"
	switch {
	case isHandlerError(err):
		result = "stopped"
	case err != nil:
		result = "failed"
	}
	m.reads.WithLabelValues(kind, result).Inc()
}

func outcome(err error) string {
	var c *ConflictError
	switch kind := domain.KindOf(err); {
	case errors.As(err, &c):
		return "conflict"
	case kind != "":
		return string(kind)
	}
	return "failed"
}

type subscriptionMetrics struct {
	reconnects prometheus.Counter
	position   prometheus.Gauge
}

func (m *metrics) subscription(name string) subscriptionMetrics {
	return subscriptionMetrics{reconnects: m.reconnects.WithLabelValues(name), position: m.positions.WithLabelValues(name)}
}
