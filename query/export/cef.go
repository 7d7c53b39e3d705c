package export

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// maxCEFText bounds one value of CEF, in bytes: what its dictionary allows for a
// custom string. A longer one ends in "…".
const maxCEFText = 4000

// cef is the Common Event Format of the service's version (ArcSight Common Event
// Format Implementation Standard, version 26): one line an event, without a syslog
// header. It is for SIEMs and has less than the other formats.
func cef(version string) func(b []byte, e *event.Event) []byte {
	var head cefLine
	head.b = append(head.b, "CEF:0|mcpaudit|mcpaudit|"...)
	head.header(version)
	return func(b []byte, e *event.Event) []byte {
		l := cefLine{b: append(b, head.b...)}
		l.header(e.Kind)
		name := e.Method
		if name == "" {
			name = e.Kind
		}
		l.header(event.ClipText(name, 500))
		l.b = strconv.AppendInt(l.b, int64(cefSeverity[e.Outcome]), 10)
		l.b = append(l.b, '|')
		l.extension(e)
		return append(l.b, '\n')
	}
}

// cefSeverity is from 0 to 10. What is not there is 0.
var cefSeverity = map[string]int{"success": 1, "input_required": 1, "cancelled": 2, "tool_error": 3, "timeout": 3, "protocol_error": 4, "rate_limited": 4, "denied": 6}

func (l *cefLine) extension(e *event.Event) {
	l.first = true
	l.text("externalId", e.EventID.String())
	l.long("rt", uint64(e.ReceivedAt/1000))
	l.long("start", uint64(e.OccurredAt/1000))
	l.long("end", (uint64(e.OccurredAt)+e.Duration)/1000)
	l.text("cat", e.Kind)
	l.text("act", e.Decision)
	l.text("outcome", e.Outcome)
	reason := e.ErrorMessage
	if reason == "" {
		reason = e.DecisionReason
	}
	l.text("reason", reason)
	l.text("suid", e.Principal)
	l.text("suser", e.PrincipalName)
	l.text("spriv", e.PrincipalKind)
	if ip, err := netip.ParseAddr(e.ClientIP); err == nil && ip.Is4() {
		l.text("src", e.ClientIP)
	} else if err == nil {
		l.labelled("c6a2", "Source IPv6 Address", e.ClientIP)
	}
	l.text("sourceServiceName", e.ClientName)
	l.text("destinationServiceName", e.Server)
	l.text("dvchost", e.ServerInstance)
	l.text("deviceExternalId", e.EmitterID)
	l.text("app", e.Transport)
	l.text("requestClientApplication", e.UserAgent)
	l.long("in", e.RequestBytes)
	l.long("out", e.ResponseBytes)
	l.labelled("cs1", "target", e.Target)
	l.labelled("cs2", "arguments", e.Arguments)
	l.labelled("cs3", "session_id", e.SessionID)
	l.labelled("cs4", "trace_id", e.TraceID)
	l.labelled("cs5", "signals", strings.Join(e.Signals, ","))
	l.labelled("cs6", "tenant", e.Tenant)
	l.labelled("flexString1", "agent_id", e.AgentID)
	l.labelled("flexString2", "error_code", e.ErrorCode)
	l.number("cn1", "duration_us", e.Duration)
	l.number("cn2", "batch", e.Batch)
	l.number("cn3", "leaf", uint64(e.Leaf))
	l.text("deviceFacility", e.LogID)
}

// cefLine appends a line of CEF. In the header a pipe and a backslash are escaped
// by a backslash, in the extension an equals sign and a backslash, and line feeds
// and carriage returns as \n and \r. What else doesn't show becomes a space: there
// is no way to write it, and a syslog receiver may stop at it.
type cefLine struct {
	b     []byte
	first bool
}

func (l *cefLine) header(s string) {
	for _, r := range s {
		switch {
		case r == '|' || r == '\\':
			l.b = append(l.b, '\\', byte(r))
		case hidden(r):
			l.b = append(l.b, ' ')
		default:
			l.b = append(l.b, string(r)...)
		}
	}
	l.b = append(l.b, '|')
}

func (l *cefLine) key(key string) {
	if !l.first {
		l.b = append(l.b, ' ')
	}
	l.first = false
	l.b = append(append(l.b, key...), '=')
}

func (l *cefLine) text(key, s string) {
	if s == "" {
		return
	}
	l.key(key)
	for _, r := range event.ClipText(s, maxCEFText) {
		switch {
		case r == '=' || r == '\\':
			l.b = append(l.b, '\\', byte(r))
		case r == '\n':
			l.b = append(l.b, `\n`...)
		case r == '\r':
			l.b = append(l.b, `\r`...)
		case hidden(r):
			l.b = append(l.b, ' ')
		default:
			l.b = append(l.b, string(r)...)
		}
	}
}

// labelled is one of the fields whose meaning a second one names.
func (l *cefLine) labelled(key, label, s string) {
	if s != "" {
		l.text(key+"Label", label)
		l.text(key, s)
	}
}

// long is a number that fits into CEF's, which are signed.
func (l *cefLine) long(key string, n uint64) {
	if n != 0 && n <= 1<<63-1 {
		l.key(key)
		l.b = strconv.AppendUint(l.b, n, 10)
	}
}

func (l *cefLine) number(key, label string, n uint64) {
	if n <= 1<<63-1 {
		l.text(key+"Label", label)
		l.key(key)
		l.b = strconv.AppendUint(l.b, n, 10)
	}
}

// hidden says that a rune controls how others are shown, or where.
func hidden(r rune) bool {
	if r < 0x7f {
		return r < ' '
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}
