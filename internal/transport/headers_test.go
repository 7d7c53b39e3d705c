package transport

import (
	"net"
	"strings"
	"testing"
)

// No Host that a web page can have a name for is answered on loopback, and whatever a
// client says of itself becomes one short line.
func FuzzAHostIsOursOrNot(f *testing.F) {
	for _, s := range []string{"", "localhost", "127.0.0.1:1", "[::1]:1", "evil.example", "localhost.evil.example", "[", "]:1", "::1", "a:b:c", "[::1%25lo]:1", "\x00", "LOCALHOST."} {
		f.Add(s)
	}
	loopback := Hosts{Listen: "127.0.0.1:4778"}
	f.Fuzz(func(t *testing.T, s string) {
		if loopback.Answers(s) {
			name := strings.ToLower(s)
			if h, _, err := net.SplitHostPort(name); err == nil {
				name = h
			}
			name = strings.TrimSuffix(strings.Trim(name, "[]"), ".")
			if ip := net.ParseIP(name); name != "localhost" && (ip == nil || !ip.IsLoopback()) {
				t.Errorf("%q is answered", s)
			}
		}
		if c := clip(s); len(c) > maxUserAgent || strings.ContainsAny(c, "\r\n\x00\x7f") {
			t.Errorf("%q", c)
		}
		if h := host(s); h != "" && net.ParseIP(h) == nil {
			t.Errorf("%q has the address %q", s, h)
		}
	})
}
