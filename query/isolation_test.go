package query_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/findings"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// town is what several tenants have in one store. Two are twins: the same principals,
// sessions, traces, targets, times and findings, with other ids and arguments.
type town struct {
	batches  [][]*event.Event
	findings []store.Finding
	actions  []store.FindingAction
}

var tenants = []string{"a", "b", "c"}

var noonOfTown = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// idOf is an id of a tenant: everything of it is known to be whose it is.
func idOf(tenant string, n int) string {
	return fmt.Sprintf("01890a5d-ac96-774b-8%c00-%012x", tenant[0], n)
}

func newTown() *town {
	w := &town{}
	seq := map[string]uint64{}
	for batch := range 4 {
		var events []*event.Event
		for i := range 12 {
			for _, tenant := range tenants {
				if tenant == "c" && i%3 > 0 {
					continue
				}
				r := rand.New(rand.NewPCG(uint64(batch), uint64(i))) // twins have the same
				e := event.Random(r)
				n := batch*100 + i
				id, err := event.ParseID(idOf(tenant, n))
				if err != nil {
					panic(err)
				}
				e.EventID, e.Tenant, e.OccurredAt = id, tenant, noonOfTown.Add(time.Duration(n)*time.Second).UnixMicro()
				e.ReceivedAt = e.OccurredAt + 1000
				e.EmitterID = tenant + "::emitter"
				seq[tenant] += uint64(1 + i%2) // with gaps
				e.EmitterSeq = seq[tenant]
				e.Principal, e.Server, e.Target = fmt.Sprint("user:", i%3), fmt.Sprint("server", i%2), fmt.Sprint("tool", i%4)
				e.Kind = []string{"tool_call", "tools_list"}[i%5/4]
				e.TraceID, e.SessionID, e.TaskID = fmt.Sprintf("%032x", i%4+1), fmt.Sprint("session", i%3), fmt.Sprint("task", i%5)
				e.Arguments = fmt.Sprintf(`{"of":"%s"}`, tenant)
				e.DefinitionDigest = event.Digest{byte(i%2 + 1), tenant[0]}
				e.ExpiresMonth, e.LogID, e.Batch, e.Leaf = 20819, fmt.Sprint("log", batch%2), uint64(batch+1), uint32(len(events))
				events = append(events, e)
			}
		}
		w.batches = append(w.batches, events)
	}
	for n := range 8 {
		for i, tenant := range tenants {
			at := noonOfTown.Add(time.Duration(n) * time.Minute).UnixMicro()
			w.findings = append(w.findings, store.Finding{Seq: uint64(len(w.findings) + 1), ToldAt: at, ID: idOf(tenant, 5000+n/2), Version: uint32(n%2 + 1), Rule: "loop", Detector: "agent_loop",
				Severity: "medium", Reason: "of " + tenant, Tenant: tenant, Principal: "user:1", Server: "server1", StartedAt: noonOfTown.UnixMicro() + int64(n/2), LastSeenAt: at, OpenedAt: at,
				Events: 3, State: "open", EventIDs: []event.ID{w.batches[0][i].EventID, w.batches[0][(i+1)%3].EventID}})
		}
	}
	for i, tenant := range tenants {
		f := uuid.MustParse(idOf(tenant, 5001))
		at := noonOfTown.Add(time.Hour)
		w.actions = append(w.actions,
			store.FindingAction{ID: uuid.MustParse(idOf(tenant, 6001)), FindingID: f, Tenant: tenant, At: at, By: "of " + tenant, Step: "note", Note: "of " + tenant},
			store.FindingAction{ID: uuid.MustParse(idOf(tenant, 6002)), FindingID: f, Tenant: tenant, At: at, By: "of " + tenant, Step: "close", Verdict: "benign", Severity: "medium"},
			store.FindingAction{ID: uuid.MustParse(idOf(tenant, 6003)), FindingID: f, Tenant: tenant, At: at.Add(-2 * time.Hour), By: "of " + tenant, Step: "suppress", SuppressionID: uuid.MustParse(idOf(tenant, 6003)),
				Rule: "loop", Principal: fmt.Sprint("user:", i), Severity: "medium", ExpiresAt: at.Add(1000 * time.Hour)})
	}
	return w
}

