package protocol

import (
	"encoding/json"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Tool is one definition in a tools/list result.
type Tool struct {
	Name        string
	Description string
	Schemas     []byte // input and output schema, as a JSON list of the two
	Hints       event.Hints
	Definition  json.RawMessage // all of it, without _meta
}

// ReadTools reads at most most definitions of a tools/list result; those without
// a name are left out.
func ReadTools(result []byte, most int) []Tool {
	r, err := ReadObject(result)
	if err != nil {
		return nil
	}
	var tools []Tool
	for _, raw := range r.List("tools") {
		o, err := ReadObject(raw)
		if err != nil || o.Text("name") == "" {
			continue
		}
		if len(tools) == most {
			break
		}
		t := Tool{Name: o.Text("name"), Description: o.Text("description"), Hints: event.DefaultHints, Definition: withoutMeta(o, raw)}
		schemas, err := json.Marshal([]json.RawMessage{orNull(o["inputSchema"]), orNull(o["outputSchema"])})
		if err != nil {
			continue
		}
		t.Schemas = schemas
		said := o.Object("annotations")
		for name, hint := range map[string]*bool{"readOnlyHint": &t.Hints.ReadOnly, "destructiveHint": &t.Hints.Destructive,
			"idempotentHint": &t.Hints.Idempotent, "openWorldHint": &t.Hints.OpenWorld} {
			if value, ok := said.Bool(name); ok {
				*hint = value
			}
		}
		tools = append(tools, t)
	}
	return tools
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}
