package gosdk

import (
	"encoding/json"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// snapshot is a result as it is now, to be marshalled later. The SDK and the
// server may change what they returned: the SDK writes into _meta, a tool may use
// a value again. So structs are copied, _meta is left out, and values of types
// that nobody here knows are marshalled at once.
func snapshot(result mcp.Result) any {
	switch r := result.(type) {
	case nil:
		return nil
	case *mcp.CallToolResult:
		if r == nil {
			return nil
		}
		c := *r
		c.Meta = nil
		c.Content = make([]mcp.Content, len(r.Content))
		for i, content := range r.Content {
			c.Content[i] = snapshotContent(content)
		}
		switch s := r.StructuredContent.(type) {
		case nil, json.RawMessage:
		default:
			c.StructuredContent = marshalled(s)
		}
		if r.InputRequests != nil {
			return marshalled(&c)
		}
		return &c
	case *mcp.ReadResourceResult:
		if r == nil || r.InputRequests != nil {
			return marshalled(r)
		}
		c := *r
		c.Meta = nil
		c.Contents = make([]*mcp.ResourceContents, len(r.Contents))
		for i, content := range r.Contents {
			if content != nil {
				part := *content
				part.Meta = nil
				c.Contents[i] = &part
			}
		}
		return &c
	case *mcp.ListToolsResult:
		if r == nil {
			return nil
		}
		// The SDK shares tools between sessions and never changes one.
		c := *r
		c.Meta, c.Tools = nil, slices.Clone(r.Tools)
		return &c
	}
	return marshalled(result)
}

func snapshotContent(content mcp.Content) mcp.Content {
	switch c := content.(type) {
	case *mcp.TextContent:
		return &mcp.TextContent{Text: c.Text}
	case *mcp.ImageContent:
		return &mcp.ImageContent{Data: c.Data, MIMEType: c.MIMEType}
	case *mcp.AudioContent:
		return &mcp.AudioContent{Data: c.Data, MIMEType: c.MIMEType}
	}
	return rawContent{content, marshalled(content)}
}

// rawContent is content that was marshalled already.
type rawContent struct {
	mcp.Content
	raw json.RawMessage
}

// MarshalJSON returns what was marshalled.
func (c rawContent) MarshalJSON() ([]byte, error) { return c.raw, nil }

// marshalled is a value as JSON, null when it can't be written so. The SDK
// marshals it as well before it answers, in the same place.
func marshalled(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}
