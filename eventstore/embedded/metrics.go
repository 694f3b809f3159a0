package embedded

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one node. They work whether or not anybody collects them.
type metrics struct {
	appends     prometheus.Counter
	events      prometheus.Counter
	refusals    *prometheus.CounterVec
	commit      prometheus.Histogram
	groupSize   prometheus.Histogram
	subscribers prometheus.Gauge
	diskFree    prometheus.Gauge
	position    prometheus.Gauge
}

func newMetrics() *metrics {
	const namespace, subsystem = "sparkops", "eventstore"
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}
	}
	return &metrics{
		appends: prometheus.NewCounter(prometheus.CounterOpts(opts("appends_total", "Appends made durable."))),
		events:  prometheus.NewCounter(prometheus.CounterOpts(opts("events_total", "Events made durable."))),
		refusals: prometheus.NewCounterVec(
			prometheus.CounterOpts(opts("refusals_total", "Writes refused, by reason.")), []string{"reason"}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "commit_seconds",
			Help:    "Time of one synced commit.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16),
		}),
		groupSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "commit_appends",
			Help:    "Appends that shared one synced commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts(opts("subscribers", "Catch-up subscriptions that are open."))),
		diskFree:    prometheus.NewGauge(prometheus.GaugeOpts(opts("disk_free_bytes", "Free space where the log is stored."))),
		position:    prometheus.NewGauge(prometheus.GaugeOpts(opts("position", "Position of the last durable event."))),
	}
}

func (m *metrics) committed(g *group, took time.Duration) {
	m.appends.Add(float64(g.appends))
	m.events.Add(float64(len(g.records)))
	m.commit.Observe(took.Seconds())
	m.groupSize.Observe(float64(g.appends))
	m.position.Set(float64(g.records[len(g.records)-1].position))
}

// refused counts a write that was answered but not done.
func (m *metrics) refused(status outcomeStatus, err error) {
	switch {
	case errors.Is(err, errDiskFull):
		m.refusals.WithLabelValues("disk_full").Inc()
	case err == nil && status == outcomeWrong:
		m.refusals.WithLabelValues("wrong_expected_version").Inc()
	case err == nil && status == outcomeDeleted:
		m.refusals.WithLabelValues("stream_deleted").Inc()
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.appends, m.events, m.refusals, m.commit, m.groupSize, m.subscribers, m.diskFree, m.position}
}

// register adds the metrics to a registry and returns how to remove them again.
func (m *metrics) register(registerer prometheus.Registerer) (unregister func(), err error) {
	if registerer == nil {
		return func() {}, nil
	}
	unregister = func() {}
	for _, collector := range m.collectors() {
		if err := registerer.Register(collector); err != nil {
			unregister()
			return nil, fmt.Errorf("embedded: register metrics: %w", err)
		}
		previous := unregister
		unregister = func() { registerer.Unregister(collector); previous() }
	}
	return unregister, nil
}
