package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// inbox is an Alertmanager that takes everything, and remembers it.
type inbox struct {
	url string
	mu  sync.Mutex
	got []sentAlert
}

type sentAlert struct {
	Labels, Annotations map[string]string
	EndsAt              time.Time
}

func newInbox(t *testing.T) *inbox {
	t.Helper()
	b := &inbox{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "[]")
			return
		}
		var alerts []sentAlert
		if err := json.NewDecoder(r.Body).Decode(&alerts); err != nil {
			http.Error(w, "no alerts", http.StatusBadRequest)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.got = append(b.got, alerts...)
	}))
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

// of are the alerts of a rule, as they came.
func (b *inbox) of(rule string) (out []sentAlert) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.got {
		if a.Labels["alertname"] == rule {
			out = append(out, a)
		}
	}
	return out
}

// tellsTo makes the file of receivers that has one, an inbox.
func (c *Config) tellsTo(t *testing.T, b *inbox) {
	t.Helper()
	c.Notify.File = filepath.Join(t.TempDir(), "notify.yaml")
	text := fmt.Sprintf("receivers: [{name: oncall, alertmanager: {url: %q}}]\nroutes: [{receiver: oncall}]\n", b.url)
	if err := os.WriteFile(c.Notify.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// On call hears of a finding once, also when the service is started again in between,
// and once that it is over; both is on record.
func TestAFindingIsToldOnceAndOnceThatItIsOver(t *testing.T) {
	box := newInbox(t)
	cfg := testConfig(t, t.TempDir())
	cfg.tellsTo(t, box)
	cfg.Detect.Rules = []string{filepath.Join(t.TempDir(), "rules.yaml")}
	rule := `rules: [{name: deletes, title: Somebody deletes, detector: custom, severity: high, resolve_after: 10s, runbook: Ask them., with: {condition: 'target == "drop_table"'}}]`
	if err := os.WriteFile(cfg.Detect.Rules[0], []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, cfg)
	s.awaitReady(t)
	notify := pb.NewNotifyServiceClient(s.grpc)
	tested, err := notify.TestReceivers(t.Context(), &pb.TestReceiversRequest{})
	if err != nil || len(tested.GetResults()) != 1 || !tested.GetResults()[0].GetOk() {
		t.Fatalf("a sample: %v, %v", tested, err)
	}
	if _, err := notify.TestReceivers(t.Context(), &pb.TestReceiversRequest{Receivers: []string{"oncal"}}); err == nil || !strings.Contains(err.Error(), `the nearest is "oncall"`) {
		t.Errorf("a receiver that is not there: %v", err)
	}
	if _, err := pb.NewIngestServiceClient(s.grpc).PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{
		someEvent("crm-1", 1, func(e *event.Event) {
			e.Target, e.Principal, e.Arguments = "drop_table", "user:ada", `{"table":"customers"}`
			e.OccurredAt = time.Now().UnixMicro()
		})}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an alert of the deletion", func() bool { return len(box.of("deletes")) > 0 })
	first := box.of("deletes")[0]
	if l := first.Labels; l["severity"] != "high" || l["principal"] != "user:ada" || l["finding_id"] == "" || first.Annotations["runbook"] != "Ask them." || !first.EndsAt.After(time.Now()) {
		t.Errorf("the alert is %v", first)
	}
	for _, a := range box.of("deletes") {
		if text, _ := json.Marshal(a); strings.Contains(string(text), "customers") {
			t.Errorf("it has what was called with: %s", text)
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}

	s = serve(t, cfg)
	s.awaitReady(t)
	ended := func() (n int) {
		for _, a := range box.of("deletes") {
			if !a.EndsAt.After(time.Now()) && a.Labels["finding_id"] == first.Labels["finding_id"] {
				n++
			}
		}
		return n
	}
	eventually(t, "the end of the alert", func() bool { return ended() > 0 })
	notify = pb.NewNotifyServiceClient(s.grpc)
	var steps []string
	eventually(t, "a record of the end", func() bool {
		list, err := notify.ListNotifications(t.Context(), &pb.ListNotificationsRequest{FindingId: first.Labels["finding_id"]})
		if err != nil {
			t.Fatal(err)
		}
		steps = nil
		for _, n := range list.GetNotifications() {
			steps = append([]string{n.GetStep() + " " + n.GetWhat()}, steps...)
		}
		return len(steps) >= 4
	})
	if got := strings.Join(steps, ", "); got != "queued firing, sent firing, queued resolved, sent resolved" {
		t.Errorf("the steps were: %s", got)
	}
	waiting, err := notify.ListNotifications(t.Context(), &pb.ListNotificationsRequest{Step: "queued"})
	if err != nil || len(waiting.GetNotifications()) != 0 {
		t.Errorf("what waits: %v, %v", waiting, err)
	}
	if _, text := s.page(t, "/metrics"); !strings.Contains(text, `mcpaudit_notify_sent_total{receiver="oncall",result="sent"} 1`) {
		t.Errorf("the metrics don't have the message")
	}
}
