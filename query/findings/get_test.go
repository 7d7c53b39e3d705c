package findings

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// occurred is an event that happened at a time, under an id that says when it was made.
func occurred(r *rand.Rand, at, made time.Time) *event.Event {
	e := event.Random(r)
	var noise [10]byte
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	e.EventID, e.OccurredAt = event.NewID(made, noise), at.UnixMicro()
	return e
}

func TestAFindingIsShownWithItsEventsAndVersions(t *testing.T) {
	d := newDesk(t)
	r := rand.New(rand.NewPCG(3, 3))
	events := []*event.Event{
		occurred(r, noon.Add(2*time.Minute), noon),
		occurred(r, noon.Add(time.Minute), noon.Add(-1000*time.Hour)),             // its id says another time
		occurred(r, noon.Add(200*time.Hour), noon.Add(200*time.Hour)),             // its clock is ahead
		occurred(r, noon.Add(3*time.Minute), noon),                                // of another finding
		occurred(r, noon.Add(-999*time.Hour), noon.Add(-999*time.Hour)),           // long before
		occurred(r, noon.Add(-time.Hour), noon.Add(-time.Hour)),                   // not stored any more
		occurred(r, noon.Add(2*time.Minute+time.Second), noon.Add(2*time.Minute)), // an id that was used twice
	}
	twin := occurred(r, noon.Add(4*time.Minute), noon)
	twin.EventID = events[6].EventID
	stored := append(events[:5:5], events[6], twin)
	for i, e := range stored {
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = "log", 1, uint32(i), 20819
	}
	if err := d.store.Append(everyone, store.Batch{Events: stored, Token: "1"}); err != nil {
		t.Fatal(err)
	}
	name := func(f *store.Finding) {
		f.EventIDs = []event.ID{events[0].EventID, events[1].EventID, events[2].EventID, events[4].EventID, events[5].EventID, events[6].EventID}
	}
	for v := uint32(1); v <= 120; v++ {
		d.tell(t, found(1, name, func(f *store.Finding) { f.Version, f.Events = v, uint64(v) }))
	}
	resp := d.get(t, 1)
	var got []string
	for _, e := range resp.GetEvents() {
		for i := range events {
			if events[i].EventID.String() == e.GetEventId() {
				got = append(got, fmt.Sprint(i))
			}
		}
	}
	if strings.Join(got, " ") != "4 1 0 6 6 2" {
		t.Errorf("its events: %v", got)
	}
	v := resp.GetVersions()
	if len(v) != 100 || v[0].GetVersion() != 21 || v[99].GetVersion() != 120 || resp.GetFinding().GetEventCount() != 120 {
		t.Errorf("%d versions, %d to %d", len(v), v[0].GetVersion(), v[len(v)-1].GetVersion())
	}
	for id, want := range map[string]codes.Code{findingID(2): codes.NotFound, "": codes.InvalidArgument, findingID(1)[:8]: codes.InvalidArgument} {
		_, err := d.GetFinding(everyone, &pb.GetFindingRequest{FindingId: id})
		refused(t, err, want, "")
	}
}
