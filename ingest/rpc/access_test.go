package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// people are who may write in these tests; a call says who it is of.
var people = map[string][]auth.Grant{
	"acme":    {{Role: auth.Emitter, Tenant: "acme"}},
	"b":       {{Role: auth.Emitter, Tenant: "b"}},
	"both":    {{Role: auth.Emitter, Tenant: "acme"}, {Role: auth.Emitter, Tenant: "b"}},
	"default": {{Role: auth.Emitter, Tenant: auth.DefaultTenant}},
	"relay":   {{Role: auth.Emitter, Tenant: auth.EveryTenant}},
	"crm":     {{Role: auth.Emitter, Tenant: "acme", Servers: []string{"crm*"}, Emitters: []string{"crm-*"}}},
}

func as(ctx context.Context, who string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "who", who)
}

// admitted is a service that knows people.
func admitted(t *testing.T, memory int64, limits auth.PublishLimits) *service {
	t.Helper()
	q := auth.NewQuota(limits, time.Now)
	return serveWith(t, memory, rpc.Config{Admit: func(ctx context.Context) (rpc.Admission, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		who := strings.Join(md.Get("who"), "")
		grants, ok := people[who]
		if !ok {
			return nil, status.Error(codes.PermissionDenied, "nobody knows you")
		}
		return q.Writer(auth.With(ctx, &auth.Access{Identity: auth.Identity{ID: "key:" + who, Grants: grants}, Permission: auth.Publish}))
	}})
}

func of(tenant, server string, ms []*pb.Event) []*pb.Event {
	for _, m := range ms {
		m.Tenant, m.Server = tenant, server
	}
	return ms
}

func TestAnEventThatIsNotItsWritersIsRefusedAlone(t *testing.T) {
	s := admitted(t, 0, auth.PublishLimits{})
	events := of("acme", "crm", messages("crm-1", 1, 8))
	events[1].Tenant = "b"
	events[2].Server = "hr"
	events[3].EmitterId = "hr-1"
	events[4].Principal = "mcpaudit:retention"
	events[5].Kind, events[5].Method = "admin", "mcpaudit/start"
	events[6].EventId = "none"
	events[7].Tenant = ""
	resp, err := s.PublishBatch(as(t.Context(), "crm"), &pb.PublishBatchRequest{Events: events})
	if err != nil {
		t.Fatal(err)
	}
	r := resp.GetReceipt()
	var got []string
	for _, x := range r.GetRejected() {
		got = append(got, fmt.Sprint(x.GetIndex(), " ", x.GetEmitterSeq(), " ", x.GetCode(), " ", strings.SplitN(x.GetReason(), ":", 2)[0]))
	}
	want := []string{"1 2 CODE_FORBIDDEN tenant", "2 3 CODE_FORBIDDEN server", "3 4 CODE_FORBIDDEN emitter_id",
		"4 5 CODE_RESERVED principal", "5 6 CODE_RESERVED method", "6 7 CODE_INVALID event_id"}
	if !slices.Equal(got, want) {
		t.Errorf("rejected\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p := r.GetProgress(); r.GetStored() != 2 || len(p) != 1 || p[0].GetEmitterId() != "crm-1" || p[0].GetContiguousSeq() != 1 || p[0].GetHighestSeq() != 8 {
		t.Errorf("receipt %v", r)
	}
	if n := s.count(t, "acme::crm-1"); n != 2 {
		t.Errorf("%d are stored as the tenant's", n)
	}
	if n := s.count(t, "crm-1") + s.count(t, "hr-1") + s.count(t, "acme::hr-1"); n != 0 {
		t.Errorf("%d are stored as others'", n)
	}
}

// Who knows another tenant's emitter and its next numbers can't use them up.
func TestNoTenantCanPassItsEventsOffAsAnothers(t *testing.T) {
	s := admitted(t, 0, auth.PublishLimits{})
	for _, who := range []string{"b", "default", "acme"} { // the last one is who it is aimed at
		for _, id := range []string{"e", "acme::e", "e"} {
			events := of("", "crm", messages(id, 1, 5))
			resp, err := s.PublishBatch(as(t.Context(), who), &pb.PublishBatchRequest{Events: events})
			if err != nil {
				t.Fatal(err)
			}
			if r := resp.GetReceipt(); id != "e" && len(r.GetRejected()) != 5 || id == "e" && (len(r.GetRejected()) != 0 || r.GetStored()+r.GetDuplicates() != 5) {
				t.Fatalf("%s as %s: %v", who, id, r)
			}
		}
	}
	for _, stored := range []string{"b::e", "e", "acme::e"} {
		if n := s.count(t, stored); n != 5 {
			t.Errorf("%d events of %s are stored", n, stored)
		}
	}
}

func TestProgressOfAWriterForSeveralTenantsIsOfItsOwnEmitter(t *testing.T) {
	s := admitted(t, 0, auth.PublishLimits{})
	events := append(of("acme", "crm", messages("e", 1, 3)), of("b", "crm", messages("e", 4, 6))...)
	resp, err := s.PublishBatch(as(t.Context(), "both"), &pb.PublishBatchRequest{Events: events})
	if err != nil {
		t.Fatal(err)
	}
	if p := resp.GetReceipt().GetProgress(); len(p) != 1 || p[0].GetEmitterId() != "e" || p[0].GetContiguousSeq() != 3 || p[0].GetHighestSeq() != 6 {
		t.Errorf("progress %v", p)
	}
}

func TestWhoMayNotWriteIsToldSo(t *testing.T) {
	s := admitted(t, 0, auth.PublishLimits{})
	if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: messages("e", 1, 1)}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a batch: %v", err)
	}
	stream := s.publish(t, as(t.Context(), "nobody"))
	if err := stream.Send(&pb.PublishRequest{Events: messages("e", 1, 1)}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stream: %v", err)
	}
	if n := s.count(t, "e"); n != 0 {
		t.Errorf("%d events are stored", n)
	}
}

