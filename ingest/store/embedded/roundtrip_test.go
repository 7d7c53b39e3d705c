package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// wantCode checks for an error of ClickHouse's by its code.
func wantCode(t testing.TB, err error, code int32) {
	t.Helper()
	exception, ok := errors.AsType[*clickhouse.Exception](err)
	if !ok || exception.Code != code {
		t.Errorf("got %v, want an exception of code %d", err, code)
	}
}

// post sends a request as it is, for what the driver would not send.
func post(ctx context.Context, e *Engine, query url.Values, body io.Reader) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+Addr+"/?"+query.Encode(), body)
	if err != nil {
		return 0, "", err
	}
	resp, err := e.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func TestBoundParametersKeepEveryByte(t *testing.T) {
	conn := connect(t, open(t))
	for _, want := range []string{"", "plain", `it's "quoted" \ back`, "tab\tline\nreturn\r", "nul \x00 byte", "é ✓", `\N`, "{x:String}", "'); DROP TABLE t; --"} {
		var got string
		var length uint64
		err := conn.QueryRow(t.Context(), "SELECT {v:String}, length({v:String})", clickhouse.Named("v", want)).Scan(&got, &length)
		if err != nil || got != want || length != uint64(len(want)) {
			t.Errorf("%q came back as %q (%d), %v", want, got, length, err)
		}
	}
	got := one[[]string](t, conn, "SELECT {v:Array(String)}", clickhouse.Named("v", []string{"a'b", `c\d`, ""}))
	if strings.Join(got, "|") != `a'b|c\d|` {
		t.Errorf("array came back as %q", got)
	}
	if got := one[uint64](t, conn, "SELECT {a:UInt64} + {b:UInt64}", clickhouse.Named("a", 40), clickhouse.Named("b", 2)); got != 42 {
		t.Errorf("got %d", got)
	}
	mustExec(t, conn, "CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s")
	if err := conn.Exec(t.Context(), "INSERT INTO t VALUES ({v:String})", clickhouse.Named("v", "x\x00'y")); err != nil {
		t.Fatal(err)
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t WHERE s = {v:String}", clickhouse.Named("v", "x\x00'y")); got != 1 {
		t.Errorf("found %d", got)
	}
	err := conn.QueryRow(t.Context(), "SELECT {missing:String}", clickhouse.Named("v", "")).Scan(new(string))
	wantCode(t, err, 456)
}

func TestErrorsCarryTheEnginesTextAndCode(t *testing.T) {
	conn := connect(t, open(t))
	for _, test := range []struct {
		sql, text string
		code      int32
	}{
		{"SELECT * FROM nowhere", "Unknown table expression identifier 'nowhere'", 60},
		{"SELEC 1", "Syntax error", 62},
		{"DROP TABLE nowhere", "nowhere", 60},
		{"SELECT throwIf(number = 0, 'at once') FROM numbers(3)", "at once", 395},
		{"SELECT throwIf(number = 300000, 'midway') FROM numbers(400000)", "midway", 395},
	} {
		rows, err := conn.Query(t.Context(), test.sql)
		if err == nil {
			for rows.Next() {
			}
			err = errors.Join(rows.Err(), rows.Close())
		}
		wantCode(t, err, test.code)
		if err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: got %v, want %q", test.sql, err, test.text)
		}
	}
	if _, err := conn.PrepareBatch(t.Context(), "INSERT INTO nowhere"); err == nil {
		t.Error("a batch for a missing table was prepared")
	}
}

