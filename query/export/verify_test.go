package export

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// smallBundle is a bundle of a few events, in two parts, with all formats.
func smallBundle(t testing.TB, filter string) (files fstest.MapFS, key *ledger.Key) {
	t.Helper()
	s := newShelf(t, func(c *Config) { c.PartEvents = 4 })
	for _, events := range [][]*event.Event{randomEvents(10, 4), randomEvents(11, 1), randomEvents(12, 3)} {
		for _, e := range events {
			e.Arguments = `{"a":1}`
		}
		s.seal(t, events...)
	}
	s.entry(t, &ledger.Entry{Kind: ledger.KindRelease, Detail: `{"id":"h","owner":"o"}`})
	return s.export(t, &pb.ExportEventsRequest{Bundle: true, Filter: filter, Formats: Formats, RequestedBy: "ann"}), s.key
}

func clone(files fstest.MapFS) fstest.MapFS {
	out := fstest.MapFS{}
	for name, f := range files {
		out[name] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
	}
	return out
}

func TestAnyChangedByteOfABundleIsFound(t *testing.T) {
	for _, filter := range []string{"", "even"} {
		t.Run(filter, func(t *testing.T) {
			files, key := smallBundle(t, filter)
			keys := []string{key.Verifier()}
			if _, err := Verify(files, keys, nil); err != nil {
				t.Fatal(err)
			}
			for name, f := range files {
				step := 1
				if strings.HasPrefix(name, "events") {
					step = max(len(f.Data)/150, 1)
				}
				for at := 0; at < len(f.Data); at += step {
					bent := clone(files)
					data := bytes.Clone(f.Data)
					data[at] ^= 1 << (at % 8)
					bent[name].Data = data
					_, err := Verify(bent, keys, nil)
					var wrong *BundleError
					if !errors.As(err, &wrong) || wrong.File != name {
						t.Fatalf("%s: byte %d was changed, the error is %v", name, at, err)
					}
				}
			}
		})
	}
}

func TestLinesFilesAndLengthsOfABundleCannotBeChanged(t *testing.T) {
	files, key := smallBundle(t, "")
	keys := []string{key.Verifier()}
	refused := func(what, file, want string, bent fstest.MapFS) {
		t.Helper()
		_, err := Verify(bent, keys, nil)
		var wrong *BundleError
		if !errors.As(err, &wrong) || file != "" && wrong.File != file || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want one of %s with %q", what, err, file, want)
		}
	}
	for name, f := range files {
		bent := clone(files)
		delete(bent, name)
		refused("removed "+name, name, "the file is missing", bent)
		for _, n := range []int{0, len(f.Data) / 2, len(f.Data) - 1} {
			if n < 0 || n == len(f.Data) {
				continue // a part without events
			}
			bent = clone(files)
			bent[name].Data = f.Data[:n]
			refused(fmt.Sprint(name, " cut to ", n), name, "", bent)
		}
		for _, more := range []string{"\n", "x", "\x00" + string(f.Data)} {
			bent = clone(files)
			bent[name].Data = append(bytes.Clone(f.Data), more...)
			refused(name+" made longer", name, "", bent)
		}
		for other, g := range files {
			if other != name && !bytes.Equal(f.Data, g.Data) {
				bent = clone(files)
				bent[name].Data, bent[other].Data = g.Data, f.Data
				refused(name+" and "+other+" swapped", "", "", bent)
			}
		}
	}
	bent := clone(files)
	bent["events-00009.jsonl"] = &fstest.MapFile{}
	refused("a file added", "events-00009.jsonl", "the manifest names no such file", bent)
	for _, name := range []string{"events-00001.jsonl", "events-00002.jsonl", "events-00001.csv", "events-00002.ocsf.jsonl", "events-00002.cef"} {
		lines := bytes.SplitAfter(files[name].Data, []byte("\n"))
		lines = lines[:len(lines)-1]
		for i := range lines {
			for what, changed := range map[string][][]byte{
				"dropped":    slices.Concat(lines[:i], lines[i+1:]),
				"duplicated": slices.Concat(lines[:i], [][]byte{lines[i]}, lines[i:]),
				"last":       slices.Concat(lines[:i], lines[i+1:], [][]byte{lines[i]}),
			} {
				if slices.EqualFunc(changed, lines, bytes.Equal) {
					continue
				}
				bent := clone(files)
				bent[name].Data = bytes.Join(changed, nil)
				refused(fmt.Sprint(name, " line ", i+1, " ", what), name, "", bent)
			}
		}
	}
	// What is wrong with a line is said of the line.
	lines := bytes.SplitAfter(files["events-00001.jsonl"].Data, []byte("\n"))
	bent = clone(files)
	bent["events-00001.jsonl"].Data = bytes.Join([][]byte{lines[0], lines[2], lines[1], lines[3]}, nil)
	refused("swapped", "events-00001.jsonl", "events-00001.jsonl, line 2, event ", bent)
}

