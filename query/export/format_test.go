package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// hostile are texts that end, continue or open something in one of the formats.
var hostile = []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "'=1", "''", "'", "＝1", "＋1", "－1", "＠x", "\u200b=1", "\ufeff@x", "\x00=1",
	`"`, `","=1`, `";=1`, "a\r\nb", "\r\n=1", "|", `\|`, `\`, `\\`, "a=b", `a\=b`, "\nCEF:0|x|y", "\x1b[2J", "\u2028", "\u0085", "🜁", "null", "{", "}\n{", `\n`,
	`\u0000`, "\ufffd", "</script>", "cs1=x cs1Label=y"}

// randomEvents are valid events with such texts in some of their fields.
func randomEvents(seed uint64, n int) []*event.Event {
	r := rand.New(rand.NewPCG(seed, seed))
	var out []*event.Event
	for i := range n {
		e := event.Random(r)
		e.ExpiresMonth = 20819 // a month begins
		for j := range event.Texts {
			if t := &event.Texts[j]; r.IntN(3) == 0 {
				*t.Of(e) = event.ClipText(hostile[r.IntN(len(hostile))], t.Limit)
			}
		}
		if e.EmitterID == "" {
			e.EmitterID = "e"
		}
		if e.Tenant == "" {
			e.Tenant = "default"
		}
		e.Arguments = hostile[i%len(hostile)]
		e.ClientIP = []string{"", "10.1.2.3", "2001:db8::1", "fe80::1%eth0", "::ffff:1.2.3.4", "nowhere"}[r.IntN(6)]
		if r.IntN(4) == 0 {
			e.OccurredAt -= e.OccurredAt % 1e6
			e.Duration -= e.Duration % 1000
		}
		out = append(out, e)
	}
	return out
}

func TestALineOfJSONLIsTheEventsOneText(t *testing.T) {
	for _, e := range randomEvents(1, 2000) {
		line := appendLine(nil, e)
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("%q is not one line", line)
		}
		var m pb.Event
		if err := protojson.Unmarshal(line, &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !proto.Equal(&m, wire.ToProto(e)) {
			t.Fatalf("%q is not\n%v", line, wire.ToProto(e))
		}
		// protojson's own text, without its white space, has the same members.
		theirs, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(wire.ToProto(e))
		if err != nil {
			t.Fatal(err)
		}
		var ours, own any
		if err := errors.Join(json.Unmarshal(line, &ours), json.Unmarshal(theirs, &own)); err != nil || !reflect.DeepEqual(ours, own) {
			t.Fatalf("%s\nis not %s: %v", line, theirs, err)
		}
		var again event.Event
		if err := wire.UnmarshalJSON(line, &again); err != nil {
			t.Fatal(err)
		}
		var quick event.Event
		if !parseLine(line[:len(line)-1], &quick) || !reflect.DeepEqual(quick, again) {
			t.Fatalf("%q:\n got %+v\nwant %+v", line, quick, again)
		}
		if !bytes.Equal(appendLine(nil, &again), line) || !bytes.Equal(event.AppendRow(nil, &again), event.AppendRow(nil, e)) {
			t.Fatalf("%q reads back as another event", line)
		}
	}
}

// readCSV reads records as RFC 4180 has them, strictly.
func readCSV(text string) ([][]string, error) {
	var records [][]string
	var record []string
	for text != "" {
		var cell string
		if text[0] == '"' {
			text = text[1:]
			for {
				i := strings.IndexByte(text, '"')
				if i < 0 {
					return nil, errors.New("a quote is not closed")
				}
				cell, text = cell+text[:i], text[i+1:]
				if !strings.HasPrefix(text, `"`) {
					break
				}
				cell, text = cell+`"`, text[1:]
			}
			if cell == "" {
				return nil, errors.New("an empty cell is quoted")
			}
		} else {
			i := strings.IndexAny(text, ",\r\n\"")
			if i < 0 {
				return nil, errors.New("the last line has no end")
			}
			cell, text = text[:i], text[i:]
		}
		record = append(record, cell)
		switch {
		case strings.HasPrefix(text, ","):
			text = text[1:]
		case strings.HasPrefix(text, "\r\n"):
			records, record, text = append(records, record), nil, text[2:]
		default:
			return nil, fmt.Errorf("%.20q follows a cell", text)
		}
	}
	return records, nil
}

func TestCSVHasEveryFieldAndNoCellIsAFormula(t *testing.T) {
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	if fields.Len() != len(csvColumns) {
		t.Fatalf("%d columns for %d fields", len(csvColumns), fields.Len())
	}
	for i, name := range csvColumns {
		if string(fields.Get(i).Name()) != name {
			t.Errorf("column %d is %s, the field is %s", i, name, fields.Get(i).Name())
		}
	}
	formula := regexp.MustCompile("^[\\s\\p{Z}\\p{Cf}\\p{Cc}\"]*[-=+@＝＋－＠]")
	events := randomEvents(2, 2000)
	text := csvHead
	for _, e := range events {
		text = string(appendCSV([]byte(text), e))
	}
	records, err := readCSV(text)
	if err != nil || len(records) != len(events)+1 || !slices.Equal(records[0], csvColumns) {
		t.Fatalf("%d records: %v", len(records), err)
	}
	for n, e := range events {
		record := records[n+1]
		var want map[string]any
		if err := json.Unmarshal(appendLine(nil, e), &want); err != nil {
			t.Fatal(err)
		}
		if len(record) != len(csvColumns) {
			t.Fatalf("event %d has %d cells", n, len(record))
		}
		for i, cell := range record {
			if formula.MatchString(cell) || strings.HasPrefix(cell, "\t") || strings.HasPrefix(cell, "\r") || strings.HasPrefix(cell, "\n") {
				t.Fatalf("%s: %q may be taken for a formula", csvColumns[i], cell)
			}
			if got := restored(t, cell, want[csvColumns[i]]); !reflect.DeepEqual(got, want[csvColumns[i]]) && !(cell == "0" || cell == "false") {
				t.Fatalf("%s: %q is %v, want %v", csvColumns[i], cell, got, want[csvColumns[i]])
			}
		}
	}
}