func TestSettingsHoldForTheirStatementOnly(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 1; c.Settings = map[string]string{"max_threads": "2"} })
	conn := connect(t, e)
	with := func(s clickhouse.Settings) context.Context {
		return clickhouse.Context(t.Context(), clickhouse.WithSettings(s))
	}
	const seen = "SELECT concat(toString(getSetting('max_threads')), ' ', getSetting('log_comment'), ' ', toString(getSetting('max_block_size')))"
	show := func(ctx context.Context) string {
		var s string
		if err := conn.QueryRow(ctx, seen).Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain := show(t.Context())
	for _, test := range []struct {
		settings clickhouse.Settings
		want     string
	}{
		{clickhouse.Settings{"max_threads": 1, "log_comment": `it's \ "x"`, "max_block_size": 1000}, `1 it's \ "x" 1000`},
		{clickhouse.Settings{"max_threads": 3, "max_block_size": 1000}, "3  1000"},
		{nil, plain},
		{clickhouse.Settings{"readonly": 1, "max_threads": 1}, strings.Replace(plain, "2", "1", 1)},
		{nil, plain},
	} {
		if got := show(with(test.settings)); got != test.want {
			t.Errorf("%v: got %q, want %q", test.settings, got, test.want)
		}
	}
	mustExec(t, conn, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	wantCode(t, conn.Exec(with(clickhouse.Settings{"readonly": 1}), "INSERT INTO t VALUES (1)"), 164)
	wantCode(t, conn.Exec(with(clickhouse.Settings{"readonly": 1}), "SELECT 1 SETTINGS readonly = 0"), 164)
	wantCode(t, conn.Exec(with(clickhouse.Settings{"no_such_setting": 1}), "SELECT 1"), 115)
	wantCode(t, conn.Exec(with(clickhouse.Settings{"a b": 1}), "SELECT 1"), 115)
	wantCode(t, conn.Exec(with(clickhouse.Settings{"max_result_rows": 5}), "SELECT number FROM numbers(10)"), 396)
	wantCode(t, conn.Exec(with(clickhouse.Settings{"max_memory_usage": 10 << 20}), "SELECT groupArray(number) FROM numbers(10000000)"), 241)
	wantCode(t, conn.Exec(with(clickhouse.Settings{"max_execution_time": 0.05}), "SELECT sum(sipHash64(number)) FROM numbers(100000000000)"), 159)
	if got := show(t.Context()); got != plain {
		t.Errorf("afterwards: got %q, want %q", got, plain)
	}
}

func TestDatabaseOfTheConnection(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 1 })
	plain := connect(t, e)
	mustExec(t, plain, "CREATE DATABASE `it``s`")
	conn, err := clickhouse.Open(&clickhouse.Options{Protocol: clickhouse.HTTP, Addr: []string{Addr}, TransportFunc: e.Transport,
		Auth: clickhouse.Auth{Database: "it`s"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		if got := one[string](t, conn, "SELECT currentDatabase()"); got != "it`s" {
			t.Errorf("got %q", got)
		}
		if got := one[string](t, plain, "SELECT currentDatabase()"); got != "default" {
			t.Errorf("got %q", got)
		}
	}
	status, text, err := post(t.Context(), e, url.Values{"database": {"nowhere"}}, strings.NewReader("SELECT 1"))
	if err != nil || status != 500 || !strings.HasPrefix(text, "Code: 81. ") {
		t.Errorf("got %d %q %v", status, text, err)
	}
}

func batchOf(t testing.TB, ctx context.Context, conn driver.Conn, table string, from, n int) error {
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+table)
	if err != nil {
		t.Fatal(err)
	}
	numbers, texts := make([]uint64, n), make([]string, n)
	for i := range numbers {
		numbers[i], texts[i] = uint64(from+i), fmt.Sprint("text ", from+i)
	}
	return errors.Join(batch.Column(0).Append(numbers), batch.Column(1).Append(texts), batch.Send())
}

func TestDeduplicationTokens(t *testing.T) {
	conn := connect(t, open(t))
	mustExec(t, conn, `CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a
		SETTINGS non_replicated_deduplication_window = 1000`)
	for i, test := range []struct {
		token string
		from  int
		want  uint64
	}{{"one", 0, 10}, {"one", 0, 10}, {"one", 100, 10}, {"it's \\ two", 0, 20}, {"it's \\ two", 0, 20}, {"three", 0, 30}} {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": test.token}))
		if err := batchOf(t, ctx, conn, "t", test.from, 10); err != nil {
			t.Fatal(err)
		}
		if got := one[uint64](t, conn, "SELECT count() FROM t"); got != test.want {
			t.Errorf("step %d: %d rows, want %d", i, got, test.want)
		}
	}
}

func TestOneBatchIsOnePart(t *testing.T) {
	conn := connect(t, open(t))
	mustExec(t, conn, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a", "SYSTEM STOP MERGES t")
	for i, n := range []int{125, 20_000, 200_000} {
		if err := batchOf(t, t.Context(), conn, "t", 0, n); err != nil {
			t.Fatal(err)
		}
		if got := one[uint64](t, conn, "SELECT count() FROM system.parts WHERE table = 't' AND active"); got != uint64(i+1) {
			t.Errorf("%d parts after %d batches", got, i+1)
		}
	}
}

// body is an insert's body that fails or ends at will after some bytes.
type body struct {
	io.Reader
	then func() error
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.then()
	}
	return n, err
}

