package emit

import (
	"cmp"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/protocol"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// Bounds of what is remembered of a server, against one that invents tools and
// clients that never come back.
const (
	maxTools   = 5000
	maxRetries = 10000
)

// Calls knows of one MCP server what single messages don't say: the definition
// that a called tool has, and which call is another try of an earlier one. What
// wrap and the middleware see becomes events through it.
//
// It is not safe for use by several goroutines.
type Calls struct {
	redact  *redact.Redactor
	tools   *simplelru.LRU[string, tool]
	retries *simplelru.LRU[string, uint32] // next attempt of a logical call
}

// tool is what tools/list said of one.
type tool struct {
	digest event.Digest
	hints  event.Hints
}

// NewCalls begins with a server of which nothing is known.
func NewCalls(r *redact.Redactor) *Calls {
	c := &Calls{redact: r}
	c.tools, _ = simplelru.NewLRU[string, tool](maxTools, nil)
	c.retries, _ = simplelru.NewLRU[string, uint32](maxRetries, nil)
	return c
}

// Asked fills what a request says into its event, which has the method and who
// calls.
func (c *Calls) Asked(e *event.Event, r protocol.Request) {
	e.Kind, e.Target, e.TaskID = protocol.Kind(e.Method), r.Target, r.TaskID
	if r.TraceID != "" {
		e.TraceID, e.SpanID = r.TraceID, r.SpanID
	}
	if t, ok := c.tools.Get(e.Target); ok && e.Kind == "tool_call" {
		e.DefinitionDigest, e.Hints = t.digest, t.hints
	}
	key := retryKey(e, r.Arguments)
	switch {
	case key == "":
	case e.Kind == "task":
		// A poll of a task is the same logical call again.
		e.Attempt, _ = c.retries.Get(key)
		c.retries.Add(key, e.Attempt+1)
	case r.Answers:
		// A client may say that it answers though nothing was asked: that is a call like
		// any other.
		e.Attempt, _ = c.retries.Get(key)
	}
}

// Answered fills what came of the request. It returns records of what else the two
// brought: each tool definition that is new or has changed, and what a user or
// model was asked for by an earlier answer.
func (c *Calls) Answered(e *event.Event, r protocol.Request, result []byte, o protocol.Outcome) (more []Record) {
	e.Outcome, e.ErrorCode, e.ErrorMessage = o.Outcome, o.Code, o.Message
	e.TaskID = cmp.Or(e.TaskID, o.TaskID)
	if e.Outcome == "denied" && e.Decision == "" {
		e.Decision, e.DecisionReason = "deny", "the server's error says so"
	}
	if key := retryKey(e, r.Arguments); key != "" && e.Outcome == "input_required" {
		c.retries.Add(key, e.Attempt+1)
	}
	if r.Inputs != nil {
		in := *e
		in.EventID, in.Kind, in.Method, in.Outcome = event.ID{}, "other", "mcpaudit/inputs", "success"
		in.Duration, in.RequestBytes, in.ResponseBytes = 0, uint64(len(r.Inputs)), 0
		in.ErrorCode, in.ErrorMessage = "", ""
		more = append(more, Record{Event: &in, Arguments: r.Inputs})
	}
	if e.Kind == "tools_list" {
		more = append(more, c.definitions(e, result)...)
	}
	return more
}

// retryKey is what a call and its legitimate repetition have in common, "" when
// there is no such repetition. Clients don't share it.
func retryKey(e *event.Event, arguments []byte) string {
	const most = 4096 // bytes of the arguments; a key is not to hold megabytes
	who := e.Principal + "\x00" + e.SessionID + "\x00" + e.Method + "\x00"
	switch {
	case e.Kind == "task" && e.TaskID != "":
		return who + e.TaskID
	case e.Kind == "tool_call" || e.Kind == "prompt_get" || e.Kind == "resource_read":
		return who + e.Target + "\x00" + string(arguments[:min(len(arguments), most)])
	}
	return ""
}

// definitions keeps the digest of every tool that a tools/list answer defines.
func (c *Calls) definitions(list *event.Event, result []byte) (records []Record) {
	for _, t := range protocol.ReadTools(result, maxTools) {
		digest, signals := c.redact.Definition(t.Description, t.Schemas)
		now := tool{digest: digest, hints: t.Hints}
		before, known := c.tools.Get(t.Name)
		c.tools.Add(t.Name, now)
		if known && before == now {
			continue
		}
		e := *list
		e.EventID = event.ID{}
		e.OccurredAt, e.Duration = list.OccurredAt+int64(list.Duration), 0
		e.Target, e.RequestBytes, e.ResponseBytes = t.Name, 0, uint64(len(t.Definition))
		e.DefinitionDigest, e.Hints, e.Signals = digest, now.hints, signals
		e.Labels = []event.Label{{Key: "definition", Value: "new"}}
		if known {
			e.Labels[0].Value = "changed"
		}
		records = append(records, Record{Event: &e, Arguments: t.Definition})
	}
	return records
}
