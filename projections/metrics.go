package projections

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	events   *prometheus.CounterVec
	batches  *prometheus.HistogramVec
	position *prometheus.GaugeVec
	failed   *prometheus.GaugeVec
	leading  *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) (metrics, error) {
	label := []string{"projection"}
	m := metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_projection_events_total", Help: "Events applied by this node, rebuilds included.",
		}, label),
		batches: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sparkops_projection_batch_seconds", Help: "Time to apply one batch and move the checkpoint.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
		}, label),
		position: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sparkops_projection_position", Help: "Checkpoint of the live build, where this node leads it.",
		}, label),
		failed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sparkops_projection_failed", Help: "1 while the projection stands still because an event cannot be applied.",
		}, label),
		leading: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sparkops_projection_leading", Help: "Number of builds of the projection this node leads.",
		}, label),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.events, m.batches, m.position, m.failed, m.leading} {
		var already prometheus.AlreadyRegisteredError
		if err := registerer.Register(c); err != nil && !errors.As(err, &already) {
			return m, err
		}
	}
	return m, nil
}

func (m metrics) applied(projection, state string, events int, position uint64, took time.Duration) {
	m.events.WithLabelValues(projection).Add(float64(events))
	m.batches.WithLabelValues(projection).Observe(took.Seconds())
	m.failed.WithLabelValues(projection).Set(0)
	if state == live {
		m.position.WithLabelValues(projection).Set(float64(position))
	}
}