// settle stores what some tenants have, in the places that it has with all of them.
func (w *town) settle(t *testing.T, of []string) *city {
	t.Helper()
	c := &city{Store: storetest.Open(t, t.TempDir())}
	ctx := context.Background()
	for _, log := range []string{"log0", "log1"} {
		if err := c.StartLog(ctx, store.LogInfo{ID: log, StartedAt: noonOfTown}); err != nil {
			t.Fatal(err)
		}
	}
	for i, batch := range w.batches {
		var events []*event.Event
		for _, e := range batch {
			if slices.Contains(of, e.Tenant) {
				copied := *e
				events = append(events, &copied)
			}
		}
		if err := c.Append(ctx, store.Batch{Events: events, Token: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.AppendFindings(ctx, slices.DeleteFunc(slices.Clone(w.findings), func(f store.Finding) bool { return !slices.Contains(of, f.Tenant) })); err != nil {
		t.Fatal(err)
	}
	if err := c.AppendActions(ctx, slices.DeleteFunc(slices.Clone(w.actions), func(f store.FindingAction) bool { return !slices.Contains(of, f.Tenant) })); err != nil {
		t.Fatal(err)
	}
	silent := slog.New(slog.DiscardHandler)
	c.query = query.New(query.Config{}, c, silent)
	c.findings = findings.New(findings.Config{}, c, nowhere{}, func() time.Time { return noonOfTown.Add(3 * time.Hour) }, silent)
	return c
}

// nowhere is a log that takes everything.
type nowhere struct{}

func (nowhere) Submit(_ context.Context, events []*event.Event, _ int) (ingest.Settled, error) {
	return ingest.Settled{Stored: len(events)}, nil
}

// city is a store with the services on it.
type city struct {
	*store.Store
	query    *query.Server
	findings *findings.Server
}

// asked is one question and what came of it.
type asked struct{ question, answer string }

// ask asks a question of one method, and has all pages of its answer.
func (c *city) ask(ctx context.Context, desc *grpc.ServiceDesc, method string, req proto.Message) asked {
	var srv any = c.query
	if desc == &pb.FindingService_ServiceDesc {
		srv = c.findings
	}
	out := asked{question: method + " " + protojson.Format(req)}
	req = proto.Clone(req)
	at := slices.IndexFunc(desc.Methods, func(m grpc.MethodDesc) bool { return m.MethodName == method })
	for range 100 {
		resp, err := desc.Methods[at].Handler(srv, ctx, func(into any) error { proto.Merge(into.(proto.Message), req); return nil }, nil)
		if err != nil {
			out.answer += "\n" + status.Convert(err).String()
			return out
		}
		m := resp.(proto.Message)
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		out.answer += fmt.Sprintf("\n%x\n%s", b, protojson.MarshalOptions{}.Format(m))
		next := m.ProtoReflect().Descriptor().Fields().ByName("next_page_token")
		if next == nil || m.ProtoReflect().Get(next).String() == "" {
			return out
		}
		r := req.ProtoReflect()
		r.Set(r.Descriptor().Fields().ByName("page_token"), m.ProtoReflect().Get(next))
	}
	return out
}

// hostile are what one tenant would write to hear of another.
var hostileTexts = func() []string {
	out := []string{
		`tenant = "b"`, `tenant != "a"`, `NOT tenant = "a"`, `tenant:*`, `tenant = "*"`, `tenant = "a" OR tenant = "b"`, `-tenant:a`, `tenant > "a"`,
		`emitter_id = "b::emitter"`, `emitter_id:"::"`, `arguments:"b"`, `arguments = "{\"of\":\"b\"}"`, `log_id = "log1" AND leaf >= 0`, `reason = "of b"`,
		`tenant = "b' OR '1'='1"`, `tenant = "') UNION ALL SELECT * FROM events --"`, `principal = "user:1" OR 1 = 1`, "b", "b::emitter", "server1", "user:1", "session1", "task1", "*", "%", "",
		"' OR 1=1 --", "{p0:String}", "../../../etc/passwd", "/proc/self/environ", "file('/etc/passwd')", "url('http://127.0.0.1:1')", "\x00", "tenant", "labels.a", "SETTINGS additional_table_filters = {}",
		fmt.Sprintf("%032x", 2), "tool1", `tool"1`,
	}
	for _, tenant := range tenants {
		for _, n := range []int{1, 5001, 6003} {
			out = append(out, idOf(tenant, n), `event_id = "`+idOf(tenant, n)+`"`, `finding_id = "`+idOf(tenant, n)+`"`)
		}
	}
	return out
}()

// questions are what people ask, at random, and what nobody should: some of these texts
// in each field.
func questions(c *city, ctx context.Context, texts []string) (out []asked) {
	q, f := &pb.QueryService_ServiceDesc, &pb.FindingService_ServiceDesc
	add := func(desc *grpc.ServiceDesc, method string, req proto.Message) {
		out = append(out, c.ask(ctx, desc, method, req))
	}
	r := rand.New(rand.NewPCG(4, 4))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	atom := func() string {
		return pick(`principal = "user:1"`, `server = "server0"`, `target:"tool"`, `tenant = "a"`, `tenant = "b"`, `tenant != "c"`, `kind = "tools_list"`, `arguments:"of"`,
			`occurred_at > "2026-11-20T12:01:50Z"`, `occurred_at <= "2026-11-20T12:03:20Z"`, `leaf < 9`, `trace_id = "`+fmt.Sprintf("%032x", 2)+`"`, `emitter_id:"b"`, `batch = 2`, `labels:*`)
	}
	for range 40 {
		filter := pick("", "NOT ") + atom()
		for range r.IntN(3) {
			filter += pick(" AND ", " OR ", " AND NOT ") + atom()
		}
		add(q, "ListEvents", &pb.ListEventsRequest{Filter: filter, OrderBy: pick("", "occurred_at", "duration desc", "received_at", "request_bytes desc"), PageSize: int32(7 + r.IntN(50)),
			ReadMask: &fieldmaskpb.FieldMask{Paths: [][]string{nil, {"event_id", "tenant"}}[r.IntN(2)]}})
		aggregate := &pb.AggregateEventsRequest{Filter: filter, GroupBy: []string{pick("tenant", "principal", "emitter_id", "arguments", "log_id"), pick("target", "batch", "tenant")}, OrderBy: pick("", "errors", "bytes", "p99")}
		if r.IntN(2) == 0 {
			aggregate.Interval = durationpb.New(time.Minute)
		}
		add(q, "AggregateEvents", aggregate)
	}
	for _, filter := range []string{"", `tenant = "b"`, `principal = "user:1"`, `triage = "closed"`, `suppression_id:*`} {
		for _, all := range []bool{false, true} {
			add(f, "ListFindings", &pb.ListFindingsRequest{Filter: filter, PageSize: 3, ShowSuppressed: all})
		}
	}
	for i := range 4 {
		add(q, "GetTimeline", &pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_TraceId{TraceId: fmt.Sprintf("%032x", i)}})
		add(q, "GetTimeline", &pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_Principal{Principal: fmt.Sprint("user:", i)}})
	}
	// Each text in each field of each request.
	for _, service := range []*grpc.ServiceDesc{q, f} {
		for _, m := range service.Methods {
			d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.ServiceName))
			if err != nil {
				panic(err)
			}
			input, err := protoregistry.GlobalTypes.FindMessageByName(d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(m.MethodName)).Input().FullName())
			if err != nil {
				panic(err)
			}
			out = append(out, c.ask(ctx, service, m.MethodName, input.New().Interface()))
			fields := input.Descriptor().Fields()
			for i := range fields.Len() {
				field := fields.Get(i)
				if field.Kind() != protoreflect.StringKind {
					continue
				}
				for _, text := range texts {
					req := input.New()
					for name, value := range map[protoreflect.Name]string{"step": "note", "note": "x", "by": "x", "server": "server1"} { // what a request can't do without
						if other := fields.ByName(name); other != nil && other != field {
							req.Set(other, protoreflect.ValueOfString(value))
						}
					}
					if (m.MethodName == "TriageFinding" || m.MethodName == "EndSuppression") && !strings.HasSuffix(string(field.Name()), "_id") {
						continue // it would only change something
					}
					if field.IsList() {
						req.Mutable(field).List().Append(protoreflect.ValueOfString(text))
					} else {
						req.Set(field, protoreflect.ValueOfString(text))
					}
					out = append(out, c.ask(ctx, service, m.MethodName, req.Interface()))
				}
			}
		}
	}
	return out
}

