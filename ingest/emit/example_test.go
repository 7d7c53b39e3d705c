package emit_test

import (
	"context"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// Any Go program can emit events; it needs no MCP SDK. What is raw goes into the
// record beside the event and is redacted before anything is written.
func Example() {
	home, err := os.UserHomeDir()
	if err != nil {
		log.Fatal(err)
	}
	key, _, err := keyfile.ReadOrMake(keyfile.Default(os.Getenv, home))
	if err != nil {
		log.Fatal(err)
	}
	r, err := redact.New(redact.DefaultProfile(), key)
	if err != nil {
		log.Fatal(err)
	}
	e, err := emit.Open(emit.Config{Address: emit.DefaultService, Name: "my-gateway", Spool: emit.DefaultSpool(os.Getenv, home)}, r, slog.Default())
	if err != nil {
		log.Fatal(err)
	}
	_ = e.Emit(emit.Record{ // never waits; a loss is counted and reported
		Event: &event.Event{OccurredAt: time.Now().UnixMicro(), Principal: "user:ada", PrincipalKind: "human", Server: "gateway",
			Kind: "tool_call", Method: "tools/call", Target: "read_file", Outcome: "success", Hints: event.DefaultHints},
		Arguments: []byte(`{"path": "/srv/report.md", "token": "…"}`),
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		log.Print(err) // what is left is sent at the next start
	}
}
