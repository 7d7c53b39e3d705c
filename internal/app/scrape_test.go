package app

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/internal/alerttest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// A real Prometheus with a key of role monitor reads the metrics of a service, has every
// one that the alerts about it ask for, and finds nothing to be alarmed at.
func TestPrometheusWatchesTheService(t *testing.T) {
	rules, err := filepath.Abs(filepath.Join("..", "..", "deploy", "prometheus", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, t.TempDir())
	cfg.tellsTo(t, newInbox(t))
	s := serve(t, cfg)
	s.awaitReady(t)
	key := filepath.Join(t.TempDir(), "prometheus.key")
	if err := os.WriteFile(key, []byte(s.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"monitor"}})), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := publish(t.Context(), s.grpc, 1); err != nil {
		t.Fatal(err)
	}
	p := alerttest.Prometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: mcpaudit
    authorization: {credentials_file: %q}
    static_configs: [{targets: [%q]}]
`, rules, key, strings.TrimPrefix(s.web, "http://")))
	p.Await(`up{job="mcpaudit"} == 1`)
	p.Await(`mcpaudit_ingest_events_total{result="stored"} >= 1`)
	p.Await(`mcpaudit_activity_events_total >= 1`)

	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	// Those of Kafka, of anchors and of refused calls are there when there is such a thing.
	elsewhere := regexp.MustCompile(`^mcpaudit_(kafka|ledger_anchors|access_refused)_?`)
	asked := 0
	for _, name := range regexp.MustCompile(`\bmcpaudit_[a-z_]+`).FindAllString(string(text), -1) {
		if !elsewhere.MatchString(name) {
			asked++
			p.Await(name)
		}
	}
	if asked < 6 {
		t.Errorf("the alerts ask for %d metrics", asked)
	}
	if alarms := p.Query(`ALERTS`); len(alarms) != 0 {
		t.Errorf("there are alerts about a service that is well: %v", alarms)
	}
}
