package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// broken fails at one of the inserts that add events up: before it, or when it is done.
type broken struct {
	driver.Conn
	left  int
	after bool
}

var errBroken = errors.New("the connection broke")

func (b *broken) Exec(ctx context.Context, sql string, args ...any) error {
	if !strings.Contains(sql, "INSERT INTO") {
		return b.Conn.Exec(ctx, sql, args...)
	}
	b.left--
	if b.left == 0 && !b.after {
		return errBroken
	}
	err := b.Conn.Exec(ctx, sql, args...)
	if b.left == 0 {
		return errBroken
	}
	return err
}

var november = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// batchOf stores a batch of some events that expire in two months.
func batchOf(t *testing.T, s *Store, r *rand.Rand, number uint64) {
	t.Helper()
	for part, month := range []uint16{20819, 20850} {
		var events []*event.Event
		for i := range 10 {
			e := event.Random(r)
			e.EmitterSeq, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = number*100+uint64(10*part+i), "log", number, uint32(10*part+i), month
			e.Kind, e.Target, e.DefinitionDigest = "tool_call", "tool", event.Digest{byte(number)}
			events = append(events, e)
		}
		if err := s.Append(t.Context(), Batch{Events: events, Token: fmt.Sprint(number, part)}); err != nil {
			t.Fatal(err)
		}
	}
}

// checkAdded compares what is added up with the number of events.
func checkAdded(t *testing.T, s *Store, what string) {
	t.Helper()
	var events, activity, latency, emitters, definitions, batches uint64
	if err := s.conn.QueryRow(t.Context(), `SELECT (SELECT count() FROM events), (SELECT sum(events) FROM activity_hourly), (SELECT sum(events) FROM tools_hourly),
		(SELECT sum(events) FROM emitters_hourly), (SELECT uniqExact(definition_digest) FROM tool_definitions), (SELECT uniqExact(batch) FROM events)`).Scan(
		&events, &activity, &latency, &emitters, &definitions, &batches); err != nil {
		t.Fatal(err)
	}
	if activity != events || latency != events || emitters != events || definitions != batches {
		t.Fatalf("%s: of %d events, %d, %d and %d are added up; %d definitions of %d", what, events, activity, latency, emitters, definitions, batches)
	}
}

// Between any two of the inserts that make a range, the connection breaks. The range is
// added again, by who only knows what is stored.
func TestARangeIsAddedOnceWhereverItsInsertsBreak(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), november); err != nil {
		t.Fatal(err)
	}
	whole, r, done := s.conn, rand.New(rand.NewPCG(8, 1)), uint64(0)
	for insert := 1; insert <= 1+len(activityTables); insert++ {
		for _, after := range []bool{false, true} {
			what := fmt.Sprintf("insert %d, after it %v", insert, after)
			batchOf(t, s, r, done+1)
			next := ActivityRange{"log", done + 1, done + 1}
			s.conn = &broken{whole, insert, after}
			planned, fresh, err := s.PlanActivity(t.Context(), next, november)
			if err == nil && (planned != next || !fresh) {
				t.Fatalf("%s: planned %v, fresh %v", what, planned, fresh)
			}
			if err == nil {
				_, err = s.AddActivity(t.Context(), next, false, november)
			}
			if !errors.Is(err, errBroken) {
				t.Fatalf("%s: %v", what, err)
			}
			s.conn = whole
			batchOf(t, s, r, done+2)
			newest, ok, err := s.NewestActivity(t.Context(), "log")
			if err != nil || ok != (done > 0 || insert > 1 || after) {
				t.Fatalf("%s: %v, %v, %v", what, newest, ok, err)
			}
			for range 2 {
				if ok {
					if _, err := s.AddActivity(t.Context(), newest, true, november); err != nil {
						t.Fatal(err)
					}
				}
			}
			for newest.Last < done+2 {
				if newest, _, err = s.PlanActivity(t.Context(), ActivityRange{"log", newest.Last + 1, done + 2}, november); err != nil {
					t.Fatal(err)
				}
				if _, err = s.AddActivity(t.Context(), newest, true, november); err != nil {
					t.Fatal(err)
				}
			}
			done = newest.Last
			checkAdded(t, s, what)
		}
	}
}

