package app

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/detect/rules"
	"github.com/mcpaudit/mcpaudit/detect/share"
	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/query/findings"
)

// ReadRules reads rule files over the shipped rules.
func ReadRules(names []string) (rules.Set, error) {
	var files []rules.File
	for _, n := range names {
		text, err := readRuleFile(n)
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		files = append(files, rules.File{Name: n, Text: text})
	}
	return rules.Load(files...)
}

// readRuleFile stops where rules.Load says that a file is too long.
func readRuleFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, rules.MaxFile+1))
}

// ruleBook is the rules in force, and how they are read again.
type ruleBook struct {
	files []string
	team  *share.Team // nil where this process does not detect

	reloading sync.Mutex // one after the other: what is in force is what was read last

	mu  sync.Mutex
	set rules.Set
}

// Rules are those in force.
func (b *ruleBook) Rules() rules.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set
}

// Reload reads the rule files again and puts their rules in force. After an error
// the rules are those of before.
func (b *ruleBook) Reload(ctx context.Context) (added, changed, removed []string, err error) {
	b.reloading.Lock()
	defer b.reloading.Unlock()
	set, err := ReadRules(b.files)
	if err != nil {
		return nil, nil, nil, findings.BadRules{Err: err}
	}
	if b.team != nil {
		if err := b.team.Reload(ctx, set.Rules()); err != nil {
			return nil, nil, nil, fmt.Errorf("put rules in force: %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range set {
		switch old, ok := b.set.Find(r.Name); {
		case !ok:
			added = append(added, r.Name)
		case old.Digest != r.Digest:
			changed = append(changed, r.Name)
		}
	}
	for _, r := range b.set {
		if _, ok := set.Find(r.Name); !ok {
			removed = append(removed, r.Name)
		}
	}
	b.set = set
	return added, changed, removed, nil
}

// newDetect makes the runners of the detectors; they call told when something was.
func newDetect(cfg *Config, book *ruleBook, s *store.Store, p *ingest.Pipeline, told func(), d Deps, m *metrics) (*share.Team, error) {
	var seed [8]byte
	rand.Read(seed[:])
	c := share.Config{Shares: cfg.Detect.Shards, Runner: live.Config{Rules: book.set.Rules(), History: cfg.Detect.History, Seed: binary.LittleEndian.Uint64(seed[:])}}
	if cfg.Kafka.On() && cfg.Store.DSN != "" { // the engine in process belongs to one
		cluster, err := cfg.Kafka.Cluster()
		if err != nil {
			return nil, err
		}
		c.Lock = detectLock(cluster, cfg.Kafka.Topic, cfg.Kafka.Group, cfg.Kafka.SessionTimeout)
	}
	deps := live.Deps{Store: s, Now: d.Now, Log: d.Log, Tell: func(live.Told) { told() }}
	if p != nil {
		deps.Settled, deps.OthersWrite = p.Settled, cfg.Ingest.Shared
	}
	heard := newDetectMetrics(m.registry)
	team, err := share.New(c, share.Deps{Runner: deps, Watch: heard.of, Log: d.Log})
	if err != nil {
		return nil, err
	}
	book.team = team
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mcpaudit_detect_lag_seconds",
		Help: "How far the detectors are behind what is sealed."}, func() float64 { return team.Lag().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mcpaudit_detect_shares",
			Help: "Shares of the detectors' work that this instance does; all instances of a store together do detect.shards of them."}, func() float64 { return float64(len(team.Shares())) }))
	return team, nil
}

// detectLock is the group in which instances share detection. It is beside the group
// that reads the topic: who reads a partition need not be who detects.
func detectLock(cluster broker.Config, topic, group string, session time.Duration) *share.Lock {
	return &share.Lock{Broker: cluster, Topic: topic, Group: group + "-detect", Session: session}
}

// detectMetrics hear the runners. Labels are severities, never names.
type detectMetrics struct {
	events, late, failures prometheus.Counter
	told                   *prometheus.CounterVec
	open, groups, bytes    prometheus.Gauge
	evicted                prometheus.Gauge
	stalled                prometheus.Histogram

	mu    sync.Mutex
	holds map[int]detect.Counts // by share
}

// of is what hears the runner of one share: gauges are sums over them.
func (m *detectMetrics) of(n int) live.Observer { return &shareMetrics{m, n} }

type shareMetrics struct {
	*detectMetrics
	share int
}

func (m *shareMetrics) Holds(c detect.Counts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holds[m.share] = c
	var sum detect.Counts
	for _, h := range m.holds {
		sum.Open, sum.Groups, sum.Evicted = sum.Open+h.Open, sum.Groups+h.Groups, sum.Evicted+h.Evicted
	}
	m.open.Set(float64(sum.Open))
	m.groups.Set(float64(sum.Groups))
	m.evicted.Set(float64(sum.Evicted))
}

func newDetectMetrics(r *prometheus.Registry) *detectMetrics {
	m := &detectMetrics{
		holds:    map[int]detect.Counts{},
		events:   prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_detect_events_total", Help: "Events that the detectors have observed."}),
		late:     prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_detect_late_events_total", Help: "Events that came when the detectors' clock had passed them."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_detect_store_failures_total", Help: "Times that the store did not answer the detectors and was asked again."}),
		told: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_detect_findings_total",
			Help: "Versions of findings that were told, by severity; opened is true for the first of each."}, []string{"severity", "opened"}),
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "mcpaudit_detect_open_findings", Help: "Findings that are open."}),
		groups:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "mcpaudit_detect_groups", Help: "Identities, sessions, tools and the like that the detectors remember."}),
		evicted: prometheus.NewGauge(prometheus.GaugeOpts{Name: "mcpaudit_detect_evicted_groups", Help: "Groups that were forgotten because there were too many, since the state began."}),
		bytes:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "mcpaudit_detect_snapshot_bytes", Help: "Size of the newest snapshot of the detectors."}),
		stalled: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mcpaudit_detect_snapshot_stall_seconds",
			Help: "Time for which nothing was observed while a snapshot was made.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}),
	}
	for _, s := range detect.Severities[1:] {
		m.told.WithLabelValues(s, "true")
	}
	r.MustRegister(m.events, m.late, m.failures, m.told, m.open, m.groups, m.evicted, m.bytes, m.stalled)
	return m
}

func (m *detectMetrics) Observed(events int, _ time.Duration) { m.events.Add(float64(events)) }
func (m *detectMetrics) Late(events int)                      { m.late.Add(float64(events)) }
func (m *detectMetrics) Failed()                              { m.failures.Inc() }

func (m *detectMetrics) Told(s detect.Severity, opened bool) {
	m.told.WithLabelValues(s.String(), fmt.Sprint(opened)).Inc()
}

func (m *detectMetrics) Saved(bytes int, stalled, _ time.Duration) {
	m.bytes.Set(float64(bytes))
	m.stalled.Observe(stalled.Seconds())
}
