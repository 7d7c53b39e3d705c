package emit_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
)

// gatekeeper lets events in as it is told, and counts who asks.
type gatekeeper struct {
	mu     sync.Mutex
	asked  []time.Time
	full   time.Duration // what is over quota waits; 0 for nothing
	grants []auth.Grant
}

func (g *gatekeeper) set(change func(*gatekeeper)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
}

func (g *gatekeeper) times() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.asked)
}

type admission struct {
	*auth.Publisher
	wait time.Duration
}

func (a admission) Take(context.Context, int, int) (time.Duration, bool) { return a.wait, a.wait == 0 }

func (g *gatekeeper) admit(context.Context) (rpc.Admission, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, time.Now())
	p, err := auth.NewPublisher(&auth.Access{Identity: auth.Identity{ID: "key:x", Grants: g.grants}, Permission: auth.Publish})
	return admission{p, g.full}, err
}

func guarded(t *testing.T, g *gatekeeper) *rpctest.Service {
	t.Helper()
	s := rpctest.New(t)
	s.Stop()
	s.Admit = g.admit
	s.Start()
	return s
}

// heard is a log that can be read while it is written.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(b)
}

func (h *heard) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.text.String(), what)
}

func openHeard(t *testing.T, address, spool string) (*emit.Emitter, *heard) {
	t.Helper()
	h := &heard{}
	e, err := emit.Open(emit.Config{Address: address, Name: "files", Spool: spool, Linger: time.Millisecond,
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}}, redactor(t), slog.New(slog.NewTextHandler(h, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return e, h
}

// t is the tenant of call.
var ofT = []auth.Grant{{Role: auth.Emitter, Tenant: "t"}}

func TestPromise5WhatIsOverQuotaIsKeptAndSentWhenThereIsRoom(t *testing.T) {
	const wait = 300 * time.Millisecond
	g := &gatekeeper{full: wait, grants: ofT}
	s := guarded(t, g)
	e, log := openHeard(t, s.Address, t.TempDir())
	emitAll(t, e, 0, 50)
	rpctest.Eventually(t, "it was told to wait four times", func() bool { return g.times() >= 4 })
	if st := e.Stats(); st.Lost+st.Rejected+st.Acknowledged != 0 || st.Pending != 50 {
		t.Errorf("%+v", st)
	}
	g.set(func(g *gatekeeper) {
		for i := 1; i < len(g.asked); i++ {
			if d := g.asked[i].Sub(g.asked[i-1]); d < wait {
				t.Errorf("it asked again after %v", d)
			}
		}
		g.full = 0
	})
	rpctest.Eventually(t, "all are acknowledged", func() bool { return e.Stats().Acknowledged == 50 })
	mustClose(t, e)
	s.WantDense("t::"+e.ID(), 50)
	if log.count("quota") != 1 {
		t.Errorf("it is said %d times", log.count("quota"))
	}
}

// An emitter whose grant is wrong loses nothing until somebody puts it right.
func TestPromise5WhatACredentialIsNotForIsKeptUntilItIs(t *testing.T) {
	g := &gatekeeper{grants: []auth.Grant{{Role: auth.Emitter, Tenant: "t", Servers: []string{"crm"}}}}
	s := guarded(t, g)
	spool := t.TempDir()
	e, log := openHeard(t, s.Address, spool)
	emitAll(t, e, 0, 20)
	rpctest.Eventually(t, "it has tried some times", func() bool { return g.times() >= 3 })
	if st := e.Stats(); st.Lost+st.Rejected+st.Acknowledged != 0 {
		t.Errorf("%+v", st)
	}
	if n := log.count("server: is not one that the credential may write for"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	// Another process takes them over, and so does one that is told of it later.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Close(ended); err == nil || !strings.Contains(err.Error(), "20 audit events are not delivered yet") {
		t.Errorf("Close says %v", err)
	}
	e, _ = openHeard(t, s.Address, spool)
	tried := g.times()
	rpctest.Eventually(t, "it has tried again", func() bool { return g.times() > tried })
	g.set(func(g *gatekeeper) { g.grants = ofT })
	rpctest.Eventually(t, "all are acknowledged", func() bool { return e.Stats().Acknowledged == 20 })
	mustClose(t, e)
	s.WantDense("t::"+e.ID(), 20)
}

// What a client of the server can bring about stops nobody else's events: a name of the
// service's own is refused for good, said and counted.
func TestAnEventWithAReservedNameStopsNoOther(t *testing.T) {
	s := guarded(t, &gatekeeper{grants: ofT})
	e, log := openHeard(t, s.Address, t.TempDir())
	emitAll(t, e, 0, 5)
	if err := e.Send(t.Context(), emit.Record{Event: &event.Event{OccurredAt: time.Now().UnixMicro(), Tenant: "t", Principal: "mcpaudit:retention",
		Server: "files", Kind: "tool_call", Method: "tools/call", Target: "read", Outcome: "success"}}); err != nil {
		t.Fatal(err)
	}
	emitAll(t, e, 5, 10)
	rpctest.Eventually(t, "all are settled", func() bool { st := e.Stats(); return st.Acknowledged == 11 && st.Rejected == 1 })
	mustClose(t, e)
	if seqs, _, _ := s.Stored("t::" + e.ID()); len(seqs) != 10 {
		t.Errorf("stored %v", seqs)
	}
	if log.count("the service's own") != 1 {
		t.Error(fmt.Sprint("it is not said: ", log.count("refused")))
	}
}
