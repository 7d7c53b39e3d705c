package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // also where the system has none

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func TestPrintableTextIsHarmlessAndFits(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"read_file", 20, "read_file"},
		{"read_file", 9, "read_file"},
		{"read_file", 8, "read_fi…"},
		{"", 8, ""},
		{"a\x1b[31mb\nc\td\x00", 20, "a [31mb c d "},
		{"a\u009b31m\u0085", 20, "a 31m "},             // C1 control characters
		{"user\u202egnp.exe", 20, "user gnp.exe"},      // right to left
		{"a\u200bb\u2066c\ufeffd", 20, "a b c d"},      // invisible
		{"a\U000e0041\U000e0042", 20, "a  "},           // tags
		{"a\u2028b", 20, "a b"},                        // line separator
		{"日本サーバー", 12, "日本サーバー"},                       // two columns each
		{"日本サーバー", 11, "日本サーバ…"},                       // 10 and the ellipsis
		{"日本サーバー", 10, "日本サー…"},                        // not half of a character
		{"cafe\u0301", 4, "cafe\u0301"},                // a mark takes no column
		{"a\xffb", 20, "a\ufffdb"},                     // not UTF-8
		{strings.Repeat("x", 1<<20), 5, "xxxx…"},       // long
		{"a" + strings.Repeat("\u0301", 1000), 1, "…"}, // marks without end
	} {
		got := printable(c.text, c.most)
		if got != c.want {
			t.Errorf("%.40q in %d columns is %q, want %q", c.text, c.most, got, c.want)
		}
		if textWidth(got) > c.most {
			t.Errorf("%.40q takes %d columns of %d", c.text, textWidth(got), c.most)
		}
	}
}

func TestJSONHidesNothingAndMeansTheSame(t *testing.T) {
	const odd = "a\u202eb\u009bc\u200bd\U000e0041e日\x7f<>&\"\\"
	line, err := compactJSON(&pb.Event{Target: odd})
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsFunc(string(line), unseen) || !strings.Contains(string(line), `a\u202eb\u009bc\u200bd\udb40\udc41e日\u007f`) {
		t.Errorf("%s", line)
	}
	var back struct{ Target string }
	if err := json.Unmarshal(line, &back); err != nil || back.Target != odd {
		t.Errorf("%q: %v", back.Target, err)
	}
}

func TestACaretStandsUnderThePlace(t *testing.T) {
	long := strings.Repeat("a", 200)
	for _, c := range []struct {
		filter   string
		position int
		want     string
	}{
		{`outcom = x`, 1, "  outcom = x\n  ^"},
		{`kind = x AND outcom = y`, 14, "  kind = x AND outcom = y\n               ^"},
		{`kind =`, 7, "  kind =\n        ^"},
		{`kind =`, 99, "  kind =\n        ^"},
		{`kind = x`, 0, "  kind = x\n  ^"},
		{"", 1, "  \n  ^"},
		{"kind = x\n  AND outcom = y\nAND z = 1", 16, "    AND outcom = y\n        ^"},
		{`server = "日本" AND x`, 19, "  server = \"日本\" AND x\n                      ^"}, // characters, and columns
		{"a\tb\x1b = x", 3, "  a b  = x\n    ^"},
		{long + "B" + long, 201, "  …" + long[:59] + "B" + long[:58] + "…\n  " + strings.Repeat(" ", 60) + "^"},
	} {
		if got := pointAt(c.filter, c.position); got != c.want {
			t.Errorf("%.60q at %d:\n%s\nwant\n%s", c.filter, c.position, got, c.want)
		}
	}
}

