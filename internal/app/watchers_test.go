package app

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// watched is a service and somebody with all rights, who calls each of its methods from
// an address of its own.
type watched struct {
	*service
	who   string            // the caller's identity
	known map[string]string // what answers said, for the requests after them
}

// Promise 7: the watchers are watched. Whatever is asked of the service is an event of
// its log that says who asked, from where, for what, and how much came; and so are its
// starts and stops, keys that came by another way, and guesses at keys.
func TestPromise7WhateverIsAskedIsInTheLog(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, dir)
	cfg.tellsTo(t, newInbox(t))
	cfg.Redact.KeyFile = filepath.Join(t.TempDir(), "redact.key")
	if _, _, err := keyfile.ReadOrMake(cfg.Redact.KeyFile); err != nil {
		t.Fatal(err)
	}
	w := &watched{service: serve(t, cfg), known: map[string]string{}}
	w.awaitReady(t)
	me, err := pb.NewAccessServiceClient(w.grpc).WhoAmI(t.Context(), &pb.WhoAmIRequest{})
	if err != nil {
		t.Fatal(err)
	}
	w.who = me.GetIdentity()
	w.findsGuesses(t)
	w.tracesEveryCall(t)
	w.tracesHTTP(t)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}

	// Somebody writes a key into the store.
	other := storetest.Open(t, dir)
	storetest.Exec(t, other, `INSERT INTO api_keys (key_id, change, changed_at, changed_by, expires_at, hash, name, roles, tenant)
		VALUES ('aaaaaaaaaaaaaaaa', 'made', now64(6) - INTERVAL 1 HOUR, 'key:nobody', now64(6) + INTERVAL 1 YEAR, repeat('x', 32), 'planted', ['analyst'], '*')`)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	w.service = serve(t, cfg)
	w.awaitReady(t)
	found := w.events(t, `method = "mcpaudit/key_found" AND target = "key:aaaaaaaaaaaaaaaa"`, 1)
	if e := found[0]; len(found) != 1 || e.GetKind() != "admin" || e.GetLabels()["made_by"] != "key:nobody" || e.GetLabels()["roles"] != "analyst@*" {
		t.Errorf("a key that was planted is noted as %v", found)
	}
	var lives []string
	for _, e := range w.events(t, `principal = "mcpaudit:service"`, 3) {
		lives = append(lives, e.GetMethod())
	}
	if want := []string{"mcpaudit/start", "mcpaudit/stop", "mcpaudit/start"}; !slices.Equal(lives, want) {
		t.Errorf("the service says %q of itself, want %q", lives, want)
	}
}

// findsGuesses tries keys until somebody is told.
func (w *watched) findsGuesses(t *testing.T) {
	const guesser = "127.4.0.1"
	conn := w.somewhere(t, guesser)
	var guessing sync.WaitGroup // the later ones are made to wait
	for range 10 {
		key := foreign(t)
		guessing.Go(func() {
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key), bounded)
			defer cancel()
			if _, err := pb.NewQueryServiceClient(conn).ListEvents(ctx, &pb.ListEventsRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("a key that was guessed: %v", err)
			}
		})
	}
	guessing.Wait()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := pb.NewFindingServiceClient(w.grpc).ListFindings(t.Context(), &pb.ListFindingsRequest{Filter: `rule = "auth-bruteforce"`})
		if err != nil {
			t.Fatal(err)
		}
		if list := resp.GetFindings(); len(list) > 0 {
			if f := list[0]; f.GetPrincipal() != "address "+guesser || f.GetSeverity() != "medium" || f.GetEventCount() == 0 {
				t.Errorf("the guesses became %v", f)
			}
			w.known["finding"] = list[0].GetFindingId()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("ten keys that were guessed became no finding")
		}
	}
}