// An engine that was killed between the two may know a token and not have its rows.
func TestATokenWithoutItsRowsDoesNotKeepARangeOut(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), november); err != nil {
		t.Fatal(err)
	}
	batchOf(t, s, rand.New(rand.NewPCG(8, 2)), 1)
	for _, stmt := range []string{
		"INSERT INTO activity_ranges SELECT 'another', 1, 1, now64(6)",
		"INSERT INTO activity_hourly (log_id, expires_month, last_batch) SELECT 'another', toDate(20819), 9",
		"INSERT INTO emitters_hourly (log_id, expires_month, last_batch) SELECT 'another', toDate(20850), 9",
	} {
		token := map[bool]string{true: "range/log/1/0", false: strings.Fields(stmt)[2] + "/log/1/1/0"}[strings.Contains(stmt, "ranges")]
		if err := s.conn.Exec(once(t.Context(), token), stmt); err != nil {
			t.Fatal(err)
		}
	}
	r := ActivityRange{"log", 1, 1}
	if planned, fresh, err := s.PlanActivity(t.Context(), r, november); err != nil || planned != r || !fresh {
		t.Fatal(planned, fresh, err)
	}
	added, err := s.AddActivity(t.Context(), r, true, november)
	if err != nil || added.Events != 20 || added.Before != 0 {
		t.Fatal(added, err)
	}
	checkAdded(t, s, "with tokens that were taken")
	if added, err = s.AddActivity(t.Context(), r, true, november); err != nil || added.Events != 20 || added.Before != 6 {
		t.Error(added, err)
	}
	checkAdded(t, s, "again")
}

// Names are as long as emitters like, and a range that can't be added stops all that
// follow: half a million events with names of 4 KB need more than an insert may have.
func TestARangeIsAsLongAsItsNamesFitIntoMemory(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), november); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 9))
	for n := range uint64(4) {
		var events []*event.Event
		for i := range 10 {
			e := event.Random(r)
			e.EmitterSeq, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = n*100+uint64(i), "log", 2*n+1, uint32(i), 20819 // every second entry has none
			e.Principal, e.Target = strings.Repeat("p", 1000), strings.Repeat("t", 1000)
			e.Server, e.Environment, e.EmitterID = "", "", "e"
			events = append(events, e)
		}
		if err := s.Append(t.Context(), Batch{Events: events, Token: fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
	}
	for most, want := range map[uint64]uint64{1: 2, 25_000: 2, 45_000: 4, 61_000: 6, 100_000: 9} {
		if got, err := s.fitting(t.Context(), ActivityRange{"log", 1, 9}, most); err != nil || got != (ActivityRange{"log", 1, want}) {
			t.Errorf("with %d bytes: %v, %v; want up to %d", most, got, err, want)
		}
	}
}

// Who comes second with a plan is told of the first one's, and goes by that.
func TestARangeIsPlannedOnce(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), november); err != nil {
		t.Fatal(err)
	}
	first := ActivityRange{"log", 1, 3}
	if planned, fresh, err := s.PlanActivity(t.Context(), first, november); err != nil || planned != first || !fresh {
		t.Error(planned, fresh, err)
	}
	if planned, fresh, err := s.PlanActivity(t.Context(), ActivityRange{"log", 1, 7}, november); err != nil || planned != first || fresh {
		t.Error(planned, fresh, err)
	}
	other := ActivityRange{"other", 1, 1}
	if planned, fresh, err := s.PlanActivity(t.Context(), other, november); err != nil || planned != other || !fresh {
		t.Error(planned, fresh, err)
	}
	if newest, ok, err := s.NewestActivity(t.Context(), "log"); err != nil || !ok || newest != first {
		t.Error(newest, ok, err)
	}
}
