package notify

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Most bytes of what is said of a finding. Names and reasons are made by emitters, and
// an emitter may be an attacker's.
const (
	mostTitle   = 200
	mostReason  = 1000
	mostShort   = 200
	mostWorking = 20 // lines
)

// linkValues are what a link may have in braces.
var linkValues = map[string]func(*detect.Finding) string{
	"finding_id": func(f *detect.Finding) string { return f.ID },
	"tenant":     func(f *detect.Finding) string { return f.Tenant },
	"rule":       func(f *detect.Finding) string { return f.Rule },
	"detector":   func(f *detect.Finding) string { return f.Detector },
	"severity":   func(f *detect.Finding) string { return f.Severity.String() },
	"principal":  func(f *detect.Finding) string { return f.Principal },
	"server":     func(f *detect.Finding) string { return f.Server },
	"target":     func(f *detect.Finding) string { return f.Target },
	"session_id": func(f *detect.Finding) string { return f.SessionID },
	"trace_id":   func(f *detect.Finding) string { return f.TraceID },
}

// fillLink puts a finding's values in place of the names in braces, each escaped so that
// it stays one value in a path or in a query (RFC 3986, section 2.3).
func fillLink(link string, f *detect.Finding) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(link, "{")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf("{%s has no closing brace", clip(name, 40))
		}
		value, known := linkValues[name]
		if !known {
			var names []string
			for n := range linkValues {
				names = append(names, n)
			}
			return "", fmt.Errorf("there is no value {%s}; the nearest is {%s}", clip(name, 40), event.Nearest(name, names))
		}
		b.WriteString(strings.ReplaceAll(url.QueryEscape(event.ClipText(value(f), mostReason)), "+", "%20"))
		link = after
	}
}

// Strip takes out of a finding what may quote the content of calls: what receivers with
// content none are not told. These are the fields that the query API hides at the same
// level.
func Strip(f *detect.Finding) { f.Reason, f.Observed, f.Workings = "", "", nil }

// alert is what a receiver is told of a finding. st is not changed.
func (p *Plan) alert(r *Receiver, st *State, what message.What, told detect.Severity, d *Deps) message.Alert {
	f := st.Finding
	a := message.Alert{What: what, Told: told}
	if d.Command != nil {
		a.Command = d.Command(f.ID)
	}
	a.Link, _ = fillLink(p.link, &f) // Read has tried it
	if d.Rules != nil {
		a.About, a.Runbook = d.Rules(f.Rule)
	}
	if r != nil && !r.Quotes {
		Strip(&f)
	}
	tidy(&f)
	a.Finding, a.Title = f, titleOf(&f)
	switch what {
	case message.Acknowledged:
		a.By = clip(st.By, mostShort)
	case message.Resolved:
		if st.Triage == TriageClosed {
			a.By, a.Verdict = clip(st.By, mostShort), clip(st.Verdict, mostShort)
		}
	}
	return a
}

// tidy makes all texts of a finding short and of one line each.
func tidy(f *detect.Finding) {
	f.Reason = clip(f.Reason, mostReason)
	for _, s := range []*string{&f.Rule, &f.Detector, &f.Observed, &f.Expected, &f.Tenant, &f.Principal, &f.AgentID, &f.SessionID, &f.TraceID, &f.Server, &f.Target, &f.Emitter} {
		*s = clip(*s, mostShort)
	}
	f.Workings = slices.Clone(f.Workings[:min(len(f.Workings), mostWorking)])
	for i := range f.Workings {
		w := &f.Workings[i]
		w.Name, w.Value = clip(w.Name, mostShort), clip(w.Value, mostShort)
	}
}

// titleOf is one line: severity, rule and whom it is about, such as
// "high: call-spike, user:ada at crm".
func titleOf(f *detect.Finding) string {
	t := f.Severity.String() + ": " + f.Rule
	who := f.Principal
	if who == "" {
		who = f.AgentID
	}
	if who == "" {
		who = f.Emitter
	}
	where := f.Server
	if f.Target != "" && who == "" {
		where = strings.TrimPrefix(where+"/"+f.Target, "/")
	}
	switch {
	case who != "" && where != "":
		t += ", " + who + " at " + where
	case who+where != "":
		t += ", " + who + where
	case f.Tenant != "":
		t += ", tenant " + f.Tenant
	}
	return clip(t, mostTitle)
}

// clip makes a text of somebody else one line without characters that are not seen, or
// that change how others are: control and format characters (Unicode categories Cc, Cf,
// Co, Cs) and separators of lines, of at most so many bytes.
func clip(s string, most int) string {
	if len(s) > 4*most {
		s = event.ClipText(s, 4*most) // before it is walked through
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t' || unicode.In(r, unicode.Zl, unicode.Zp):
			return ' '
		case unicode.In(r, unicode.C):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return event.ClipText(strings.TrimSpace(s), most)
}
