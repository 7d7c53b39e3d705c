package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mcpaudit/mcpaudit/ingest/diary"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// notebook keeps notes in memory, and can be full.
type notebook struct {
	mu      sync.Mutex
	entries []diary.Entry
	full    error
}

func (n *notebook) Note(_ context.Context, e diary.Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full != nil {
		return n.full
	}
	n.entries = append(n.entries, e)
	return nil
}

func (n *notebook) fill(err error) { n.mu.Lock(); defer n.mu.Unlock(); n.full = err }

func (n *notebook) take() []diary.Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.entries
	n.entries = nil
	return out
}

// shop is a service behind a guard: it answers what it is told.
type shop struct {
	pb.UnimplementedQueryServiceServer
	pb.UnimplementedIngestServiceServer
	pb.UnimplementedFindingServiceServer

	keys  *Keyring
	clock *clock
	notes *notebook
	conn  *grpc.ClientConn
	guard *Guard

	answer error
	seen   *Access // by the last handler
	next   chan *pb.WatchEventsResponse
}

func (s *shop) ListEvents(ctx context.Context, _ *pb.ListEventsRequest) (*pb.ListEventsResponse, error) {
	s.seen, _ = From(ctx)
	return &pb.ListEventsResponse{Events: []*pb.Event{{}, {}, {}}, NextPageToken: "t"}, s.answer
}

func (s *shop) PublishBatch(ctx context.Context, _ *pb.PublishBatchRequest) (*pb.PublishBatchResponse, error) {
	s.seen, _ = From(ctx)
	return &pb.PublishBatchResponse{}, nil
}

func (s *shop) WatchEvents(_ *pb.WatchEventsRequest, stream pb.QueryService_WatchEventsServer) error {
	for m := range s.next {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (s *shop) Publish(stream pb.IngestService_PublishServer) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&pb.PublishResponse{}); err != nil {
			return err
		}
	}
}

var shopRules = map[string]Rule{
	pb.QueryService_ListEvents_FullMethodName:     {Permission: Read},
	pb.QueryService_WatchEvents_FullMethodName:    {Permission: Read, Note: NoteAround},
	pb.QueryService_GetEvent_FullMethodName:       {Permission: Read, Whole: true},
	pb.IngestService_PublishBatch_FullMethodName:  {Permission: Publish, Note: NoteNever},
	pb.IngestService_Publish_FullMethodName:       {Permission: Publish, Note: NoteNever},
	pb.FindingService_ListFindings_FullMethodName: {Open: true},
}

func openShop(t *testing.T) *shop {
	t.Helper()
	keys, c := newTestKeyring(t)
	s := &shop{keys: keys, clock: c, notes: &notebook{}, next: make(chan *pb.WatchEventsResponse, 10)}
	s.guard = NewGuard(shopRules, Deps{Keys: keys, Notes: s.notes, Now: c.Now, Log: slog.New(slog.DiscardHandler),
		Caller: func(context.Context) Caller { return Caller{Address: "192.0.2.7", UserAgent: "test/1"} }})
	server := grpc.NewServer(grpc.UnaryInterceptor(s.guard.Unary), grpc.StreamInterceptor(s.guard.Stream))
	pb.RegisterQueryServiceServer(server, s)
	pb.RegisterIngestServiceServer(server, s)
	pb.RegisterFindingServiceServer(server, s)
	l := bufconn.Listen(1 << 16)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///shop", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.conn = conn
	return s
}

func (s *shop) key(t *testing.T, grants ...Grant) string {
	t.Helper()
	_, text, err := s.keys.Make(t.Context(), "x", grants, "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return text.Reveal()
}

func with(t *testing.T, headers ...string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	for _, h := range headers {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
	}
	return ctx
}

func (s *shop) list(t *testing.T, headers ...string) error {
	_, err := pb.NewQueryServiceClient(s.conn).ListEvents(with(t, headers...), &pb.ListEventsRequest{Filter: `principal = "ada"`})
	return err
}

func TestACallIsNotedWithWhoAskedForWhatAndHowManyRowsCame(t *testing.T) {
	s := openShop(t)
	key := s.key(t, Grant{Role: Analyst, Tenant: "acme", Content: ContentNone})
	if err := s.list(t, "Bearer "+key); err != nil {
		t.Fatal(err)
	}
	if s.seen == nil || !slices.Equal(s.seen.Scope.Names, []string{"acme"}) || s.seen.Content != ContentNone || s.seen.Scope.Every {
		t.Fatalf("the method saw %+v", s.seen)
	}
	notes := s.notes.take()
	if len(notes) != 1 {
		t.Fatalf("noted %+v", notes)
	}
	n := notes[0]
	if n.Method != "mcpaudit/list_events" || n.Labels["rows"] != "3" || n.Labels["tenants"] != "acme" || n.Who.Tenant != "acme" || n.Who.Principal != s.seen.ID ||
		n.Who.Address != "192.0.2.7" || n.Who.UserAgent != "test/1" || n.Who.AuthMethod != "api_key" || n.Who.Decision != "allow" || n.Request != `{"filter":"principal = \"ada\""}` {
		t.Errorf("noted %+v", n)
	}
	if strings.Contains(strings.Join([]string{n.Request, n.Who.Credential, n.Words, n.Target}, " "), key[22:]) {
		t.Error("the note has the secret")
	}
}

// Promise 7: what the log does not have is not shown.
func TestPromise7NothingIsShownThatCantBeNoted(t *testing.T) {
	s := openShop(t)
	key := "Bearer " + s.key(t, analystOf("acme")...)
	s.notes.fill(errors.New("disk full"))
	if err := s.list(t, key); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "disk") {
		t.Errorf("answered %v", err)
	}
	watch, err := pb.NewQueryServiceClient(s.conn).WatchEvents(with(t, key), &pb.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	s.next <- &pb.WatchEventsResponse{}
	if m, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("watched %v, %v", m, err)
	}
}

func TestACallThatFailsIsNotedToo(t *testing.T) {
	s := openShop(t)
	s.answer = status.Error(codes.InvalidArgument, "filter: no")
	if err := s.list(t, "Bearer "+s.key(t, analystOf("acme")...)); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	if n := s.notes.take(); len(n) != 1 || n[0].Outcome != "protocol_error" || n[0].Words != "filter: no" || n[0].Who.ErrorCode != "InvalidArgument" {
		t.Errorf("noted %+v", n)
	}
}

func TestAStreamIsNotedWhenItBeginsAndWhenItEnds(t *testing.T) {
	s := openShop(t)
	watch, err := pb.NewQueryServiceClient(s.conn).WatchEvents(with(t, "Bearer "+s.key(t, analystOf("acme")...)), &pb.WatchEventsRequest{Filter: "a=1"})
	if err != nil {
		t.Fatal(err)
	}
	s.next <- &pb.WatchEventsResponse{Events: []*pb.Event{{}, {}}}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if n := s.notes.take(); len(n) != 1 || n[0].Labels["phase"] != "begin" || n[0].Request != `{"filter":"a=1"}` {
		t.Errorf("noted %+v", n)
	}
	close(s.next)
	if _, err := watch.Recv(); err == nil {
		t.Error("it goes on")
	}
	if n := s.notes.take(); len(n) != 1 || n[0].Labels["phase"] != "end" || n[0].Labels["rows"] != "2" {
		t.Errorf("noted %+v", n)
	}
}

