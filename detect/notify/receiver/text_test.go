package receiver

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// hostile names, as whoever calls a server may choose them.
var hostile = []string{
	"<!channel>", "<!here|here>", "@channel", "@everyone", "<@U123>", "<https://evil.example|Sign in again>", "[sign in](https://evil.example)",
	"![x](https://evil.example/x.png)", "https://evil.example/", "www.evil.example", "`<!channel>`", "a`@here`b", "```\n@channel\n```", "*bold* _it_ ~no~",
	"a\nb\r\nc", "a\x00b\x1b[31mred", "\u202egnp.exe", "zero\u200bwidth\u2060", "line\u2028separator", "bad \xff\xfe utf-8", "\xff", "", " ", "\n\n",
	strings.Repeat("A", 1<<20), strings.Repeat("<", 1<<20), strings.Repeat("é", 1<<20), strings.Repeat("\xff", 1<<20), strings.Repeat(" ", 1<<20),
	strings.Repeat("\n", 1<<20), strings.Repeat("`", 1<<20), strings.Repeat("&", 200), strings.Repeat("\u202e", 1<<20), "&lt;!channel&gt;", `{{ .Alerts }}`, `"; "`, `\`, "{\"a\":1}",
}

// named is a finding in which everything that others write is the same name.
func named(name string) message.Alert {
	a := sample(1, message.Worse)
	a.Title, a.By, a.Verdict, a.Runbook, a.Command = name, name, name, name, name
	f := &a.Finding
	f.Rule, f.Detector, f.Reason, f.Observed, f.Expected = name, name, name, name, name
	f.Subject = detect.Subject{Tenant: name, Principal: name, AgentID: name, SessionID: name, TraceID: name, Server: name, Target: name, Emitter: name}
	for range 100 {
		f.Workings = append(f.Workings, detect.Working{Name: name, Value: name})
	}
	return a
}

func TestALineIsOneLineOfWhatCanBeSeen(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "  a \t b\r\nc ": "a b c", "a\x00b": "a b", "a\u202eb\u200bc": "abc", "bad \xff": "bad \uFFFD", "a\u2028b": "a b", "\ufeffx": "x",
		"0123456789": "0123456789", "0123456789a": "012345678…", "ééééééééééé": "ééééééééé…", "012345678 abc": "012345678…", "01234567  abc": "01234567…",
		"": "", "\n": "", strings.Repeat(" ", 1<<20): "", strings.Repeat("x", 1<<20): "xxxxxxxxx…",
	} {
		if got := line(in, 10); got != want {
			t.Errorf("%.30q becomes %q, not %q", in, got, want)
		}
	}
	if got := paragraph("a\n\nb \x00\n c\n", 10); got != "a\n\nb \nc" {
		t.Errorf("a paragraph becomes %q", got)
	}
}

func TestALinkIsOneThatCanBeFollowed(t *testing.T) {
	for in, want := range map[string]string{
		"https://a.example/d/x?y=z&v=%20": "https://a.example/d/x?y=z&v=%20", "http://127.0.0.1:3000/": "http://127.0.0.1:3000/",
		"": "", "javascript:alert(1)": "", "//a.example": "", "https://": "", "https://u:p@a.example": "", "https://a.example/\n": "", "x": "",
		"https://a.example/" + strings.Repeat("x", mostLink): "",
	} {
		if got := link(&message.Alert{Link: in}); got != want {
			t.Errorf("%.60q becomes %q", in, got)
		}
	}
}

func FuzzTexts(f *testing.F) {
	for _, s := range hostile {
		f.Add(s[:min(len(s), 4096)], 20)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = 1 + abs(most)%2000
		for _, got := range []string{line(s, most), paragraph(s, most)} {
			if !utf8.ValidString(got) || characters(got) > most {
				t.Fatalf("%q becomes %q, of at most %d", s, got, most)
			}
			for _, r := range got {
				if unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Cf, r) {
					t.Fatalf("%q becomes %q", s, got)
				}
			}
		}
		if got := line(s, most); strings.Contains(got, "\n") || line(got, most) != got {
			t.Errorf("%q becomes %q, then %q", s, got, line(got, most))
		}
		if got := code(s, most); got != "" && (strings.Count(got, "`") != 2 || strings.ContainsAny(got, "<>") || got[0] != '`' || got[len(got)-1] != '`') {
			t.Errorf("%q becomes %q", s, got)
		}
		if got := plain(s, most+5).Text; characters(got) > most+5 || strings.ContainsAny(got, "<>") {
			t.Errorf("%q becomes %q", s, got)
		}
		retryAfter(s, clock)
	})
}

func abs(n int) int {
	if n < 0 {
		return -(n + 1)
	}
	return n
}
