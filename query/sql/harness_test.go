package sql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/transport"
)

// port is the endpoint over a store of two tenants on the real engine, with the real
// guard and real keys, and a log that keeps what it gets.
type port struct {
	*httptest.Server
	store *store.Store
	sql   *Server
	keys  *auth.Keyring
	notes *book
	clock *clock
}

// clock stands until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(by)
}

// book is the log as the guard and the endpoint see it.
type book struct {
	mu      sync.Mutex
	entries []diary.Entry
	away    bool
}

func (b *book) Note(_ context.Context, e diary.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return errors.New("the log is away")
	}
	b.entries = append(b.entries, e)
	return nil
}

// of are the entries of a method.
func (b *book) of(method string) (out []diary.Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.Method == method {
			out = append(out, e)
		}
	}
	return out
}

// rowsOfEach are the events of each tenant. acme's values are no numbers, globex's are.
const rowsOfEach = 2_000

// seed puts rows of tenants into every table that has a tenant.
func seed(t *testing.T, s *store.Store, tenants ...string) {
	t.Helper()
	for _, tenant := range tenants {
		value := "toString(number)"
		if tenant == "acme" {
			value = "concat('secret', toString(number))"
		}
		n := fmt.Sprintf("FROM numbers(%d)", rowsOfEach)
		for _, sql := range []string{
			"INSERT INTO events (tenant, principal, server, environment, kind, target, outcome, arguments, occurred_at, received_at, duration_us, session_id) SELECT '" + tenant + "', " + value +
				", 'files', 'prod', 'tool_call', " + value + ", 'success', " + value + ", toDateTime64('2026-11-20 12:00:00', 6, 'UTC') + number, toDateTime64('2026-11-20 12:00:00', 6, 'UTC') + number, number, " + value + " " + n,
			"INSERT INTO findings (tenant, rule, principal, reason) SELECT '" + tenant + "', 'r', " + value + ", " + value + " FROM numbers(100)",
			"INSERT INTO finding_actions (tenant, note) SELECT '" + tenant + "', " + value + " FROM numbers(100)",
			"INSERT INTO notifications (tenant, receiver, rule) SELECT '" + tenant + "', 'pager', " + value + " FROM numbers(100)",
			"INSERT INTO activity_hourly (tenant, hour, server, kind, target, principal, outcome, events, durations) SELECT '" + tenant + "', toDateTime('2026-11-20 12:00:00', 'UTC'), 'files', 'tool_call', " + value + ", " + value + ", 'success', 1, quantilesBFloat16State(0.5, 0.95, 0.99)(toUInt64(number)) FROM numbers(100) GROUP BY number",
			"INSERT INTO tools_hourly (tenant, hour, server, target) SELECT '" + tenant + "', toDateTime('2026-11-20 12:00:00', 'UTC'), 'files', " + value + " FROM numbers(100)",
			"INSERT INTO tool_definitions (tenant, server, target) SELECT '" + tenant + "', 'files', " + value + " FROM numbers(100)",
			"INSERT INTO emitters_hourly (tenant, emitter_id, server) SELECT '" + tenant + "', " + value + ", 'files' FROM numbers(100)",
		} {
			storetest.Exec(t, s, sql)
		}
	}
}

func newPort(t *testing.T, configure ...func(*Config)) *port {
	t.Helper()
	s := storetest.Open(t, t.TempDir())
	seed(t, s, "acme", "globex")
	return serve(t, s, configure...)
}

// newEmptyPort is one over a store without rows.
func newEmptyPort(t *testing.T, configure ...func(*Config)) *port {
	t.Helper()
	return serve(t, storetest.Open(t, t.TempDir()), configure...)
}

func serve(t *testing.T, s *store.Store, configure ...func(*Config)) *port {
	t.Helper()
	p := &port{store: s, notes: &book{}, clock: &clock{at: time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)}}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	p.keys = auth.NewKeyring(s, p.clock.now, quiet)
	guard := auth.NewGuard(map[string]auth.Rule{Method: Rule}, auth.Deps{
		Keys: p.keys, Notes: p.notes, Now: p.clock.now, Log: quiet,
		Queries: auth.NewQueryQuota(auth.QueryLimits{}, time.Now),
		Caller: func(ctx context.Context) auth.Caller {
			address, agent, _, _ := transport.Caller(ctx)
			return auth.Caller{Address: address, UserAgent: agent}
		},
	})
	cfg := Config{Incoming: transport.Incoming}
	for _, f := range configure {
		f(&cfg)
	}
	p.sql = New(cfg, Deps{Store: s, Guard: guard, Notes: p.notes, Now: p.clock.now, Log: quiet})
	p.Server = httptest.NewServer(p.sql)
	t.Cleanup(p.Close)
	return p
}

// key makes one, of a role for a tenant.
func (p *port) key(t *testing.T, role auth.Role, tenant string, content auth.Content) (text, id string) {
	t.Helper()
	g := auth.Grant{Role: role, Tenant: tenant, Content: content}
	k, secret, err := p.keys.Make(t.Context(), "test", []auth.Grant{g}, "test", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal(), k.ID
}

// reply is an answer.
type reply struct {
	status int
	code   string
	body   string
	header http.Header
}

// ask sends a statement as curl does.
func (p *port) ask(t *testing.T, key, sql string, settings ...string) reply {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(settings); i += 2 {
		values.Set(settings[i], settings[i+1])
	}
	req, err := http.NewRequest(http.MethodPost, p.URL+"/?"+values.Encode(), strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.SetBasicAuth("grafana", key)
	}
	return p.do(t, req)
}

func (p *port) do(t *testing.T, req *http.Request) reply {
	t.Helper()
	resp, err := p.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) { // it broke off behind the exception
		_, exception, _ := strings.Cut(string(body), "Code: ")
		code, _, _ := strings.Cut(exception, ".")
		return reply{status: resp.StatusCode, code: code}
	}
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header.Get("X-ClickHouse-Exception-Code"), strings.TrimSuffix(string(body), "\n"), resp.Header}
}