// forge signs a bundle anew after change: what its maker could do.
func forge(t *testing.T, files fstest.MapFS, key *ledger.Key, change func(*Manifest, fstest.MapFS)) fstest.MapFS {
	t.Helper()
	out := clone(files)
	text, _, _ := strings.Cut(string(files[manifestFile].Data), "\n\n")
	m, err := parseManifest(text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	change(m, out)
	for i := range m.Files {
		if f := out[m.Files[i].Name]; f != nil {
			w := &writer{state: &state{Bundle: true}, send: func(*pb.ExportEventsResponse) error { return nil }}
			hashed := w.newFile(m.Files[i].Name)
			hashed.events = m.Files[i].Events
			if err := errors.Join(second(hashed.Write(f.Data)), hashed.end()); err != nil {
				t.Fatal(err)
			}
			m.Files[i] = hashed.summary()
		}
	}
	body, err := m.text()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.SignText(body)
	if err != nil {
		t.Fatal(err)
	}
	out[manifestFile].Data = []byte(signed)
	return out
}

func second[T any](_ T, err error) error { return err }

// A service that lies in the manifest, which it signs, is found out by the log.
func TestASignatureOnTheManifestIsNotEnough(t *testing.T) {
	files, key := smallBundle(t, "")
	keys := []string{key.Verifier()}
	if _, err := Verify(forge(t, files, key, func(*Manifest, fstest.MapFS) {}), keys, nil); err != nil {
		t.Fatal(err)
	}
	edit := func(name, from, to string) func(*Manifest, fstest.MapFS) {
		return func(_ *Manifest, f fstest.MapFS) {
			if !bytes.Contains(f[name].Data, []byte(from)) {
				t.Fatalf("%s has no %q", name, from)
			}
			f[name].Data = bytes.Replace(f[name].Data, []byte(from), []byte(to), 1)
		}
	}
	for what, c := range map[string]struct {
		change func(*Manifest, fstest.MapFS)
		want   string
	}{
		"an event is changed":         {edit("events-00001.jsonl", `"arguments":"{\"a\":1}"`, `"arguments":"{\"a\":2}"`), "events-00001."},
		"a field is added":            {edit("events-00001.jsonl", `{"event_id"`, `{"x":1,"event_id"`), "line 1"},
		"a line is written otherwise": {edit("events-00001.jsonl", `{"event_id":`, `{"event_id": `), "the line is not as mcpaudit writes it"},
		"a line is dropped": {func(_ *Manifest, f fstest.MapFS) {
			_, rest, _ := bytes.Cut(f["events-00001.jsonl"].Data, []byte("\n"))
			f["events-00001.jsonl"].Data = rest
		}, "line 1, event"},
		"CSV says other things":        {edit("events-00001.csv", `,"main",`, `,"pain",`), "events-00001.csv"},
		"OCSF says other things":       {edit("events-00001.ocsf.jsonl", `"class_uid":6003`, `"class_uid":6004`), "events-00001.ocsf.jsonl"},
		"CEF says other things":        {edit("events-00001.cef", `CEF:0`, `CEF:1`), "events-00001.cef"},
		"the events are counted wrong": {func(m *Manifest, _ fstest.MapFS) { m.Events-- }, "there are 8"},
		"a part is counted wrong":      {func(m *Manifest, _ fstest.MapFS) { m.Files[0].Events++ }, "it says 5 events, there are 4"},
		"a log is counted wrong":       {func(m *Manifest, _ fstest.MapFS) { m.Logs[0].Events++ }, "it says 9 events, there are 8"},
		"the root is another":          {func(m *Manifest, _ fstest.MapFS) { m.Logs[0].Root = ledger.EmptyRoot.String() }, "is not the one that the manifest names"},
		"the log is shorter":           {func(m *Manifest, _ fstest.MapFS) { m.Logs[0].Size-- }, "is not the one that the manifest names"},
		"a log is left out":            {func(m *Manifest, _ fstest.MapFS) { m.Logs = []ManifestLog{} }, "it has 1 logs, the manifest 0"},
		"the last part is left out": {func(m *Manifest, f fstest.MapFS) {
			for _, one := range m.Files[6 : len(m.Files)-1] {
				delete(f, one.Name)
			}
			m.Files = slices.Concat(m.Files[:6], m.Files[len(m.Files)-1:])
			m.Events, m.Entries, m.Logs[0].Events = 4, 1, 4
		}, "entries from 2 on are missing"},
		"the same, said to be filtered": {func(m *Manifest, f fstest.MapFS) {
			for _, one := range m.Files[6 : len(m.Files)-1] {
				delete(f, one.Name)
			}
			m.Files = slices.Concat(m.Files[:6], m.Files[len(m.Files)-1:])
			m.Events, m.Entries, m.Logs[0].Events, m.Completeness = 4, 1, 4, filtered
		}, "logs.json: log \"main\""},
		"a file outside is named": {func(m *Manifest, _ fstest.MapFS) { m.Files[0].Name = "../events-00001.jsonl" }, "is no name of a file"},
		"a file is named twice":   {func(m *Manifest, _ fstest.MapFS) { m.Files[1] = m.Files[0] }, "is no name of a file"},
		"a newer schema":          {func(m *Manifest, _ fstest.MapFS) { m.Schema = 2 }, "its events are of schema 2, this program knows 1; use a newer mcpaudit"},
		"a newer format":          {func(m *Manifest, _ fstest.MapFS) { m.Formats[1] = "xml" }, "use a newer mcpaudit"},
	} {
		_, err := Verify(forge(t, files, key, c.change), keys, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

func TestABundleOfANewerVersionSaysSoInOneSentence(t *testing.T) {
	files, key := smallBundle(t, "none")
	bent := clone(files)
	bent[manifestFile].Data = bytes.Replace(bent[manifestFile].Data, []byte("export v1"), []byte("export v2"), 1)
	delete(bent, logsFile) // a newer one may have no such file
	_, err := Verify(bent, []string{key.Verifier()}, nil)
	if want := "manifest.txt: the bundle is of version 2, this program knows up to 1; use a newer mcpaudit"; err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
}

func TestABundleIsOfTheKeyThatIsTrusted(t *testing.T) {
	files, key := smallBundle(t, "")
	other, _, err := ledger.NewKey(zeros{}, "main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(files, []string{other.Verifier()}, nil); !errors.Is(err, ledger.ErrSignature) {
		t.Error(err)
	}
	report, err := Verify(files, nil, nil)
	if err != nil || !report.OwnKeys || !slices.Equal(report.Keys, []string{key.Verifier()}) {
		t.Error(report, err)
	}
	if _, err := Verify(files, []string{"nonsense"}, nil); err == nil {
		t.Error("nonsense was taken for a key")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A key that was replaced is trusted through the statements of rotation, in both
// directions.
func TestARotatedKeyVerifiesABundle(t *testing.T) {
	s := newShelf(t, nil)
	s.seal(t, randomEvents(20, 3)...)
	old := s.key
	next, _, err := ledger.NewKey(zeros{}, "main")
	if err != nil {
		t.Fatal(err)
	}
	statement, err := old.Rotate(next)
	if err != nil {
		t.Fatal(err)
	}
	s.entry(t, &ledger.Entry{Kind: ledger.KindKey, Detail: statement})
	s.key = next
	s.seal(t, randomEvents(21, 3)...)
	files := s.export(t, &pb.ExportEventsRequest{Bundle: true})
	for _, key := range []string{old.Verifier(), next.Verifier()} {
		if _, err := Verify(files, []string{key}, nil); err != nil {
			t.Error(err)
		}
	}
}

// Verify takes memory by what is in the bundle, not by what it claims.
func FuzzProofsOfABundle(f *testing.F) {
	e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: "main", Batch: 2, Events: 3}
	whole := &record{proof: &ledger.BatchProof{Entry: e, Positions: []uint32{0, 1, 2}}}
	some := &record{skipped: []ledger.Hash{{1}}, proof: &ledger.BatchProof{Entry: e, Positions: []uint32{1}, Gaps: []ledger.Hash{{2}, {3}}}}
	f.Add(whole.append(nil))
	f.Add(some.append(whole.append(nil)))
	f.Add((&record{dropped: true, proof: &ledger.BatchProof{Entry: e}}).append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := newReader(data)
		for {
			r, err := readRecord(in)
			if err != nil {
				return
			}
			again, err := readRecord(newReader(r.append(nil)))
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%+v reads back as %+v: %v", r, again, err)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	m := &Manifest{Schema: 1, Completeness: everything, Formats: []string{"jsonl"}, Logs: []ManifestLog{}, Files: []File{{Name: "a"}}}
	text, err := m.text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("mcpaudit export v9\n{}")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		if again, err := m.text(); err != nil || again != text {
			t.Errorf("%q is written as %q: %v", text, again, err)
		}
	})
}

func FuzzEvidenceOfLogs(f *testing.F) {
	f.Add([]byte("[]\n"))
	text, err := appendEvidence([]LogEvidence{{LogID: "a", Rotations: []string{}, Tail: []string{hex.EncodeToString(make([]byte, 32))}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		logs, err := parseEvidence(text)
		if err != nil {
			return
		}
		if again, err := appendEvidence(logs); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q is written as %q: %v", text, again, err)
		}
	})
}

func FuzzResumeToken(f *testing.F) {
	key := []byte("k")
	token, err := (&state{Formats: []string{"jsonl"}, Logs: []logState{{ID: "a", Size: 1}}}).seal(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Fuzz(func(t *testing.T, token []byte) {
		st, err := openToken(token, key)
		if err != nil {
			return
		}
		again, err := st.seal(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openToken(again, key); err != nil {
			t.Error(err)
		}
	})
}

// A whole bundle of any files never makes Verify panic.
func FuzzVerify(f *testing.F) {
	files, key := smallBundle(f, "even")
	names := slices.Sorted(maps.Keys(files))
	for i := range names {
		f.Add(uint(i), files[names[i]].Data)
	}
	f.Fuzz(func(t *testing.T, which uint, data []byte) {
		name := names[which%uint(len(names))]
		bent := clone(files)
		bent[name].Data = data
		if _, err := Verify(bent, []string{key.Verifier()}, nil); err == nil && !bytes.Equal(data, files[name].Data) {
			t.Errorf("%s was changed and nothing noticed", name)
		}
	})
}

// What retention left of a batch proves the same as the batch did.
func TestEventsOfABatchThatWasDroppedInPartAreProvenByWhatIsKept(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := 1 + r.IntN(40)
		leaves := make([]ledger.Hash, n)
		for i := range leaves {
			leaves[i] = ledger.Leaf([]byte{byte(i)})
		}
		e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, Batch: 1, Events: uint32(n), Root: ledger.Root(leaves)}
		var kept, some []uint32
		var keptLeaves, someLeaves []ledger.Hash
		for i := range n {
			if r.IntN(2) == 0 {
				continue
			}
			kept, keptLeaves = append(kept, uint32(i)), append(keptLeaves, leaves[i])
			if r.IntN(2) == 0 {
				some, someLeaves = append(some, uint32(i)), append(someLeaves, leaves[i])
			}
		}
		whole, err := ledger.ProveBatch(e, kept, leaves)
		if err != nil {
			t.Fatal(err)
		}
		p, err := whole.Narrow(keptLeaves, some)
		if err != nil {
			t.Fatalf("%d of %d: %v", len(some), n, err)
		}
		if err := p.Check(someLeaves); err != nil {
			t.Fatalf("%d of %d: %v", len(some), n, err)
		}
		if len(keptLeaves) > 0 {
			if _, err := whole.Narrow(keptLeaves[1:], some); err == nil {
				t.Fatal("a leaf is missing and nothing noticed")
			}
		}
	}
}

// The bytes of FORMAT.md, one of each: they never change for version 1.
func TestARecordsBytesAreThoseThatAreWrittenDown(t *testing.T) {
	e := &ledger.Entry{Format: 1, Kind: "events", LogID: "main", Batch: 2, SealedAt: 3, Schema: 1, Events: 3, Root: ledger.Hash{9}, ExpiresMonth: 20819}
	r := &record{skipped: []ledger.Hash{{7}}, proof: &ledger.BatchProof{Entry: e, Positions: []uint32{0, 2}, Gaps: []ledger.Hash{{8}}}}
	zero := func(first string) string { return first + strings.Repeat("00", 31) }
	want := "42" + "8c01" + "01" + zero("07") +
		"0100" + "06" + hex.EncodeToString([]byte("events")) + "04" + hex.EncodeToString([]byte("main")) + "0200000000000000" + "0300000000000000" +
		"0100" + "03000000" + zero("09") + "5351" + "00" +
		"02" + "0001" + "01" + zero("08")
	if got := hex.EncodeToString(r.append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
