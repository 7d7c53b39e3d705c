package wire

import (
	"google.golang.org/protobuf/encoding/protowire"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Load is what events hold that are not read yet. Two megabytes of empty events are
// two gigabytes of messages: so room is found first, and for that the bytes are
// looked at, without allocating anything.
type Load struct {
	Bytes   int // on the wire
	Events  int
	Entries int // of the events' lists and maps
}

// What an event and an entry of its lists take in memory at most, in bytes: as a
// message and as the record while the one becomes the other, then as the record
// alone. Texts are not counted here: they stay where they came in.
const (
	eventMemory, entryMemory         = 2600, 200
	eventMemoryAfter, entryAfterward = 1300, 72
)

// Memory is what the events take while they are read, in bytes: the unit of
// ingest.Config.MaxBytes.
func (l Load) Memory() int64 {
	return int64(l.Bytes) + int64(l.Events)*eventMemory + int64(l.Entries)*entryMemory
}

// After is what they take from then on.
func (l Load) After() int64 {
	return int64(l.Bytes) + int64(l.Events)*eventMemoryAfter + int64(l.Entries)*entryAfterward
}

// Add counts one event, a message of Event. Its bytes are the caller's to count: they
// may be part of a message that is counted as a whole.
func (l *Load) Add(message []byte) error {
	l.Events++
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if int(number) < len(isList) && isList[number] {
			l.Entries++
		}
	}
	return nil
}

// isList marks the numbers of an event's lists and maps.
var isList = func() (list [256]bool) {
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.IsList() || f.IsMap() {
			list[f.Number()] = true
		}
	}
	return list
}()
