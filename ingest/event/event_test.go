package event

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIDKeepsItsTimeAndText(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 123e6, time.UTC)
	id := NewID(at, [10]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	if id.Version() != 7 || !id.Time().Equal(at) {
		t.Fatalf("id %v: version %d, time %v", id, id.Version(), id.Time())
	}
	back, err := ParseID(strings.ToUpper(id.String()))
	if err != nil || back != id {
		t.Fatalf("ParseID(%v) = %v, %v", id, back, err)
	}
	for _, bad := range []string{"", "x", id.String() + "0", strings.Replace(id.String(), "-", "0", 1), strings.Repeat("z", 36)} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) took it", bad)
		}
	}
}

func TestDigestTextIsReversible(t *testing.T) {
	d := Digest{1, 2, 255}
	if back, err := ParseDigest(d.String()); err != nil || back != d {
		t.Fatalf("%v %v", back, err)
	}
	if (Digest{}).String() != "" {
		t.Error("the zero digest has a text")
	}
	if _, err := ParseDigest("00"); err == nil {
		t.Error("a short digest was taken")
	}
}

func TestCheckNamesTheFieldAndNeverItsValue(t *testing.T) {
	for _, c := range []struct {
		field string
		spoil func(*Event)
	}{
		{"event_id", func(e *Event) { e.EventID = ID{} }},
		{"schema", func(e *Event) { e.Schema = 9 }},
		{"emitter_id", func(e *Event) { e.EmitterID = "" }},
		{"emitter_seq", func(e *Event) { e.EmitterSeq = 0 }},
		{"occurred_at", func(e *Event) { e.OccurredAt = 0 }},
		{"occurred_at", func(e *Event) { e.OccurredAt = 1 << 62 }},
		{"duration", func(e *Event) { e.Duration = 1 << 60 }},
		{"kind", func(e *Event) { e.Kind = "hunter2" }},
		{"outcome", func(e *Event) { e.Outcome = "" }},
		{"transport", func(e *Event) { e.Transport = "hunter2" }},
		{"principal", func(e *Event) { e.Principal = strings.Repeat("hunter2", 1000) }},
		{"target", func(e *Event) { e.Target = "hunter2\xff" }},
		{"signals", func(e *Event) { e.Signals = make([]string, MaxSignals+1) }},
		{"result_marks", func(e *Event) { e.ResultMarks = []Mark{{Class: "hunter2"}} }},
		{"argument_marks", func(e *Event) { e.ArgumentMarks = make([]Mark, MaxMarks+1) }},
		{"removed", func(e *Event) { e.Removed = make([]Removal, MaxRemoved+1) }},
		{"labels", func(e *Event) { e.Labels = []Label{{strings.Repeat("k", 200), "hunter2"}} }},
	} {
		e := Random(rand.New(rand.NewPCG(1, 1)))
		c.spoil(e)
		err := e.Check()
		if err == nil || !strings.HasPrefix(err.Error(), c.field+": ") {
			t.Errorf("%s spoiled: %v", c.field, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds the value: %v", c.field, err)
		}
	}
}

func TestClipMakesAnythingAcceptable(t *testing.T) {
	e := Random(rand.New(rand.NewPCG(2, 2)))
	e.Principal = strings.Repeat("ä", 5000)
	e.Target = "a\xffb"
	e.ErrorMessage = strings.Repeat("\xff", 9000)
	e.ScopesGranted = make([]string, 100)
	if !e.Clip() {
		t.Error("nothing was cut")
	}
	if err := e.Check(); err != nil {
		t.Error(err)
	}
	if e.Clip() {
		t.Error("a second Clip cut again")
	}
}

// A field that Texts and Lists forget is neither checked nor clipped nor
// redacted.
func TestEveryTextOfTheRecordIsInATable(t *testing.T) {
	closed := []string{"PrincipalKind", "Transport", "Kind", "Decision", "Outcome"} // sets of their own
	apart := []string{"Arguments", "LogID"}                                         // JSON; the service's
	e := &Event{}
	known := map[any]bool{}
	for i := range Texts {
		known[Texts[i].Of(e)] = true
	}
	for i := range Lists {
		known[Lists[i].Of(e)] = true
	}
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch v.Field(i).Interface().(type) {
		case string, []string:
			if !known[v.Field(i).Addr().Interface()] && !slices.Contains(closed, name) && !slices.Contains(apart, name) {
				t.Errorf("%s is in no table", name)
			}
		}
	}
	for i := range Texts {
		if !slices.ContainsFunc(Columns, func(c Column) bool { return c.Name == Texts[i].Name }) {
			t.Errorf("%s is no column", Texts[i].Name)
		}
	}
}