// tracesEveryCall calls each method once, and looks for what it left.
func (w *watched) tracesEveryCall(t *testing.T) {
	e := someEvent("crm-1", 1, func(e *event.Event) { e.Target, e.Tenant = "read_account", "acme" })
	w.known["event"] = e.GetEventId()
	if _, err := pb.NewIngestServiceClient(w.grpc).PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{e}}); err != nil {
		t.Fatal(err)
	}
	list, byName := askings(t)
	rows := map[string]int{}
	for i, a := range list {
		if m := byName[a.method]; !strings.HasPrefix(a.method, "IngestService/") {
			rows[a.method] = w.call(t, callerOf(i), &a, m)
		}
	}
	seen := w.noted(t, `client_ip = "127.5.*"`)
	for i, a := range list {
		rule := rights[fullName(byName[a.method])]
		events := seen[callerOf(i)]
		if rule.Note == auth.NoteNever {
			if len(events) > 0 {
				t.Errorf("%s is not to be noted, and left %v", a.method, events)
			}
			continue
		}
		if want := map[auth.Noting]int{auth.NoteAfter: 1, auth.NoteAround: 2, auth.NoteOwn: 1}[rule.Note]; len(events) < want {
			t.Errorf("%s left %d events, want %d", a.method, len(events), want)
			continue
		}
		for _, e := range events {
			w.checkTrace(t, &a, rule, e)
		}
		for _, e := range events {
			if rule.Note != auth.NoteOwn && e.GetLabels()["phase"] != "begin" && rows[a.method] >= 0 && e.GetLabels()["rows"] != strconv.Itoa(rows[a.method]) {
				t.Errorf("%s returned %d rows, and the log says %q: %v", a.method, rows[a.method], e.GetLabels()["rows"], e)
			}
		}
		if rule.Note == auth.NoteAround {
			var phases []string
			for _, e := range events {
				if p := e.GetLabels()["phase"]; p != "" {
					phases = append(phases, p)
				}
			}
			slices.Sort(phases)
			if !slices.Equal(phases, []string{"begin", "end"}) {
				t.Errorf("%s has the phases %q", a.method, phases)
			}
		}
	}
	if hidden := w.events(t, `method = "mcpaudit/look_up_pseudonym"`, 1); strings.Contains(fmt.Sprint(hidden), "very-secret") {
		t.Errorf("the log has the value that somebody looked up: %v", hidden)
	}
}

func callerOf(i int) string { return fmt.Sprintf("127.5.0.%d", i+1) }

// checkTrace looks at one event that a call left.
func (w *watched) checkTrace(t *testing.T, a *asking, rule auth.Rule, e *pb.Event) {
	t.Helper()
	_, name, _ := strings.Cut(a.method, "/")
	switch {
	case e.GetKind() != "admin" || e.GetServer() != "mcpaudit":
		t.Errorf("%s left %v", a.method, e)
	case e.GetPrincipal() != w.who || e.GetCredentialId() != w.who || e.GetAuthMethod() != "api_key" || e.GetPrincipalName() != "local":
		t.Errorf("%s is noted as somebody else's: %v", a.method, e)
	}
	if e.GetLabels()["via"] == "" { // in the method's own words
		return
	}
	if got := strings.ReplaceAll(strings.TrimPrefix(e.GetMethod(), "mcpaudit/"), "_", ""); got != strings.ToLower(name) {
		t.Errorf("%s is noted as %s", a.method, e.GetMethod())
	}
	if e.GetLabels()["tenants"] != auth.EveryTenant || e.GetLabels()["via"] != "grpc" || !slices.Equal(e.GetScopesRequired(), []string{string(rule.Permission)}) {
		t.Errorf("%s is noted with %v, %q", a.method, e.GetLabels(), e.GetScopesRequired())
	}
	if asked := a.text(w.known); rule.Discreet != (e.GetArguments() == "") {
		t.Errorf("%s is noted with the request %q", a.method, e.GetArguments())
	} else if strings.Contains(asked, "crm") && !strings.Contains(e.GetArguments(), "crm") {
		t.Errorf("%s was asked for %s, and is noted with the request %s", a.method, asked, e.GetArguments())
	}
}

// call calls a method from an address, keeps what the requests after it need, and
// counts its rows by what the table says; -1 where nothing is said.
func (w *watched) call(t *testing.T, address string, a *asking, m protoreflect.MethodDescriptor) int {
	t.Helper()
	conn := w.somewhere(t, address)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.key), time.Minute)
	defer cancel()
	req := a.request(t, m, w.known)
	if strings.HasPrefix(string(m.Name()), "Watch") {
		w.watch(ctx, t, conn, address, m, req)
		return 0
	}
	got, err := answers(ctx, conn, m, req)
	if err != nil {
		t.Errorf("%s: %v", a.method, err)
		return -1
	}
	w.learn(got[0].ProtoReflect())
	if a.rows == "" {
		return -1
	}
	resp := got[0].ProtoReflect()
	rows := 0
	for _, name := range strings.Fields(a.rows) {
		f := resp.Descriptor().Fields().ByName(protoreflect.Name(name))
		switch {
		case f == nil:
			t.Fatalf("%s has no %s", a.method, name)
		case f.IsList():
			rows += resp.Get(f).List().Len()
		case resp.Has(f):
			rows++
		}
	}
	return rows
}

