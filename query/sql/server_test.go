package sql

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// options are those that Grafana's ClickHouse data source makes (pkg/plugin/driver.go).
func options(p *port, key string) *clickhouse.Options {
	return &clickhouse.Options{
		Addr: []string{strings.TrimPrefix(p.URL, "http://")}, Protocol: clickhouse.HTTP,
		Auth:        clickhouse.Auth{Database: "default", Username: "grafana", Password: key},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionGZIP},
		DialTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		Settings:   clickhouse.Settings{"limit": 1000, "max_execution_time": 60},
		ClientInfo: clickhouse.ClientInfo{Products: []struct{ Name, Version string }{{"grafana", "12.0.0"}}},
	}
}

func TestGrafanasDriverReads(t *testing.T) {
	p := newPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	db := clickhouse.OpenDB(options(p, key))
	defer db.Close()
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	var version string
	if err := db.QueryRow("SELECT version()").Scan(&version); err != nil || !strings.HasPrefix(version, "26.") {
		t.Errorf("%q %v", version, err)
	}
	rows, err := db.QueryContext(t.Context(), "SELECT toStartOfInterval(toDateTime(occurred_at), INTERVAL 60 SECOND) AS time, count() AS calls, any(server) AS metric FROM events WHERE occurred_at >= toDateTime64(1700000000, 6) GROUP BY time ORDER BY time")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	total := uint64(0)
	for rows.Next() {
		var at time.Time
		var n uint64
		var server string
		if err := rows.Scan(&at, &n, &server); err != nil || server != "files" {
			t.Fatal(err, server)
		}
		total += n
	}
	if err := rows.Err(); err != nil || total != 2*rowsOfEach {
		t.Errorf("%d %v", total, err)
	}
	_, err = db.QueryContext(t.Context(), "SELECT nothing FROM events")
	var said *clickhouse.Exception
	if !errors.As(err, &said) && !strings.Contains(fmt.Sprint(err), "UNKNOWN_IDENTIFIER") {
		t.Errorf("%v", err)
	}
	conn, err := clickhouse.Open(options(p, key))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var n, tenants uint64
	if err := conn.QueryRow(t.Context(), "SELECT count(), uniq(tenant) FROM events WHERE server = {server:String} AND target IN ({targets:Array(String)})",
		clickhouse.Named("server", "files"), clickhouse.Named("targets", []string{"1", "2", "3"})).Scan(&n, &tenants); err != nil || n != 3 || tenants != 1 {
		t.Errorf("%d %d %v", n, tenants, err)
	}
	var quantiles []float32
	if err := conn.QueryRow(t.Context(), "SELECT quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations) FROM activity_hourly").Scan(&quantiles); err != nil && len(quantiles) != 3 {
		t.Logf("quantiles: %v", err) // their type is the driver's business
	}
}