func TestClipMakesEveryFieldAcceptable(t *testing.T) {
	for _, bad := range []string{strings.Repeat("日", 1000), strings.Repeat("x\xe6", 300), "\xff", strings.Repeat("ab\xc3", 1000)} {
		e := Random(rand.New(rand.NewPCG(2, 2)))
		for i := range Texts {
			*Texts[i].Of(e) = bad
		}
		e.Arguments = strings.Repeat(bad, MaxArguments/len(bad)+1)
		shared := slices.Repeat([]string{bad}, 300)
		for i := range Lists {
			*Lists[i].Of(e) = shared
		}
		e.Removed = slices.Repeat([]Removal{{bad, bad}}, 300)
		e.Labels = []Label{{bad, bad}, {bad + "y", "last"}, {"z", bad}}
		e.ArgumentMarks = slices.Repeat([]Mark{{1, "url", false}}, 300)
		e.ResultMarks = e.ArgumentMarks
		if !e.Clip() {
			t.Error("nothing was cut")
		}
		if err := e.Check(); err != nil {
			t.Errorf("%.8q: %v", bad, err)
		}
		if e.Arguments != "" || !e.Truncated || e.OriginalBytes <= MaxArguments {
			t.Errorf("%.8q: arguments of %d bytes, truncated %v, %d bytes", bad, len(e.Arguments), e.Truncated, e.OriginalBytes)
		}
		if shared[0] != bad {
			t.Error("a list of somebody else was written to")
		}
		if back, _, err := ParseRow(AppendRow(nil, e)); err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("%.8q: does not read back: %v", bad, err)
		}
		if e.Clip() {
			t.Errorf("%.8q: a second Clip cut again", bad)
		}
	}
}

func TestLabelsAreSortedAndTheLastOfEqualKeysWins(t *testing.T) {
	e := Event{Labels: []Label{{"b", "1"}, {"a", "1"}, {"b", "2"}}}
	e.SetDefaults()
	if want := []Label{{"a", "1"}, {"b", "2"}}; !reflect.DeepEqual(e.Labels, want) {
		t.Errorf("%v", e.Labels)
	}
}

func TestRowsReadBackAsTheyWereWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	var all []byte
	var events []*Event
	for range 200 {
		e := Random(r)
		events = append(events, e)
		all = AppendRow(all, e)
	}
	for i, e := range events {
		got, rest, err := ParseRow(all)
		if err != nil {
			t.Fatal(i, err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("row %d:\n got %+v\nwant %+v", i, got, e)
		}
		all = rest
	}
	if len(all) != 0 {
		t.Errorf("%d bytes left", len(all))
	}
}

func TestEveryCutRowIsRefused(t *testing.T) {
	row := AppendRow(nil, Random(rand.New(rand.NewPCG(4, 4))))
	for n := range row {
		if _, _, err := ParseRow(row[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were taken", n, len(row))
		}
	}
}

func FuzzParseRow(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 5 {
		f.Add(AppendRow(nil, Random(r)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := ParseRow(b)
		if err != nil {
			return
		}
		if again := AppendRow(nil, e); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Errorf("read and written again it differs:\n%x\n%x", b[:len(b)-len(rest)], again)
		}
	})
}

func BenchmarkAppendRow(b *testing.B) {
	e := Random(rand.New(rand.NewPCG(6, 6)))
	buf := AppendRow(nil, e)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		buf = AppendRow(buf[:0], e)
	}
}