// A tenant hears exactly what a service would say that has its events alone: in every
// answer of every method, every page, count and error. Two tenants of one reader hear
// what a service of these two would say.
func TestATenantHearsWhatAServiceOfItsOwnWouldSay(t *testing.T) {
	w := newTown()
	scopes := [][]string{{"a"}, {"a", "c"}}
	together := make([][]asked, len(scopes))
	t.Run("with others", func(t *testing.T) {
		for i, of := range scopes {
			c := &city{}
			t.Run(strings.Join(of, " and "), func(t *testing.T) {
				c = w.settle(t, tenants) // anew: questions take steps, too
				together[i] = questions(c, scopetest.Of(context.Background(), of...), hostileTexts[:len(hostileTexts)/(i+1)])
			})
		}
	})
	for i, of := range scopes {
		t.Run("alone "+strings.Join(of, " and "), func(t *testing.T) {
			alone := questions(w.settle(t, of), scopetest.Of(context.Background(), of...), hostileTexts[:len(hostileTexts)/(i+1)])
			if len(alone) != len(together[i]) || len(alone) < 300 {
				t.Fatalf("%d and %d answers", len(together[i]), len(alone))
			}
			wrong, rows := 0, 0
			for k := range alone {
				got, want := together[i][k], alone[k]
				rows += strings.Count(want.answer, `"eventId"`)
				if got.question != want.question {
					t.Fatalf("asked %s and %s", got.question, want.question)
				}
				if got.answer != want.answer && wrong < 5 {
					wrong++
					t.Errorf("%s\nsays %.2000s\n\nand alone %.2000s", got.question, got.answer, want.answer)
				}
				for _, other := range tenants {
					for _, trace := range []string{other + "::emitter", `of\":\"` + other, "of " + other} {
						if !slices.Contains(of, other) && strings.Contains(got.answer, trace) && !strings.Contains(got.question, trace) {
							t.Errorf("%s\nsays %q of another tenant: %.2000s", got.question, trace, got.answer)
						}
					}
				}
			}
			if rows < 1000 {
				t.Errorf("the answers have %d events in all: they test too little", rows)
			}
		})
	}
}

