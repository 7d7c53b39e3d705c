package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
)

// metrics hear the pipeline. Labels are categories, never names or texts.
type metrics struct {
	registry *prometheus.Registry
	events   *prometheus.CounterVec
	batches  prometheus.Counter
	rows     prometheus.Histogram
	commit   prometheus.Histogram
	failures prometheus.Counter
	anchors  *prometheus.CounterVec
	refusals *prometheus.CounterVec
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_ingest_events_total",
			Help: "Events that were settled, by what became of them."}, []string{"result"}),
		batches: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_ingest_batches_total", Help: "Batches that became durable."}),
		rows: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mcpaudit_ingest_batch_events",
			Help: "Events in a batch.", Buckets: prometheus.ExponentialBuckets(1, 4, 9)}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mcpaudit_ingest_commit_seconds",
			Help: "Time of one durable append to the store.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 14)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_ingest_store_failures_total",
			Help: "Appends that failed and were tried again."}),
	}
	m.anchors = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_ledger_anchors_total",
		Help: "Checkpoints that were to be kept outside of the store, by the sort of place and what came of it."}, []string{"place", "result"})
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_access_refused_total",
		Help: "Calls that were refused for their credential, by why."}, []string{"reason"})
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mcpaudit_build_info", Help: "Always 1; the version is a label."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	for _, result := range []string{"stored", "duplicate", "rejected"} {
		m.events.WithLabelValues(result)
	}
	m.registry.MustRegister(m.events, m.batches, m.rows, m.commit, m.failures, m.anchors, m.refusals, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) Committed(events int, took time.Duration) {
	m.batches.Inc()
	m.rows.Observe(float64(events))
	m.commit.Observe(took.Seconds())
}

func (m *metrics) Settled(stored, duplicates, rejected int) {
	m.events.WithLabelValues("stored").Add(float64(stored))
	m.events.WithLabelValues("duplicate").Add(float64(duplicates))
	m.events.WithLabelValues("rejected").Add(float64(rejected))
}

func (m *metrics) refused(r auth.Reason) { m.refusals.WithLabelValues(string(r)).Inc() }

func (m *metrics) StoreFailed() { m.failures.Inc() }

func (m *metrics) anchored(place string, err error) {
	result := "kept"
	if err != nil {
		result = "failed"
	}
	m.anchors.WithLabelValues(place, result).Inc()
}
