package wrap

import (
	"encoding/json"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// answer is what a result or an error says, read without changing it.
type answer struct {
	IsError    bool   `json:"isError"`
	ResultType string `json:"resultType"`
	Content    []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	} `json:"content"`
}

// JSON-RPC error codes of MCP and of its older revisions.
const (
	codeURLElicitation = "-32042" // the call waits for the user (2025-11-25)
	codeCancelled      = "-32800" // as LSP has it; some servers answer so
)

// judge fills the result group from a response. The JSON-RPC error and the
// tool's isError are told apart; a refusal is told from a failure by what the
// server says, since MCP has no code for it over stdio.
func judge(e *event.Event, m *message) {
	e.Outcome = "success"
	if m.Error != nil {
		e.ErrorCode, e.ErrorMessage = m.Error.Code.String(), m.Error.Message
		switch {
		case e.ErrorCode == codeURLElicitation:
			e.Outcome = "input_required"
		case e.ErrorCode == codeCancelled:
			e.Outcome = "cancelled"
		default:
			e.Outcome = worded(m.Error.Message, "protocol_error")
		}
	} else {
		var a answer
		if json.Unmarshal(m.Result, &a) == nil {
			switch {
			case a.IsError:
				for _, c := range a.Content {
					if c.Type == "text" {
						e.ErrorMessage = c.Text
						break
					}
				}
				e.Outcome = worded(e.ErrorMessage, "tool_error")
			case a.ResultType == "input_required":
				e.Outcome = "input_required"
			}
		}
	}
	if e.Outcome == "denied" {
		e.Decision, e.DecisionReason = "deny", "the server's error says so"
	}
}

// wordings are how servers say, in the first words of an error, that a call was
// refused and not that it failed.
var wordings = []struct {
	outcome string
	phrases []string
}{
	{"denied", []string{"access denied", "permission denied", "not permitted", "not allowed", "forbidden", "unauthorized",
		"not authorized", "insufficient_scope", "insufficient scope", "eacces", "eperm", "outside allowed"}},
	{"rate_limited", []string{"rate limit", "too many requests", "quota exceeded"}},
	{"timeout", []string{"timed out", "timeout", "deadline exceeded", "etimedout"}},
	{"cancelled", []string{"request was cancelled", "request cancelled", "operation was aborted"}},
}

func worded(text, otherwise string) string {
	const head = 300 // the reason stands first; what follows may be anything
	text = strings.ToLower(text[:min(len(text), head)])
	for _, w := range wordings {
		for _, p := range w.phrases {
			if strings.Contains(text, p) {
				return w.outcome
			}
		}
	}
	return otherwise
}
