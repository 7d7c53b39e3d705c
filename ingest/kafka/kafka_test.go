package kafka_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	client "github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

func TestEventsOfATopicAreStoredAndTheirOffsetsCommitted(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 4)
	s := openStore(t)
	want := map[string]uint64{}
	for _, e := range emitters(10) {
		c.Produce(cfg.Topic, -1, messages(e, 1, 500)...)
		want[e] = 500
	}
	i := run(t, s, newKey(t, "a"), cfg)
	eventually(t, "all offsets are committed", func() bool {
		sum := int64(0)
		for _, at := range c.Committed(cfg.Group, cfg.Topic) {
			sum += max(at, 0)
		}
		return sum == 5000
	})
	i.stop()
	verified(t, s, want)
}

// What is written as JSON, as a CloudEvent, without headers: the same event.
func TestEveryFormOfAnEventIsRead(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 1)
	s := openStore(t)
	n := uint64(0)
	next := func() (client.Message, []byte) {
		n++
		m := message("e", n)
		j, err := wire.MarshalJSON(sent("e", n))
		if err != nil {
			t.Fatal(err)
		}
		return m, j
	}
	header := func(pairs ...string) (out []client.Header) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, client.Header{Key: pairs[i], Value: []byte(pairs[i+1])})
		}
		return out
	}
	cloud := []string{"ce_specversion", "1.0", "ce_type", "dev.mcpaudit.event.v1", "ce_id", "1", "ce_source", "/x"}
	var all []client.Message
	m, _ := next()
	all = append(all, client.Message{Value: m.Value})
	_, j := next()
	all = append(all, client.Message{Value: j})
	_, j = next()
	all = append(all, client.Message{Value: append([]byte("  \n"), j...), Headers: header("Content-Type", "application/json; charset=utf-8")})
	m, _ = next()
	all = append(all, client.Message{Value: m.Value, Headers: header(append(cloud, "content-type", "application/protobuf")...)})
	_, j = next()
	all = append(all, client.Message{Headers: header("content-type", "application/cloudevents+json; charset=UTF-8"),
		Value: fmt.Appendf(nil, `{"specversion":"1.0","type":"dev.mcpaudit.event.v1","id":"x","source":"/y","datacontenttype":"application/json","data":%s}`, j)})
	m, _ = next()
	all = append(all, client.Message{Headers: header("content-type", "application/cloudevents+json"),
		Value: fmt.Appendf(nil, `{"specversion":"1.0","type":"dev.mcpaudit.event.v1","id":"x","source":"/y","datacontenttype":"application/protobuf","data_base64":%q}`, base64.StdEncoding.EncodeToString(m.Value))})
	// What the event does not say comes from the envelope.
	n++
	short := wire.ToProto(sent("e", n))
	id := short.GetEventId()
	short.EventId, short.OccurredAt, short.TraceId, short.SpanId = "", nil, "", ""
	b, err := proto.Marshal(short)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, client.Message{Value: b, Headers: header("ce_specversion", "1.0", "ce_type", "dev.mcpaudit.event.v1", "ce_id", id, "ce_time", "2026-11-20T10:00:00.5Z",
		"ce_traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "content-type", "application/protobuf")})
	c.Produce(cfg.Topic, 0, all...)
	i := run(t, s, newKey(t, "a"), cfg)
	eventually(t, "all are stored", func() bool {
		return has(t, s, "e", n) || i.watch.see(func(o *observer) bool { return len(o.dead) > 0 })
	})
	i.stop()
	verified(t, s, map[string]uint64{"e": n})
	var last *event.Event
	for _, e := range eventsOf(t, s, "e") {
		last = e
	}
	if last.TraceID != "0af7651916cd43dd8448eb211c80319c" || last.OccurredAt != time.Date(2026, 11, 20, 10, 0, 0, 5e8, time.UTC).UnixMicro() || last.EventID.String() != id {
		t.Errorf("the envelope's id, time and trace became %s, %d, %s", last.EventID, last.OccurredAt, last.TraceID)
	}
}

// Poison goes to the dead-letter topic, with where it comes from and why; what is
// around it is stored.
func TestWhatIsNoEventIsADeadLetterAndHoldsNothingUp(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 1)
	s := openStore(t)
	whole := message("e", 7)
	bad := wire.ToProto(sent("e", 8))
	bad.Kind = "no such kind"
	invalid, err := proto.Marshal(bad)
	if err != nil {
		t.Fatal(err)
	}
	as := wire.ToProto(sent("e", 8))
	as.Kind, as.Method, as.Principal = "admin", "mcpaudit/start", "mcpaudit:service"
	started, err := proto.Marshal(as)
	if err != nil {
		t.Fatal(err)
	}
	poison := []struct {
		reason string
		client.Message
	}{
		{"malformed", client.Message{Value: []byte("\xff\xff\xff this is not protobuf"), Headers: []client.Header{{Key: "who", Value: []byte("me")}}}},
		{"malformed", client.Message{Value: whole.Value[:len(whole.Value)-5]}},
		{"malformed", client.Message{Value: []byte(`{"event_id": "01890a5d-ac96-774b-bcce-b302099a8057", "emitter`)}},
		{"malformed", client.Message{Value: []byte(strings.Repeat(`{"a":`, 10000))}},
		{"empty", client.Message{Key: []byte("tombstone")}},
		{"content_type", client.Message{Value: whole.Value, Headers: []client.Header{{Key: "content-type", Value: []byte("image/png")}}}},
		{"content_type", client.Message{Value: whole.Value, Headers: []client.Header{{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_type", Value: []byte("com.example.order")}}}},
		{"invalid", client.Message{Value: invalid}},
		{"invalid", client.Message{Value: []byte(`{}`)}},
		{"too_large", client.Message{Value: make([]byte, 1<<20+1)}},
		{"reserved", message("mcpaudit-retention-0123456789ab", 1)},
		{"reserved", client.Message{Value: started}},
		{"malformed", client.Message{Key: make([]byte, 1_048_000), Value: []byte("\xff")}}, // with our headers, more than a topic takes
		{"malformed", client.Message{Value: []byte("\xff"), Headers: []client.Header{{Key: "h", Value: make([]byte, 1_048_000)}}}},
	}
	setMaxMessage(t, c, cfg.Topic, "4000000")
	for n, p := range poison {
		c.Produce(cfg.Topic, 0, message("e", uint64(n+1)), p.Message)
	}
	c.Produce(cfg.Topic, 0, message("e", uint64(len(poison)+1)))
	i := run(t, s, newKey(t, "a"), cfg)
	eventually(t, "all is settled", func() bool { return c.Committed(cfg.Group, cfg.Topic)[0] == int64(2*len(poison)+1) })
	i.stop()
	verified(t, s, map[string]uint64{"e": uint64(len(poison) + 1)})

	letters := c.ReadAll(cfg.DeadLetter)
	if len(letters) != len(poison) {
		t.Fatalf("%d dead letters of %d", len(letters), len(poison))
	}
	for n, l := range letters {
		head := map[string]string{}
		for _, h := range l.Headers {
			head[h.Key] = string(h.Value)
		}
		if head["mcpaudit-reason"] != poison[n].reason || head["mcpaudit-topic"] != cfg.Topic || head["mcpaudit-partition"] != "0" || head["mcpaudit-offset"] != fmt.Sprint(2*n+1) || head["mcpaudit-detail"] == "" {
			t.Errorf("dead letter %d, of %s: %v", n, poison[n].reason, head)
		}
		if head["mcpaudit-original-length"] == "" && string(l.Value) != string(poison[n].Value) {
			t.Errorf("dead letter %d is not what was sent", n)
		}
	}
	if n := len(letters[9].Value); n != 64<<10 {
		t.Errorf("%d bytes are kept of what the topic does not take", n)
	}
	dead := 0
	for _, e := range ownEvents(t, s, "mcpaudit/dead_letter") {
		if e.Outcome != "protocol_error" || e.Target != cfg.Topic {
			t.Errorf("%+v", e)
		}
		dead++
	}
	if dead == 0 {
		t.Error("the log does not say that there were dead letters")
	}
	i.watch.see(func(o *observer) bool {
		if o.dead["malformed"] != 6 || o.dead["invalid"] != 2 || o.dead["content_type"] != 2 || o.dead["empty"] != 1 || o.dead["too_large"] != 1 {
			t.Errorf("%v", o.dead)
		}
		return true
	})
}

// A message that can't be settled holds up its own partition, and says so; it is not
// passed over.
func TestAStuckPartitionHoldsUpNoOther(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 2)
	cfg.DeadLetter = "no-such-topic-" + cfg.Topic
	s := openStore(t)
	c.Produce(cfg.Topic, 0, message("good", 1), client.Message{Value: []byte("\xff poison")}, message("good", 2))
	c.Produce(cfg.Topic, 1, messages("other", 1, 2000)...)
	i := run(t, s, newKey(t, "a"), cfg)
	eventually(t, "the other partition is read, this one is stuck", func() bool {
		return has(t, s, "other", 2000) && i.watch.see(func(o *observer) bool { return o.stuck == 1 })
	})
	if at := c.Committed(cfg.Group, cfg.Topic)[0]; at > 1 {
		t.Errorf("offset %d is committed, behind a message that is nowhere", at)
	}
	c.CreateTopic(cfg.DeadLetter, 1, 1, nil)
	eventually(t, "it goes on", func() bool {
		return c.Committed(cfg.Group, cfg.Topic)[0] == 3 && i.watch.see(func(o *observer) bool { return o.stuck == 0 })
	})
	i.stop()
	verified(t, s, map[string]uint64{"good": 2, "other": 2000})
	if n := len(c.ReadAll(cfg.DeadLetter)); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}

// While the store takes nothing, nothing is fetched beyond what is under way, nothing
// is committed, and nothing is lost.
func TestASlowStoreHoldsFetchingBack(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 1)
	s := openStore(t)
	const n = 30_000
	c.Produce(cfg.Topic, 0, messages("e", 1, n)...)
	i := run(t, s, newKey(t, "a"), cfg)
	shut := make(chan struct{})
	i.store.set(func() {
		i.store.append = func(ctx context.Context) error {
			select {
			case <-shut:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	eventually(t, "the partition is read", func() bool { return i.watch.see(func(o *observer) bool { return o.assigned == 1 }) })
	time.Sleep(time.Second)
	if at := c.Committed(cfg.Group, cfg.Topic)[0]; at > 0 {
		t.Errorf("offset %d is committed while the store takes nothing", at)
	}
	close(shut)
	eventually(t, "all is settled", func() bool { return c.Committed(cfg.Group, cfg.Topic)[0] == n })
	i.stop()
	verified(t, s, map[string]uint64{"e": n})
}
