package worker

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/domain"
)

type metrics struct {
	tasks  *prometheus.CounterVec   // type, result
	calls  *prometheus.HistogramVec // kind, result
	tokens *prometheus.CounterVec   // bucket
	cost   prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, active *atomic.Int64) (metrics, error) {
	m := metrics{
		tasks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_worker_tasks_total", Help: "Tasks the worker ended, by node type and result.",
		}, []string{"type", "result"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sparkops_worker_call_seconds", Help: "Duration of model and tool calls, by kind and result.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60, 300},
		}, []string{"kind", "result"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sparkops_worker_tokens_total", Help: "Tokens of model calls, by bucket.",
		}, []string{"bucket"}),
		cost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sparkops_worker_cost_usd_total", Help: "Cost of model calls in USD.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.tasks, m.calls, m.tokens, m.cost, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sparkops_worker_running", Help: "Tasks the worker is at.",
	}, func() float64 { return float64(active.Load()) })} {
		if err := registerer.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m metrics) task(kind, result string) { m.tasks.WithLabelValues(kind, result).Inc() }

func (m metrics) call(kind, result string, d time.Duration) {
	m.calls.WithLabelValues(kind, result).Observe(d.Seconds())
}

func (m metrics) spent(u domain.Usage, cost domain.Nanos) {
	for _, b := range []struct {
		name string
		n    int64
	}{{"input", u.Input}, {"cache_read", u.CacheRead}, {"cache_write", u.CacheWrite}, {"output", u.Output}, {"reasoning", u.Reasoning}} {
		if b.n > 0 {
			m.tokens.WithLabelValues(b.name).Add(float64(b.n))
		}
	}
	m.cost.Add(cost.USD())
}
