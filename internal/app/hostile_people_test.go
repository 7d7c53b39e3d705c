package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// someEvent is an event of a tenant's own, with changes.
func someEvent(emitter string, seq uint64, change func(*event.Event)) *pb.Event {
	e := event.Random(rand.New(rand.NewPCG(seq, uint64(len(emitter)))))
	e.EmitterID, e.EmitterSeq, e.Tenant, e.Server, e.Kind, e.Method, e.Principal = emitter, seq, "", "crm", "tool_call", "tools/call", "user:ada"
	e.OccurredAt = time.Now().UnixMicro()
	if change != nil {
		change(e)
	}
	return wire.ToProto(e)
}

// answers are what a call of any method is answered with, at most a few messages.
func answers(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, req proto.Message) (list []proto.Message, err error) {
	if !m.IsStreamingServer() {
		resp := dynamicpb.NewMessage(m.Output())
		if err := conn.Invoke(ctx, fullName(m), req, resp); err != nil {
			return nil, err
		}
		return []proto.Message{resp}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, fullName(m))
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	for {
		resp := dynamicpb.NewMessage(m.Output())
		if err := stream.RecvMsg(resp); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return list, err
		}
		list = append(list, resp)
	}
}

// An emitter's key writes, and as itself alone; it reads not one row.
func (g *guarded) holdsEmittersToWhatTheyAre(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := g.dial(t, g.emitter)
	mine := someEvent("crm-1", 1, func(e *event.Event) { e.Target = "mine" })
	foreign := []*pb.Event{
		someEvent("crm-1", 2, func(e *event.Event) { e.Tenant = "globex" }),
		someEvent("crm-1", 2, func(e *event.Event) { e.Server = "pay" }),
		someEvent("pay-1", 1, nil),
		someEvent("globex::crm-1", 1, nil),
		someEvent("acme::crm-1", 2, nil),
		someEvent("crm-::x", 1, nil),
		someEvent("mcpaudit-service-0", 1, nil),
		someEvent("crm-1", 2, func(e *event.Event) { e.Principal = "mcpaudit:service" }),
		someEvent("crm-1", 2, func(e *event.Event) { e.Kind, e.Method = "admin", "mcpaudit/start" }),
		someEvent("crm-1", 2, func(e *event.Event) { e.Kind, e.Method = "auth", "MCPaudit/login" }),
	}
	resp, err := pb.NewIngestServiceClient(conn).PublishBatch(ctx, &pb.PublishBatchRequest{Events: append([]*pb.Event{mine}, foreign...)})
	if err != nil || resp.GetReceipt().GetStored() != 1 || len(resp.GetReceipt().GetRejected()) != len(foreign) {
		t.Fatalf("an emitter among others' events: %v, %v", resp, err)
	}
	for _, r := range resp.GetReceipt().GetRejected() {
		if c := r.GetCode(); c != pb.Rejection_CODE_FORBIDDEN && c != pb.Rejection_CODE_RESERVED {
			t.Errorf("event %d is refused as %v", r.GetIndex(), r)
		}
		tellsNothing(t, g, "an emitter", strings.ReplaceAll(r.GetReason(), "::", ""))
	}
	for _, p := range resp.GetReceipt().GetProgress() {
		if p.GetEmitterId() != "crm-1" || p.GetContiguousSeq() != 1 {
			t.Errorf("an emitter is told of %v", p)
		}
	}
	for address, events := range g.noted(t, `server != "mcpaudit"`) {
		for _, e := range events {
			if e.GetTenant() != "acme" || e.GetTarget() != "mine" || e.GetEmitterId() != "acme::crm-1" {
				t.Errorf("from %s was stored %v", address, e)
			}
		}
	}
	g.readsNotOneRow(t, conn, "emitter", mine.GetEventId(), []string{"IngestService/Publish", "IngestService/PublishBatch", "LedgerService/ListLogs", "LedgerService/GetConsistencyProof", "AccessService/WhoAmI"})
}