// An id of another tenant is answered, byte for byte, like one that never existed.
func TestAnotherTenantsIdsAreLikeThoseThatNeverExisted(t *testing.T) {
	c := newTown().settle(t, tenants)
	ctx := scopetest.Of(context.Background(), "a")
	ask := func(id string) (out []string) {
		for _, call := range []func() error{
			func() error { _, err := c.query.GetEvent(ctx, &pb.GetEventRequest{EventId: id}); return err },
			func() error {
				_, err := c.findings.GetFinding(ctx, &pb.GetFindingRequest{FindingId: id})
				return err
			},
			func() error {
				_, err := c.findings.TriageFinding(ctx, &pb.TriageFindingRequest{FindingId: id, Step: "close", Verdict: "benign", SuppressDays: 3, By: "x"})
				return err
			},
			func() error {
				_, err := c.findings.EndSuppression(ctx, &pb.EndSuppressionRequest{SuppressionId: id, By: "x"})
				return err
			},
		} {
			err := call()
			if status.Code(err) != codes.NotFound {
				t.Errorf("%s: %v", id, err)
			}
			out = append(out, strings.ReplaceAll(status.Convert(err).String(), id, "ID"))
		}
		return out
	}
	never := ask("01890a5d-ac96-774b-8f00-00000000beef")
	for _, tenant := range []string{"b", "c"} {
		for _, n := range []int{0, 1, 5000, 5001, 6003} {
			if got := ask(idOf(tenant, n)); !slices.Equal(got, never) {
				t.Errorf("%s: %q, want %q", idOf(tenant, n), got, never)
			}
		}
	}
	// They do exist, and nothing was done to them.
	everyone := scopetest.Every(context.Background())
	f, err := c.findings.GetFinding(everyone, &pb.GetFindingRequest{FindingId: idOf("b", 5001)})
	if err != nil || len(f.GetSteps()) != 2 {
		t.Errorf("%v, %v", f.GetSteps(), err)
	}
	list, err := c.findings.ListSuppressions(everyone, &pb.ListSuppressionsRequest{})
	if err != nil || len(list.GetSuppressions()) != 3 || slices.ContainsFunc(list.GetSuppressions(), func(s *pb.Suppression) bool { return s.GetEndedAt() != nil }) {
		t.Errorf("%v, %v", list, err)
	}
}