// learn keeps the ids of an answer.
func (w *watched) learn(resp protoreflect.Message) {
	walkMessages(resp, func(m protoreflect.Message) {
		for message, field := range map[protoreflect.Name][2]string{
			"Suppression": {"suppression", "suppression_id"}, "Hold": {"hold", "hold_id"}, "Key": {"key", "key_id"}, "Log": {"log", "log_id"}} {
			if m.Descriptor().Name() == message && resp.Descriptor().Name() != "ListKeysResponse" {
				w.known[field[0]] = m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(field[1]))).String()
			}
		}
		if m.Descriptor().Name() == "Log" {
			w.known["verifier"] = m.Get(m.Descriptor().Fields().ByName("verifier_key")).String()
		}
	})
}

// watch stays until the log has the begin, goes, and waits for the end.
func (w *watched) watch(ctx context.Context, t *testing.T, conn *grpc.ClientConn, address string, m protoreflect.MethodDescriptor, req proto.Message) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fullName(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(req); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	w.events(t, fmt.Sprintf(`client_ip = %q AND labels.phase = "begin"`, address), 1)
	cancel()
	for err == nil { // what was sent before
		err = stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("%s: %v", shortName(m), err)
	}
	w.events(t, fmt.Sprintf(`client_ip = %q AND labels.phase = "end"`, address), 1)
}

// tracesHTTP looks whether what comes by HTTP is noted alike.
func (w *watched) tracesHTTP(t *testing.T) {
	const address = "127.6.0.1"
	resp, body := w.raw(t, address, "GET /v1/events?filter=server%20%3D%20crm HTTP/1.1\r\nHost: localhost\r\nUser-Agent: browser/1\r\nX-Forwarded-For: 10.0.0.1\r\nAuthorization: Bearer "+w.key+"\r\nConnection: close\r\n\r\n")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %s", resp.StatusCode, body)
	}
	e := w.events(t, fmt.Sprintf(`client_ip = %q`, address), 1)[0]
	if e.GetMethod() != "mcpaudit/list_events" || e.GetPrincipal() != w.who || e.GetUserAgent() != "browser/1" || e.GetLabels()["via"] != "http" || e.GetLabels()["rows"] != "1" || !strings.Contains(e.GetArguments(), "server = crm") {
		t.Errorf("a search over HTTP is noted as %v", e)
	}
}

// What can't be noted is not shown, nor done: the log takes nothing, because the store
// takes no event.
func TestPromise7NothingIsShownWhileTheLogCantBeWritten(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, testConfig(t, dir))
	s.awaitReady(t)
	if _, err := publish(t.Context(), s.grpc, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	full := storetest.Open(t, dir)
	storetest.Exec(t, full, `ALTER TABLE events ADD CONSTRAINT full CHECK 0`)
	if err := full.Close(); err != nil {
		t.Fatal(err)
	}
	s = serve(t, testConfig(t, dir))
	if code, _ := s.page(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Fatalf("/readyz: %d, and the store takes nothing", code)
	}
	list, byName := askings(t)
	known := map[string]string{"event": "018f0000-0000-7000-8000-000000000000", "finding": "018f0000-0000-7000-8000-000000000000", "suppression": "018f0000-0000-7000-8000-000000000000",
		"hold": "x", "key": "aaaaaaaaaaaaaaaa", "log": "x", "verifier": "x"}
	var asking sync.WaitGroup // each is tried for a while
	for _, a := range list {
		m := byName[a.method]
		if rights[fullName(m)].Note == auth.NoteNever {
			continue
		}
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			got, err := answers(ctx, s.grpc, m, a.request(t, m, known))
			// What notes itself may find first that there is nothing to be done.
			own := rights[fullName(m)].Note == auth.NoteOwn && slices.Contains([]codes.Code{codes.NotFound, codes.FailedPrecondition}, status.Code(err))
			if len(got) > 0 || status.Code(err) != codes.Unavailable && !own {
				t.Errorf("%s: %v, %v", a.method, got, err)
			}
		})
	}
	asking.Wait()
}