func TestBarsAndSparklinesShowWhatIsNotNothing(t *testing.T) {
	for _, c := range []struct {
		part, whole float64
		want        string
	}{{0, 10, ""}, {10, 10, "████"}, {5, 10, "██"}, {1e-9, 10, "▏"}, {20, 10, "████"}, {10. / 32, 10, "▏"}, {9 * 10. / 32, 10, "█▏"}, {1, 0, ""}, {-1, 10, ""}} {
		if got := bar(c.part, c.whole, 4); got != c.want {
			t.Errorf("%v of %v is %q, want %q", c.part, c.whole, got, c.want)
		}
	}
	if got, want := sparkline([]float64{0, 1e-9, 1, 4, 7.99, 8}, 8), "·▁▂▅██"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := sparkline([]float64{0, 0}, 0), "··"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAMomentIsADurationADayOrATime(t *testing.T) {
	zone := time.FixedZone("XST", 2*3600)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"":                              {},
		"0":                             {},
		"90m":                           now.Add(-90 * time.Minute),
		"24h":                           now.Add(-24 * time.Hour),
		"7d":                            now.Add(-7 * 24 * time.Hour),
		"1d12h":                         now.Add(-36 * time.Hour),
		"2026-11-20":                    time.Date(2026, 11, 20, 0, 0, 0, 0, zone),
		"2026-11-20T09:00:00Z":          time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC),
		"2026-11-20T09:00:00.123+01:00": time.Date(2026, 11, 20, 8, 0, 0, 123e6, time.UTC),
	} {
		if got, err := moment("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-1h", "-1d", "1dd", "99999999d", "24", "2026-13-01", "2026-11-20 09:00", " "} {
		if got, err := moment("--since", text, now); err == nil || !strings.HasPrefix(err.Error(), "--since is ") {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	p := period{since: "1h", until: "2h"}
	if _, err := p.narrow("", now); err == nil || err.Error() != "--since 1h is not before --until 2h" {
		t.Error(err)
	}
	p = period{since: "2h", until: "1h"}
	for filter, want := range map[string]string{
		"":            `occurred_at >= "2026-11-21T08:00:00Z" AND occurred_at < "2026-11-21T09:00:00Z"`,
		" ":           `occurred_at >= "2026-11-21T08:00:00Z" AND occurred_at < "2026-11-21T09:00:00Z"`,
		" a=b OR c=d": ` a=b OR c=d AND occurred_at >= "2026-11-21T08:00:00Z" AND occurred_at < "2026-11-21T09:00:00Z"`,
	} {
		if got, err := p.narrow(filter, now); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", filter, got, err, want)
		}
	}
}

func TestTimesNameTheirZone(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	c := (&surroundings{now: func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, zone) }}).clock()
	if got := c.head("TIME"); got != "TIME (CET)" {
		t.Error(got)
	}
	for want, at := range map[string]time.Time{
		"11-20 10:00:00.123":      time.Date(2026, 11, 20, 9, 0, 0, 123456789, time.UTC),
		"07-20 11:00:00.000 CEST": time.Date(2026, 7, 20, 9, 0, 0, 0, time.UTC), // summer
		"2025-11-20 10:00:00.000": time.Date(2025, 11, 20, 9, 0, 0, 0, time.UTC),
	} {
		if got := c.text(timestamppb.New(at)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for want, d := range map[string]time.Duration{"30s ago": 30 * time.Second, "100m ago": 100 * time.Minute, "3h ago": 3 * time.Hour, "9d ago": 230 * time.Hour, "in 60s": -time.Minute} {
		if got := c.ago(timestamppb.New(c.now.Add(-d))); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestATableLinesUpAndBreaksForNothing(t *testing.T) {
	columns := []column{{head: "SERVER", most: 20, fixed: 8}, {head: "N", most: 5, right: true}, {head: "TEXT", most: 30, rest: true}}
	rows := [][]cell{{{text: "日本"}, {text: "7"}, {text: "x\ny"}}, {{text: "files", look: red}, {text: "12"}, {}}}
	print := func(out screen, endless bool) string {
		var b bytes.Buffer
		out.Writer = &b
		table := newTable(out, append([]column{}, columns...)...)
		if endless {
			if err := table.endless(); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range rows {
			if err := table.add(append([]cell{}, r...)...); err != nil {
				t.Fatal(err)
			}
		}
		if err := table.note(dim, "a\x1bnote"); err != nil {
			t.Fatal(err)
		}
		if err := table.flush(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, c := range []struct {
		out     screen
		endless bool
		want    string
	}{
		{screen{}, false, "SERVER   N  TEXT\n日本     7  x y\nfiles   12\na note\n"},
		{screen{}, true, "SERVER        N  TEXT\n日本          7  x y\nfiles        12\na note\n"},
		{screen{colour: true}, false, "\x1b[1mSERVER\x1b[0m   \x1b[1mN\x1b[0m  \x1b[1mTEXT\x1b[0m\n日本     7  x y\n\x1b[31mfiles\x1b[0m   12\n\x1b[2ma note\x1b[0m\n"},
	} {
		if got := print(c.out, c.endless); got != c.want {
			t.Errorf("endless %t, colour %t:\n%s\nwant\n%s", c.endless, c.out.colour, got, c.want)
		}
	}
	// On a terminal no line is wider than it, as long as columns can give way.
	rows = append(rows, []cell{{text: strings.Repeat("s", 50)}, {text: "1"}, {text: strings.Repeat("t", 50)}})
	for _, width := range []int{32, 40, 60} {
		for line := range strings.Lines(print(screen{terminal: true, width: width}, false)) {
			if n := textWidth(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("a line takes %d columns of %d: %s", n, width, line)
			}
		}
	}
}

// A long table prints as it goes, and its lines are complete.
func TestALongTablePrintsAsItGoes(t *testing.T) {
	var b bytes.Buffer
	table := newTable(screen{Writer: &b}, column{head: "A", most: 10}, column{head: "B", most: 10})
	for n := range waitingRows + 5 {
		if err := table.add(cell{text: strings.Repeat("a", n%3)}, cell{text: "b"}); err != nil {
			t.Fatal(err)
		}
		if (b.Len() > 0) != (n >= waitingRows-1) {
			t.Fatalf("after %d rows there are %d bytes", n+1, b.Len())
		}
	}
	if err := table.flush(); err != nil || strings.Count(b.String(), "\n") != waitingRows+6 || strings.Count(b.String(), "A ") != 1 {
		t.Errorf("%v: %d lines", err, strings.Count(b.String(), "\n"))
	}
}
