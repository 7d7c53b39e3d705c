package sql

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// forgetful is a log that takes everything and keeps nothing.
type forgetful struct{}

func (forgetful) Note(context.Context, diary.Entry) error { return nil }

// Who sends one long statement after the other fills no memory with what is remembered of
// them.
func TestLittleIsRememberedOfLongStatements(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	j := newJournal(forgetful{}, func() time.Time { return now }, slog.New(slog.NewTextHandler(io.Discard, nil)))
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	for i := range 400 {
		text := "SELECT " + strconv.Itoa(i) + strings.Repeat(" ", 250<<10)
		if err := j.note(t.Context(), &auth.Access{}, &asked{text: text}, text, nil); err != nil {
			t.Fatal(err)
		}
	}
	if after := held(); after > before+(10<<20) {
		t.Errorf("of 400 statements of 250 KiB %d bytes are held", after-before)
	}
	runtime.KeepAlive(j)
}

// What the engine can't stop half-way, it does not begin, or comes to an end with soon.
func TestStatementsThatCantBeStoppedAreRefused(t *testing.T) {
	p := newEmptyPort(t, func(c *Config) { c.Limits = store.Limits{Time: time.Second} })
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	// Each common table is twice the one before.
	doubled := "WITH a0 AS (SELECT 1 AS x)"
	for i := range 40 {
		doubled += ", a" + strconv.Itoa(i+1) + " AS (SELECT * FROM a" + strconv.Itoa(i) + " UNION ALL SELECT * FROM a" + strconv.Itoa(i) + ")"
	}
	for _, sql := range []string{
		"SELECT length(h3kRing(599686042433355775, 5000))", "SELECT H3KRING(599686042433355775, 5000)",
		"SELECT arrayLevenshteinDistance(range(100000), arrayReverse(range(100000)))",
		"SELECT arraySimilarity(range(50000), arrayReverse(range(50000)), range(50000), range(50000))",
		"SELECT JSON_QUERY('{\"a\":[1,2]}', '$.a[0 to 4294967295]')", "SELECT json_value('[1]', '$[0 to 4294967295]')", "SELECT printf('%1000000000d', 1)",
		"SELECT length(URLHierarchy(concat('http://', repeat('a/', 100000))))", "SELECT length(URLPathHierarchy(concat('http://', repeat('a/', 100000))))",
		doubled + " SELECT count() FROM a40",
	} {
		began := time.Now()
		if got := p.ask(t, key, sql); got.status == 200 {
			t.Errorf("%.80s: %+v", sql, got)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%.80s: %s", sql, took)
		}
	}
}
