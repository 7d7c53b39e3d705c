package app

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcpaudit/mcpaudit/detect/notify"
	"github.com/mcpaudit/mcpaudit/detect/share"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/query/findings"
)

// notifier tells receivers of findings, and is what the API knows of it.
type notifier struct{ *notify.Runner }

// newNotify reads the plan and makes what carries it out; nil without a plan. Of several
// instances that share detection, the one that has its first share tells.
func newNotify(ctx context.Context, cfg *Config, s *store.Store, book *ruleBook, team *share.Team, d Deps, m *metrics) (*notifier, error) {
	if cfg.Notify.File == "" {
		return nil, nil
	}
	plan, err := notify.Read(cfg.Notify.File)
	if err != nil {
		return nil, err
	}
	heard := newNotifyMetrics(m.registry, plan)
	r, err := notify.New(plan, notify.Deps{
		Feed: findings.NewFeed(s, store.Limits{Time: cfg.Query.Timeout, Memory: cfg.Query.MemoryLimit}), Store: s, Now: d.Now, Log: d.Log, Watch: heard,
		Rules: func(name string) (title, runbook string) {
			r, _ := book.Rules().Find(name)
			return r.Title, r.Runbook
		},
		Command: func(id string) string { return "mcpaudit findings show " + id },
		Leads:   func() bool { return slices.Contains(team.Shares(), 0) },
	})
	if err != nil {
		return nil, err
	}
	return &notifier{r}, r.Begin(ctx)
}

// Receivers are those of the plan, with what waits for them here.
func (n *notifier) Receivers() (out []findings.Receiver, sending bool) {
	for _, r := range n.Plan().ReceiverInfos() {
		x := findings.Receiver{Name: r.Name, Kind: r.Kind, Host: r.Host}
		x.Waiting, x.Since = n.Waiting(r.Name)
		out = append(out, x)
	}
	return out, n.Sending()
}

// Test sends samples.
func (n *notifier) Test(ctx context.Context, receivers []string) ([]findings.Sample, error) {
	results, err := n.Runner.Test(ctx, receivers)
	if unknown, ok := errors.AsType[notify.UnknownReceiver](err); ok {
		return nil, findings.UnknownReceiver{Text: unknown.Error()}
	}
	if err != nil {
		return nil, err
	}
	var out []findings.Sample
	for _, r := range results {
		x := findings.Sample{Receiver: r.Receiver, Kind: r.Kind, Status: r.Status, Took: r.Took}
		if !r.OK {
			x.Err = errors.New(r.Error)
		}
		out = append(out, x)
	}
	return out, nil
}

// notifyMetrics hear the runner. Labels are the receivers of the plan, at most 50.
type notifyMetrics struct {
	sent, alerts, queued *prometheus.CounterVec
	waiting, oldest      *prometheus.GaugeVec
	took                 prometheus.Histogram
	failures             prometheus.Counter
}

func newNotifyMetrics(r *prometheus.Registry, plan *notify.Plan) *notifyMetrics {
	m := &notifyMetrics{
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_notify_sent_total",
			Help: "Messages to receivers, by what came of them: sent, or failed and tried again."}, []string{"receiver", "result"}),
		alerts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_notify_alerts_total",
			Help: "What receivers were told of findings, several of which may be in a message; skipped is what they need not be told any more."}, []string{"receiver", "result"}),
		queued: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mcpaudit_notify_queued_total", Help: "What receivers are to be told of findings."}, []string{"receiver"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mcpaudit_notify_waiting",
			Help: "Findings that wait to be told to a receiver."}, []string{"receiver"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mcpaudit_notify_oldest_seconds",
			Help: "For how long the oldest of them has waited."}, []string{"receiver"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mcpaudit_notify_send_seconds",
			Help: "Time until a receiver had taken a message.", Buckets: prometheus.ExponentialBuckets(0.01, 3, 8)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "mcpaudit_notify_store_failures_total",
			Help: "Times that the store did not answer what tells of findings and was asked again."}),
	}
	for _, x := range plan.ReceiverInfos() {
		m.sent.WithLabelValues(x.Name, "sent")
		m.sent.WithLabelValues(x.Name, "failed")
		m.alerts.WithLabelValues(x.Name, "sent")
		m.alerts.WithLabelValues(x.Name, "skipped")
		m.queued.WithLabelValues(x.Name)
		m.waiting.WithLabelValues(x.Name)
		m.oldest.WithLabelValues(x.Name)
	}
	r.MustRegister(m.sent, m.alerts, m.queued, m.waiting, m.oldest, m.took, m.failures)
	return m
}

func (m *notifyMetrics) Queued(receiver string, n int) {
	m.queued.WithLabelValues(receiver).Add(float64(n))
}

func (m *notifyMetrics) Sent(receiver string, alerts int, took time.Duration) {
	m.sent.WithLabelValues(receiver, "sent").Inc()
	m.alerts.WithLabelValues(receiver, "sent").Add(float64(alerts))
	m.took.Observe(took.Seconds())
}

func (m *notifyMetrics) Failed(receiver string) { m.sent.WithLabelValues(receiver, "failed").Inc() }

func (m *notifyMetrics) Skipped(receiver string, n int) {
	m.alerts.WithLabelValues(receiver, "skipped").Add(float64(n))
}

func (m *notifyMetrics) Waiting(receiver string, findings int, oldest time.Duration) {
	m.waiting.WithLabelValues(receiver).Set(float64(findings))
	m.oldest.WithLabelValues(receiver).Set(oldest.Seconds())
}

func (m *notifyMetrics) StoreFailed() { m.failures.Inc() }