// One who watches gets what his tenants' emitters send, and nothing else.
func TestAWatcherGetsHisTenantsEventsAlone(t *testing.T) {
	w := newTown()
	c := w.settle(t, tenants)
	for _, of := range [][]string{{"a"}, {"b", "c"}} {
		ctx, cancel := context.WithTimeout(scopetest.Of(context.Background(), of...), 30*time.Second)
		events, told := &ear[*pb.WatchEventsResponse]{ctx: ctx, heard: make(chan *pb.WatchEventsResponse, 100)}, &ear[*pb.WatchFindingsResponse]{ctx: ctx, heard: make(chan *pb.WatchFindingsResponse, 100)}
		go func() { _ = c.query.WatchEvents(&pb.WatchEventsRequest{}, events) }()
		go func() { _ = c.findings.WatchFindings(&pb.WatchFindingsRequest{ShowSuppressed: true}, told) }()
		<-events.heard
		<-told.heard
		var fresh []*event.Event
		var rows []store.Finding
		for i, tenant := range tenants {
			e := *w.batches[0][i]
			e.Batch, e.Leaf, e.EmitterSeq = uint64(100+len(of)*2), uint32(i), e.EmitterSeq+uint64(1000*len(of))
			fresh = append(fresh, &e)
			f := w.findings[i]
			f.Seq, f.ID, f.Tenant = uint64(100*len(of)+i), idOf(tenant, 7000+len(of)), tenant
			rows = append(rows, f)
		}
		if err := c.Append(context.Background(), store.Batch{Events: fresh, Token: fmt.Sprint(of)}); err != nil {
			t.Fatal(err)
		}
		if err := c.AppendFindings(context.Background(), rows); err != nil {
			t.Fatal(err)
		}
		var got, found []string
		for len(got) < len(of) || len(found) < len(of) {
			select {
			case m := <-events.heard:
				for _, e := range m.GetEvents() {
					got = append(got, e.GetTenant())
				}
			case m := <-told.heard:
				for _, f := range m.GetFindings() {
					found = append(found, f.GetTenant())
				}
			case <-ctx.Done():
				t.Fatalf("%v gets events of %v and findings of %v", of, got, found)
			}
		}
		if !slices.Equal(slices.Sorted(slices.Values(got)), of) || !slices.Equal(slices.Sorted(slices.Values(found)), of) {
			t.Errorf("%v gets events of %v and findings of %v", of, got, found)
		}
		cancel()
	}
}

// ear is a client that hears everything.
type ear[M any] struct {
	grpc.ServerStream
	ctx   context.Context
	heard chan M
}

func (e *ear[M]) Context() context.Context { return e.ctx }