func TestAnInsertThatBreaksOffStoresNothing(t *testing.T) {
	e := open(t)
	conn := connect(t, e)
	mustExec(t, conn, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	_, rows, err := post(t.Context(), e, nil, strings.NewReader("SELECT number AS a FROM numbers(60000)"))
	if err != nil {
		t.Fatal(err)
	}
	// Two copies: the cuts fall inside the second block, or between the two.
	block := []byte(rows)
	insert := url.Values{"query": {"INSERT INTO t FORMAT Native"}}
	broken := errors.New("the line went dead")
	for _, size := range []int{1, len(block) / 2, len(block) - 1, len(block)} {
		cut := func(then func() error) io.Reader { return &body{bytes.NewReader(block[:size]), then} }

		if _, _, err := post(t.Context(), e, insert, cut(func() error { return broken })); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: broken body: %v", size, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, _, err := post(ctx, e, insert, cut(func() error { cancel(); return io.EOF })); !errors.Is(err, context.Canceled) {
			t.Errorf("after %d bytes: ended context: %v", size, err)
		}
		if size < len(block) {
			status, text, err := post(t.Context(), e, insert, bytes.NewReader(block[:size]))
			if status != http.StatusInternalServerError || err != nil {
				t.Errorf("after %d bytes: truncated body: %d %s %v", size, status, text, err)
			}
		}
	}
	// A producer that stalls, with the context ending meanwhile.
	ctx, cancel := context.WithCancel(t.Context())
	stalled, producer := io.Pipe()
	go func() {
		producer.Write(block)
		cancel()
	}()
	if _, _, err := post(ctx, e, insert, stalled); !errors.Is(err, context.Canceled) {
		t.Errorf("stalled body: %v", err)
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 0 {
		t.Errorf("%d rows were stored", got)
	}
	// The connections are none the worse for it.
	for range 8 {
		if status, text, err := post(t.Context(), e, insert, bytes.NewReader(block)); status != http.StatusOK || err != nil {
			t.Errorf("whole body: %d %s %v", status, text, err)
		}
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 8*60000 {
		t.Errorf("%d rows were stored", got)
	}
}

func TestABatchThatCannotBeEncodedIsAnError(t *testing.T) {
	conn := connect(t, open(t))
	mustExec(t, conn, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(batch.Column(0).Append([]uint64{1, 2}), batch.Column(1).Append([]string{"one"})); err != nil {
		t.Fatal(err)
	}
	wantCode(t, batch.Send(), codeNoData)
}

func TestInsertsInOtherFormats(t *testing.T) {
	e := open(t)
	conn := connect(t, e)
	mustExec(t, conn, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a",
		"INSERT INTO t VALUES (1, 'one;two'), (2, 'it''s')",
		"INSERT INTO t SELECT number, 'n' FROM numbers(3, 2)")
	for _, test := range []struct{ query, body string }{
		{"INSERT INTO t FORMAT JSONEachRow", `{"a": 5, "s": "five"}` + "\n"},
		{"INSERT INTO t (a, s) SETTINGS max_threads = 1 -- note\n FORMAT TSV;", "6\tsix\n"},
		{"INSERT INTO t", "VALUES (7, 'seven')"},
		{"", "INSERT INTO t FORMAT JSONEachRow\n" + `{"a": 8, "s": "ei;ght"}`},
		{"INSERT INTO t VALUES (9, 'nine')", ""},
	} {
		if status, text, err := post(t.Context(), e, url.Values{"query": {test.query}}, strings.NewReader(test.body)); status != 200 || err != nil {
			t.Errorf("%q %q: %d %s %v", test.query, test.body, status, text, err)
		}
	}
	if got := one[string](t, conn, "SELECT arrayStringConcat(arraySort(groupArray(concat(toString(a), s))), ',') FROM t"); got != "1one;two,2it's,3n,4n,5five,6six,7seven,8ei;ght,9nine" {
		t.Errorf("got %s", got)
	}
}

func TestFormatsOfResults(t *testing.T) {
	e := open(t)
	for _, test := range []struct {
		query url.Values
		sql   string
		want  string
	}{
		{url.Values{"default_format": {"TSV"}}, "SELECT 1, 'x'", "1\tx\n"},
		{url.Values{"default_format": {"TSV"}}, "SELECT 1 AS a FORMAT JSONEachRow", "{\"a\":1}\n"},
		{url.Values{"default_format": {"TSV"}}, "SELECT 1 WHERE 0", ""},
		{url.Values{"default_format": {"TSV"}}, "EXISTS TABLE nowhere", "0\n"},
		{url.Values{"query": {"SELECT 2"}, "default_format": {"CSV"}}, "", "2\n"},
		{url.Values{}, "-- a comment\nSELECT 1", "\x01\x01\x011\x05UInt8\x01"},
	} {
		status, text, err := post(t.Context(), e, test.query, strings.NewReader(test.sql))
		if status != 200 || text != test.want || err != nil {
			t.Errorf("%s: got %d %q %v, want %q", test.sql, status, text, err, test.want)
		}
	}
	for _, query := range []url.Values{{"compress": {"1"}}, {"decompress": {"1"}}} {
		if status, text, err := post(t.Context(), e, query, strings.NewReader("SELECT 1")); status != 500 || !strings.Contains(text, "Compression to none") {
			t.Errorf("%v: %d %s %v", query, status, text, err)
		}
	}
}

// resident is this process's resident memory, in bytes.
func resident(t testing.TB) int {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc here")
	}
	var size, pages int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func TestALargeResultIsNotHeldInMemory(t *testing.T) {
	e := open(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+Addr+"/?max_threads=1",
		strings.NewReader("SELECT number, repeat('x', 1000) FROM numbers(1000000)"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := e.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	before, peak, total := resident(t), 0, 0
	buffer := make([]byte, 1<<20)
	for err == nil {
		var n int
		n, err = resp.Body.Read(buffer)
		total += n
		peak = max(peak, resident(t))
	}
	if !errors.Is(err, io.EOF) || total < 1_000_000_000 {
		t.Fatalf("read %d bytes, then %v", total, err)
	}
	if peak-before > 400<<20 {
		t.Errorf("%d MB more were resident for a result of %d MB", (peak-before)>>20, total>>20)
	}
}

func TestOneMillionRowsThroughTheDriver(t *testing.T) {
	conn := connect(t, open(t))
	rows, err := conn.Query(t.Context(), "SELECT number, toString(number) FROM numbers(1000000)")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var n, sum, number uint64
	var text string
	for ; rows.Next(); n++ {
		if err := rows.Scan(&number, &text); err != nil {
			t.Fatal(err)
		}
		sum += number
	}
	if rows.Err() != nil || n != 1_000_000 || sum != 999_999*1_000_000/2 {
		t.Errorf("got %d rows, sum %d, %v", n, sum, rows.Err())
	}
}

func TestClosingABodyStopsItsStatement(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 1 })
	for range 20 {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+Addr+"/",
			strings.NewReader("SELECT number FROM system.numbers"))
		resp, err := e.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 3<<20)); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		resp.Body.Close()
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
			t.Fatal("a closed body could be read")
		}
	}
	// The only connection is free again, and nothing else runs.
	if got := one[uint64](t, connect(t, e), "SELECT count() FROM system.processes"); got != 1 {
		t.Errorf("%d statements are running", got)
	}
}

