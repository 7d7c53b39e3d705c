package wire

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func randomEvent(r *rand.Rand) *event.Event {
	e := event.Random(r)
	if e.ExpiresMonth != 0 { // the API speaks of months, not days
		e.ExpiresMonth = 20819 // 2027-01-01
	}
	return e
}

func TestEventsSurviveTheWireAndJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		e := randomEvent(r)
		bytes, err := proto.Marshal(ToProto(e))
		if err != nil {
			t.Fatal(err)
		}
		var m pb.Event
		if err := proto.Unmarshal(bytes, &m); err != nil {
			t.Fatal(err)
		}
		var got event.Event
		if err := Sealed(&m, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, e) {
			t.Fatalf("wire:\n got %+v\nwant %+v", got, *e)
		}
		line, err := MarshalJSON(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := UnmarshalJSON(line, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, e) {
			t.Fatalf("JSON:\n got %+v\nwant %+v", got, *e)
		}
	}
}

// The rules in the .proto are for clients that validate; the service uses
// event.Check, which is faster. Both must accept the same events.
func TestProtovalidateAgreesWithCheck(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	spoil := []func(*pb.Event){
		func(*pb.Event) {},
		func(m *pb.Event) { m.EmitterId = "" },
		func(m *pb.Event) { m.EmitterSeq = 0 },
		func(m *pb.Event) { m.OccurredAt = nil },
		func(m *pb.Event) { m.EventId = "nonsense" },
		func(m *pb.Event) { m.Kind = "teapot" },
		func(m *pb.Event) { m.Outcome = "" },
		func(m *pb.Event) { m.Decision = "perhaps" },
		func(m *pb.Event) { m.Transport = "pigeon" },
		func(m *pb.Event) { m.Principal = strings.Repeat("p", 2049) },
		func(m *pb.Event) { m.Server = strings.Repeat("s", 257) },
		func(m *pb.Event) { m.Arguments = strings.Repeat("a", 1<<20+1) },
		func(m *pb.Event) { m.HttpStatus = 70000 },
		func(m *pb.Event) { m.ArgumentsDigest = "xyz" },
		func(m *pb.Event) { m.Signals = make([]string, 129) },
		func(m *pb.Event) { m.ScopesGranted = make([]string, 65) },
		func(m *pb.Event) { m.ArgumentMarks = []*pb.Mark{{Class: "teapot"}} },
		func(m *pb.Event) { m.Labels = map[string]string{strings.Repeat("k", 129): ""} },
	}
	for i, f := range spoil {
		m := ToProto(randomEvent(r))
		f(m)
		var e event.Event
		ours := FromProto(m, &e)
		if ours == nil {
			ours = e.Check()
		}
		theirs := protovalidate.Validate(m)
		if (ours == nil) != (theirs == nil) {
			t.Errorf("case %d: Check says %v, protovalidate says %v", i, ours, theirs)
		}
	}
}

func TestAnEmitterCannotSetTheServicesFields(t *testing.T) {
	m := ToProto(randomEvent(rand.New(rand.NewPCG(3, 3))))
	m.LogId, m.Batch, m.Leaf, m.ExpiresMonth = "forged", 7, 7, "2099-01"
	var e event.Event
	if err := FromProto(m, &e); err != nil {
		t.Fatal(err)
	}
	if e.LogID != "" || e.Batch != 0 || e.Leaf != 0 || e.ExpiresMonth != 0 || e.ReceivedAt != 0 {
		t.Errorf("the emitter's integrity group was taken: %+v", e)
	}
}

func TestAbsentHintsAreTheSpecificationsDefaults(t *testing.T) {
	yes := true
	m := ToProto(randomEvent(rand.New(rand.NewPCG(4, 4))))
	var e event.Event
	m.Hints = nil
	if err := FromProto(m, &e); err != nil || e.Hints != event.DefaultHints {
		t.Errorf("%v %+v", err, e.Hints)
	}
	m.Hints = &pb.Hints{ReadOnly: &yes}
	if err := FromProto(m, &e); err != nil || e.Hints != (event.Hints{ReadOnly: true, Destructive: true, OpenWorld: true}) {
		t.Errorf("%v %+v", err, e.Hints)
	}
}

func FuzzUnmarshalJSON(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 3 {
		line, _ := MarshalJSON(randomEvent(r))
		f.Add(line)
	}
	f.Add([]byte(`{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","emitter_seq":"1","occurred_at":"2026-03-02T09:00:00.000001Z","labels":{"time":"synthetic"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var e, again event.Event
		if UnmarshalJSON(line, &e) != nil || e.Check() != nil {
			return
		}
		out, err := MarshalJSON(&e)
		if err != nil {
			t.Fatal(err)
		}
		if err := UnmarshalJSON(out, &again); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if string(event.AppendRow(nil, &e)) != string(event.AppendRow(nil, &again)) {
			t.Errorf("%s\n%s", line, out)
		}
	})
}
