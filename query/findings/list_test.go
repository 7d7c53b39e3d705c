package findings

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// A list has each finding once, as it is now: by its newest version alone.
func TestAListHasTheNewestVersionOfEachFindingNewestFirst(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1), found(2), found(3, func(f *store.Finding) { f.Severity, f.Tenant = "high", "beta" }))
	d.tell(t,
		found(2, func(f *store.Finding) { f.Version, f.Severity, f.Events = 2, "critical", 20 }),
		found(1, func(f *store.Finding) { f.Version, f.State, f.EndedAt = 2, "resolved", f.StartedAt+60e6 }))
	resp := d.list(t, &pb.ListFindingsRequest{})
	if got := numbers(resp.GetFindings()); got != "3 2 1" || resp.GetNextPageToken() != "" {
		t.Errorf("%s, next %q", got, resp.GetNextPageToken())
	}
	f := resp.GetFindings()[1]
	if f.GetVersion() != 2 || f.GetSeverity() != "critical" || f.GetEventCount() != 20 || f.GetTriage() != "new" || f.GetEndedAt() != nil ||
		f.GetWorkings()[0].GetValue() != "2" || f.GetSuppressionId() != "" {
		t.Errorf("%v", f)
	}
	for filter, want := range map[string]string{
		`severity >= "high"`:    "3 2",
		`severity > high`:       "2",
		`severity = "medium"`:   "1", // what finding 2 was once
		`severity != medium`:    "3 2",
		`severity < "critical"`: "3 1",
		`state = "open"`:        "3 2",
		`version = 1`:           "3",
		`event_count >= 3`:      "3 2",
		`score > 1.25`:          "3 2 1",
		`score >= 1.6`:          "",
		`score > -1e3`:          "3 2 1",
		`reason:"CALL 2"`:       "2",
		`rule = "agent-*"`:      "3 2 1",
		`tenant = "beta"`:       "3",
		`workings:"calls"`:      "3 2 1",
		`workings:"score"`:      "",
		fmt.Sprintf("finding_id = %q", findingID(2)):                                  "2",
		`finding_id = "02020202*"`:                                                    "2",
		`started_at >= "2026-11-20T12:02:00Z"`:                                        "3 2",
		`started_at < "2026-11-20T12:02:00Z"`:                                         "1",
		`ended_at < "2027-01-01T00:00:00Z"`:                                           "1", // an open one has not ended in 1970
		`NOT ended_at < "2027-01-01T00:00:00Z"`:                                       "3 2",
		`ended_at >= "2026-11-20T12:02:00Z"`:                                          "1",
		`triage = "new" AND assignee = "" AND verdict = ""`:                           "3 2 1",
		`suppression_id = ""`:                                                         "3 2 1",
		`suppression_id:*`:                                                            "",
		`principal = "agent:a" AND (target = x OR server = files) AND -tenant = acme`: "3",
	} {
		if got := d.matching(t, filter); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
}

// Every field of the message can be searched by every operator that it is said to
// have, and by no other name.
func TestEveryFieldOfAFindingCanBeSearched(t *testing.T) {
	d := newDesk(t)
	id := event.ID{1, 2, 3}
	d.tell(t, found(1, func(f *store.Finding) { f.EventIDs = []event.ID{id} }))
	if got := d.matching(t, fmt.Sprintf("event_ids:%q", id)); got != "1" {
		t.Errorf("by event: %q", got)
	}
	message := (&pb.Finding{}).ProtoReflect().Descriptor().Fields()
	for i := range message.Len() {
		name := string(message.Get(i).Name())
		var comparisons []string
		for _, op := range []string{"=", "!=", "<", "<=", ">", ">=", ":"} {
			for _, value := range []string{`"a"`, "1", "high", `"2026-11-20T09:00:00Z"`} {
				if _, _, err := Compile(name + " " + op + " " + value); err == nil {
					comparisons = append(comparisons, name+" "+op+" "+value)
					break
				}
			}
		}
		d.matching(t, strings.Join(comparisons, " OR ")) // in one search, which is much quicker
		if len(comparisons) == 0 {
			t.Errorf("%s can't be searched", name)
		}
	}
}

