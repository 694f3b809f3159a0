package processes

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	events  *prometheus.CounterVec // process, result
	retries *prometheus.CounterVec // process
	advance *prometheus.CounterVec // result
	late    prometheus.Histogram
	leading prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) (metrics, error) {
	m := metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_process_events_total", Help: "Events that led to commands, by process and result (done, not_due, parked).",
		}, []string{"process", "result"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_process_retries_total", Help: "Commands tried again because a dependency was down, by process.",
		}, []string{"process"}),
		advance: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_timers_total", Help: "Runs looked at because a timer was due, by result (decided, nothing, failed).",
		}, []string{"result"}),
		late: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sparkops_timer_lateness_seconds", Help: "How long after its time a timer was acted on.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2, 5, 15, 60, 300},
		}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sparkops_processes_leading", Help: "1 while this node runs the processes and timers.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.events, m.retries, m.advance, m.late, m.leading} {
		if err := registerer.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}