func TestStatementsComeInEveryWayOfClickHouse(t *testing.T) {
	p := newEmptyPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	get := func(target string, set func(*http.Request)) reply {
		req, _ := http.NewRequest(http.MethodGet, p.URL+target, nil)
		set(req)
		return p.do(t, req)
	}
	basic := func(r *http.Request) { r.SetBasicAuth("", key) }
	none := func(*http.Request) {}
	one := "/?query=" + url.QueryEscape("SELECT 1")
	for what, got := range map[string]reply{
		"basic":     get(one, basic),
		"header":    get(one, func(r *http.Request) { r.Header.Set("X-ClickHouse-User", "x"); r.Header.Set("X-ClickHouse-Key", key) }),
		"bearer":    get(one, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }),
		"post":      p.ask(t, key, "SELECT 1"),
		"both":      p.ask(t, key, " 1", "query", "SELECT"),
		"parameter": p.ask(t, key, "SELECT {x:UInt8}", "param_x", "1"),
		"settings":  p.ask(t, key, "SELECT 1", "max_execution_time", "3600", "readonly", "0", "session_timezone", "Asia/Tokyo", "limit", "10", "query_id", "x", "enable_http_compression", "1"),
	} {
		if got.status != 200 || got.body != "1" {
			t.Errorf("%s: %+v", what, got)
		}
	}
	for _, target := range []string{"/ping", "/"} {
		if got := get(target, none); got.status != 200 || got.body != "Ok." {
			t.Errorf("%s: %+v", target, got)
		}
	}
	if got := get(one, none); got.status != 401 || got.code != "516" || got.header.Get("WWW-Authenticate") == "" {
		t.Errorf("%+v", got)
	}
	if got := get(one, func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("X-ClickHouse-Key", key)
	}); got.status != 401 {
		t.Errorf("two credentials: %+v", got)
	}
	if got := get(one+"&user=x&password="+key, basic); got.code != "516" {
		t.Errorf("password in the URL: %+v", got)
	}
	for _, bad := range [][]string{
		{"additional_table_filters", "{}"}, {"max_result_rows", "0"}, {"max_threads", "64"}, {"max_memory_usage", "0"}, {"use_query_cache", "1"}, {"log_queries", "1", "format_schema", "x"}, {"query_plan_enable_optimizations", "1"},
		{"output_format_write_statistics", "1"}, {"database", "system"}, {"default_format", "JSONEachRowWithProgress"}, {"compress", "1"}, {"max_execution_time", "x"}, {"max_execution_time", "-1"}, {"x'y", "1"},
	} {
		if got := p.ask(t, key, "SELECT 1", bad...); got.status == 200 {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write([]byte("SELECT 1"))
	_ = w.Close()
	req, _ := http.NewRequest(http.MethodPost, p.URL, &packed)
	req.Header.Set("Content-Encoding", "gzip")
	basic(req)
	if got := p.do(t, req); got.body != "1" {
		t.Errorf("gzip: %+v", got)
	}
	if got := p.ask(t, key, "SELECT '"+strings.Repeat("x", store.MaxSQL)+"'"); got.status != 400 || got.code != "62" {
		t.Errorf("%d %s", got.status, got.code)
	}
	if got := p.ask(t, key, "SELECT length('"+strings.Repeat("x", store.MaxSQL-20)+"')"); got.status != 200 {
		t.Errorf("%d %.300s", got.status, got.body)
	}
}

func TestRevokedKeysAreRefused(t *testing.T) {
	p := newEmptyPort(t)
	key, id := p.key(t, auth.Analyst, auth.EveryTenant, "")
	if got := p.ask(t, key, "SELECT 1"); got.status != 200 {
		t.Fatalf("%+v", got)
	}
	if _, err := p.keys.Revoke(t.Context(), id, auth.Scope{Every: true}, "test", "test"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{key, key[:len(key)-1] + "x", "mcpa_x", "secret"} {
		if got := p.ask(t, bad, "SELECT 1"); got.status != 401 || got.code != "516" {
			t.Errorf("%+v", got)
		}
	}
	if got := p.notes.of("mcpaudit/login"); len(got) == 0 || got[0].Outcome != "denied" {
		t.Errorf("%+v", got)
	}
}

func TestLimitsEndAStatement(t *testing.T) {
	p := newEmptyPort(t, func(c *Config) {
		c.Limits = store.Limits{Time: 2 * time.Second, Memory: 600 << 20, Rows: 50_000_000}
	})
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	for _, test := range []struct{ sql, code string }{
		{"SELECT count() FROM numbers(49000000) WHERE NOT ignore(sipHash64(toString(number)), SHA512(toString(number)))", "159"},
		{"SELECT length(groupArray(leftPad(toString(number % 10), 100000))) FROM numbers(100000)", "241"},
		{"SELECT number FROM numbers(200000)", "396"},
		{"SELECT leftPad(toString(number % 10), 1000) FROM numbers(99000)", "396"},
		{"SELECT count() FROM numbers(60000000) WHERE number > 5", "158"},
	} {
		if got := p.ask(t, key, test.sql); got.code != test.code {
			t.Errorf("%s: %d %s %.300q", test.sql, got.status, got.code, got.body)
		}
	}
	if got := p.ask(t, key, "SELECT number FROM numbers(100000)"); got.status != 200 || strings.Count(got.body, "\n") != 99_999 {
		t.Errorf("%d %.200q", got.status, got.body)
	}
}

// A client that goes away ends its statement: its place is another's.
func TestAClientThatGoesAwayEndsItsStatement(t *testing.T) {
	p := newEmptyPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	slow := "SELECT count() FROM numbers(1000000000) WHERE NOT ignore(SHA512(toString(number)))"
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, strings.NewReader(slow))
			req.SetBasicAuth("", key)
			if resp, err := p.Client().Do(req); err == nil {
				resp.Body.Close()
				t.Error("it was answered")
			}
		})
	}
	for len(p.notes.of(methodStatement)) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
	if got := p.ask(t, key, "SELECT 1"); got.body != "1" {
		t.Errorf("%+v", got)
	}
}