// A stream does not outlive its credential.
func TestAStreamEndsWhenItsKeyIsRevoked(t *testing.T) {
	s := openShop(t)
	k, text, err := s.keys.Make(t.Context(), "x", []Grant{{Role: Emitter, Tenant: "a"}, {Role: Analyst, Tenant: "a"}}, "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ctx := with(t, "Bearer "+text.Reveal())
	publish, err := pb.NewIngestServiceClient(s.conn).Publish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := pb.NewQueryServiceClient(s.conn).WatchEvents(ctx, &pb.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	both := func() (error, error) {
		t.Helper()
		s.next <- &pb.WatchEventsResponse{}
		_, watched := watch.Recv()
		if err := publish.Send(&pb.PublishRequest{}); err != nil {
			t.Fatal(err)
		}
		_, published := publish.Recv()
		return watched, published
	}
	if w, p := both(); w != nil || p != nil {
		t.Fatal(w, p)
	}
	if _, err := s.keys.Revoke(t.Context(), k.ID, Scope{Every: true}, "me", ""); err != nil {
		t.Fatal(err)
	}
	s.clock.add(recheck)
	if w, p := both(); status.Code(w) != codes.Unauthenticated || status.Code(p) != codes.Unauthenticated {
		t.Errorf("watch %v, publish %v", w, p)
	}
}

// Who opens a stream and reads nothing of it does not keep it.
func TestAnAnswerThatNobodyReadsEndsTheStream(t *testing.T) {
	s := openShop(t)
	s.guard.stall = 100 * time.Millisecond
	_, err := pb.NewQueryServiceClient(s.conn).WatchEvents(with(t, "Bearer "+s.key(t, analystOf("acme")...)), &pb.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	large := &pb.WatchEventsResponse{Events: []*pb.Event{{Arguments: strings.Repeat("x", 1<<20)}}}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 10 {
			s.next <- large
		}
	}()
	<-sent
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if n := s.notes.take(); len(n) > 0 && n[len(n)-1].Labels["phase"] == "end" {
			if n[len(n)-1].Outcome != "timeout" {
				t.Errorf("noted %+v", n)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the stream goes on")
		}
	}
}

// A call whose credential goes bad while it waits for its place gives the place back.
func TestACallThatIsGivenUpBeforeItBeginsHoldsNothing(t *testing.T) {
	s := openShop(t)
	s.guard.stall = 100 * time.Millisecond
	places := &onePlace{free: make(chan struct{}), held: make(chan int, 2)}
	s.guard.d.Queries = places
	k, text, err := s.keys.Make(t.Context(), "x", analystOf("acme"), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := pb.NewQueryServiceClient(s.conn).WatchEvents(with(t, "Bearer "+text.Reveal()), &pb.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := <-places.held; n != 1 {
		t.Fatal(n)
	}
	if _, err := s.keys.Revoke(t.Context(), k.ID, Scope{Every: true}, "me", ""); err != nil {
		t.Fatal(err)
	}
	s.clock.add(recheck)
	if _, err := watch.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("ended with %v", err)
	}
	close(places.free)
	select {
	case n := <-places.held:
		if n != 0 {
			t.Errorf("%d places are held", n)
		}
	case <-time.After(20 * time.Second):
		t.Error("the place is held for ever")
	}
}

// onePlace says how many places are held. One is given when free is closed.
type onePlace struct {
	free chan struct{}
	held chan int
}

func (p *onePlace) Begin(context.Context, Scope) (func(), error) {
	p.held <- 1
	<-p.free
	return sync.OnceFunc(func() { p.held <- 0 }), nil
}

func TestEachHostileCredentialIsRefusedAndNoted(t *testing.T) {
	s := openShop(t)
	good := s.key(t, analystOf("acme")...)
	_, other, _ := NewKey("x", analystOf("acme"), "me", noon, noon.Add(time.Hour))
	emitter := s.key(t, Grant{Role: Emitter, Tenant: "acme"})
	expired := s.key(t, analystOf("acme")...)
	s.keys.turn.Lock()
	(*s.keys.keys.Load())[expired[5:21]].ExpiresAt = noon
	s.keys.turn.Unlock()
	for name, c := range map[string]struct {
		headers []string
		reason  Reason
		code    codes.Code
	}{
		"none":              {nil, NoCredential, codes.Unauthenticated},
		"empty":             {[]string{""}, Malformed, codes.Unauthenticated},
		"basic":             {[]string{"Basic YWRtaW46YWRtaW4="}, Malformed, codes.Unauthenticated},
		"no scheme":         {[]string{good}, Malformed, codes.Unauthenticated},
		"no token":          {[]string{"Bearer "}, Malformed, codes.Unauthenticated},
		"two headers":       {[]string{"Bearer " + good, "Bearer " + good}, Malformed, codes.Unauthenticated},
		"two in one":        {[]string{"Bearer " + good + ", Bearer " + good}, Malformed, codes.Unauthenticated},
		"unknown key":       {[]string{"Bearer " + other.Reveal()}, Unknown, codes.Unauthenticated},
		"another secret":    {[]string{"Bearer " + good[:22] + other.Reveal()[22:]}, Unknown, codes.Unauthenticated},
		"cut":               {[]string{"Bearer " + good[:40]}, Malformed, codes.Unauthenticated},
		"expired":           {[]string{"Bearer " + expired}, Expired, codes.Unauthenticated},
		"token, no issuer":  {[]string{"Bearer eyJhbGciOiJub25lIn0.e30."}, WrongIssuer, codes.Unauthenticated},
		"oversized":         {[]string{"Bearer mcpa_" + strings.Repeat("a", 20_000)}, Malformed, codes.Unauthenticated},
		"SQL":               {[]string{"Bearer mcpa_' OR '1'='1"}, Malformed, codes.Unauthenticated},
		"path":              {[]string{"Bearer ../../etc/passwd"}, WrongIssuer, codes.Unauthenticated},
		"an emitter's key":  {[]string{"Bearer " + emitter}, Forbidden, codes.PermissionDenied},
		"lower case scheme": {[]string{"bearer " + good}, "", codes.OK},
	} {
		s.notes.take()
		s.guard.failures = newFailures(s.clock.Now) // their delays are another test
		err := s.list(t, c.headers...)
		if status.Code(err) != c.code {
			t.Errorf("%s: answered %v", name, err)
		}
		notes := s.notes.take()
		if len(notes) != 1 {
			t.Errorf("%s: noted %+v", name, notes)
			continue
		}
		n := notes[0]
		if c.code != codes.OK && (n.Kind != "auth" || n.Outcome != "denied" || n.Who.Reason != string(c.reason) || n.Who.Address != "192.0.2.7" || n.Labels["attempts"] != "1") {
			t.Errorf("%s: noted %+v", name, n)
		}
		if strings.Contains(n.Words+n.Labels["claimed"]+n.Who.Credential, good[22:]) {
			t.Errorf("%s: the note has the secret", name)
		}
	}
}

func TestAMethodWithoutARuleIsForNobody(t *testing.T) {
	s := openShop(t)
	key := s.key(t, Grant{Role: Analyst, Tenant: EveryTenant}, Grant{Role: Admin, Tenant: EveryTenant}, Grant{Role: Emitter, Tenant: EveryTenant})
	_, err := pb.NewQueryServiceClient(s.conn).GetTimeline(with(t, "Bearer "+key), &pb.GetTimelineRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("answered %v", err)
	}
	// An open one asks for nothing; one of the whole store wants every tenant.
	if _, err := pb.NewFindingServiceClient(s.conn).ListFindings(with(t), &pb.ListFindingsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("answered %v", err)
	}
	one := s.key(t, analystOf("acme")...)
	if _, err := pb.NewQueryServiceClient(s.conn).GetEvent(with(t, "Bearer "+one), &pb.GetEventRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("answered %v", err)
	}
	if _, err := pb.NewQueryServiceClient(s.conn).GetEvent(with(t, "Bearer "+key), &pb.GetEventRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("answered %v", err)
	}
}

// A flood of failures is few events that count, and a good key still comes through.
func TestAFloodOfFailuresIsFewEventsAndLocksNobodyOut(t *testing.T) {
	s := openShop(t)
	good := "Bearer " + s.key(t, analystOf("acme")...)
	const guesses = 2000
	f := s.guard.failures
	attempts := 0
	for range guesses {
		n, _ := f.add("192.0.2.7", refused{refusal: &Refusal{Reason: Unknown}})
		attempts += n
		s.clock.add(10 * time.Millisecond)
	}
	if attempts < guesses/2 || attempts > guesses {
		t.Errorf("the events stand for %d attempts", attempts)
	}
	if err := s.list(t, good); err != nil {
		t.Error(err)
	}
	s.notes.take()
	s.clock.add(2 * time.Minute)
	s.guard.noteLeft(t.Context(), time.Minute)
	for _, n := range s.notes.take() {
		if n.Labels["attempts"] == "0" {
			t.Errorf("noted %+v", n)
		}
		attempts += atoi(t, n.Labels["attempts"])
	}
	if attempts != guesses {
		t.Errorf("the log has %d of %d attempts", attempts, guesses)
	}
}

func TestFailuresFromManyAddressesAreBoundedAndCounted(t *testing.T) {
	c := &clock{now: noon}
	f := newFailures(c.Now)
	const guesses = 50_000
	events, attempts := 0, 0
	for i := range guesses {
		n, delay := f.add(network(net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)).String()), refused{refusal: &Refusal{Reason: Unknown}})
		if attempts += n; n > 0 {
			events++
		}
		if delay != 0 {
			t.Fatal("who fails once is delayed")
		}
		c.add(100 * time.Microsecond)
	}
	if f.runs.Len() > mostRuns {
		t.Errorf("%d addresses are remembered", f.runs.Len())
	}
	if most := 4*notesASecond + 5*notesASecond + 1; events > most {
		t.Errorf("%d events in 5 s", events)
	}
	for range 1000 {
		c.add(time.Minute)
		_, left := f.left(0)
		for _, n := range left {
			attempts += n
		}
	}
	if attempts != guesses {
		t.Errorf("the log has %d of %d attempts", attempts, guesses)
	}
}

func TestRepeatedFailuresSlowDown(t *testing.T) {
	c := &clock{now: noon}
	f := newFailures(c.Now)
	var delays []time.Duration
	for range 20 {
		_, d := f.add("a", refused{refusal: &Refusal{}})
		delays = append(delays, d)
	}
	if delays[freeFailures-1] != 0 || delays[freeFailures] != 100*time.Millisecond || delays[freeFailures+1] != 200*time.Millisecond || delays[19] != longestDelay {
		t.Errorf("delays %v", delays)
	}
	c.add(runEnds + time.Second)
	if _, d := f.add("a", refused{refusal: &Refusal{}}); d != 0 {
		t.Errorf("after a pause: %v", d)
	}
}

func TestAnIPv6CustomerIsOneAddress(t *testing.T) {
	for address, want := range map[string]string{
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64", "::ffff:192.0.2.1": "192.0.2.1", "192.0.2.1": "192.0.2.1",
		"fe80::1%eth0": "fe80::/64", "": "", "not an address": "not an address",
	} {
		if got := network(address); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}

func TestMetricsWantACredential(t *testing.T) {
	s := openShop(t)
	from := func(r *http.Request) context.Context {
		return metadata.NewIncomingContext(r.Context(), metadata.MD{"authorization": r.Header.Values("Authorization")})
	}
	h := s.guard.HTTP(Observe, from, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for header, want := range map[string]int{
		"": http.StatusUnauthorized, "Bearer " + s.key(t, Grant{Role: Monitor, Tenant: EveryTenant}): http.StatusTeapot, "Bearer " + s.key(t, analystOf(EveryTenant)...): http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || (w.Code == http.StatusUnauthorized) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%q: %d %v", header, w.Code, w.Header())
		}
	}
}

// A certificate that was not verified proves nothing.
func TestOnlyAVerifiedCertificateIsAskedFor(t *testing.T) {
	s := openShop(t)
	s.guard.d.Certificates = certifier(func(tls.ConnectionState) (*Identity, error) {
		return &Identity{ID: "spiffe://a/b", Grants: analystOf("acme")}, nil
	})
	s.guard.d.Caller = func(context.Context) Caller { return Caller{TLS: &tls.ConnectionState{}} }
	if err := s.list(t); status.Code(err) != codes.Unauthenticated {
		t.Errorf("answered %v", err)
	}
}

type certifier func(tls.ConnectionState) (*Identity, error)

func (c certifier) Identify(s tls.ConnectionState) (*Identity, error) { return c(s) }

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	for _, r := range s {
		n = 10*n + int(r-'0')
	}
	return n
}
