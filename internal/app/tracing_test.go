package app

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// traceSink is an OpenTelemetry collector.
type traceSink struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*spans.Span
}

func (s *traceSink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, res := range r.GetResourceSpans() {
		for _, scope := range res.GetScopeSpans() {
			s.spans = append(s.spans, scope.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestARequestAndItsStatementAreSpansOfTheCallersTrace(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sink := &traceSink{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, sink)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())

	s := serve(t, testConfig(t, t.TempDir()))
	s.awaitReady(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.web+`/v1/events?filter=principal%3D"somebody"`, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	if err := s.stop(); err != nil { // sends what there is
		t.Fatal(err)
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	byName := map[string]*spans.Span{}
	for _, span := range sink.spans {
		byName[span.GetName()] = span
		if strings.Contains(span.String(), "somebody") {
			t.Errorf("a value is in a span: %v", span)
		}
	}
	rpc, statement := byName["mcpaudit.v1.QueryService/ListEvents"], byName["SELECT events"]
	if rpc == nil || statement == nil {
		t.Fatalf("the spans are %v", byName)
	}
	if got := rpc.GetTraceId(); string(got) != "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c" {
		t.Errorf("the request is in trace %x", got)
	}
	if string(statement.GetParentSpanId()) != string(rpc.GetSpanId()) {
		t.Errorf("the statement's parent is %x, the request is %x", statement.GetParentSpanId(), rpc.GetSpanId())
	}
}
