package redact

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix" // which suffixes are registries (co.uk) is data that nobody should keep a copy of
)

// address looks at the URL around "://" or at the host that starts with "www.".
func (s *scanner) address(t []byte, lo, hi int) {
	host := lo
	if t[hi-1] == '/' {
		for lo > 0 && (isAlnum(t[lo-1]) || t[lo-1] == '+' || t[lo-1] == '-') && hi-lo < 20 {
			lo--
		}
		if lo == host {
			return // "://" without a scheme
		}
		host = hi
	} else if lo > 0 && (isAlnum(t[lo-1]) || t[lo-1] == '/' || t[lo-1] == '.' || t[lo-1] == '@') {
		return // within a URL, which has been or will be read
	}
	end := hi
	for end < len(t) && !isSpace(t[end]) && t[end] > 0x20 && t[end] != '"' && t[end] != '<' && t[end] != '>' && t[end] != '`' && t[end] != '\'' && t[end] != '|' && t[end] != '\\' && end-lo < 2048 {
		end++
	}
	s.spend(end - hi)
	for end > host && bytes.IndexByte([]byte(".,;:!?)]}"), t[end-1]) >= 0 {
		end--
	}
	s.inURLs = append(s.inURLs, span{int32(lo), int32(end)})
	if s.quiet || end == host {
		return
	}
	s.schemes(t[lo:host])
	name := t[host:end]
	if i := bytes.IndexAny(name, "/?#"); i >= 0 {
		name = name[:i]
	}
	if i := bytes.LastIndexByte(name, '@'); i >= 0 {
		name = name[i+1:]
	}
	s.host(name)
	nameLo := host + bytes.Index(t[host:end], name)
	s.see("url", lo, end)
	if bare := trimPort(name); len(bare) > 0 {
		s.see("domain", nameLo, nameLo+len(bare))
	}
}

// schemes that reach further than a web request should.
func (s *scanner) schemes(scheme []byte) {
	var buf [24]byte
	low := buf[:0]
	for _, c := range scheme[:min(len(scheme), len(buf))] {
		low = append(low, lower(c))
	}
	switch string(bytes.TrimSuffix(low, []byte("://"))) {
	case "file":
		s.sig.add("ssrf:file")
	case "gopher", "dict", "ldap", "ldaps", "tftp", "jar", "netdoc", "phar", "expect":
		s.sig.add("ssrf:scheme")
	}
}

func trimPort(name []byte) []byte {
	if len(name) > 0 && name[0] == '[' {
		if i := bytes.IndexByte(name, ']'); i > 0 {
			return name[1:i]
		}
	}
	if i := bytes.LastIndexByte(name, ':'); i >= 0 {
		return name[:i]
	}
	return name
}

// host classes a host as an inside address or notes its registrable domain.
func (s *scanner) host(name []byte) {
	name = bytes.TrimSuffix(trimPort(name), []byte("."))
	if len(name) == 0 || len(name) > 253 {
		return
	}
	var room [256]byte
	low := room[:0]
	for _, c := range name {
		low = append(low, lower(c))
	}
	if class := inside(low); class != "" {
		s.sig.add("ssrf:" + class)
		return
	}
	if s.sig.urls >= maxURLSignals {
		return
	}
	h := string(low)
	if d, err := publicsuffix.EffectiveTLDPlusOne(h); err == nil && strings.IndexByte(d, '.') > 0 && validHost(d) {
		if s.sig.add("url:" + d) {
			s.sig.urls++
		}
	} else if a, err := netip.ParseAddr(h); err == nil {
		if s.sig.add("url:" + a.String()) {
			s.sig.urls++
		}
	}
}

func validHost(h string) bool {
	for i := range len(h) {
		if !hostChar(h[i]) {
			return false
		}
	}
	return true
}

// inside says what kind of inside address a host names: "metadata", "loopback",
// "private", or "" for one outside. It reads the spellings that resolvers accept
// and filters forget: decimal, octal and hexadecimal, and fewer than four parts.
func inside(host []byte) string {
	h := string(host)
	switch h {
	case "localhost", "localhost.localdomain", "ip6-localhost", "0", "localtest.me", "lvh.me":
		return "loopback"
	case "metadata.google.internal", "metadata", "metadata.goog", "instance-data", "metadata.azure.com", "169.254.169.254.nip.io":
		return "metadata"
	}
	if strings.HasSuffix(h, ".localhost") {
		return "loopback"
	}
	if strings.HasSuffix(h, ".internal") || strings.HasSuffix(h, ".local") || strings.HasSuffix(h, ".lan") || strings.HasSuffix(h, ".corp") || strings.HasSuffix(h, ".svc") || strings.Contains(h, ".svc.cluster") {
		return "private"
	}
	for _, suffix := range []string{".nip.io", ".sslip.io", ".xip.io"} {
		if rest, ok := strings.CutSuffix(h, suffix); ok {
			parts := strings.Split(strings.ReplaceAll(rest, "-", "."), ".")
			if len(parts) >= 4 {
				h = strings.Join(parts[len(parts)-4:], ".")
			}
		}
	}
	a, err := netip.ParseAddr(h)
	if err != nil {
		var ok bool
		if a, ok = looseIPv4(h); !ok {
			return ""
		}
	}
	a = a.Unmap()
	switch {
	case a == netip.AddrFrom4([4]byte{169, 254, 169, 254}), a == netip.AddrFrom4([4]byte{100, 100, 100, 200}),
		a == netip.AddrFrom4([4]byte{169, 254, 170, 2}), a == metadataV6:
		return "metadata"
	case a.IsLoopback(), a.IsUnspecified():
		return "loopback"
	case a.IsPrivate(), a.IsLinkLocalUnicast(), cgnat.Contains(a):
		return "private"
	}
	return ""
}

var (
	metadataV6 = netip.MustParseAddr("fd00:ec2::254")
	cgnat      = netip.MustParsePrefix("100.64.0.0/10")
)

// looseIPv4 reads what inet_aton does: 0x7f000001, 2130706433, 0177.1.
func looseIPv4(h string) (netip.Addr, bool) {
	var none netip.Addr
	parts := strings.Split(h, ".")
	if len(parts) > 4 || h == "" {
		return none, false
	}
	v := uint64(0)
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 0, 64)
		if err != nil || p == "" || strings.Contains(p, "_") {
			return none, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return none, false
			}
			v = v<<8 | n
			continue
		}
		rest := uint(4 - i)
		if n >= 1<<(8*rest) {
			return none, false
		}
		v = v<<(8*rest) | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// appendURL writes a URL in normal form: scheme and host in lower case, no user,
// fragment or last slash.
func appendURL(out, u []byte) []byte {
	if i := bytes.IndexByte(u, '#'); i >= 0 {
		u = u[:i]
	}
	u = bytes.TrimSuffix(u, []byte("/"))
	scheme, rest, ok := bytes.Cut(u, []byte("://"))
	if !ok {
		rest = u
		scheme = []byte("http")
	}
	for _, c := range scheme {
		out = append(out, lower(c))
	}
	out = append(out, "://"...)
	host, path := rest, []byte(nil)
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if i := bytes.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	for _, c := range host {
		out = append(out, lower(c))
	}
	return append(out, path...)
}
