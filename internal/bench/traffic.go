package bench

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// traffic makes events like those of agents at work: sessions of 5 to 60 calls,
// a few servers with a few tools each, one call in fifteen failing. Half of the
// sessions are of wrapped stdio servers, which know neither credentials nor
// traces. Events are redacted as an emitter does it; one is about 730 bytes on
// the wire.
type traffic struct {
	r       *rand.Rand
	redact  *redact.Redactor
	at      time.Time
	left    int // calls left in the session
	session event.Event
}

func newTraffic(seed uint64, at time.Time) (*traffic, error) {
	r, err := redact.New(redact.DefaultProfile(), []byte("a key for benchmarks only, 32 by"))
	if err != nil {
		return nil, err
	}
	return &traffic{r: rand.New(rand.NewPCG(seed, seed)), redact: r, at: at}, nil
}

var (
	servers = []string{"files", "github", "postgres", "search", "calendar"}
	tools   = []string{"read_file", "list_directory", "search_code", "query", "create_issue", "get_events", "web_search", "write_file"}
	words   = []string{"quarterly", "report", "of", "the", "billing", "service", "latency", "customer", "update", "draft", "internal", "release", "notes", "please", "summarise", "compare", "with", "last", "week", "schema"}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (t *traffic) hex(bytes int) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 2*bytes)
	for i := range b {
		b[i] = digits[t.r.IntN(16)]
	}
	return string(b)
}

func (t *traffic) sentence(n int) string {
	s := ""
	for range n {
		s += pick(t.r, words) + " "
	}
	return s
}

func (t *traffic) begin() {
	agent := t.r.IntN(200)
	t.left = 5 + t.r.IntN(56)
	t.session = event.Event{
		Principal: fmt.Sprintf("issuer|user-%03d", agent), PrincipalKind: "agent",
		AgentID: fmt.Sprintf("agent-%03d", agent), ClientName: "assistant", ClientVersion: "2.1.0",
		Server: pick(t.r, servers), ServerVersion: "1.4.2", ServerInstance: "pod-7f9c",
		Environment: "production", Transport: "stdio", ProtocolVersion: "2025-11-25", Tenant: "default", SessionID: t.hex(16),
	}
	if t.r.IntN(2) == 0 {
		s := &t.session
		s.Transport, s.AuthMethod, s.CredentialID = "http", "oauth", fmt.Sprintf("%08x", agent*2654435761)
		s.ClientIP, s.TraceID = fmt.Sprintf("10.0.%d.%d", agent%7, agent), t.hex(16)
		s.Decision, s.ScopesGranted = "allow", []string{"files:read", "issues:write"}
	}
}

// content is the raw arguments and result of one call.
func (t *traffic) content() (arguments, result []byte) {
	a := map[string]any{
		"path": fmt.Sprintf("/srv/projects/%s/%s-%d.md", pick(t.r, words), pick(t.r, words), t.r.IntN(50)), "limit": t.r.IntN(100),
		"query": t.sentence(2 + t.r.IntN(8)), "options": map[string]any{"recursive": t.r.IntN(2) == 0, "depth": t.r.IntN(5)},
	}
	arguments, _ = json.Marshal(a)
	result, _ = json.Marshal(map[string]any{"content": []any{map[string]any{"type": "text", "text": t.sentence(40)}}, "n": t.r.IntN(1000)})
	return arguments, result
}

// next is the next event; its emitter and sequence number are the caller's.
func (t *traffic) next() *event.Event {
	if t.left == 0 {
		t.begin()
	}
	t.left--
	t.at = t.at.Add(time.Duration(1+t.r.IntN(40)) * time.Millisecond)
	e := t.session
	e.OccurredAt, e.Duration = t.at.UnixMicro(), uint64(1000+t.r.IntN(400000))
	e.Kind, e.Method, e.Target, e.Outcome = "tool_call", "tools/call", pick(t.r, tools), "success"
	copy(e.DefinitionDigest[:], e.Target+"----------------")
	e.Hints, e.RequestID = event.DefaultHints, fmt.Sprint(t.r.IntN(100))
	e.RequestBytes, e.ResponseBytes = uint64(300+t.r.IntN(500)), uint64(200+t.r.IntN(20000))
	if e.TraceID != "" {
		e.SpanID, e.HTTPStatus = t.hex(8), 200
	}
	if t.r.IntN(15) == 0 {
		e.Outcome, e.ErrorCode, e.ErrorMessage = "tool_error", "ENOENT", "no such file or directory"
	}
	arguments, result := t.content()
	t.redact.Apply(redact.Call{Server: e.Server, Method: e.Method, Target: e.Target, Arguments: arguments, Result: result, ErrorMessage: e.ErrorMessage}, &e)
	e.EventID = t.id(t.at)
	e.SetDefaults()
	return &e
}

func (t *traffic) id(at time.Time) event.ID {
	var noise [10]byte
	binary.LittleEndian.PutUint64(noise[:], t.r.Uint64())
	binary.LittleEndian.PutUint16(noise[8:], uint16(t.r.Uint32()))
	return event.NewID(at, noise)
}
