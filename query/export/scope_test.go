package export

import (
	"context"
	"strings"
	"testing"
	"testing/fstest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// direct is a stream of a call with an access of its own.
type direct struct {
	grpc.ServerStream
	ctx   context.Context
	files fstest.MapFS
	token []byte // the last
}

func (d *direct) Context() context.Context { return d.ctx }

func (d *direct) Send(m *pb.ExportEventsResponse) error {
	if m.GetFile() != "" {
		if d.files[m.GetFile()] == nil {
			d.files[m.GetFile()] = &fstest.MapFile{}
		}
		f := d.files[m.GetFile()]
		f.Data = append(f.Data, m.GetData()...)
	}
	if len(m.GetResumeToken()) > 0 {
		d.token = m.GetResumeToken()
	}
	return nil
}

// A tenant's export has its own events and no others, though others' are in the same
// batches, and proves each of them.
func TestATenantsExportHasItsEventsAndProvesThem(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.PartEvents = 30 })
	r := newRand(77)
	counts := map[string]int{}
	for range 6 {
		var events []*event.Event
		for i := range 20 {
			e := event.Random(r)
			e.Tenant = []string{"a", "b", "c"}[i%3]
			if i%3 == 1 {
				e.Principal = "secret-of-b"
			}
			counts[e.Tenant]++
			events = append(events, e)
		}
		s.seal(t, events...)
	}
	service := New(s.cfg, s.store, quiet)
	take := func(ctx context.Context, req *pb.ExportEventsRequest) (*direct, error) {
		d := &direct{ctx: ctx, files: fstest.MapFS{}}
		return d, service.ExportEvents(req, d)
	}
	mine := scopetest.Of(t.Context(), "a")
	var token []byte
	for _, filter := range []string{"", "even"} {
		d, err := take(mine, &pb.ExportEventsRequest{Bundle: true, Filter: filter, Formats: []string{"csv"}, RequestedBy: "the boss"})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.token) > 0 {
			token = d.token
		}
		report, err := Verify(d.files, []string{s.key.Verifier()}, nil)
		if err != nil {
			t.Fatalf("%q: %v", filter, err)
		}
		m := report.Manifest
		want := 0
		for _, e := range s.all {
			if e.Tenant == "a" && matches(filter, e) {
				want++
			}
		}
		if int(m.Events) != want || m.Completeness != filtered || strings.Join(m.Tenants, " ") != "a" || m.By != scopetest.Who {
			t.Errorf("%q: %d of %d events, %s, of %q, by %q", filter, m.Events, want, m.Completeness, m.Tenants, m.By)
		}
		for name, f := range d.files {
			if strings.Contains(string(f.Data), "secret-of-b") {
				t.Errorf("%q: %s has something of another tenant", filter, name)
			}
		}
	}
	if len(token) == 0 {
		t.Fatal("there is no resume token")
	}
	// Nobody else goes on with it, nor does who may see other tenants by now.
	for name, ctx := range map[string]context.Context{
		"another tenant": scopetest.Of(t.Context(), "b"), "everyone": scopetest.Every(t.Context()), "fewer": scopetest.Of(t.Context()),
		"somebody else of the tenant": scopetest.With(t.Context(), "key:other", auth.ContentRedacted, "a"),
	} {
		if _, err := take(ctx, &pb.ExportEventsRequest{ResumeToken: token}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := take(mine, &pb.ExportEventsRequest{ResumeToken: token}); err != nil {
		t.Errorf("its owner: %v", err)
	}
	d, err := take(scopetest.Of(t.Context(), "nobody"), &pb.ExportEventsRequest{})
	if err != nil || len(d.files["events.jsonl"].Data) > 0 {
		t.Errorf("a tenant without events: %v, %v", d.files, err)
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		code codes.Code
	}{
		"without content": {scopetest.With(t.Context(), "key:none", auth.ContentNone, "a"), codes.PermissionDenied},
		"past the guard":  {t.Context(), codes.Internal},
	} {
		if d, err := take(c.ctx, &pb.ExportEventsRequest{}); status.Code(err) != c.code || len(d.files) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