// Twenty clients at once wait for each other, and nobody waits for them who appends.
func TestManyClientsLeaveRoomForAppends(t *testing.T) {
	p := newEmptyPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	var all sync.WaitGroup
	var answered, busy atomic.Int64
	done := make(chan struct{})
	for range 20 {
		all.Go(func() {
			for range 2 {
				switch got := p.ask(t, key, "SELECT count() FROM numbers(1000000) WHERE NOT ignore(sipHash64(toString(number)))"); got.status {
				case 200:
					answered.Add(1)
				case 503:
					busy.Add(1)
				default:
					t.Errorf("%+v", got)
				}
			}
		})
	}
	go func() { all.Wait(); close(done) }()
	appended := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			storetest.Exec(t, p.store, "INSERT INTO events (tenant) VALUES ('acme')")
			appended++
		}
	}
	if answered.Load() == 0 || appended < 5 {
		t.Errorf("%d answered, %d busy, %d appended", answered.Load(), busy.Load(), appended)
	}
}

func TestWhatIsAskedIsInTheLogOnceAnHour(t *testing.T) {
	p := newPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	for i := range 5 {
		if got := p.ask(t, key, fmt.Sprintf("SELECT count() FROM events WHERE target = 'secret%d'", i)); got.status != 200 {
			t.Fatalf("%+v", got)
		}
	}
	got := p.notes.of(methodStatement)
	if len(got) != 1 || !strings.Contains(got[0].Request, "secret0") || !strings.HasPrefix(got[0].Who.Principal, "key:") || got[0].Labels["via"] != "sql" {
		t.Fatalf("%+v", got)
	}
	p.ask(t, key, "SELECT target FROM events ORDER BY target LIMIT 7")
	p.ask(t, key, "SELECT * FROM system.processes")
	got = p.notes.of(methodStatement)
	if len(got) != 3 || got[2].Outcome != "denied" || got[2].Who.ErrorCode != "497" {
		t.Errorf("%+v", got)
	}
	p.clock.pass(time.Hour)
	p.ask(t, key, "SELECT count() FROM events WHERE target = 'secret9'")
	p.ask(t, key, "SELECT '"+strings.Repeat("x", 10_000)+"'")
	got = p.notes.of(methodStatement)
	if len(got) != 5 || !strings.Contains(got[3].Request, "secret9") || len(got[4].Request) > 5000 || !strings.Contains(got[4].Request, `"length":10009`) {
		t.Errorf("%d %.200s", len(got), got[len(got)-1].Request)
	}
	p.Close() // a statement is counted when its answer has left
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.sql.Run(ctx)
	sums := p.notes.of(methodHour)
	if len(sums) != 1 || sums[0].Labels["statements"] != "9" || sums[0].Labels["failed"] != "1" || sums[0].Labels["rows"] != "14" {
		t.Errorf("%+v", sums)
	}
}

func TestWhatCantBeNotedIsNotShown(t *testing.T) {
	p := newPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	p.notes.mu.Lock()
	p.notes.away = true
	p.notes.mu.Unlock()
	if got := p.ask(t, key, "SELECT count() FROM events"); got.status != 503 || strings.Contains(got.body, "4000") {
		t.Errorf("%+v", got)
	}
	p.notes.mu.Lock()
	p.notes.away = false
	p.notes.mu.Unlock()
	if got := p.ask(t, key, "SELECT count() FROM events"); got.body != "4000" || len(p.notes.of(methodStatement)) != 1 {
		t.Errorf("%+v", got)
	}
}
