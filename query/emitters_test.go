package query

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func TestEmittersAreListedWithTheirHealth(t *testing.T) {
	s := newShelf(t)
	// heard is an event that the service received at a number of milliseconds, of an
	// emitter whose clock is ahead by some, and whose way takes 10 ms.
	heard := func(emitter string, seq uint64, ms, ahead int64, change func(*event.Event)) *event.Event {
		return call(ms-10-500+ahead, func(e *event.Event) {
			e.EmitterID, e.EmitterSeq, e.Duration, e.ReceivedAt = emitter, seq, 500e3, morning+ms*1000
			e.RedactionProfile, e.RedactionProfileVersion = "default", "3"
			if change != nil {
				change(e)
			}
		})
	}
	version := func(server, v string) func(*event.Event) {
		return func(e *event.Event) { e.Server, e.ServerVersion, e.RedactionProfileVersion = server, v, v }
	}
	const year = 365 * 24 * 3600e3
	s.put(t,
		heard("dense", 1, 100, 0, version("old", "1")), heard("dense", 3, 300, 0, version("new", "2")), heard("dense", 2, 200, 0, version("middle", "9")),
		heard("lossy", 4, 400, 0, nil), heard("lossy", 9, 350, 0, nil), heard("lossy", 7, 360, 0, nil), // 5, 6, 8
		heard("ahead", 1, 500, 3600e3, nil), heard("ahead", 2, 510, 3600e3, nil), heard("ahead", 3, 520, 3600e3, nil),
		heard("behind", 5, 600, -60e3, nil),
		heard("future", 1, 610, 150*year, nil),
		heard("far", 1, 620, 0, nil), heard("far", 1<<64-1, 630, 0, nil),
		heard("twice", 1, 640, 0, nil), heard("twice", 1, 640, 0, nil), heard("twice", 2, 640, 0, nil), // a second writer's work
		heard("endless", 1, 50, 0, func(e *event.Event) { e.Duration, e.OccurredAt = 1<<53, 4e15 }), // 285 years from 2096 on
	)
	all := []string{ // the last one heard first
		"twice files  640..640 3 events to 2, 0 missing, 10ms late, default 3",
		fmt.Sprintf("far files  620..630 2 events to %d, %d missing, 10ms late, default 3", uint64(1<<64-1), uint64(1<<64-3)),
		"future files  610..610 1 events to 1, 0 missing, -1314000h late, default 3",
		"behind files  600..600 1 events to 5, 0 missing, 1m0.01s late, default 3",
		"ahead files  500..520 3 events to 3, 0 missing, -59m59.99s late, default 3",
		"lossy files  350..400 3 events to 9, 3 missing, 10ms late, default 3",
		"dense new 2 100..300 3 events to 3, 0 missing, 10ms late, default 2",
		"endless files  50..50 1 events to 1, 0 missing, -2502000h late, default 3",
	}
	for _, c := range []struct {
		limit     int32
		want      []string
		truncated bool
	}{{0, all, false}, {8, all, false}, {7, all[:7], true}, {1, all[:1], true}} {
		resp, err := s.ListEmitters(everyone, &pb.ListEmittersRequest{Limit: c.limit})
		var got []string
		for _, e := range resp.GetEmitters() {
			late := e.GetDelay().AsDuration().Round(10 * time.Millisecond)
			shown := late.String()
			if late.Abs() > 1000*24*time.Hour { // an estimate: 24 bits of it are right
				shown = fmt.Sprintf("%dh", late.Round(1000*time.Hour)/time.Hour)
			}
			got = append(got, fmt.Sprintf("%s %s %s %d..%d %d events to %d, %d missing, %s late, %s", e.GetEmitterId(), e.GetServer(), e.GetServerVersion(), since(e.GetFirstHeard()), since(e.GetLastHeard()),
				e.GetEvents(), e.GetHighestSeq(), e.GetMissing(), shown, e.GetRedaction()))
		}
		if err != nil || !slices.Equal(got, c.want) || resp.GetTruncated() != c.truncated {
			t.Errorf("at most %d: %v, truncated %t\n got %s\nwant %s", c.limit, err, resp.GetTruncated(), strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
	for _, limit := range []int32{-1, 10001} {
		if _, err := s.ListEmitters(everyone, &pb.ListEmittersRequest{Limit: limit}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

func TestNobodyEmitsIntoAnEmptyStore(t *testing.T) {
	s := newShelf(t)
	emitters, err := s.ListEmitters(everyone, &pb.ListEmittersRequest{})
	if err != nil || len(emitters.GetEmitters()) != 0 || emitters.GetTruncated() {
		t.Errorf("emitters of an empty store: %v, %v", emitters, err)
	}
	tools, err := s.ListTools(everyone, &pb.ListToolsRequest{})
	if err != nil || len(tools.GetTools()) != 0 || tools.GetTruncated() {
		t.Errorf("tools of an empty store: %v, %v", tools, err)
	}
}
