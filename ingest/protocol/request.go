package protocol

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Request is what a request's parameters say.
type Request struct {
	Target    string          // tool name, resource URI or prompt name
	Arguments json.RawMessage // of a tool or prompt; for other methods all parameters without _meta; nil for none
	TaskID    string
	Answers   bool            // it answers an input_required result: the same call again
	Inputs    json.RawMessage // what it answers: what a user typed or a model said; nil for none
	Cancels   string          // the id that notifications/cancelled names, as JSON
	Reason    string          // why it was cancelled
	TraceID   string          // W3C trace context of _meta; both or neither
	SpanID    string
}

// ReadRequest reads the parameters of any method.
func ReadRequest(method string, params []byte) Request {
	p, err := ReadObject(params)
	if err != nil {
		return Request{Arguments: orNil(params)}
	}
	meta := p.Object("_meta")
	r := Request{TaskID: taskOf(p, meta), Answers: p.has("inputResponses") || p.has("requestState"), Inputs: orNil(p["inputResponses"]),
		Cancels: ID(p["requestId"]), Reason: p.Text("reason")}
	r.TraceID, r.SpanID = TraceContext(meta.Text("traceparent"))
	// Each method's own parameters and no others: servers ignore what they don't
	// know, so that a client could show the audit what no server reads.
	switch method {
	case "tools/call", "prompts/get":
		r.Target, r.Arguments = p.Text("name"), orNil(p["arguments"])
		return r
	case "initialize", "server/discover":
		return r // nothing but what is read already
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		r.Target = p.Text("uri")
	case "completion/complete":
		if ref := p.Object("ref"); ref.Text("type") == "ref/resource" {
			r.Target = ref.Text("uri")
		} else {
			r.Target = ref.Text("name")
		}
	}
	r.Arguments = withoutMeta(p, params)
	return r
}

// taskOf is the task that a message names or says that it belongs to.
func taskOf(o, meta Object) string {
	if id := o.Text("taskId"); id != "" {
		return id
	}
	return meta.Object("io.modelcontextprotocol/related-task").Text("taskId")
}

// ID is a JSON-RPC id as text, the same for all spellings of one id: peers answer
// in their own. Strings and numbers differ; an id that is neither is "".
func ID(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return ""
	}
	switch id := v.(type) {
	case string:
		text, err := json.Marshal(id)
		if err != nil {
			return ""
		}
		return string(text)
	case json.Number:
		if f, err := id.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return strconv.FormatInt(int64(f), 10)
		}
		return id.String()
	}
	return ""
}

// withoutMeta drops _meta, which is read apart and differs from call to call.
func withoutMeta(p Object, raw []byte) json.RawMessage {
	if _, ok := p["_meta"]; !ok {
		return orNil(raw)
	}
	rest := make(Object, len(p))
	for name, part := range p {
		if name != "_meta" {
			rest[name] = part
		}
	}
	if len(rest) == 0 {
		return nil
	}
	out, err := json.Marshal(rest)
	if err != nil {
		return raw
	}
	return out
}

func orNil(raw []byte) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}

// Kind sorts methods into the kinds of the event; an unknown one is "other".
func Kind(method string) string {
	switch method {
	case "tools/call":
		return "tool_call"
	case "tools/list":
		return "tools_list"
	case "resources/read":
		return "resource_read"
	case "prompts/get":
		return "prompt_get"
	case "completion/complete":
		return "completion"
	case "initialize", "server/discover":
		return "session"
	}
	if strings.HasPrefix(method, "tasks/") {
		return "task"
	}
	return "other"
}

// Peers is what the two sides say of themselves: never an identity.
type Peers struct {
	ClientName, ClientVersion string
	ServerName, ServerVersion string
	Version                   string // of the protocol
}

// ReadPeers reads what parameters or a result say of the peers: in initialize
// (up to 2025-11-25), or in _meta of any message (2026-07-28). What is not said
// is empty.
func ReadPeers(raw []byte) Peers {
	o, err := ReadObject(raw)
	if err != nil {
		return Peers{}
	}
	const prefix = "io.modelcontextprotocol/"
	meta := o.Object("_meta")
	peer := func(name string) (string, string) {
		said := o.Object(name)
		if m := meta.Object(prefix + name); m != nil {
			said = m
		}
		return said.Text("name"), said.Text("version")
	}
	p := Peers{Version: o.Text("protocolVersion")}
	p.ClientName, p.ClientVersion = peer("clientInfo")
	p.ServerName, p.ServerVersion = peer("serverInfo")
	if v := meta.Text(prefix + "protocolVersion"); v != "" {
		p.Version = v
	}
	return p
}

// TraceContext reads a W3C traceparent (Trace Context, section 3.2): version,
// trace-id, parent-id, flags. Anything malformed is no trace.
func TraceContext(traceparent string) (traceID, spanID string) {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || len(parts[1]) != 32 || len(parts[2]) != 16 {
		return "", ""
	}
	for _, p := range parts[:3] {
		if _, err := hex.DecodeString(p); err != nil || p != strings.ToLower(p) {
			return "", ""
		}
	}
	if strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return "", ""
	}
	return parts[1], parts[2]
}