func (e *ear[M]) Send(m M) error {
	select {
	case e.heard <- m:
		return nil
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

// A page token of one reader is of no use to another, and says nothing to him.
func TestAPageTokenOfAnotherReaderIsRefused(t *testing.T) {
	c := newTown().settle(t, tenants)
	all, b := scopetest.Every(context.Background()), scopetest.Of(context.Background(), "b")
	for _, ctx := range []context.Context{all, b} {
		events, err := c.query.ListEvents(ctx, &pb.ListEventsRequest{PageSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		list, err := c.findings.ListFindings(ctx, &pb.ListFindingsRequest{PageSize: 1, ShowSuppressed: true})
		if err != nil {
			t.Fatal(err)
		}
		a := scopetest.Of(context.Background(), "a")
		if _, err := c.query.ListEvents(a, &pb.ListEventsRequest{PageSize: 2, PageToken: events.GetNextPageToken()}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("events: %v", err)
		}
		if _, err := c.findings.ListFindings(a, &pb.ListFindingsRequest{PageSize: 1, ShowSuppressed: true, PageToken: list.GetNextPageToken()}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("findings: %v", err)
		}
	}
}

// A call that nobody let in is answered with nothing, whatever it asks.
func TestACallPastTheGuardIsRefused(t *testing.T) {
	c := newTown().settle(t, tenants)
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	c.query, c.findings = query.New(query.Config{}, c, log), findings.New(findings.Config{}, c, nowhere{}, time.Now, log)
	for _, a := range questions(c, context.Background(), hostileTexts[:2]) {
		if !strings.Contains(a.answer, codes.Internal.String()) && !strings.Contains(a.answer, codes.InvalidArgument.String()) {
			t.Fatalf("%s: %.500s", a.question, a.answer)
		}
	}
	for _, err := range []error{
		c.query.WatchEvents(&pb.WatchEventsRequest{}, &ear[*pb.WatchEventsResponse]{ctx: context.Background()}),
		c.findings.WatchFindings(&pb.WatchFindingsRequest{}, &ear[*pb.WatchFindingsResponse]{ctx: context.Background()}),
	} {
		if status.Code(err) != codes.Internal {
			t.Errorf("watch: %v", err)
		}
	}
	if !strings.Contains(said.String(), "past the guard") {
		t.Errorf("the log says %q", said.String())
	}
	// Nor is one that may see no tenant.
	resp, err := c.query.ListEvents(scopetest.Of(context.Background()), &pb.ListEventsRequest{})
	if err != nil || len(resp.GetEvents()) > 0 {
		t.Errorf("for no tenant: %v, %v", resp, err)
	}
}

// At the content level none, nothing tells what calls were about: no answer has it, and
// nothing can be asked by it.
func TestContentIsNeitherShownNorAskedFor(t *testing.T) {
	c := newTown().settle(t, tenants)
	none := scopetest.With(context.Background(), "key:none", auth.ContentNone, "a")
	fields := []string{"arguments", "error_message", "decision_reason", "labels", "signals", "removed", "arguments_digest", "result_digest", "arguments_shape", "argument_marks", "result_marks"}
	for _, a := range questions(c, none, hostileTexts[:8]) {
		for _, field := range append(fields, "definition", "reason", "workings") {
			if strings.Contains(a.answer, `"`+jsonName(field)+`":`) {
				t.Fatalf("%s has %s: %.1000s", a.question, field, a.answer)
			}
		}
		if strings.Contains(a.answer, `"of a"`) && !strings.Contains(a.answer, `"by"`) || strings.Contains(a.answer, `{\"of\"`) {
			t.Fatalf("%s quotes content: %.1000s", a.question, a.answer)
		}
	}
	for _, field := range fields {
		for _, filter := range []string{field + `:"x"`, `server = "a" OR NOT ` + field + `:"x"`, field + ` = "x"`, field + `.x = "x"`} {
			_, list := c.query.ListEvents(none, &pb.ListEventsRequest{Filter: filter})
			_, aggregate := c.query.AggregateEvents(none, &pb.AggregateEventsRequest{Filter: filter})
			watch := c.query.WatchEvents(&pb.WatchEventsRequest{Filter: filter}, &ear[*pb.WatchEventsResponse]{ctx: none})
			for _, err := range []error{list, aggregate, watch} {
				refusedFor(t, filter, err, field)
			}
		}
		_, err := c.query.AggregateEvents(none, &pb.AggregateEventsRequest{GroupBy: []string{field}})
		refusedFor(t, "group", err, field)
		_, err = c.query.ListEvents(none, &pb.ListEventsRequest{ReadMask: &fieldmaskpb.FieldMask{Paths: []string{field}}})
		refusedFor(t, "mask", err, field)
		_, err = c.query.ListEvents(none, &pb.ListEventsRequest{OrderBy: field})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("order by %s: %v", field, err)
		}
	}
	for _, field := range []string{"reason", "workings"} {
		_, err := c.findings.ListFindings(none, &pb.ListFindingsRequest{Filter: field + `:"a"`})
		refusedFor(t, "findings", err, field)
	}
	// With more, all of it is there.
	resp, err := c.query.ListEvents(scopetest.Of(context.Background(), "a"), &pb.ListEventsRequest{Filter: `arguments:"of"`})
	if err != nil || len(resp.GetEvents()) == 0 || resp.GetEvents()[0].GetArguments() == "" {
		t.Errorf("%v, %v", resp, err)
	}
}

func refusedFor(t *testing.T, what string, err error, field string) {
	t.Helper()
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), "level none") {
		t.Errorf("%s: %v", what, err)
	}
}

func jsonName(field string) string {
	words := strings.Split(field, "_")
	for i := range words[1:] {
		words[i+1] = strings.ToUpper(words[i+1][:1]) + words[i+1][1:]
	}
	return strings.Join(words, "")
}
