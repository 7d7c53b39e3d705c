package diary

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

func TestAnEntrySaysWhoDidWhatAndHowLongItTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		d := New("access", s, time.Now)
		began := time.Now()
		time.Sleep(1500 * time.Microsecond)
		for _, n := range []Entry{
			{Method: "mcpaudit/list_events", Target: "x", Request: `{"filter":"a"}`, Started: began, Labels: map[string]string{"rows": "3", "via": "grpc"},
				Who: Who{Tenant: "acme", Principal: "key:1", Name: "Ann", Kind: "human", AuthMethod: "api_key", Credential: "c1", Address: "192.0.2.1", UserAgent: "curl", Decision: "allow", Required: []string{"read"}}},
			{Kind: "auth", Method: "mcpaudit/login", Outcome: "denied", Words: "no", Who: Who{Kind: "anonymous", Address: "192.0.2.2", Decision: "deny", Reason: "unknown", Status: 401, ErrorCode: "unknown"}},
			{Method: "mcpaudit/stopped"},
		} {
			if err := d.Note(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		read, login, own := s.stored[0], s.stored[1], s.stored[2]
		if read.Kind != "admin" || read.Outcome != "success" || read.Tenant != "acme" || read.Principal != "key:1" || read.PrincipalName != "Ann" || read.PrincipalKind != "human" ||
			read.CredentialID != "c1" || read.ClientIP != "192.0.2.1" || read.UserAgent != "curl" || read.Decision != "allow" || !slices.Equal(read.ScopesRequired, []string{"read"}) ||
			read.Arguments != `{"filter":"a"}` || read.Server != "mcpaudit" || read.Target != "x" || !slices.Equal(read.Labels, []event.Label{{Key: "rows", Value: "3"}, {Key: "via", Value: "grpc"}}) {
			t.Errorf("a read is %+v", read)
		}
		if read.OccurredAt != began.UnixMicro() || read.Duration != 1500 {
			t.Errorf("it began at %d and took %d µs", read.OccurredAt, read.Duration)
		}
		if login.Principal != "" || login.PrincipalKind != "anonymous" || login.Tenant != "default" || login.HTTPStatus != 401 || login.ErrorMessage != "no" || login.DecisionReason != "unknown" {
			t.Errorf("a failed login is %+v", login)
		}
		if own.Principal != "mcpaudit:access" || own.PrincipalKind != "service" || own.Tenant != "default" {
			t.Errorf("what the service does by itself is %+v", own)
		}
		if !strings.HasPrefix(own.EmitterID, "mcpaudit-access-") || New("access", s, time.Now).of("").emitter == own.EmitterID {
			t.Errorf("the emitter is %s, in each run", own.EmitterID)
		}
	})
}

// Whoever calls chooses much of an entry. If he could make one that the log refuses, he
// would not be answered, but what he tries would leave no trace.
func TestNothingThatACallerSendsMakesAnEntryThatTheLogRefuses(t *testing.T) {
	scrub, err := redact.New(redact.DefaultProfile(), []byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{refuse: func(e *event.Event) error {
		scrub.Again(e)
		return e.Check()
	}}
	d := New("access", s, time.Now)
	for _, text := range []string{
		"", "\x00", "\xff\xfe", "\"'`\\", "\u202e\u2066", "\xed\xa0\x80", strings.Repeat("€", 1<<20), strings.Repeat("\xc3", 5000),
		strings.Repeat("ann@example.com ", 200_000), strings.Repeat("password=hunter2 ", 130), strings.Repeat(`{"a":`, 100_000), "{\"a\":\"\xff\"}",
		strings.Repeat("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl ", 40),
	} {
		labels := map[string]string{text: text}
		for i := range 200 {
			labels[fmt.Sprint(i, text[:min(len(text), 200)])] = text[:min(len(text), 3000)]
		}
		err := d.Note(t.Context(), Entry{Method: "mcpaudit/" + text, Target: text, Words: text, Request: text, Labels: labels, Who: Who{Tenant: text, Principal: text, Name: text,
			AuthMethod: text, Credential: text, Address: text, UserAgent: text, Reason: text, Required: []string{text, text}, ErrorCode: text}})
		if err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}
