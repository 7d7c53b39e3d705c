package rules

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// watched is a service's guard with the events that it makes of calls. It lives in a
// bubble of testing/synctest, whose clock is the calls'.
type watched struct {
	t      *testing.T
	guard  *auth.Guard
	scrub  *redact.Redactor
	at     string // address of who calls
	events []*event.Event
}

// Methods of the guard, each of which wants another permission.
var wants = map[string]auth.Rule{
	"/mcpaudit.v1.QueryService/ListEvents":        {Permission: auth.Read},
	"/mcpaudit.v1.AccessService/ListKeys":         {Permission: auth.Administer},
	"/mcpaudit.v1.AccessService/CreateKey":        {Permission: auth.Administer, Note: auth.NoteAround},
	"/mcpaudit.v1.ExportService/ExportEvents":     {Permission: auth.Export},
	"/mcpaudit.v1.RetentionService/CreateHold":    {Permission: auth.Administer},
	"/mcpaudit.v1.FindingService/AcknowledgeNone": {Permission: auth.Triage},
	"/mcpaudit.v1.VerifyService/VerifyLog":        {Permission: auth.Integrity},
	"/mcpaudit.v1.IngestService/PublishBatch":     {Permission: auth.Publish},
}

func newWatched(t *testing.T) *watched {
	scrub, err := redact.New(redact.DefaultProfile(), []byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, scrub: scrub, at: "192.0.2.7"}
	w.guard = auth.NewGuard(wants, auth.Deps{Keys: w, Notes: diary.New("access", w, time.Now), Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Caller: func(context.Context) auth.Caller { return auth.Caller{Address: w.at, UserAgent: "grafana/12"} }})
	return w
}

// Identify is a keyring: a key is a role, or a guess.
func (w *watched) Identify(_ context.Context, text string) (*auth.Identity, error) {
	role := auth.Role(strings.TrimPrefix(text, auth.KeyPrefix))
	sum := sha256.Sum256([]byte(text))
	credential := hex.EncodeToString(sum[:8])
	if !slices.Contains(auth.Roles, role) {
		return nil, &auth.Refusal{Reason: auth.Unknown, Text: "this API key does not exist", Claimed: text, Credential: credential}
	}
	return &auth.Identity{ID: "key:" + string(role), Name: "wall", Kind: "human", Method: "api_key", Credential: credential, Grants: []auth.Grant{{Role: role, Tenant: auth.EveryTenant}}}, nil
}

// Submit is the log: it does with an event what the pipeline does.
func (w *watched) Submit(_ context.Context, events []*event.Event, _ int) (ingest.Settled, error) {
	for _, e := range events {
		e.ReceivedAt = time.Now().UnixMicro()
		w.scrub.Again(e)
		if err := e.Check(); err != nil {
			w.t.Errorf("an event of the service is not taken: %v", err)
		}
		w.events = append(w.events, e)
	}
	return ingest.Settled{}, nil
}

// call is one of a method with a key; "" is none.
func (w *watched) call(method, key string, req any) codes.Code {
	ctx := w.t.Context()
	if key != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+auth.KeyPrefix+key))
	}
	_, err := w.guard.Unary(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		return &pb.ListEventsResponse{Events: []*pb.Event{{}, {}}}, nil
	})
	return status.Code(err)
}

func (w *watched) list(key, filter string) codes.Code {
	return w.call("/mcpaudit.v1.QueryService/ListEvents", key, &pb.ListEventsRequest{Filter: filter, PageSize: 100})
}

// found is what all shipped rules say of the events, by rule.
func (w *watched) found() map[string][]detect.Change {
	w.t.Helper()
	found := map[string][]detect.Change{}
	for _, c := range run(load(w.t).Rules(), w.events, nil) {
		found[c.Rule] = append(found[c.Rule], c)
	}
	return found
}

func (w *watched) quiet() {
	w.t.Helper()
	for rule, changes := range w.found() {
		w.t.Errorf("rule %s: %s", rule, changes[0].Reason)
	}
}

// office is a month in which somebody looks something up now and then, on working days,
// while a server is called every few minutes.
func (w *watched) office() {
	for hour := range 28 * 24 {
		now := time.Now()
		if d := now.Weekday(); d != time.Saturday && d != time.Sunday && now.Hour() >= 9 && now.Hour() < 17 {
			for i := range 4 {
				w.list("analyst", fmt.Sprintf("target = \"tool-%d\"", (hour+i)%9))
			}
		}
		w.beat(12, 5*time.Minute)
	}
}

// beat are calls at a server, which go on whatever is done at the service.
func (w *watched) beat(n int, gap time.Duration) {
	for range n {
		w.seen(&event.Event{Kind: "tool_call", Method: "tools/call", Principal: "service:sync", PrincipalKind: "service", SessionID: "s", Server: "files", Target: "read_file", EmitterID: "files-1", EmitterSeq: w.next("files-1")})
		time.Sleep(gap)
	}
}

