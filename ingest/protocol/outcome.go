package protocol

import "strings"

// Outcome is what came of a request, in the event's words.
type Outcome struct {
	Outcome string
	Code    string // of a JSON-RPC error
	Message string // of an error, not redacted
}

// JSON-RPC error codes of MCP and of its older revisions.
const (
	codeURLElicitation = "-32042" // the call waits for the user (2025-11-25)
	codeCancelled      = "-32800" // as LSP has it; some servers answer so
)

// JudgeError is what a JSON-RPC error means.
func JudgeError(code, message string) Outcome {
	o := Outcome{Code: code, Message: message}
	switch code {
	case codeURLElicitation:
		o.Outcome = "input_required"
	case codeCancelled:
		o.Outcome = "cancelled"
	default:
		o.Outcome = worded(message, "protocol_error")
	}
	return o
}

// JudgeResult is what a result means. A tool's isError and a JSON-RPC error are
// told apart; a refusal is told from a failure by what the server says, since MCP
// has no word for it.
func JudgeResult(result []byte) Outcome {
	r, err := ReadObject(result)
	if err != nil {
		return Outcome{Outcome: "success"}
	}
	if failed, _ := r.Bool("isError"); failed {
		o := Outcome{}
		for _, raw := range r.List("content") {
			if c, err := ReadObject(raw); err == nil && c.Text("type") == "text" {
				o.Message = c.Text("text")
				break
			}
		}
		o.Outcome = worded(o.Message, "tool_error")
		return o
	}
	if r.Text("resultType") == "input_required" {
		return Outcome{Outcome: "input_required"}
	}
	return Outcome{Outcome: "success"}
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
