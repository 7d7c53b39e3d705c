package protocol

import (
	"encoding/json"
	"regexp"
	"strings"
)

// Outcome is what came of a request, in the event's words.
type Outcome struct {
	Outcome string
	Code    string // of a JSON-RPC error
	Message string // of an error, not redacted
	TaskID  string // of the task that the answer began or belongs to
}

// JSON-RPC error codes of MCP and of its older revisions.
const (
	codeURLElicitation = "-32042" // the call waits for the user (2025-11-25)
	codeCancelled      = "-32800" // as LSP has it; some servers answer so
)

// Codes of JSON-RPC 2.0 (section 5.1) that say that the request itself was wrong,
// whatever the words beside them.
var malformed = map[string]bool{"-32700": true, "-32600": true, "-32601": true, "-32602": true}

// JudgeError is what a JSON-RPC error means.
func JudgeError(code, message string) Outcome {
	o := Outcome{Code: code, Message: message}
	switch {
	case code == codeURLElicitation:
		o.Outcome = "input_required"
	case code == codeCancelled:
		o.Outcome = "cancelled"
	case malformed[code]:
		o.Outcome = "protocol_error"
	default:
		o.Outcome = worded(message, "protocol_error")
	}
	return o
}

// JudgeResult is what a method's result means; no result at all is an error. A
// tool's isError and a JSON-RPC error are told apart; a refusal is told from a
// failure by what the server says, since MCP has no word for it.
func JudgeResult(method string, result []byte) Outcome {
	if len(result) == 0 {
		return Outcome{Outcome: "protocol_error", Message: "the answer has neither a result nor an error"}
	}
	r, err := ReadObject(result)
	if err != nil {
		return Outcome{Outcome: "success"}
	}
	task := r.Object("task")
	o := Outcome{TaskID: taskOf(r, r.Object("_meta"))}
	if o.TaskID == "" {
		o.TaskID = task.Text("taskId")
	}
	failed, _ := r.Bool("isError")
	switch {
	case failed:
		for _, raw := range r.List("content") {
			if c, err := ReadObject(raw); err == nil && c.Text("type") == "text" {
				o.Message = c.Text("text")
				break
			}
		}
		o.Outcome = worded(o.Message, "tool_error")
	case r.Text("resultType") == "input_required":
		o.Outcome = "input_required"
	case method == "tasks/get":
		judgeTask(&o, r)
	default:
		o.Outcome = "success"
	}
	return o
}

// judgeTask is what a poll says of its task: a tool that fails in a task fails.
func judgeTask(o *Outcome, task Object) {
	o.Outcome = "success"
	switch task.Text("status") {
	case "failed":
		o.Message = task.Text("statusMessage")
		if e := task.Object("error"); e != nil {
			o.Code, o.Message = ErrorCode(e["code"]), e.Text("message")
		}
		o.Outcome = worded(o.Message, "tool_error")
	case "cancelled":
		o.Outcome = "cancelled"
	case "input_required":
		o.Outcome = "input_required"
	case "completed":
		if inner, ok := task["result"]; ok { // the tasks extension answers with the result itself
			done := JudgeResult("", inner)
			o.Outcome, o.Message = done.Outcome, done.Message
		}
	}
}

// ErrorCode is an error's code as text: a number, as JSON-RPC has it. Anything
// else could carry what nobody looks for there, and is "".
func ErrorCode(raw []byte) string {
	var n json.Number
	if len(raw) > 24 || json.Unmarshal(raw, &n) != nil || len(raw) > 0 && raw[0] == '"' {
		return ""
	}
	return n.String()
}

// wordings are how servers say, in the first words of an error, that a call was
// refused and not that it failed. A word alone is no such sign: a wrong argument
// is "not allowed" as well.
var wordings = []struct {
	outcome string
	words   *regexp.Regexp
}{
	{"denied", regexp.MustCompile(`\b(access (is |was )?denied|permission denied|operation not permitted|forbidden|unauthori[sz]ed|not authori[sz]ed|insufficient[_ ]scope|eacces|eperm|outside (of )?(the )?allowed)\b`)},
	{"rate_limited", regexp.MustCompile(`\b(rate[- ]?limit(ed)?|too many requests|quota exceeded)\b`)},
	{"timeout", regexp.MustCompile(`\b(timed out|timeout (of|after|exceeded)|(request|connection|operation) timeout|deadline exceeded|etimedout)\b`)},
	{"cancelled", regexp.MustCompile(`\b(request (was )?cancell?ed|operation was (aborted|cancell?ed))\b`)},
}

func worded(text, otherwise string) string {
	const head = 300 // the reason stands first; what follows may be anything
	text = strings.ToLower(text[:min(len(text), head)])
	for _, w := range wordings {
		if w.words.MatchString(text) {
			return w.outcome
		}
	}
	return otherwise
}
