package sql

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// What the log calls a statement, and the sum of an hour.
const (
	methodStatement = "mcpaudit/sql"
	methodHour      = "mcpaudit/sql_hour"
)

const (
	mostNoted  = 20_000  // statements that are remembered as noted; others are noted again
	mostSums   = 10_000  // identities whose statements are counted; further ones have a note each
	mostText   = 4 << 10 // of a statement in the log, in bytes
	hour       = time.Hour
	hourlyTick = 10 * time.Second
)

// journal notes what is asked.
type journal struct {
	notes auth.Notes
	now   func() time.Time
	log   *slog.Logger

	mu    sync.Mutex
	noted *simplelru.LRU[statementMark, time.Time] // the hour in which it was
	sums  map[string]*sum                          // by identity
	since time.Time                                // from when the sums are
}

// statementMark stands for an identity and a statement. It is a digest, because a
// statement may have 256 KiB and what is remembered of 20,000 of them must not have that.
type statementMark [sha256.Size]byte

// sum is what an identity asked and saw since the last note of it.
type sum struct {
	who                      diary.Who
	tenants                  string
	statements, failed, rows int64
}

func newJournal(notes auth.Notes, now func() time.Time, log *slog.Logger) *journal {
	d := &journal{notes: notes, now: now, log: log, sums: map[string]*sum{}, since: now()}
	d.noted, _ = simplelru.NewLRU[statementMark, time.Time](mostNoted, nil) // it fails for no size alone
	return d
}

// note makes a statement durable in the log, unless one like it of this identity is there
// already in this hour. refused is why it does not run, nil when it does. The error is a
// status: what is not noted is not shown.
//
// The statement's literals are in the note, as the filters of the API are in theirs: who
// was searched for is what an audit is about. Those of its repetitions are not.
func (d *journal) note(ctx context.Context, a *auth.Access, q *asked, normal string, refused error) error {
	now := d.now().UTC().Truncate(hour)
	key := a.ID + "\x00" + scope.Mark(a) + "\x00" + strconv.FormatBool(refused == nil) + normal
	for _, name := range slices.Sorted(maps.Keys(q.params)) {
		key += "\x00" + name
	}
	mark := statementMark(sha256.Sum256([]byte(key)))
	d.mu.Lock()
	at, ok := d.noted.Get(mark)
	d.mu.Unlock()
	if ok && at.Equal(now) {
		return nil
	}
	e := diary.Entry{Method: methodStatement, Who: a.Who(), Request: request(q), Labels: map[string]string{"tenants": a.Scope.String(), "via": "sql"}}
	if refused != nil {
		e.Outcome, e.Words = "protocol_error", "the statement was refused"
		if x, ok := errors.AsType[*embedded.Exception](refused); ok {
			e.Who.ErrorCode = strconv.Itoa(x.Code)
			if x.Code == codeAccessDenied || x.Code == codeReadonly {
				e.Outcome, e.Who.Decision = "denied", "deny"
			}
		}
	}
	if err := d.notes.Note(context.WithoutCancel(ctx), e); err != nil {
		d.log.Error("the log did not take the event of a statement", "error", err)
		return status.Error(codes.Unavailable, "the log can't be written to now, and nothing is shown that it does not have; try again in a moment")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noted.Add(mark, now)
	return nil
}

// request is what was asked for, as JSON. A long statement is cut, and says so.
func request(q *asked) string {
	asked := struct {
		Statement  string            `json:"statement"`
		Length     int               `json:"length,omitempty"` // of the whole, when it is cut
		Parameters map[string]string `json:"parameters,omitempty"`
	}{Statement: q.text, Parameters: q.params}
	if len(q.text) > mostText {
		asked.Statement, asked.Length = strings.ToValidUTF8(q.text[:mostText], ""), len(q.text)
	}
	size := 0
	for name, value := range q.params {
		size += len(name) + len(value)
	}
	if size > mostText {
		asked.Parameters = map[string]string{"…": strconv.Itoa(size) + " bytes"}
	}
	text, err := json.Marshal(asked)
	if err != nil {
		return ""
	}
	return string(text)
}

// count adds a statement to what its identity asked.
func (d *journal) count(a *auth.Access, rows int64, failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := a.ID + "\x00" + scope.Mark(a)
	s := d.sums[key]
	if s == nil {
		if len(d.sums) >= mostSums {
			return // their statements are in the log; how often is not
		}
		s = &sum{}
		d.sums[key] = s
	}
	s.who, s.tenants = a.Who(), a.Scope.String() // the address is the last one's
	s.statements, s.rows = s.statements+1, s.rows+rows
	if failed {
		s.failed++
	}
}

// run notes the sums of each hour until ctx ends, and then those that are left.
func (d *journal) run(ctx context.Context) {
	tick := time.NewTicker(hourlyTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			d.close(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		}
		d.mu.Lock()
		over := !d.now().UTC().Truncate(hour).Equal(d.since.UTC().Truncate(hour))
		d.mu.Unlock()
		if over {
			d.close(ctx)
		}
	}
}

// close notes the sums and begins new ones. The diary behind stores what it could not
// store with what is noted next.
func (d *journal) close(ctx context.Context) {
	d.mu.Lock()
	sums, since := d.sums, d.since
	d.sums, d.since = map[string]*sum{}, d.now()
	d.mu.Unlock()
	var all sync.WaitGroup
	for _, key := range slices.Sorted(maps.Keys(sums)) {
		s := sums[key]
		all.Go(func() { // they are stored together
			err := d.notes.Note(ctx, diary.Entry{Method: methodHour, Who: s.who, Labels: map[string]string{
				"tenants": s.tenants, "via": "sql", "since": since.UTC().Format(time.RFC3339),
				"statements": strconv.FormatInt(s.statements, 10), "failed": strconv.FormatInt(s.failed, 10), "rows": strconv.FormatInt(s.rows, 10)}})
			if err != nil {
				d.log.Warn("the log has no sum yet of an hour's statements", "identity", s.who.Principal, "error", err)
			}
		})
	}
	all.Wait()
}
