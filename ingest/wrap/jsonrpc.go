package wrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// message is one JSON-RPC 2.0 message, as far as an audit needs it. Raw parts
// share the line's memory.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *rpcError       `json:"error"`

	size int // bytes of the whole line, or of its share of a batch
}

type rpcError struct {
	Code    json.Number     `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

func (m *message) isRequest() bool      { return m.Method != "" && m.hasID() }
func (m *message) isNotification() bool { return m.Method != "" && !m.hasID() }
func (m *message) isResponse() bool     { return m.Method == "" && m.hasID() }

// hasID says whether the id is a string or a number, as the specification has
// it; null is no id.
func (m *message) hasID() bool {
	return len(m.ID) > 0 && !bytes.Equal(m.ID, []byte("null"))
}

// key is the id in one spelling, so that 1 and "1" differ and white space does
// not.
func (m *message) key() string { return string(bytes.TrimSpace(m.ID)) }

const maxBatch = 1000

var errNotJSONRPC = errors.New("neither a request, a notification nor an answer")

// parse reads one line: a message, or a batch of them (JSON-RPC 2.0 section 6,
// MCP 2025-03-26). It never changes the line.
func parse(line []byte) ([]message, error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil, nil
	}
	var raw []json.RawMessage
	if line[0] == '[' {
		if err := json.Unmarshal(line, &raw); err != nil {
			return nil, fmt.Errorf("read a JSON-RPC batch: %w", syntax(err))
		}
		if len(raw) == 0 || len(raw) > maxBatch {
			return nil, fmt.Errorf("read a JSON-RPC batch: it has %d messages", len(raw))
		}
	} else {
		raw = []json.RawMessage{line}
	}
	out := make([]message, len(raw))
	for i, r := range raw {
		m := &out[i]
		if err := json.Unmarshal(r, m); err != nil {
			return nil, fmt.Errorf("read a JSON-RPC message: %w", syntax(err))
		}
		if !m.isRequest() && !m.isNotification() && !m.isResponse() && m.Error == nil {
			return nil, fmt.Errorf("read a JSON-RPC message: %w", errNotJSONRPC)
		}
		m.size = len(r)
	}
	return out, nil
}

// syntax keeps the place of a JSON error and drops its words: they may quote
// the message.
func syntax(err error) error {
	var s *json.SyntaxError
	if errors.As(err, &s) {
		return fmt.Errorf("malformed JSON at byte %d", s.Offset)
	}
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return fmt.Errorf("a field of the wrong type at byte %d", t.Offset)
	}
	return errors.New("malformed JSON")
}
