package app

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
)

func TestTheNumberOfSharesIsBounded(t *testing.T) {
	for shares, want := range map[int]string{0: "detect.shards: is 0, must lie between 1 and 64", 65: "detect.shards: is 65, must lie between 1 and 64", 1: "", 64: ""} {
		c := DefaultConfig(t.TempDir())
		c.Detect.Shards = shares
		if err := c.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d shares: %v, want %q", shares, err, want)
		}
	}
}

// Instances agree on who detects in a group of their own.
func TestDetectionIsSharedInAGroupOfItsOwn(t *testing.T) {
	l := detectLock(broker.Config{Brokers: []string{"localhost:9092"}}, "events", "mcpaudit", 30*time.Second)
	if l.Group != "mcpaudit-detect" || l.Topic != "events" || l.Session != 30*time.Second || len(l.Broker.Brokers) != 1 {
		t.Errorf("%+v", l)
	}
}

// What the shares of this process hold is counted together, and no more when one of
// them has gone to another instance.
func TestGaugesAreSumsOverTheSharesOfThisProcess(t *testing.T) {
	r := prometheus.NewRegistry()
	m := newDetectMetrics(r)
	gauge := func(name string) float64 {
		t.Helper()
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatalf("there is no %s", name)
		return 0
	}
	a, b := m.of(0), m.of(3)
	a.Holds(detect.Counts{Open: 1, Groups: 10, Evicted: 100})
	b.Holds(detect.Counts{Open: 2, Groups: 20, Evicted: 200})
	a.Holds(detect.Counts{Open: 3, Groups: 30, Evicted: 300})
	if open, groups, evicted := gauge("mcpaudit_detect_open_findings"), gauge("mcpaudit_detect_groups"), gauge("mcpaudit_detect_evicted_groups"); open != 5 || groups != 50 || evicted != 500 {
		t.Errorf("%v open, %v groups, %v evicted", open, groups, evicted)
	}
	b.Holds(detect.Counts{})
	if open := gauge("mcpaudit_detect_open_findings"); open != 3 {
		t.Errorf("%v are open when one share has gone", open)
	}
}
