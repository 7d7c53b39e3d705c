package notify

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

func aState(change func(*State)) *State {
	s := &State{Triage: TriageNew, Finding: detect.Finding{ID: idNo(1), Version: 1, Rule: "call-spike", Detector: "call_spike", Severity: detect.High,
		Reason: "many calls", Observed: "142", Expected: "3", Workings: []detect.Working{{Name: "calls", Value: "142"}},
		Subject: detect.Subject{Tenant: "acme", Principal: "user:ada", Server: "crm", Target: "read"}, State: detect.Open}}
	change(s)
	return s
}

func alertOf(change func(*State)) message.Alert {
	p := &Plan{link: "https://g.example/d/x?f={finding_id}&t={tenant}&p={principal}"}
	return p.alert(&Receiver{Quotes: true}, aState(change), message.Firing, detect.None, &Deps{
		Rules:   func(name string) (string, string) { return "about " + name, "first ask" },
		Command: func(id string) string { return "mcpaudit findings show " + id },
	})
}

func TestAnAlertSaysWhoAndWhereAndWhatToDo(t *testing.T) {
	a := alertOf(func(*State) {})
	if a.Title != "high: call-spike, user:ada at crm" || a.About != "about call-spike" || a.Runbook != "first ask" ||
		a.Command != "mcpaudit findings show "+idNo(1) || a.Link != "https://g.example/d/x?f="+idNo(1)+"&t=acme&p=user%3Aada" || a.Key() != "mcpaudit/"+idNo(1) {
		t.Errorf("%+v", a)
	}
	for want, change := range map[string]func(*detect.Finding){
		"high: call-spike, user:ada":     func(f *detect.Finding) { f.Server = "" },
		"high: call-spike, crm/read":     func(f *detect.Finding) { f.Principal = "" },
		"high: call-spike, agent at crm": func(f *detect.Finding) { f.Principal, f.AgentID = "", "agent" },
		"high: call-spike, e1":           func(f *detect.Finding) { f.Subject = detect.Subject{Tenant: "acme", Emitter: "e1"} },
		"high: call-spike, tenant acme":  func(f *detect.Finding) { f.Subject = detect.Subject{Tenant: "acme"} },
		"high: call-spike":               func(f *detect.Finding) { f.Subject = detect.Subject{} },
	} {
		if a := alertOf(func(s *State) { change(&s.Finding) }); a.Title != want {
			t.Errorf("%q, want %q", a.Title, want)
		}
	}
}

func TestWhoDidItIsSaid(t *testing.T) {
	p := &Plan{}
	closed := aState(func(s *State) { s.Triage, s.By, s.Verdict = TriageClosed, "ada", "benign" })
	if a := p.alert(&Receiver{}, closed, message.Resolved, detect.High, &Deps{}); a.By != "ada" || a.Verdict != "benign" || a.Told != detect.High {
		t.Errorf("%+v", a)
	}
	quiet := aState(func(s *State) { s.Triage, s.By, s.Finding.State = TriageSeen, "ada", detect.Resolved })
	if a := p.alert(&Receiver{}, quiet, message.Resolved, detect.High, &Deps{}); a.By != "" || a.Verdict != "" {
		t.Errorf("it ended by itself, and it says %+v", a)
	}
}

func TestWithoutContentNothingIsQuoted(t *testing.T) {
	p := &Plan{}
	s := aState(func(*State) {})
	a := p.alert(&Receiver{}, s, message.Firing, detect.None, &Deps{})
	if f := a.Finding; f.Reason != "" || f.Observed != "" || f.Workings != nil || f.Expected != "3" || f.Principal != "user:ada" {
		t.Errorf("%+v", f)
	}
	if s.Finding.Reason == "" || len(s.Finding.Workings) != 1 {
		t.Error("others lack it, too")
	}
}

// Names and reasons are made by emitters, and an emitter may be an attacker's.
func TestHostileTextsAreOneShortLine(t *testing.T) {
	for _, hostile := range []string{
		"a\nb\r\nc\x00\x1b[31m", "\u202egnp.exe\u2066", "a\u2028b\u2029c\u200bd\ufeff", "bad\xff\xfe", strings.Repeat("ä", 1_000_000), strings.Repeat("\x00", 1_000_000), "{tenant}&x=\"'<script>",
	} {
		a := alertOf(func(s *State) {
			f := &s.Finding
			for _, p := range []*string{&f.Reason, &f.Observed, &f.Expected, &f.Rule, &f.Tenant, &f.Principal, &f.AgentID, &f.SessionID, &f.TraceID, &f.Server, &f.Target, &f.Emitter} {
				*p = hostile
			}
			f.Workings = nil
			for range 1000 {
				f.Workings = append(f.Workings, detect.Working{Name: hostile, Value: hostile})
			}
		})
		f := &a.Finding
		texts := []string{a.Title, f.Reason, f.Observed, f.Expected, f.Rule, f.Tenant, f.Principal, f.AgentID, f.SessionID, f.TraceID, f.Server, f.Target, f.Emitter}
		if len(f.Workings) > mostWorking {
			t.Errorf("%d workings", len(f.Workings))
		}
		for _, w := range f.Workings {
			texts = append(texts, w.Name, w.Value)
		}
		for _, text := range texts {
			if len(text) > mostReason || !utf8.ValidString(text) || strings.ContainsAny(text, "\n\r\x00\x1b\u202e\u2066\u2028\u2029\u200b\ufeff") {
				t.Errorf("%.100q is said of %.40q", text, hostile)
			}
		}
		if len(a.Title) > mostTitle {
			t.Errorf("a title of %d bytes", len(a.Title))
		}
		u, err := url.Parse(a.Link)
		if err != nil || u.Host != "g.example" || len(u.Query()) != 3 || u.Query().Get("f") != idNo(1) {
			t.Errorf("link %.200q, %v", a.Link, err)
		}
	}
}
