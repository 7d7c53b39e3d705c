package bench

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpaudit/mcpaudit/ingest/emit/gosdk"
)

// emitted is what the Go SDK's middleware adds to a tool call on the server's own
// goroutine: a call through the audit and the same call without, in turn. The
// limit is what no audit can leave out: two readings of the clock and a hash of
// the arguments.
func emitted(ctx context.Context, e Env) ([]Result, error) {
	audit, err := gosdk.Open(&gosdk.Options{Server: "bench", Service: "127.0.0.1:1", Spool: filepath.Join(e.Dir, "spool"),
		KeyFile: filepath.Join(e.Dir, "redact.key"), Flush: time.Second, Log: e.Log})
	if err != nil {
		return nil, err
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "bench"}, nil)
	session, stop, err := serverSession(ctx, server)
	if err != nil {
		return nil, err
	}
	defer stop()
	arguments := json.RawMessage(`{"message":"quarterly report of the billing service","limit":20,"path":"/srv/projects/report.md"}`)
	answer := &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done"}}}
	plainCall := func(context.Context, string, mcp.Request) (mcp.Result, error) { return answer, nil }
	audited := audit.Middleware()(plainCall)
	call := func(h mcp.MethodHandler) time.Duration {
		req := &mcp.CallToolRequest{Session: session, Params: &mcp.CallToolParamsRaw{Name: "echo", Arguments: arguments}}
		start := time.Now()
		if _, err := h(ctx, "tools/call", req); err != nil {
			return 0
		}
		return time.Since(start)
	}
	least := func(context.Context, string, mcp.Request) (mcp.Result, error) {
		_, _ = time.Now(), time.Now()
		sum := sha256.Sum256(arguments)
		runtime.KeepAlive(sum)
		return answer, nil
	}
	var without, bottom, with []time.Duration
	// A burst as an agent makes one, then a pause in which the worker writes.
	for end := time.Now().Add(e.Time); time.Now().Before(end); {
		for range 100 {
			without, bottom, with = append(without, call(plainCall)), append(bottom, call(least)), append(with, call(audited))
		}
		time.Sleep(30 * time.Millisecond)
	}
	stats := audit.Stats()
	audit.Close() // nobody listens: what is left stays in the spool, which goes with the folder
	if stats.Lost > 0 {
		return nil, fmt.Errorf("%d of %d calls were lost: the figures are not those of recorded calls", stats.Lost, stats.Lost+stats.Emitted)
	}
	base := quantile(without, 0.5)
	return []Result{
		atMost("emit", microseconds(quantile(with, 0.5)-base), "µs added to a call (median)", microseconds(quantile(bottom, 0.5)-base), "two clock readings and SHA-256 of the arguments", 5),
		plain("emit p99", microseconds(quantile(with, 0.99)-quantile(without, 0.99)), "µs added to a call (p99)"),
	}, nil
}

// serverSession is a session of a server with a client in this process.
func serverSession(ctx context.Context, server *mcp.Server) (*mcp.ServerSession, func(), error) {
	ours, theirs := mcp.NewInMemoryTransports()
	session, err := server.Connect(ctx, ours, nil)
	if err != nil {
		return nil, nil, err
	}
	client, err := mcp.NewClient(&mcp.Implementation{Name: "bench"}, nil).Connect(ctx, theirs, nil)
	if err != nil {
		return nil, nil, err
	}
	return session, func() { _ = client.Close(); _ = session.Wait() }, nil
}
