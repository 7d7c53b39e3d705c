package kafka

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// A message is one event. Its header content-type says how it is written:
//
//	application/protobuf, application/x-protobuf   a message of mcpaudit.v1.Event
//	application/json                               its JSON form (protojson, snake_case)
//	application/cloudevents+json                   a CloudEvent with one of them as its data
//
// Without the header, what begins with a brace is JSON, and all else protobuf, in
// which no message begins so. Headers ce_… are those of a CloudEvent in binary mode
// (CloudEvents Kafka protocol binding 1.0.2, section 3.2). Of a CloudEvent, type has to
// be EventType; id, time and traceparent fill what the event itself does not say.

// EventType is the type of a CloudEvent that is an event.
const EventType = "dev.mcpaudit.event.v1"

// MaxMessage is how long a message may be, in bytes: more than any event is.
const MaxMessage = 1 << 20

// Reasons for which a message is no event that can be stored, as categories.
var Reasons = []string{"empty", "too_large", "content_type", "malformed", "invalid", "too_many_gaps", "wrong_key", "reserved"}

// defect is why a message is no event.
type defect struct {
	reason string // one of Reasons
	words  string // for people; holds nothing of the message's contents
}

func (d *defect) Error() string { return d.words }

// rejection is the reason for which the pipeline has refused an event.
func rejection(r ingest.Rejection) string {
	if r.Gaps {
		return "too_many_gaps"
	}
	return "invalid"
}

// loadOf is what messages take in memory when they are read.
func loadOf(records []record) (l wire.Load) {
	for i := range records {
		v := records[i].value
		l.Bytes += len(v)
		if len(v) > MaxMessage {
			continue
		}
		if looksLikeJSON(v) {
			// Each thing in it has a comma, a brace or a bracket before it.
			l.Events++
			l.Bytes += len(v) // its texts are copied
			l.Entries += bytes.Count(v, []byte{','}) + bytes.Count(v, []byte{'{'}) + bytes.Count(v, []byte{'['})
			continue
		}
		_ = l.Add(v) // what is malformed is found when it is read
	}
	return l
}

func looksLikeJSON(v []byte) bool {
	v = bytes.TrimLeft(v, " \t\r\n")
	return len(v) > 0 && v[0] == '{'
}

// decode makes a message the record, or says why it is none. The event shares memory
// with the message.
func decode(r *record) (*event.Event, *defect) {
	switch {
	case len(r.value) == 0:
		return nil, &defect{"empty", "the message is empty"}
	case len(r.value) > MaxMessage:
		return nil, &defect{"too_large", "the message is larger than 1 MiB, which no event is"}
	}
	h := headersOf(r)
	m, d := read(h, r.value)
	if d != nil {
		return nil, d
	}
	if d := fill(m, h); d != nil {
		return nil, d
	}
	e := new(event.Event)
	if err := wire.FromProto(m, e); err != nil {
		return nil, &defect{"invalid", err.Error()}
	}
	// Who writes to the topic is for its brokers to decide; nobody writes as the service.
	if err := auth.Reserved(e); err != nil {
		return nil, &defect{"reserved", err.Error()}
	}
	return e, nil
}

// headers are those that mean something here.
type headers struct {
	contentType string
	cloud       bool // there is ce_specversion
	version     string
	kind        string // ce_type
	id, time    string
	traceparent string
}

func headersOf(r *record) (h headers) {
	for _, x := range r.headers {
		if len(x.Value) > 1000 {
			continue // means nothing here
		}
		v := string(x.Value)
		switch strings.ToLower(x.Key) {
		case "content-type":
			h.contentType = v
		case "ce_specversion":
			h.cloud, h.version = true, v
		case "ce_type":
			h.kind = v
		case "ce_id":
			h.id = v
		case "ce_time":
			h.time = v
		case "ce_traceparent", "traceparent":
			h.traceparent = v
		}
	}
	return h
}

