package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// onSmallDisk runs the service in a mount namespace of its own, with its data on a
// file system of 48 MB that a file of 16 MB lies on. It returns that file's path
// from outside.
func onSmallDisk(t *testing.T) (p *process, address, ballast string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	disk := t.TempDir()
	script := `mount -t tmpfs -o size=48m tmpfs "$1" && head -c 16M /dev/zero >"$1/ballast" && cd "$1" && shift && exec "$@"`
	args := append([]string{"--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", disk, self}, serveArgs(t, filepath.Join(disk, "data"))...)
	p = &process{cmd: exec.Command("unshare", args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asCommand+"=1")
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); _ = p.cmd.Wait() }()
	t.Cleanup(p.kill)
	p.await(t, `ingest is ready`)
	// unshare and sh became the service: the process id is its own.
	inside := filepath.Join("/proc", fmt.Sprint(p.cmd.Process.Pid), "root", disk)
	useKeyOf(t, filepath.Join(inside, "data"))
	return p, p.await(t, `msg=serving .*grpc=(\S+)`), filepath.Join(inside, "ballast")
}

// Promises 1, 2 and 8 on a full disk: what was acknowledged is there, once;
// emitters are told to wait, keep their events, and deliver them when there is room.
func TestPromise1DurableAndPromise8SpooledOnAFullDisk(t *testing.T) {
	_, address, ballast := onSmallDisk(t)
	conn := connect(t, address)
	publisher := pb.NewIngestServiceClient(conn)
	acked, refused := 0, error(nil)
	for seq := uint64(1); refused == nil && seq < 100_000; seq += 1000 {
		req := &pb.PublishBatchRequest{}
		for n := seq; n < seq+1000; n++ {
			e := sent("direct", n)
			noise := make([]byte, 1000) // nothing that compresses, and nothing like a secret
			rand.Read(noise)
			e.Arguments = `{"x":"` + spaced(hex.EncodeToString(noise)) + `"}`
			req.Events = append(req.Events, e)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		resp, err := publisher.PublishBatch(ctx, req)
		cancel()
		if refused = err; err == nil {
			acked += int(resp.GetReceipt().GetStored())
		}
	}
	if status.Code(refused) != codes.Unavailable {
		t.Fatalf("after %d events the full disk says %v", acked, refused)
	}
	r, err := redact.New(redact.DefaultProfile(), []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	em, err := emit.Open(emit.Config{Address: address, Client: client.FromEnv(os.Getenv, ""), Name: "files", Spool: t.TempDir()}, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 300 {
		if err := em.Send(t.Context(), emit.Record{Event: &event.Event{OccurredAt: time.Now().UnixMicro(), Server: "files", Kind: "tool_call", Method: "tools/call",
			Target: fmt.Sprint("tool", n), Outcome: "success", Hints: event.DefaultHints}}); err != nil {
			t.Fatal(err)
		}
	}
	rpctest.Eventually(t, "the events are in the spool", func() bool { return em.Stats().Pending == 300 })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for em.Stats().Pending > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := em.Close(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := pb.NewQueryServiceClient(conn).ListEmitters(ctx, &pb.ListEmittersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]*pb.Emitter{}
	for _, e := range list.GetEmitters() {
		stored[e.GetEmitterId()] = e
	}
	// The request that was refused may be stored: its emitter would send it again.
	direct := stored["direct"]
	if n := int(direct.GetEvents()); n != acked && n != acked+1000 || direct.GetMissing() != 0 || direct.GetHighestSeq() != direct.GetEvents() {
		t.Errorf("%d were acknowledged, stored is %v", acked, direct)
	}
	if own := stored[em.ID()]; own.GetEvents() != 300 || own.GetMissing() != 0 || own.GetHighestSeq() != 300 {
		t.Errorf("of the emitter's 300 events the store has %v", own)
	}
}

// spaced breaks a text into short words.
func spaced(s string) string {
	var b strings.Builder
	for i, c := range s {
		if i%6 == 5 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}
