package export

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// state is where an export is between two parts: what a resume token holds.
type state struct {
	Filter  string   `json:"filter,omitempty"`
	Formats []string `json:"formats"`
	Bundle  bool     `json:"bundle,omitempty"`
	// By is who asked, for people; Owner is the id by which the export goes on for nobody
	// else.
	By    string `json:"by,omitempty"`
	Owner string `json:"owner"`
	// Tenants of which the events are exported; nil for every tenant.
	Tenants []string `json:"tenants"`
	Reason  string   `json:"reason,omitempty"`
	MadeAt  string   `json:"made_at"`

	Logs []logState `json:"logs"`
	// Log and Next are the first batch that is not exported yet: an index of Logs,
	// and the batch's number.
	Log     int    `json:"log"`
	Next    uint64 `json:"next"`
	Parts   int    `json:"parts"` // finished ones
	Files   []File `json:"files,omitempty"`
	Events  uint64 `json:"events"`
	Total   uint64 `json:"total"` // about
	Entries uint64 `json:"entries"`
}

// logState is one log of an export.
type logState struct {
	ID      string `json:"id"`
	Size    uint64 `json:"size"` // entries that the export is of
	Touched uint64 `json:"touched"`
	Events  uint64 `json:"events"`
}

// inParts says that the export can be cut into parts. A file of Parquet alone can't:
// what it has is listed at its end.
func (s *state) inParts() bool { return s.Bundle || s.Formats[0] != "parquet" }

// whole says that every event of every log is exported.
func (s *state) whole() bool { return strings.TrimSpace(s.Filter) == "" && s.Tenants == nil }

// sameTenants says whether two sets of tenants are the same; nil is every tenant.
func sameTenants(a, b []string) bool { return (a == nil) == (b == nil) && slices.Equal(a, b) }

// maxToken is what a request takes, in bytes.
const maxToken = 1 << 20

var (
	errToken      = errors.New("resume_token: not one that a service gave")
	errNotOwn     = errors.New("resume_token: it was given to somebody else, or the tenants that you may export are others now; start the export again")
	errOtherToken = errors.New("resume_token: it was given by another service, or before the log's key was replaced; start the export again")
)

// seal makes a resume token: HMAC-SHA-256 ‖ JSON. With it a service that signs the
// manifest in the end signs only what it made itself.
func (s *state) seal(key []byte) ([]byte, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write resume token: %w", err)
	}
	return append(tokenMAC(key, text), text...), nil
}

// openToken reads a resume token; the error is errToken or errOtherToken.
func openToken(token, key []byte) (*state, error) {
	if len(token) < sha256.Size || len(token) > maxToken {
		return nil, errToken
	}
	mac, text := token[:sha256.Size], token[sha256.Size:]
	s := &state{}
	if err := parseStrict(text, s); err != nil || len(s.Formats) == 0 || s.Log < 0 || s.Log > len(s.Logs) {
		return nil, errToken
	}
	if !hmac.Equal(mac, tokenMAC(key, text)) {
		return nil, errOtherToken
	}
	for _, f := range s.Formats {
		if !slices.Contains(Formats, f) {
			return nil, errOtherToken
		}
	}
	return s, nil
}

func tokenMAC(key, text []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("mcpaudit export token v1\x00"))
	h.Write(text)
	return h.Sum(nil)
}