// restored undoes what CSV does to a field whose value in JSON is like want.
func restored(t *testing.T, cell string, want any) any {
	switch want.(type) {
	case string:
		return strings.TrimPrefix(cell, "'")
	case nil:
		if cell == "" {
			return nil
		}
	}
	var got any
	if err := json.Unmarshal([]byte(cell), &got); err != nil {
		t.Fatalf("%q: %v", cell, err)
	}
	return got
}

var cefKey = regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`)

func TestCEFIsOneLineThatReadsBack(t *testing.T) {
	render := cef(`1.2|3\4`)
	for _, e := range randomEvents(3, 2000) {
		line := string(render(nil, e))
		if strings.Count(line, "\n") != 1 || strings.IndexFunc(line[:len(line)-1], hidden) >= 0 {
			t.Fatalf("%q has what does not show", line)
		}
		var header []string
		rest := strings.TrimSuffix(line, "\n")
		for range 7 {
			at := 0
			for rest[at] != '|' {
				if rest[at] == '\\' {
					at++
				}
				at++
			}
			header, rest = append(header, strings.NewReplacer(`\|`, "|", `\\`, `\`).Replace(rest[:at])), rest[at+1:]
		}
		if header[0] != "CEF:0" || header[3] != `1.2|3\4` || header[4] != e.Kind {
			t.Fatalf("%q", header)
		}
		if got := header[5]; e.Method != "" && got != strings.Map(shown, e.Method) {
			t.Fatalf("name %q of %q", got, e.Method)
		}
		values := map[string]string{}
		keys := cefKey.FindAllStringSubmatchIndex(rest, -1)
		for i, k := range keys {
			end := len(rest)
			if i+1 < len(keys) {
				end = keys[i+1][0]
			}
			name := rest[k[2]:k[3]]
			if _, twice := values[name]; twice {
				t.Fatalf("%s is there twice in %q", name, rest)
			}
			values[name] = strings.NewReplacer(`\\`, `\`, `\=`, "=", `\n`, "\n", `\r`, "\r").Replace(rest[k[1]:end])
		}
		for key, want := range map[string]string{"suid": e.Principal, "suser": e.PrincipalName, "cs1": e.Target, "cs2": e.Arguments, "outcome": e.Outcome,
			"destinationServiceName": e.Server, "cs3": e.SessionID, "externalId": e.EventID.String()} {
			want = strings.Map(func(r rune) rune {
				if r == '\n' || r == '\r' {
					return r
				}
				return shown(r)
			}, want)
			if values[key] != want {
				t.Fatalf("%s is %q, want %q, in %q", key, values[key], want, rest)
			}
		}
	}
}

func shown(r rune) rune {
	if hidden(r) {
		return ' '
	}
	return r
}

func TestParquetReadsBackAndIsTheSameEachTime(t *testing.T) {
	events := randomEvents(4, 300)
	var files [2]bytes.Buffer
	for i := range files {
		p := newParquetEncoder(&files[i], "1")
		for _, e := range events {
			if err := p.add(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(files[0].Bytes(), files[1].Bytes()) {
		t.Error("the same events gave two files")
	}
	r := parquet.NewGenericReader[parquetRow](bytes.NewReader(files[0].Bytes()))
	defer r.Close()
	rows := make([]parquetRow, len(events)+1)
	n, err := r.Read(rows)
	if n != len(events) || err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(n, err)
	}
	for i, e := range events {
		// An empty list reads back as one that is there.
		if got, want := fmt.Sprintf("%+v", rows[i]), fmt.Sprintf("%+v", rowOf(e)); got != want {
			t.Fatalf("event %d:\n got %s\nwant %s", i, got, want)
		}
	}
}

// A line that reads as an event and is the event's text is one that protojson reads
// as the same event.
func FuzzLine(f *testing.F) {
	for _, e := range randomEvents(6, 20) {
		f.Add(appendEvent(nil, e))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var e, want event.Event
		if !parseLine(line, &e) {
			return
		}
		if _, same := sameLine(nil, line, &e); !same {
			return
		}
		// What an emitter may leave out is not left out in a store.
		if err := wire.UnmarshalJSON(line, &want); err == nil && e.Schema != 0 && e.Tenant != "" && e.PrincipalKind != "" && e.Decision != "" &&
			slices.IsSortedFunc(e.Labels, func(a, b event.Label) int { return strings.Compare(a.Key, b.Key) }) && !reflect.DeepEqual(e, want) {
			t.Errorf("%q:\n got %+v\nwant %+v", line, e, want)
		}
	})
}
