package kafka

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
)

// agentCalls are events of one MCP server as an emitter encodes them: sessions of a
// few dozen calls of a few tools, with ids, digests and marks that nothing compresses.
func agentCalls(t testing.TB, n int) [][]byte {
	t.Helper()
	r, err := redact.New(redact.DefaultProfile(), []byte("a key for benchmarks only, 32 by"))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	words := []string{"quarterly", "report", "billing", "service", "latency", "customer", "draft", "release", "notes", "schema", "compare", "summarise"}
	sentence := func(n int) (s string) {
		for range n {
			s += words[random.IntN(len(words))] + " "
		}
		return s
	}
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	var session event.Event
	var out [][]byte
	for i := range n {
		if i%40 == 0 {
			session = event.Event{Principal: fmt.Sprintf("issuer|user-%03d", random.IntN(200)), PrincipalKind: "agent", AgentID: fmt.Sprintf("agent-%03d", random.IntN(200)),
				ClientName: "assistant", ClientVersion: "2.1.0", Server: "files", ServerVersion: "1.4.2", ServerInstance: "pod-7f9c", Environment: "production", Transport: "http",
				ProtocolVersion: "2025-11-25", Tenant: "default", SessionID: fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()), AuthMethod: "oauth",
				CredentialID: fmt.Sprintf("%08x", random.Uint32()), ClientIP: "10.0.3.9", TraceID: fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()), Decision: "allow",
				ScopesGranted: []string{"files:read", "issues:write"}}
		}
		at = at.Add(time.Duration(1+random.IntN(40)) * time.Millisecond)
		e := session
		e.OccurredAt, e.Duration = at.UnixMicro(), uint64(1000+random.IntN(400000))
		e.Kind, e.Method, e.Target, e.Outcome = "tool_call", "tools/call", []string{"read_file", "search_code", "write_file"}[random.IntN(3)], "success"
		e.Hints, e.RequestID, e.SpanID, e.HTTPStatus = event.DefaultHints, fmt.Sprint(i%40), fmt.Sprintf("%016x", random.Uint64()), 200
		copy(e.DefinitionDigest[:], e.Target+"----------------")
		e.RequestBytes, e.ResponseBytes = uint64(300+random.IntN(500)), uint64(200+random.IntN(20000))
		r.Apply(redact.Call{Server: e.Server, Method: e.Method, Target: e.Target,
			Arguments: fmt.Appendf(nil, `{"path":"/srv/projects/%s/%s-%d.md","limit":%d,"query":%q,"options":{"recursive":true}}`, words[random.IntN(12)], words[random.IntN(12)], random.IntN(50), random.IntN(100), sentence(2+random.IntN(8))),
			Result:    fmt.Appendf(nil, `{"content":[{"type":"text","text":%q}],"n":%d}`, sentence(40), random.IntN(1000))}, &e)
		e.EventID = event.NewID(at, [10]byte{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(i), byte(i >> 8)})
		e.EmitterID, e.EmitterSeq = "files-1f6c0e7ab312", uint64(i+1)
		e.SetDefaults()
		data, err := proto.Marshal(wire.ToProto(&e))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

// BenchmarkCompression is what a batch of a full spool costs, compressed in each way
// that brokers know. B/event is on the wire and on the brokers' disks.
func BenchmarkCompression(b *testing.B) {
	const batch = 2000
	messages, _ := read(agentCalls(b, batch))
	var raw []byte
	for _, m := range messages {
		raw = append(raw, m.value...)
	}
	for _, c := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		name := "none"
		if c != 0 {
			name = c.String()
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var w counter
			for b.Loop() {
				w = 0
				if c == 0 {
					_, _ = w.Write(raw)
					continue
				}
				z := c.Codec().NewWriter(&w)
				if _, err := z.Write(raw); err != nil {
					b.Fatal(err)
				}
				if err := z.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(w)/batch, "B/event")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/event")
		})
	}
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

var _ io.Writer = (*counter)(nil)
