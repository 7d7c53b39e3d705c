package kafka

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
)

// Whatever a message holds, reading it ends, with an event or with a reason that is
// one of those that are counted and that holds nothing of the message.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","emitter_id":"e","emitter_seq":"1"}`), "application/json", "")
	f.Add([]byte("\n\x2401890a5d-ac96-774b-bcce-b302099a8057"), "", "1.0")
	f.Add([]byte(`{"specversion":"1.0","type":"dev.mcpaudit.event.v1","data":{}}`), "application/cloudevents+json", "")
	f.Fuzz(func(t *testing.T, value []byte, contentType, version string) {
		r := &record{value: value, headers: []protocol.Header{{Key: "content-type", Value: []byte(contentType)}, {Key: "ce_specversion", Value: []byte(version)},
			{Key: "ce_type", Value: []byte(EventType)}, {Key: "traceparent", Value: value[:min(len(value), 60)]}}}
		if l := loadOf([]record{*r}); l.Bytes < len(value) {
			t.Errorf("%d bytes weigh %+v", len(value), l)
		}
		e, why := decode(r)
		switch {
		case (e == nil) == (why == nil):
			t.Fatalf("event %v, reason %v", e, why)
		case why != nil && !strings.Contains(strings.Join(Reasons, " "), why.reason):
			t.Errorf("the reason %q is not counted", why.reason)
		}
	})
}

func TestAPositionIsReadBackAsItWasCommitted(t *testing.T) {
	for _, p := range []position{start(0), start(12), {next: 8, last: 7, print: "0123456789abcdef"}, {next: 9, last: 2, print: "00"}} {
		if got := readPosition(p.next, p.metadata()); got != p {
			t.Errorf("%+v became %+v", p, got)
		}
	}
	// What others commit says nothing of messages.
	for _, metadata := range []string{"", "somebody else", "mcpaudit/1 7", "mcpaudit/1 -1 aa", "mcpaudit/1 9 aa", "mcpaudit/2 7 aa", "mcpaudit/1 x aa", strings.Repeat("a ", 5000)} {
		if got := readPosition(8, metadata); got != start(8) {
			t.Errorf("%.20q became %+v", metadata, got)
		}
	}
}

// A megabyte that becomes a gigabyte is not read into memory.
func TestABatchThatBecomesTooLargeIsNotRead(t *testing.T) {
	for _, c := range []compress.Compression{compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		t.Run(c.String(), func(t *testing.T) {
			var small bytes.Buffer
			w := c.Codec().NewWriter(&small)
			zeros := make([]byte, 1<<20)
			for range maxInflated>>20 + 8 {
				if _, err := w.Write(zeros); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			r := c.Codec().NewReader(&small)
			defer r.Close()
			if n, err := io.Copy(io.Discard, r); !errors.Is(err, errInflated) || n != maxInflated {
				t.Errorf("%d bytes were read, %v", n, err)
			}
		})
	}
}

func TestATraceparentIsReadOrLeftAlone(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for text, want := range map[string]string{
		"00-" + id + "-" + span + "-01":                      id + "/" + span,
		"00-" + strings.ToUpper(id) + "-" + span + "-01":     "/",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01": "/",
		"": "/", "00": "/", "00-" + id + "-x-01": "/",
	} {
		if trace, s := trace(text, ""); trace+"/"+s != want {
			t.Errorf("%q: %s/%s", text, trace, s)
		}
	}
}