func (w *watched) next(emitter string) uint64 {
	n := uint64(1)
	for _, e := range slices.Backward(w.events) {
		if e.EmitterID == emitter {
			return e.EmitterSeq + 1
		}
	}
	return n
}

func (w *watched) seen(e *event.Event) {
	now := time.Now()
	var noise [10]byte
	noise[8], noise[9] = byte(e.EmitterSeq>>8), byte(e.EmitterSeq)
	sum := sha256.Sum256(noise[:]) // no two calls are the same
	e.EventID, e.OccurredAt, e.Outcome, e.ArgumentsDigest = event.NewID(now, noise), now.UnixMicro(), "success", event.Digest(sum[:16])
	e.SetDefaults()
	_, _ = w.Submit(w.t.Context(), []*event.Event{e}, 0)
}

// A dashboard asks the same again and again, day and night, with one key: that is what
// it is for, however often, and whether it is new or its owner has worked by hand before.
func TestADashboardThatPollsIsNoFinding(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(*watched)
		spike  bool // there is something to compare a day of polls with
	}{
		{"the first thing that is ever done", func(*watched) {}, false},
		{"of somebody with a month of use", (*watched).office, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched(t)
				c.before(w)
				polls := len(w.events)
				for i := range 24 * 720 {
					if c := w.list("analyst", fmt.Sprintf("occurred_at >= %q", time.Now().UTC().Add(-time.Hour).Format(time.RFC3339))); c != codes.OK {
						t.Fatal(c)
					}
					if i%60 == 0 {
						w.beat(1, 0)
					}
					time.Sleep(5 * time.Second)
				}
				if n := len(w.events) - polls; n != 24*720+24*12 {
					t.Fatalf("%d events of a day", n)
				}
				w.beat(2*288, 5*time.Minute) // it is taken down, and silent
				w.quiet()
				for _, e := range w.events { // if agents did that at a server, it would be one
					if e.Server == "mcpaudit" {
						e.Kind = "tool_call"
					}
				}
				if c.spike && len(w.found()) == 0 {
					t.Error("no rule looks at so many calls at all")
				}
			})
		})
	}
}

func TestTenGuessedKeysWithinAMinuteAreAFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		w.list("analyst", "")
		w.at = "198.51.100.9"
		began := time.Now()
		for i := range 10 {
			if c := w.list(fmt.Sprintf("guess-%d", i), ""); c != codes.Unauthenticated {
				t.Fatal(c)
			}
			time.Sleep(4 * time.Second)
		}
		if took := time.Since(began); took > time.Minute {
			t.Fatalf("they took %s", took)
		}
		found := w.found()
		f := found["auth-bruteforce"]
		if len(f) == 0 || len(found) != 1 || f[0].Severity != detect.Medium || !strings.Contains(f[0].Reason, w.at) || f[0].Tenant != auth.DefaultTenant {
			t.Fatalf("found %+v", found)
		}
		// One of them is the key of somebody who has never been there.
		if c := w.list("exporter", ""); c != codes.PermissionDenied {
			t.Fatal(c)
		}
		if f := w.found()["auth-bruteforce"]; f[len(f)-1].Severity == detect.High {
			t.Errorf("what may nothing counts as a right guess: %s", f[len(f)-1].Reason)
		}
		if c := w.list("auditor", ""); c != codes.OK {
			t.Fatal(c)
		}
		if f := w.found()["auth-bruteforce"]; f[len(f)-1].Severity != detect.High || !strings.Contains(f[len(f)-1].Reason, "may have been right") {
			t.Errorf("a guess that is right is %s: %s", f[len(f)-1].Severity, f[len(f)-1].Reason)
		}
	})
}

func TestOneWrongKeyThatIsSentAgainAndAgainIsNoGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		for range 20 {
			w.list("revoked", "")
			time.Sleep(15 * time.Second)
		}
		w.quiet()
	})
}

func TestTriesOfAllThatIsForbiddenAreAFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		var methods []string
		for m, rule := range wants {
			if rule.Permission != auth.Read && rule.Permission != auth.Triage {
				methods = append(methods, m)
			}
		}
		slices.Sort(methods)
		for i := range 20 {
			if c := w.call(methods[i%len(methods)], "analyst", &pb.ListEventsRequest{}); c != codes.PermissionDenied {
				t.Fatal(c)
			}
			time.Sleep(2 * time.Second)
		}
		e := w.events[0]
		if e.Kind != "auth" || e.Outcome != "denied" || e.HTTPStatus != 403 || !slices.Equal(e.ScopesRequired, []string{string(wants[methods[0]].Permission)}) || e.Principal != "key:analyst" {
			t.Errorf("one of them is %+v", e)
		}
		found := w.found()
		f := found["scope-violation"]
		if len(f) == 0 || len(found) != 1 {
			t.Fatalf("found %+v", found)
		}
		last := f[len(f)-1]
		if last.Severity != detect.High || last.Principal != "key:analyst" || !strings.Contains(last.Reason, "mcpaudit/") {
			t.Errorf("it is %s: %s", last.Severity, last.Reason)
		}
	})
}