// read reads the message as its content type says.
func read(h headers, value []byte) (*pb.Event, *defect) {
	kind := ""
	if h.contentType != "" {
		var err error
		if kind, _, err = mime.ParseMediaType(h.contentType); err != nil {
			return nil, &defect{"content_type", "the header content-type is malformed"}
		}
	}
	switch kind {
	case "":
		if looksLikeJSON(value) {
			return readJSON(value)
		}
		return readProto(value)
	case "application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf":
		return readProto(value)
	case "application/json", "text/json":
		return readJSON(value)
	case "application/cloudevents+json":
		return readCloudEvent(value)
	}
	return nil, &defect{"content_type", "the header content-type is none of application/protobuf, application/json and application/cloudevents+json"}
}

func readProto(value []byte) (*pb.Event, *defect) {
	m := &pb.Event{}
	if err := m.UnmarshalVTUnsafe(value); err != nil {
		return nil, &defect{"malformed", "the message is no protobuf message of mcpaudit.v1.Event, or was cut off"}
	}
	return m, nil
}

func readJSON(value []byte) (*pb.Event, *defect) {
	m := &pb.Event{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(value, m); err != nil {
		return nil, &defect{"malformed", "the message is no JSON object of an event (protojson of mcpaudit.v1.Event), or was cut off"}
	}
	return m, nil
}

// readCloudEvent reads one in structured mode (CloudEvents JSON format 1.0.2).
func readCloudEvent(value []byte) (*pb.Event, *defect) {
	var envelope struct {
		SpecVersion     string          `json:"specversion"`
		Type            string          `json:"type"`
		ID              string          `json:"id"`
		Time            string          `json:"time"`
		Traceparent     string          `json:"traceparent"`
		DataContentType string          `json:"datacontenttype"`
		Data            json.RawMessage `json:"data"`
		Base64          *string         `json:"data_base64"`
	}
	if err := json.Unmarshal(value, &envelope); err != nil {
		return nil, &defect{"malformed", "the message is no CloudEvent in JSON, or was cut off"}
	}
	h := headers{contentType: envelope.DataContentType, cloud: true, version: envelope.SpecVersion, kind: envelope.Type, id: envelope.ID, time: envelope.Time, traceparent: envelope.Traceparent}
	data := []byte(envelope.Data)
	if envelope.Base64 != nil {
		var err error
		if data, err = base64.StdEncoding.DecodeString(*envelope.Base64); err != nil {
			return nil, &defect{"malformed", "the CloudEvent's data_base64 is not base64"}
		}
	}
	if len(data) == 0 {
		return nil, &defect{"empty", "the CloudEvent has no data"}
	}
	if strings.HasPrefix(h.contentType, "application/cloudevents") {
		return nil, &defect{"content_type", "a CloudEvent is in a CloudEvent"}
	}
	m, d := read(h, data)
	if d == nil {
		d = fill(m, h)
	}
	return m, d
}

// fill takes from a CloudEvent what the event does not say.
func fill(m *pb.Event, h headers) *defect {
	if m.GetTraceId() == "" {
		m.TraceId, m.SpanId = trace(h.traceparent, m.GetSpanId())
	}
	if !h.cloud {
		return nil
	}
	if h.version != "1.0" && h.version != "0.3" {
		return &defect{"content_type", "the CloudEvent is of a version that is not known here; 1.0 is"}
	}
	if h.kind != EventType {
		return &defect{"content_type", "the CloudEvent's type is not " + EventType}
	}
	if m.GetEventId() == "" {
		m.EventId = h.id
	}
	if m.GetOccurredAt() == nil && h.time != "" {
		t, err := time.Parse(time.RFC3339Nano, h.time)
		if err != nil {
			return &defect{"malformed", "the CloudEvent's time is not one of RFC 3339"}
		}
		m.OccurredAt = timestamppb.New(t)
	}
	return nil
}

// trace reads a traceparent (W3C Trace Context, section 3.2), "" when there is none.
func trace(parent, span string) (traceID, spanID string) {
	parts := strings.Split(parent, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || len(parts[1]) != 32 || len(parts[2]) != 16 || strings.Trim(parts[1], "0") == "" ||
		strings.Trim(parts[1]+parts[2], "0123456789abcdef") != "" {
		return "", span
	}
	if span == "" {
		span = parts[2]
	}
	return parts[1], span
}