func TestClosingABodyStopsAWaitingRead(t *testing.T) {
	e := open(t)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+Addr+"/",
		strings.NewReader("SELECT toUInt64(1) UNION ALL SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"))
	resp, err := e.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("the whole result was read")
		}
	})
	resp.Body.Close()
	reading.Wait()
}

// eventually waits for a number of running statements.
func eventually(t testing.TB, conn driver.Conn, enough func(running uint64) bool) {
	t.Helper()
	for range 20_000 {
		if enough(one[uint64](t, conn, "SELECT count() FROM system.processes")) {
			return
		}
	}
	t.Fatal("it never came to that")
}

func TestAnEndedContextStopsAStatement(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 2 })
	conn := connect(t, e)
	// Both before its first block, where only killing helps, and while its
	// result is being read.
	for _, sql := range []string{
		"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)",
		"SELECT sum(sipHash64(number)) FROM numbers(1000000000000) WHERE number != {n:UInt64}", // the engine lists another text
		"SELECT number FROM system.numbers",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			rows, err := conn.Query(ctx, sql, clickhouse.Named("n", 5))
			if err == nil {
				for rows.Next() {
				}
				err = rows.Err()
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", sql, err)
			}
		})
		eventually(t, conn, func(running uint64) bool { return running > 1 })
		cancel()
		running.Wait()
		eventually(t, conn, func(running uint64) bool { return running == 1 })
	}
}

func TestManyGoroutinesShareTheConnections(t *testing.T) {
	conn := connect(t, open(t, func(c *Config) { c.Connections = 3 }))
	mustExec(t, conn, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	const workers, rounds, rows = 8, 10, 100
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range rounds {
				comment := fmt.Sprint(w, "/", i)
				ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"log_comment": comment}))
				if err := batchOf(t, ctx, conn, "t", (w*rounds+i)*rows, rows); err != nil {
					t.Error(err)
				}
				var seen string
				if err := conn.QueryRow(ctx, "SELECT getSetting('log_comment')").Scan(&seen); err != nil || seen != comment {
					t.Errorf("saw the settings of %q in %q, %v", seen, comment, err)
				}
				var n uint64
				err := conn.QueryRow(ctx, "SELECT count() FROM t WHERE a >= {from:UInt64} AND a < {to:UInt64}",
					clickhouse.Named("from", (w*rounds+i)*rows), clickhouse.Named("to", (w*rounds+i+1)*rows)).Scan(&n)
				if err != nil || n != rows {
					t.Errorf("read %d of %d rows, %v", n, rows, err)
				}
			}
		})
	}
	all.Wait()
	if got := one[uint64](t, conn, "SELECT uniqExact(a) FROM t"); got != workers*rounds*rows {
		t.Errorf("%d rows", got)
	}
}