// readsNotOneRow calls every method with a request that would be answered.
func (g *guarded) readsNotOneRow(t *testing.T, conn *grpc.ClientConn, name, event string, but []string) {
	list, byName := askings(t)
	known := map[string]string{"event": event, "finding": event, "suppression": event, "hold": "x", "key": strings.Split(g.analyst, "_")[1], "log": "x", "verifier": "x"}
	logs, err := pb.NewLedgerServiceClient(g.grpc).ListLogs(t.Context(), &pb.ListLogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	known["log"] = logs.GetLogs()[0].GetLogId()
	began, refused := time.Now(), 0
	for _, a := range list {
		m := byName[a.method]
		ctx, cancel := context.WithTimeout(t.Context(), bounded)
		got, err := answers(ctx, conn, m, a.request(t, m, known))
		cancel()
		if slices.Contains(but, a.method) {
			for _, resp := range got {
				walkMessages(resp.ProtoReflect(), func(m protoreflect.Message) {
					if n := m.Descriptor().Name(); n == "Event" || n == "Finding" {
						t.Errorf("%s, as %s, shows %v", a.method, name, m)
					}
				})
			}
			continue
		}
		refused++
		if status.Code(err) != codes.PermissionDenied || len(got) > 0 || !strings.Contains(status.Convert(err).Message(), "this credential may not") {
			t.Errorf("%s as %s: %v, %v", a.method, name, got, err)
		}
	}
	if d := time.Since(began); d > time.Minute {
		t.Errorf("%d refusals took %v", refused, d)
	}
	// Each of the first ones is an event; the others are counted.
	who, err := pb.NewAccessServiceClient(conn).WhoAmI(t.Context(), &pb.WhoAmIRequest{})
	if err != nil {
		t.Fatal(err)
	}
	events := g.noted(t, fmt.Sprintf(`kind = "auth" AND decision_reason = "forbidden" AND principal = %q`, who.GetIdentity()))["127.0.0.1"]
	if len(events) < min(refused, 20) {
		t.Errorf("%d refusals of %s left %d events", refused, name, len(events))
	}
	for _, e := range events {
		if e.GetHttpStatus() != http.StatusForbidden || e.GetDecision() != "deny" || e.GetCredentialId() != who.GetIdentity() || len(e.GetScopesRequired()) != 1 {
			t.Errorf("a refusal of %s is noted as %v", name, e)
		}
	}
}

func walkMessages(m protoreflect.Message, f func(protoreflect.Message)) {
	f(m)
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.Message() == nil || d.IsMap():
		case d.IsList():
			for i := range v.List().Len() {
				walkMessages(v.List().Get(i).Message(), f)
			}
		default:
			walkMessages(v.Message(), f)
		}
		return true
	})
}

// An analyst's key, an exporter's and a token don't write one event, by either way.
func (g *guarded) keepsAnalystsFromWriting(t *testing.T) {
	token := g.signs.Token(t, claims(g.provider, nil))
	for i, key := range []string{g.analyst, g.exporter, token} {
		ctx, cancel := context.WithTimeout(t.Context(), bounded)
		conn := g.dial(t, key)
		e := someEvent("crm-1", uint64(100+i), func(e *event.Event) { e.Target = "forged" })
		if _, err := pb.NewIngestServiceClient(conn).PublishBatch(ctx, &pb.PublishBatchRequest{Events: []*pb.Event{e}}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%d publishes: %v", i, err)
		}
		stream, err := pb.NewIngestServiceClient(conn).Publish(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&pb.PublishRequest{Events: []*pb.Event{e}}) // it may be refused before
		if resp, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%d publishes in a stream: %v, %v", i, resp, err)
		}
		cancel()
		body, err := protojson.Marshal(&pb.PublishBatchRequest{Events: []*pb.Event{e}})
		if err != nil {
			t.Fatal(err)
		}
		address := fmt.Sprintf("127.3.0.%d", i+1)
		resp, text := g.raw(t, address, fmt.Sprintf("POST /v1/events:publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", key, len(body), body))
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%d publishes over HTTP: %d, %s", i, resp.StatusCode, text)
		}
		checkRefusal(t, "publishing", g.noted(t, fmt.Sprintf(`kind = "auth" AND client_ip = %q`, address))[address], auth.Forbidden, http.StatusForbidden, "http")
	}
	if events := g.noted(t, `target = "forged"`); len(events) > 0 {
		t.Errorf("was stored: %v", events)
	}
}