func checkOverQuota(t *testing.T, err error) time.Duration {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != codes.ResourceExhausted || len(st.Details()) != 1 || leak.MatchString(st.Message()) {
		t.Fatalf("answered %v", err)
	}
	return st.Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration()
}

func TestBeyondItsQuotaAWriterIsToldWhenThereIsRoom(t *testing.T) {
	s := admitted(t, 0, auth.PublishLimits{TenantEvents: 0.01}) // a burst of 5000, and no more today
	full := &pb.PublishBatchRequest{Events: make([]*pb.Event, rpc.MaxEvents-10)}
	for i := range full.Events {
		full.Events[i] = &pb.Event{} // refused, and paid for
	}
	if _, err := s.PublishBatch(as(t.Context(), "acme"), full); err != nil {
		t.Fatal(err)
	}
	stream := s.publish(t, as(t.Context(), "acme"))
	for n := range uint64(2) {
		if err := stream.Send(&pb.PublishRequest{Events: messages("e", 5*n+1, 5*n+5)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Send(&pb.PublishRequest{Events: messages("e", 11, 15)}); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(2) {
		if resp, err := stream.Recv(); err != nil || resp.GetReceipt().GetProgress()[0].GetContiguousSeq() < 5*n+5 {
			t.Fatalf("answer %d: %v, %v", n, resp, err)
		}
	}
	_, err := stream.Recv()
	if wait := checkOverQuota(t, err); wait < 490*time.Second || wait > 500*time.Second {
		t.Errorf("the stream is told to wait for %v", wait)
	}
	_, err = s.PublishBatch(as(t.Context(), "acme"), &pb.PublishBatchRequest{Events: messages("e", 11, 15)})
	checkOverQuota(t, err)
	if n := s.count(t, "acme::e"); n != 10 {
		t.Errorf("%d events are stored", n)
	}
	// The same events of another tenant are taken.
	if _, err := s.PublishBatch(as(t.Context(), "b"), &pb.PublishBatchRequest{Events: messages("e", 1, 5)}); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

// One tenant sends all it can, and another one sends its events, none of which is
// refused.
func TestAFloodOfOneTenantStopsNoOther(t *testing.T) {
	s := admitted(t, 4<<20, auth.PublishLimits{TenantEvents: 100})
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for n := range 6 {
		flood.Go(func() {
			events := messages(fmt.Sprint("e", n), 1, 200)
			for ctx.Err() == nil {
				_, err := s.PublishBatch(as(ctx, "acme"), &pb.PublishBatchRequest{Events: events})
				if err != nil && ctx.Err() == nil && status.Code(err) != codes.ResourceExhausted {
					t.Error(err)
				}
			}
		})
	}
	eventually(t, "the flood is over its quota", func() bool {
		_, err := s.PublishBatch(as(ctx, "acme"), &pb.PublishBatchRequest{Events: messages("probe", 1, 200)})
		return status.Code(err) == codes.ResourceExhausted
	})
	for n := range uint64(20) {
		if _, err := s.PublishBatch(as(t.Context(), "b"), &pb.PublishBatchRequest{Events: messages("e", 10*n+1, 10*n+10)}); err != nil {
			t.Fatalf("request %d of the other tenant: %v", n, err)
		}
	}
	stop()
	flood.Wait()
	if n := s.count(t, "b::e"); n != 200 {
		t.Errorf("%d events are stored", n)
	}
}

// noText stands for bytes that are not UTF-8, as many.
const noText = "not UTF-8 text"

// hostile is what somebody might put into a field.
var hostile = map[string]string{
	"path":       "../../../../etc/passwd",
	"windows":    `..\..\C:\Windows\win.ini`,
	"sql":        `'; DROP TABLE events; -- " OR 1=1 \' UNION SELECT * FROM logs`,
	"parameter":  "{id:String} %s %d $1 ? `a` {{.}} ${jndi:ldap://x}",
	"control":    "a\x00b\r\nc\x1b[2Jd\x7f\u0085",
	"direction":  "a\u202eb\u200bc\ufeff",
	"namespace":  "b::e",
	"colon":      ":b",
	"markup":     "<script>alert(1)</script>",
	"formula":    "=cmd|' /C calc'!A0",
	"not UTF-8":  noText,
	"long":       strings.Repeat("x", event.MaxText+1),
	"very long":  strings.Repeat("é", 200_000),
	"wide":       strings.Repeat("\U0001F600", event.MaxID/4),
	"everything": "*",
}

// unchecked is a client's codec: it sends bytes as they are, and reads answers.
type unchecked struct{ raw }

func (unchecked) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}

// Whatever a field holds, its event alone is refused, or it is stored as it came, in its
// own tenant, and nothing else happens.
func TestHostileEventsAreStoredAsTheyAreOrRefusedAlone(t *testing.T) {
	s := admitted(t, 0, auth.PublishLimits{})
	type sent struct {
		what string
		want event.Event
	}
	var request []*pb.Event
	var all []sent
	add := func(what string, spoil func(*event.Event)) {
		seq := uint64(len(all) + 1)
		m := message("e", seq)
		e := new(event.Event)
		if err := wire.FromProto(m, e); err != nil {
			t.Fatal(err)
		}
		e.Tenant = ""
		spoil(e)
		all = append(all, sent{what, *e})
		request = append(request, wire.ToProto(e))
	}
	for name, value := range hostile {
		for _, x := range event.Texts {
			add(x.Name+": "+name, func(e *event.Event) { *x.Of(e) = value })
		}
		for _, x := range event.Lists {
			add(x.Name+": "+name, func(e *event.Event) { *x.Of(e) = []string{value} })
		}
		add("labels: "+name, func(e *event.Event) { e.Labels = []event.Label{{Key: value, Value: value}} })
		add("removed: "+name, func(e *event.Event) { e.Removed = []event.Removal{{Path: value, Class: value}} })
		add("kind: "+name, func(e *event.Event) { e.Kind = value })
		add("transport: "+name, func(e *event.Event) { e.Transport = value })
	}
	refused := map[uint64]string{}
	stored := 0
	for len(request) > 0 {
		n, size := 0, 0
		for n < len(request) && size < rpc.MaxBytes/2 {
			size += request[n].SizeVT()
			n++
		}
		data, err := proto.Marshal(&pb.PublishBatchRequest{Events: request[:n]})
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte(noText), []byte("not \xff\xfe text \xf0\x9f")) // which Marshal refuses
		resp := new(pb.PublishBatchResponse)
		if err := s.conn.Invoke(as(t.Context(), "acme"), pb.IngestService_PublishBatch_FullMethodName, data, resp, grpc.ForceCodecV2(unchecked{})); err != nil {
			t.Fatal(err)
		}
		for _, r := range resp.GetReceipt().GetRejected() {
			refused[r.GetEmitterSeq()] = r.GetReason()
			if len(r.GetReason()) > 1000 || strings.ContainsAny(r.GetReason(), "\x00\x1b") || strings.Contains(r.GetReason(), "etc/passwd") || strings.Contains(r.GetReason(), "DROP TABLE") {
				t.Errorf("the reason holds the value: %.100q", r.GetReason())
			}
		}
		stored += int(resp.GetReceipt().GetStored())
		request = request[n:]
	}
	rows, err := s.store.Query(t.Context(), store.Limits{}, "SELECT "+store.EventColumns+" FROM events")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := 0
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			t.Fatal(err)
		}
		seen++
		x := all[e.EmitterSeq-1]
		if e.Tenant != "acme" || e.EmitterID != "acme::"+x.want.EmitterID || refused[e.EmitterSeq] != "" {
			t.Errorf("%s is stored as %.80q of %.80q, and refused with %q", x.what, e.EmitterID, e.Tenant, refused[e.EmitterSeq])
		}
		if strings.Contains(x.what, "not UTF-8") {
			t.Errorf("%s is stored", x.what)
		}
		for _, f := range event.Texts {
			if got, want := *f.Of(e), *f.Of(&x.want); got != want && f.Name != "tenant" && f.Name != "emitter_id" {
				t.Errorf("%s: %s is stored as %.80q, want %.80q", x.what, f.Name, got, want)
			}
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if seen != stored || seen+len(refused) != len(all) || stored == 0 || len(refused) == 0 {
		t.Errorf("%d of %d are stored, %d were said to be, %d refused", seen, len(all), stored, len(refused))
	}
	// The tenant: nothing but one's own is taken, whatever it looks like.
	for i, x := range all {
		if strings.HasPrefix(x.what, "tenant: ") && refused[uint64(i+1)] == "" {
			t.Errorf("%s is taken", x.what)
		}
	}
}
