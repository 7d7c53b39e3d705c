package scope

import (
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// content are the fields of Event that show something of what a call was about, not
// only who made it, when, of what, and how it ended. At the content level none they are
// neither returned nor can anything be searched, ordered or grouped by them: whoever can
// ask whether the arguments contain a word can read them, a word at a time.
//
//	arguments                         the content itself
//	error_message                     servers quote arguments and results in it
//	decision_reason                   policies quote what they refuse: a path, a host
//	labels                            free texts of who runs the server; of events that the
//	                                  service makes of itself, filters and notes
//	signals                           some carry a value: url:example.com
//	removed                           paths have the keys of the arguments, classes say what
//	                                  sort of value was there
//	arguments_digest, result_digest,  one value has one digest: who can make a call can find
//	arguments_shape                   out whether somebody else made the same
//	argument_marks, result_marks      likewise, of single values
//
// Still shown: target, though a resource's URI is one, because what was read is what
// an audit is about; error_code, a word; sizes and counts.
var content = []string{
	"arguments", "error_message", "decision_reason", "labels", "signals", "removed",
	"arguments_digest", "result_digest", "arguments_shape", "argument_marks", "result_marks",
}

// findingContent are the fields of Finding that may quote such fields of events: a
// scope violation's reason has the policy's, and a contradiction's what the emitter said;
// and what was observed names the signals that content hides.
var findingContent = []string{"observed", "reason", "workings"}

// HiddenFields are the fields of Event that a content level does not show, sorted.
func HiddenFields(c auth.Content) []string { return hidden(c, content) }

// HiddenFindingFields are those of Finding.
func HiddenFindingFields(c auth.Content) []string { return hidden(c, findingContent) }

func hidden(c auth.Content, fields []string) []string {
	if c.AtLeast(auth.ContentRedacted) {
		return nil
	}
	return slices.Sorted(slices.Values(fields))
}

// StripEvent takes out of an event what a content level does not show, and returns it.
func StripEvent(c auth.Content, e *pb.Event) *pb.Event {
	strip(e.ProtoReflect(), HiddenFields(c))
	return e
}

// StripFinding does the same with a finding.
func StripFinding(c auth.Content, f *pb.Finding) *pb.Finding {
	strip(f.ProtoReflect(), HiddenFindingFields(c))
	return f
}

func strip(m protoreflect.Message, fields []string) {
	for _, name := range fields {
		m.Clear(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
	}
}