// hostileTexts are put into every text of every request: what would end a text of SQL in
// any of its ways, what would be a path, a format or a lookup, and what ends lines.
var hostileTexts = []string{
	"x' or tenant = 'globex' or \"1\" = \"1` */ union all select hash from system.users; drop table events; -- {p0:String}",
	`../../../../etc/passwd%00..%2f%s%n{{.}}${jndi:ldap://x}`,
	"a\x00b\r\nc",
}

// hostileFilters are filters that are none the worse for being understood.
var hostileFilters = []string{
	strings.Repeat("(", 2000), `" or "1" = "1`, `tenant = "globex"`, `tenant = "globex" OR server != "acme"`, `NOT tenant = "acme"`, `tenant = "*"`, `tenant : "glob"`, `labels.a = "x') or 1 = 1 --"`,
}

// Path traversal and SQL in every text of every request that an analyst and exporter of
// one tenant can send, by either way: it is refused, or finds nothing, and no answer
// tells of the store or of another tenant.
func (g *guarded) answersNothingToHostileTexts(t *testing.T) {
	all, err := pb.NewIngestServiceClient(g.grpc).PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{
		someEvent("unseen-1", 1, func(e *event.Event) {
			e.Tenant, e.Server, e.Principal, e.Target = "globex", "unseen-crm", "user:unseen", "unseen-tool"
		}),
		someEvent("unseen-2", 1, func(e *event.Event) {
			e.Tenant, e.Server, e.Principal, e.Target = "initech7", "unseen-crm", "user:unseen", "unseen-tool"
		}),
	}})
	if err != nil || all.GetReceipt().GetStored() != 2 {
		t.Fatal(all, err)
	}
	stored := func() (n int) {
		for _, events := range g.noted(t, `server != "mcpaudit"`) {
			n += len(events)
		}
		return n
	}
	before := stored()
	list, byName := askings(t)
	const none = "018f0000-0000-7000-8000-000000000000"
	known := map[string]string{"event": none, "finding": none, "suppression": none, "hold": "none", "key": "none", "log": "none", "verifier": "none"}
	key := g.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"analyst", "auditor", "exporter", "admin", "monitor"}, Tenant: "acme", Content: "lookup", Name: "all of acme"})
	conn := g.dial(t, key)
	var running sync.WaitGroup
	var exporting sync.Mutex
	room := make(chan struct{}, 16)
	calls := 0
	for _, a := range list {
		m := byName[a.method]
		if m.IsStreamingClient() || a.method == "IngestService/PublishBatch" {
			continue // nobody here may publish
		}
		for _, way := range texts(m.Input(), nil) {
			tries := hostileTexts
			if way[0].Name() == "filter" {
				tries = slices.Concat(hostileTexts, hostileFilters)
			}
			for i, text := range tries {
				req := a.request(t, m, known)
				put(req.ProtoReflect(), way, text)
				calls++
				room <- struct{}{}
				running.Go(func() {
					defer func() { <-room }()
					if m.Name() == "ExportEvents" { // two at once are as many as may
						exporting.Lock()
						defer exporting.Unlock()
					}
					g.tryOne(t, conn, m, req, text)
					if i < 2 || i >= len(hostileTexts) {
						g.tryOneOverHTTP(t, key, m, req, text)
					}
				})
			}
		}
	}
	running.Wait()
	if calls < 150 {
		t.Errorf("only %d calls were tried", calls)
	}
	// What only looked like statements was none.
	if after := stored(); before < 2 || after != before {
		t.Errorf("there were %d events of others, and are %d", before, after)
	}
}

// fine are the codes of a request that is wrong, or that finds nothing.
var fine = []codes.Code{codes.OK, codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition}

