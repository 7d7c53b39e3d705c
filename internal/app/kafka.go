package app

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// newKafka makes the source that reads the topic.
func newKafka(cfg *Config, s *store.Store, p *ingest.Pipeline, logID string, d Deps, m *metrics) (*kafka.Source, error) {
	cluster, err := cfg.Kafka.Cluster()
	if err != nil {
		return nil, err
	}
	return kafka.New(cfg.source(cluster), kafka.Deps{Pipeline: p, Store: s, LogID: logID, Diary: diary.New("kafka", p, d.Now), Now: d.Now, Log: d.Log,
		Watch: newKafkaMetrics(m.registry)})
}

// kafkaMetrics hear the source. Labels are categories and partition numbers.
type kafkaMetrics struct {
	messages   prometheus.Counter
	waited     prometheus.Histogram
	lag, stuck *prometheus.GaugeVec
	dead       *prometheus.CounterVec
	commits    *prometheus.CounterVec
	held       prometheus.Gauge
	assigned   prometheus.Gauge
	rebalances prometheus.Counter
	failures   prometheus.Counter
}

func newKafkaMetrics(r *prometheus.Registry) *kafkaMetrics {
	m := &kafkaMetrics{
		messages: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_kafka_messages_total", Help: "Messages that were settled: stored, known already, or dead letters."}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mcpaudit_kafka_settled_seconds",
			Help: "Time from a message's own stamp until it was settled, of the oldest of each fetch.", Buckets: prometheus.ExponentialBuckets(0.01, 3, 12)}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mcpaudit_kafka_lag_messages", Help: "Messages of a partition behind the last one that is settled."}, []string{"partition"}),
		stuck: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mcpaudit_kafka_partition_stuck",
			Help: "1 while a partition waits for something that does not go away by itself."}, []string{"partition"}),
		dead:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_kafka_dead_letters_total", Help: "Messages that are no events, by why."}, []string{"reason"}),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_kafka_commits_total", Help: "Commits of offsets, by what came of them."}, []string{"result"}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{Name: "mcpaudit_kafka_held_partitions",
			Help: "Partitions whose offsets wait for another instance to seal what it has stored."}),
		assigned:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "mcpaudit_kafka_assigned_partitions", Help: "Partitions that the group has given this instance."}),
		rebalances: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_kafka_rebalances_total", Help: "Times that the group gave this instance its partitions anew."}),
		failures:   prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_kafka_failures_total", Help: "Requests to brokers that failed and were made again."}),
	}
	for _, reason := range kafka.Reasons {
		m.dead.WithLabelValues(reason)
	}
	r.MustRegister(m.messages, m.waited, m.lag, m.stuck, m.dead, m.commits, m.held, m.assigned, m.rebalances, m.failures)
	return m
}

func (m *kafkaMetrics) Settled(_, messages int, waited time.Duration) {
	m.messages.Add(float64(messages))
	m.waited.Observe(waited.Seconds())
}

func (m *kafkaMetrics) Lag(partition int, messages int64) {
	m.lag.WithLabelValues(strconv.Itoa(partition)).Set(float64(messages))
}

func (m *kafkaMetrics) DeadLetter(reason string) { m.dead.WithLabelValues(reason).Inc() }

func (m *kafkaMetrics) Committed(ok bool) {
	result := "done"
	if !ok {
		result = "failed"
	}
	m.commits.WithLabelValues(result).Inc()
}

func (m *kafkaMetrics) Held(partitions int) { m.held.Set(float64(partitions)) }

func (m *kafkaMetrics) Assigned(partitions int) {
	if partitions > 0 {
		m.rebalances.Inc()
	}
	m.assigned.Set(float64(partitions))
}

func (m *kafkaMetrics) Stuck(partition int, yes bool) {
	v := 0.0
	if yes {
		v = 1
	}
	m.stuck.WithLabelValues(strconv.Itoa(partition)).Set(v)
}

func (m *kafkaMetrics) Failed() { m.failures.Inc() }
