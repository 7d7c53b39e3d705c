package findings

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// tellAs stores one version as a teller tells it.
func (d *desk) tellAs(t *testing.T, teller string, seq uint64, f store.Finding) {
	t.Helper()
	f.Teller, f.Seq = teller, seq
	if err := d.store.AppendFindings(everyone, []store.Finding{f}); err != nil {
		t.Fatal(err)
	}
}

// Several instances tell, each with numbers of its own; one begins while somebody
// watches, and one that was taken for dead tells again what its successor has told.
func TestAWatcherOfSeveralTellersMissesNothing(t *testing.T) {
	d := newDesk(t)
	client := served(t, d.Server)
	ctx, cancel := context.WithTimeout(everyone, time.Minute)
	defer cancel()
	const a, b = "detect-0of2", "detect-1of2"
	d.tellAs(t, "", 7, found(1)) // before the work was split
	d.tellAs(t, a, 1, found(2))
	stream := watch(ctx, t, client, &pb.WatchFindingsRequest{})
	d.tellAs(t, a, 2, found(3))
	d.tellAs(t, b, 1, found(4)) // its first: its number is below all that was seen
	d.tellAs(t, b, 2, found(1, func(f *store.Finding) { f.Version = 2 }))
	d.tellAs(t, a, 3, found(5))
	d.tellAs(t, a, 3, found(5, func(f *store.Finding) { f.ToldAt++ })) // by two
	d.tellAs(t, a, 2, found(3, func(f *store.Finding) { f.ToldAt++ })) // late
	d.tellAs(t, a, 4, found(5, func(f *store.Finding) { f.Version, f.State = 2, "resolved" }))
	d.tellAs(t, b, 3, found(6))
	var got []string
	for len(got) < 6 {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range resp.GetFindings() {
			got = append(got, fmt.Sprintf("%s/%d", numbers([]*pb.Finding{f}), f.GetVersion()))
		}
	}
	// Those of one teller come in its order.
	for _, of := range [][]string{{"3/1", "5/1", "5/2"}, {"4/1", "1/2", "6/1"}} {
		if mine := slices.DeleteFunc(slices.Clone(got), func(x string) bool { return !slices.Contains(of, x) }); !slices.Equal(mine, of) {
			t.Errorf("%v came, and of one teller %v, want %v", got, mine, of)
		}
	}
	d.tellAs(t, "", 8, found(7)) // nothing else comes before it
	if resp, err := stream.Recv(); err != nil || numbers(resp.GetFindings()) != "7" {
		t.Errorf("%v, %v", resp, err)
	}
	// A list shows each once, as it is now.
	if list := numbers(d.list(t, &pb.ListFindingsRequest{}).GetFindings()); strings.Count(list, "5") != 1 || strings.Count(list, "1") != 1 {
		t.Errorf("listed are %s", list)
	}
}