// A filter that is made to do harm is refused, or is a filter like any other.
func TestAHostileFilterIsRefusedOrHarmless(t *testing.T) {
	d := newDesk(t)
	odd := []string{"%", "'; DROP TABLE findings --", `\`, "{p0:String}", "nul\x00", "", "*a*", "🜁", strings.Repeat("x", 3000)}
	for i, text := range odd {
		d.tell(t, found(i+1, func(f *store.Finding) { f.Principal, f.Reason, f.Target = text, text, text }))
	}
	for i, text := range odd {
		if text == "*a*" {
			continue // that is a pattern
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
		for _, field := range []string{"principal", "reason", "target"} {
			if got := d.matching(t, field+" = "+quoted); got != fmt.Sprint(i+1) {
				t.Errorf("%s = %.40s: %q", field, quoted, got)
			}
		}
	}
	for filter, want := range map[string]string{
		strings.Repeat("rule = a ", 1<<20):               "at most 16384",
		strings.Repeat("(", 1000):                        "more than 32 parentheses",
		"rule = a" + strings.Repeat(" OR rule = a", 500): "more than 200 comparisons",
		"rule = \"\xff\"":                                "",
		"seq = 1":                                        `there is no field "seq"`,
		"told_at = 1":                                    `there is no field "told_at"`,
		"server.x = 1":                                   "server has no parts",
		"sleep(3)":                                       "there is no function",
		"severity = bad":                                 "severity is one of info, low, medium, high, critical",
		"severity : high":                                "can't be compared by :",
		"triage":                                         `compare a field with a value, such as severity >= "high"`,
	} {
		_, err := d.ListFindings(everyone, &pb.ListFindingsRequest{Filter: filter})
		refused(t, err, codes.InvalidArgument, want)
		if w := d.WatchFindings(&pb.WatchFindingsRequest{Filter: filter}, &stuck{ctx: everyone}); w == nil || len(w.Error()) > 500 {
			t.Errorf("%.30s: watched: %.300v", filter, w)
		}
	}
}

// Pages have what there was at the start once each, in order, while findings come and
// change, before and behind the reader.
func TestPagesAreStableWhileFindingsArrive(t *testing.T) {
	d := newDesk(t)
	for n := 1; n <= 20; n++ {
		d.tell(t, found(n, func(f *store.Finding) {
			f.StartedAt = noon.UnixMicro() + int64(n/4)
			f.Tenant = []string{"acme", "beta"}[n%2]
		}))
	}
	whole := d.list(t, &pb.ListFindingsRequest{PageSize: 1000}).GetFindings()
	for _, size := range []int32{1, 3, 7, 19, 20, 21} {
		var got []*pb.Finding
		req := &pb.ListFindingsRequest{PageSize: size}
		for {
			resp := d.list(t, req)
			got = append(got, resp.GetFindings()...)
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
			if len(resp.GetFindings()) != int(size) {
				t.Fatalf("a page has %d findings, want %d", len(resp.GetFindings()), size)
			}
		}
		if numbers(got) != numbers(whole) {
			t.Errorf("in pages of %d: %s\nin one: %s", size, numbers(got), numbers(whole))
		}
	}
	was := strings.Fields(numbers(whole))
	var got []string
	req := &pb.ListFindingsRequest{PageSize: 3}
	for n := 100; ; n += 2 {
		resp := d.list(t, req)
		got = append(got, strings.Fields(numbers(resp.GetFindings()))...)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
		d.tell(t, found(n), found(n+1, func(f *store.Finding) { f.StartedAt = noon.UnixMicro() - int64(n) }),
			found(4, func(f *store.Finding) { // one that was listed, or will be, changes
				f.StartedAt, f.Tenant, f.Version = noon.UnixMicro()+1, "acme", uint32(n)
			}))
	}
	seen := slices.DeleteFunc(slices.Clone(got), func(n string) bool { return !slices.Contains(was, n) })
	if !slices.Equal(seen, was) {
		t.Errorf("while others came: %v, want %v", seen, was)
	}
	for i, n := range got {
		if slices.Contains(got[:i], n) {
			t.Errorf("finding %s was listed twice: %v", n, got)
		}
	}
}

func TestAPageTokenBelongsToItsSearch(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1), found(2))
	token := d.list(t, &pb.ListFindingsRequest{PageSize: 1}).GetNextPageToken()
	for _, req := range []*pb.ListFindingsRequest{
		{PageToken: token, Filter: "rule = a"}, {PageToken: token, ShowSuppressed: true}, {PageToken: token[1:]}, {PageToken: token + "A"}, {PageToken: "x"},
		{PageToken: strings.Repeat("A", 54)},
	} {
		_, err := d.ListFindings(everyone, req)
		refused(t, err, codes.InvalidArgument, "page_token: ")
	}
	// One that is made up is refused, or finds nothing.
	for _, at := range []int64{-1, 0, 1 << 62, noon.UnixMicro()} {
		_, err := d.ListFindings(everyone, &pb.ListFindingsRequest{PageToken: forge(at)})
		if (at < 0 || at > 1<<60) != (err != nil) {
			t.Errorf("%d: %v", at, err)
		}
	}
}

func forge(at int64) string { return token(place{started: at}, hash("\x00")) }

// What the engine can't do in its limits is said without its words.
func TestAListHasLimits(t *testing.T) {
	d := newDesk(t)
	for n := range 40 {
		d.tell(t, found(n+1))
	}
	d.cfg.Limits = store.Limits{Memory: 1 << 10, Time: time.Minute}
	_, err := d.ListFindings(everyone, &pb.ListFindingsRequest{})
	refused(t, err, codes.ResourceExhausted, "narrow it")
	d.cfg.Limits = store.Limits{Rows: 1}
	_, err = d.GetFinding(everyone, &pb.GetFindingRequest{FindingId: findingID(1)})
	refused(t, err, codes.ResourceExhausted, "narrow it")
}

// An answer has an end in bytes, too: the rest is on the next page.
func TestALargeAnswerIsCutIntoPages(t *testing.T) {
	d := newDesk(t)
	const n = 30
	for i := range n {
		d.tell(t, found(i+1, func(f *store.Finding) { f.Reason = strings.Repeat("long ", 1<<18) }))
	}
	req := &pb.ListFindingsRequest{PageSize: 1000}
	var got []*pb.Finding
	pages := 0
	for ; pages < n; pages++ {
		resp := d.list(t, req)
		got = append(got, resp.GetFindings()...)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(got) != n || pages < 2 {
		t.Errorf("%d findings on %d pages", len(got), pages+1)
	}
}