func (g *guarded) tryOne(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, req proto.Message, text string) {
	patience := bounded
	if strings.HasPrefix(string(m.Name()), "Watch") { // one that is let in waits
		patience = 500 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	name := fmt.Sprintf("%s with %.40q", shortName(m), text)
	got, err := answers(ctx, conn, m, req)
	if code := status.Code(err); !slices.Contains(fine, code) && (patience == bounded || code != codes.DeadlineExceeded) {
		t.Errorf("%s: %v", name, err)
	}
	if err != nil {
		g.harmless(t, name, status.Convert(err).Message(), text)
	}
	for _, resp := range got {
		g.harmless(t, name, fmt.Sprint(resp), text)
	}
}

// harmless looks at an answer, without what it repeats of the request.
func (g *guarded) harmless(t *testing.T, name, answer, text string) {
	t.Helper()
	for _, again := range []string{text, fmt.Sprintf("%q", text), strings.Trim(fmt.Sprintf("%q", text), `"`)} {
		answer = strings.ReplaceAll(answer, again, "")
	}
	tellsNothing(t, g, name, answer)
}

func (g *guarded) tryOneOverHTTP(t *testing.T, key string, m protoreflect.MethodDescriptor, req proto.Message, text string) {
	if strings.HasPrefix(string(m.Name()), "Watch") {
		return // it is tried over gRPC, and waits
	}
	name := fmt.Sprintf("%s over HTTP with %.40q", shortName(m), text)
	for _, b := range bindings(m) {
		path, query := b[1], url.Values{}
		var body []byte
		if b[0] == http.MethodPost {
			var err error
			if body, err = (protojson.MarshalOptions{UseProtoNames: true}).Marshal(req); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
		}
		req.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			in := "{" + string(f.Name()) + "}"
			switch {
			case strings.Contains(path, in):
				path = strings.ReplaceAll(path, in, url.PathEscape(v.String()))
			case f.IsList() && f.Kind() == protoreflect.StringKind:
				for i := range v.List().Len() {
					query.Add(string(f.Name()), v.List().Get(i).String())
				}
			case f.Kind() == protoreflect.StringKind:
				query.Set(string(f.Name()), v.String())
			case f.Message() != nil && f.Message().Name() == "FieldMask":
				paths := v.Message().Get(f.Message().Fields().ByName("paths")).List()
				for i := range paths.Len() {
					query.Add(string(f.Name()), paths.Get(i).String())
				}
			}
			return true
		})
		ctx, cancel := context.WithTimeout(t.Context(), bounded)
		r, err := http.NewRequestWithContext(ctx, b[0], g.web+path, bytes.NewReader(body))
		if err != nil {
			cancel()
			t.Errorf("%s: %v", name, err)
			return
		}
		if b[0] == http.MethodGet {
			r.URL.RawQuery = query.Encode()
		}
		r.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultTransport.RoundTrip(r) // no redirect is followed
		if err != nil {
			cancel()
			t.Errorf("%s: %v", name, err)
			return
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		cancel()
		if c := resp.StatusCode; c >= 500 || c == http.StatusUnauthorized || c == http.StatusTooManyRequests {
			t.Errorf("%s: %d, %.300s", name, c, answer)
		}
		g.harmless(t, name, string(answer), text)
	}
}

// texts are the ways to the texts of a message.
func texts(d protoreflect.MessageDescriptor, before []protoreflect.FieldDescriptor) (ways [][]protoreflect.FieldDescriptor) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		way := append(slices.Clone(before), f)
		switch {
		case f.IsMap():
		case f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind:
			ways = append(ways, way)
		case f.Message() != nil && len(way) < 4 && !f.IsList() && strings.HasSuffix(string(f.Message().Name()), "Mask"):
			ways = append(ways, texts(f.Message(), way)...)
		}
	}
	return ways
}

// put sets the text at the end of a way.
func put(m protoreflect.Message, way []protoreflect.FieldDescriptor, text string) {
	f := way[0]
	switch {
	case len(way) > 1:
		put(m.Mutable(f).Message(), way[1:], text)
	case f.IsList():
		list := m.NewField(f).List()
		list.Append(protoreflect.ValueOfString(text))
		m.Set(f, protoreflect.ValueOfList(list))
	case f.Kind() == protoreflect.BytesKind:
		m.Set(f, protoreflect.ValueOfBytes([]byte(text)))
	default:
		m.Set(f, protoreflect.ValueOfString(text))
	}
}
