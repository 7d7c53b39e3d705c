package embedded

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// reader opens an engine with a connection for readers and two tables, of which a reader
// may see one.
func reader(t *testing.T) *Engine {
	t.Helper()
	e := open(t, func(c *Config) { c.Readers = 1 })
	mustExec(t, connect(t, e), "CREATE TABLE events (a UInt32) ENGINE = MergeTree ORDER BY a", "CREATE TABLE secrets (a UInt32) ENGINE = MergeTree ORDER BY a",
		"INSERT INTO events SELECT number FROM numbers(100000)", "INSERT INTO secrets VALUES (42)")
	return e
}

func read(t *testing.T, e *Engine, r Reading) (string, error) {
	t.Helper()
	if r.Format == "" {
		r.Format = "TSV"
	}
	resp, err := e.Read(t.Context(), r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

func TestAReadersConnectionHasItsRightsAlone(t *testing.T) {
	e := reader(t)
	var rows atomic.Int64
	if got, err := read(t, e, Reading{Text: "SELECT a FROM events", Rows: &rows}); err != nil || strings.Count(got, "\n") != 99_999 || rows.Load() != 100_000 {
		t.Errorf("%d %d %v", len(got), rows.Load(), err)
	}
	for sql, code := range map[string]int{
		"SELECT a FROM secrets": 497, "SELECT 42 IN secrets": 497, "EXPLAIN SELECT a FROM secrets": 497, "DESCRIBE TABLE secrets": 497,
		"SET ROLE engine": codeReadonly, "INSERT INTO events VALUES (1)": codeReadonly, "CREATE TEMPORARY TABLE t (a UInt8)": codeReadonly, "KILL QUERY WHERE 1": codeReadonly,
		"SELECT 1; SELECT 2": codeSyntaxError, "SELEC 1": codeSyntaxError, "SELECT 1 INTO OUTFILE '/tmp/x'": codeReadonly, "VALUES (1)": codeSyntaxError,
	} {
		_, err := read(t, e, Reading{Text: sql})
		if said, ok := errors.AsType[*Exception](err); !ok || said.Code != code {
			t.Errorf("%s: %v", sql, err)
		}
		// A connection that was replaced is a reader's again.
		_, err = read(t, e, Reading{Text: "SELECT a FROM secrets", Settings: map[string]string{"readonly": "1"}})
		if said, ok := errors.AsType[*Exception](err); !ok || said.Code != 497 {
			t.Errorf("after %s: %v", sql, err)
		}
	}
	if got := one[uint64](t, connect(t, e), "SELECT count() FROM secrets"); got != 1 {
		t.Errorf("%d", got)
	}
}

func TestAnOutlineIsTheStatementAndRunsNothing(t *testing.T) {
	e := reader(t)
	for _, literal := range []string{"x", `\\`, `\n`, "\n", "\t", `\'`, "'", `\0`, "\x01", "ü🜁", `a\\nb`} {
		sql := "SELECT 1 AS a, '" + strings.ReplaceAll(strings.ReplaceAll(literal, `\`, `\\`), "'", `\'`) + "' FROM secrets WHERE sleep(3) FORMAT JSON"
		o, err := e.Outline(t.Context(), Reading{Text: sql})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(o.Canonical, "SELECT 1 AS a, '") || o.Normal != "SELECT ? AS a, ? FROM secrets WHERE sleep(?) FORMAT JSON" {
			t.Errorf("%q: %q, %q", sql, o.Canonical, o.Normal)
		}
		lines := strings.Split(o.Tree, "\n")
		if lines[0] != "SelectWithUnionQuery (children 2)" || !slices.Contains(lines, "      TableIdentifier secrets") || lines[len(lines)-1] != " Identifier JSON" {
			t.Errorf("%q: %q", sql, lines)
		}
	}
}

func TestReadersWaitForEachOtherAndForNobodyElse(t *testing.T) {
	e := reader(t)
	resp, err := e.Read(t.Context(), Reading{Text: "SELECT a FROM events", Format: "TSV"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = read(t, e, Reading{Text: "SELECT 1", Patience: time.Millisecond})
	if said, ok := errors.AsType[*Exception](err); !ok || said.Code != codeTooMany {
		t.Errorf("%v", err)
	}
	mustExec(t, connect(t, e), "INSERT INTO events VALUES (1)")
	resp.Body.Close()
	if got, err := read(t, e, Reading{Text: "SELECT 1"}); got != "1" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

func TestAResultThatFailsUnderWayTellsWhatIsFit(t *testing.T) {
	e := reader(t)
	resp, err := e.Read(t.Context(), Reading{Text: "SELECT throwIf(a = 90000) FROM events ORDER BY a", Format: "TSV", Settings: map[string]string{"max_block_size": "1000", "max_threads": "1"},
		Tell: func(code int, text string) string { return "Code: 395. it failed" }})
	if err != nil {
		if !strings.Contains(err.Error(), "395") {
			t.Fatal(err)
		}
		return // it failed before its first block
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !Failed(resp) || !strings.Contains(string(body), "it failed") || strings.Contains(string(body), "throwIf") {
		t.Errorf("%v %q", err, body[max(0, len(body)-300):])
	}
}
