package wrap

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/protocol"
)

// message is one JSON-RPC 2.0 message, as far as an audit needs it. Raw parts
// share the line's memory.
type message struct {
	ID     json.RawMessage
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  *rpcError

	size int // bytes of the whole line, or of its share of a batch
}

type rpcError struct {
	Code    string
	Message string
	Data    json.RawMessage
}

func (m *message) isRequest() bool      { return m.Method != "" && m.hasID() }
func (m *message) isNotification() bool { return m.Method != "" && !m.hasID() }
func (m *message) isResponse() bool     { return m.Method == "" && m.hasID() }

// hasID says whether the id is a string or a number, as the specification has
// it; null is no id.
func (m *message) hasID() bool {
	return len(m.ID) > 0 && !bytes.Equal(m.ID, []byte("null"))
}

// key is the id in one spelling, cut when somebody uses megabytes for one.
func (m *message) key() string {
	const most = 200
	id := protocol.ID(m.ID)
	if len(id) > most {
		sum := sha256.Sum256([]byte(id))
		return event.ClipText(id, most) + hex.EncodeToString(sum[:8])
	}
	return id
}

// outcome is what came of the request that this answers.
func (m *message) outcome(method string) protocol.Outcome {
	if m.Error != nil {
		return protocol.JudgeError(m.Error.Code, m.Error.Message)
	}
	return protocol.JudgeResult(method, m.Result)
}

const maxBatch = 1000

var errNotJSONRPC = errors.New("neither a request, a notification nor an answer")

// parse reads one line: a message, or a batch of them (JSON-RPC 2.0 section 6,
// MCP 2025-03-26). It never changes the line. What can't be read is among the
// errors; it hides nothing beside it, since a server may act on the rest.
func parse(line []byte) (messages []message, unread []error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil, nil
	}
	raw := []json.RawMessage{line}
	if line[0] == '[' {
		var err error
		if raw, err = protocol.ReadList(line); err != nil {
			return nil, []error{fmt.Errorf("read a JSON-RPC batch: %w", err)}
		}
		if len(raw) == 0 {
			return nil, []error{errors.New("read a JSON-RPC batch: it is empty")}
		}
		if len(raw) > maxBatch {
			unread = append(unread, fmt.Errorf("read a JSON-RPC batch: of its %d messages only %d are read", len(raw), maxBatch))
			raw = raw[:maxBatch]
		}
	}
	for _, r := range raw {
		m, err := parseOne(r)
		if err != nil {
			unread = append(unread, fmt.Errorf("read a JSON-RPC message: %w", err))
			continue
		}
		messages = append(messages, m)
	}
	return messages, unread
}

func parseOne(raw []byte) (message, error) {
	o, err := protocol.ReadObject(raw)
	if err != nil {
		return message{}, err
	}
	m := message{ID: o["id"], Method: o.Text("method"), Params: o["params"], Result: o["result"], size: len(raw)}
	if raw, ok := o["error"]; ok && string(raw) != "null" {
		e := o.Object("error") // one that is no object is an error all the same
		m.Error = &rpcError{Code: protocol.ErrorCode(e["code"]), Message: cmp.Or(e.Text("message"), o.Text("error")), Data: e["data"]}
	}
	if !m.isRequest() && !m.isNotification() && !m.isResponse() && m.Error == nil {
		return message{}, errNotJSONRPC
	}
	return m, nil
}
