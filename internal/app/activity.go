package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcpaudit/mcpaudit/ingest/activity"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// newActivity makes what adds up events for dashboards: those of the log that this
// instance writes, and of logs that nobody writes any more where mine says so.
func newActivity(cfg *Config, s *store.Store, logID string, mine func() bool, d Deps, m *metrics) (*activity.Runner, error) {
	heard := &activityMetrics{
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_activity_events_total", Help: "Events that were added up for dashboards."}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mcpaudit_activity_add_seconds",
			Help: "Time of adding up some batches.", Buckets: prometheus.ExponentialBuckets(0.005, 3, 10)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_activity_store_failures_total",
			Help: "Times that the store did not answer what adds up and was asked again."}),
	}
	if !cfg.Ingest.Shared {
		logID, mine = "", nil // the process has the store's logs for itself
	}
	r, err := activity.New(activity.Config{LogID: logID}, activity.Deps{Store: s, Now: d.Now, Log: d.Log, Watch: heard, Mine: mine})
	if err != nil {
		return nil, err
	}
	m.registry.MustRegister(heard.events, heard.took, heard.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mcpaudit_activity_lag_seconds",
		Help: "How far what dashboards read is behind what is sealed."}, func() float64 { return r.Lag().Seconds() }))
	return r, nil
}

// activityMetrics hear what adds up.
type activityMetrics struct {
	events, failures prometheus.Counter
	took             prometheus.Histogram
}

func (m *activityMetrics) Added(events uint64, took time.Duration) {
	m.events.Add(float64(events))
	m.took.Observe(took.Seconds())
}

func (m *activityMetrics) Failed() { m.failures.Inc() }
