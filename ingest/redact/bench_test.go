package redact

import (
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

var benchArguments = []byte(`{"query":"quarterly revenue by region for the last four quarters, split by product line","filters":{"region":["emea","apac","amer"],"from":"2026-01-01","to":"2026-03-31","status":"closed"},"limit":50,"page_token":"eyJvZmZzZXQiOjUwfQ","order_by":"revenue desc","include_archived":false,"columns":["region","product","revenue","margin","units"],"notes":"compare with the previous year and flag everything that moved by more than ten percent in either direction","format":"table","timeout_ms":30000}`)

func newBench(b *testing.B) *Redactor {
	b.Helper()
	r, err := New(DefaultProfile(), []byte("0123456789abcdef"))
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func BenchmarkCallClean(b *testing.B) {
	r := newBench(b)
	c := Call{Server: "warehouse", Target: "run_report", Arguments: benchArguments}
	b.SetBytes(int64(len(c.Arguments)))
	b.ReportAllocs()
	for b.Loop() {
		r.Call(c)
	}
}

func BenchmarkCallWithHits(b *testing.B) {
	r := newBench(b)
	c := Call{Server: "crm", Target: "send_email", Arguments: []byte(`{"to":"alice.smith@example.com","subject":"Your card","body":"Dear Alice, the card 4111 1111 1111 1111 is blocked. Call +1 212 555 0123. See https://bank.example.co.uk/cards?id=77","api_key":"k-39fj20fj2093jf0293","headers":{"Authorization":"Bearer abcdef1234567890abcdef"}}`)}
	b.SetBytes(int64(len(c.Arguments)))
	b.ReportAllocs()
	for b.Loop() {
		r.Call(c)
	}
}

func BenchmarkResult8K(b *testing.B) {
	r := newBench(b)
	text := []byte(`{"content":[{"type":"text","text":"`)
	for len(text) < 8192 {
		text = append(text, "The quarterly numbers moved a little; the region in the east gained while the west lost some ground in the second half. "...)
	}
	text = append(text, `"}]}`...)
	c := Call{Result: text}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r.Call(c)
	}
}

func BenchmarkAgainClean(b *testing.B) {
	r := newBench(b)
	rep := r.Call(Call{Arguments: benchArguments[:0:0]})
	_ = rep
	e := &event.Event{Arguments: string(benchArguments), Target: "run_report", UserAgent: "agent/1.2 (linux)", PrincipalName: "alice@example.com",
		Labels: []event.Label{{Key: "team", Value: "analytics"}}}
	b.SetBytes(int64(len(e.Arguments)))
	b.ReportAllocs()
	for b.Loop() {
		r.Again(e)
	}
}

// A whole event, as one comes from a service that serves over HTTP.
func BenchmarkAgainCleanEvent(b *testing.B) {
	r := newBench(b)
	e := &event.Event{Arguments: string(benchArguments), EmitterID: "warehouse-3f2a9c0d1e2f", Tenant: "default",
		Principal: "https://login.example.com|01890a5d", PrincipalName: "alice@example.com", AgentID: "analyst-7", AgentName: "analyst", Model: "claude-opus-4",
		ClientName: "claude-desktop", ClientVersion: "1.14.2", AuthMethod: "oauth", CredentialID: "3f2a9c0d1e2f4a5b", Server: "warehouse", ServerVersion: "2.3.1",
		ServerInstance: "warehouse-0", Environment: "production", ProtocolVersion: "2025-11-25", ClientIP: "10.1.2.3", UserAgent: "agent/1.2 (linux)",
		Method: "tools/call", Target: "run_report", RequestID: "117", SessionID: "01890a5d-ac96-774b-bcce-b302099a8057",
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", SpanID: "00f067aa0ba902b7", RedactionProfile: "default", RedactionProfileVersion: "1+gitleaks-8",
		ScopesRequired: []string{"reports:read"}, ScopesGranted: []string{"reports:read", "reports:write"}, Signals: []string{"pii:email"},
		Removed: []event.Removal{{Path: "$.notes", Class: "pii:email"}}, Labels: []event.Label{{Key: "team", Value: "analytics"}}}
	b.ReportAllocs()
	for b.Loop() {
		r.Again(e)
	}
}

func BenchmarkWordSet(b *testing.B) {
	lx := commonLexicon()
	var hits []hit
	b.SetBytes(int64(len(benchArguments)))
	for b.Loop() {
		hits = lx.words.find(benchArguments, hits[:0])
	}
	b.ReportMetric(float64(len(hits)), "hits")
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		newLexicon(nil)
	}
}
