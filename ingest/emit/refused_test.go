package emit_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
)

// welcome lets everything in.
type welcome struct{}

func (welcome) Admit(*event.Event) error                             { return nil }
func (welcome) Own(stored string) string                             { return stored }
func (welcome) Take(context.Context, int, int) (time.Duration, bool) { return 0, true }
func (welcome) Payer() string                                        { return "" }

// Whatever is wrong with an emitter's key, nothing is lost, it is said once, it is not
// asked again in a hurry, and a key that is put right works without a restart.
func TestEventsOfARefusedEmitterWaitUntilItsKeyIsGood(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	var asked, may atomic.Int64
	s.Admit = func(ctx context.Context) (rpc.Admission, error) {
		asked.Add(1)
		md, _ := metadata.FromIncomingContext(ctx)
		switch key := strings.Join(md.Get("authorization"), ","); {
		case key != "Bearer mcpa_good":
			return nil, status.Error(codes.Unauthenticated, "the key was revoked; ask for another one")
		case may.Load() == 0:
			return nil, status.Error(codes.PermissionDenied, "this credential may not do that: it wants publish")
		}
		return welcome{}, nil
	}
	s.Start()
	var text bytes.Buffer
	file := filepath.Join(t.TempDir(), "key")
	e, err := emit.Open(emit.Config{Address: s.Address, Client: client.Config{KeyFile: file}, Name: "files", Spool: t.TempDir(), Linger: time.Millisecond},
		redactor(t), slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	emitAll(t, e, 0, 20)
	rpctest.Eventually(t, "all are in the spool", func() bool { return e.Stats().Pending == 20 })
	replace := func(key string) {
		if err := os.WriteFile(file+".new", []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	replace("mcpa_old")
	rpctest.Eventually(t, "the old key is refused", func() bool { return asked.Load() > 0 })
	replace("mcpa_good")
	before := asked.Load()
	rpctest.Eventually(t, "the good key is refused its right", func() bool { return asked.Load() > before })
	if st := e.Stats(); st.Pending != 20 || st.Lost+st.Rejected+st.Acknowledged != 0 {
		t.Errorf("refused: %+v", st)
	}
	may.Store(1)
	rpctest.Eventually(t, "all are taken", func() bool { return e.Stats().Acknowledged == 20 })
	if n := asked.Load(); n > 12 {
		t.Errorf("it asked %d times", n)
	}
	mustClose(t, e)
	if n := len(s.Events()); n != 20 {
		t.Errorf("%d events are stored", n)
	}
	for want, times := range map[string]int{"the audit service does not take events": 1, "takes events again": 1} {
		if n := strings.Count(text.String(), want); n != times {
			t.Errorf("%q is said %d times:\n%s", want, n, text.String())
		}
	}
	if strings.Contains(text.String(), "mcpa_") {
		t.Errorf("a key is in the log:\n%s", text.String())
	}
}

// Without any credential it is said how to get one.
func TestAnEmitterWithoutAKeyIsToldHowToGetOne(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	s.Admit = func(context.Context) (rpc.Admission, error) {
		return nil, status.Error(codes.Unauthenticated, "there is no credential")
	}
	s.Start()
	said := make(lines, 100)
	e, err := emit.Open(emit.Config{Address: s.Address, Name: "files", Spool: t.TempDir(), Linger: time.Millisecond}, redactor(t), slog.New(slog.NewTextHandler(said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	emitAll(t, e, 0, 1)
	for line := range said {
		if strings.Contains(line, "does not take events") {
			if !strings.Contains(line, "MCPAUDIT_API_KEY_FILE=FILE, made with 'mcpaudit access create'") {
				t.Error(line)
			}
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = e.Close(ctx) // it says that one is left
	if st := e.Stats(); st.Pending != 1 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// lines are what a log says, one by one.
type lines chan string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }
