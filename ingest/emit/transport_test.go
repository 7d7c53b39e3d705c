package emit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// scripted is a transport that answers in ways that are set beforehand, and takes
// everything when there are no more.
type scripted struct {
	mu      sync.Mutex
	answers []func(events int) (emit.Answer, error)
	taken   int
	closed  int
}

func (s *scripted) Deliver(_ context.Context, events [][]byte, _ *pb.KnownCheckpoint) (emit.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) > 0 {
		next := s.answers[0]
		s.answers = s.answers[1:]
		return next(len(events))
	}
	s.taken += len(events)
	return emit.Answer{}, nil
}

func (s *scripted) Ledger() pb.LedgerServiceClient { return nil }
func (s *scripted) String() string                 { return "scripted" }
func (s *scripted) Close()                         { s.mu.Lock(); s.closed++; s.mu.Unlock() }

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	for want, change := range map[string]func(*emit.Config){
		"needs the service's address": func(c *emit.Config) { c.Address = "" },
		"give one of them":            func(c *emit.Config) { c.Transport = &scripted{} },
		"gives no receipts": func(c *emit.Config) {
			c.Address, c.Transport, c.ServiceKey = "", &scripted{}, rpctest.Key(t, "log").Verifier()
		},
		"is a URL; its gRPC port is host:port": func(c *emit.Config) { c.Address, c.Dial = "kafka://127.0.0.1:9092/audit", nil },
		"needs a reason":                       func(c *emit.Config) { c.Address, c.Client.Plaintext = "192.0.2.1:4777", true },
		"its key come together":                func(c *emit.Config) { c.Client.TLS.Cert = "f" },
	} {
		cfg := emit.Config{Address: "127.0.0.1:1", Name: "files", Spool: t.TempDir()}
		change(&cfg)
		if _, err := emit.Open(cfg, redactor(t), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What is refused for good is counted and named, up to a number; after an error
// nothing counts and all is sent again.
func TestRefusalsAreCountedOnce(t *testing.T) {
	refuse := func(n int) emit.Answer {
		var a emit.Answer
		for i := range n {
			a.Refused = append(a.Refused, emit.Refusal{Seq: uint64(i + 1), Reason: "too large"})
		}
		return a
	}
	s := &scripted{answers: []func(int) (emit.Answer, error){
		func(n int) (emit.Answer, error) { return refuse(n), errors.New("away") },
		func(n int) (emit.Answer, error) { return emit.Answer{Wait: time.Millisecond}, errors.New("still away") },
		func(n int) (emit.Answer, error) { return refuse(min(n, 15)), nil },
	}}
	var text bytes.Buffer
	spool := t.TempDir()
	away := openEmitter(t, "127.0.0.1:1", spool)
	emitAll(t, away, 0, 20)
	rpctest.Eventually(t, "all are in the spool", func() bool { return away.Stats().Pending == 20 })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = away.Close(gone)
	e, err := emit.Open(emit.Config{Transport: s, Name: "files", Spool: spool}, redactor(t), slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	rpctest.Eventually(t, "all are settled", func() bool { return e.Stats().Pending == 0 && e.Stats().Acknowledged == 20 })
	mustClose(t, e)
	if st := e.Stats(); st.Rejected != 15 || st.Lost != 0 || s.taken != 0 || s.closed != 1 {
		t.Errorf("%+v, %d taken, closed %d times", st, s.taken, s.closed)
	}
	for want, times := range map[string]int{"refused an event": 10, "refused more events of the same batch\" events=5": 1,
		"does not take events": 1, "address=scripted reason=away": 1, "takes events again": 1} {
		if n := strings.Count(text.String(), want); n != times {
			t.Errorf("%q is said %d times, want %d:\n%s", want, n, times, fmt.Sprint(&text))
		}
	}
}
