package app

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/transport"
	"github.com/mcpaudit/mcpaudit/internal/transport/certtest"
	"github.com/mcpaudit/mcpaudit/query/sql"
)

// noted keeps the entries that it is given.
type noted struct {
	mu      sync.Mutex
	entries []diary.Entry
}

func (n *noted) Note(_ context.Context, e diary.Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entries = append(n.entries, e)
	return nil
}

func (n *noted) methods() (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.entries {
		out = append(out, e.Method)
	}
	return out
}

// The port for SQL answers those with a key, over TLS when the service has a certificate,
// and notes all that was asked before it says that it is done.
func TestThePortForSQLIsGuardedAndNoted(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	d := Deps{Now: time.Now, Log: quiet}
	s := storetest.Open(t, t.TempDir())
	keys := auth.NewKeyring(s, time.Now, quiet)
	_, secret, err := keys.Make(t.Context(), "grafana", []auth.Grant{{Role: auth.Analyst, Tenant: auth.EveryTenant}}, "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own := certtest.New(t, "own")
	cert, key, _ := own.Files(t, "127.0.0.1")
	for _, secure := range []bool{false, true} {
		cfg := testConfig(t, t.TempDir())
		cfg.Listen.SQL = "127.0.0.1:0"
		scheme, client := "http://", &http.Client{}
		if secure {
			cfg.Listen.TLSCert, cfg.Listen.TLSKey = cert, key
			scheme, client.Transport = "https://", &http.Transport{TLSClientConfig: &tls.Config{RootCAs: own.Pool()}}
		}
		outside, err := newEdge(&cfg, nil, d)
		if err != nil {
			t.Fatal(err)
		}
		book := &noted{}
		guard := auth.NewGuard(map[string]auth.Rule{sql.Method: sql.Rule}, auth.Deps{Keys: keys, Notes: book, Now: time.Now, Log: quiet, Queries: auth.NewQueryQuota(auth.QueryLimits{}, time.Now),
			Caller: func(ctx context.Context) auth.Caller {
				address, agent, state, _ := transport.Caller(ctx)
				return auth.Caller{Address: address, UserAgent: agent, TLS: state}
			}})
		port, err := newSQL(&cfg, s, guard, book, outside, d)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- port.run(ctx) }()
		ask := func(password string) (int, string) {
			req, _ := http.NewRequest(http.MethodPost, scheme+port.address().String(), strings.NewReader("SELECT count() FROM events"))
			req.SetBasicAuth("grafana", password)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, strings.TrimSpace(string(body))
		}
		if status, body := ask(secret.Reveal()); status != 200 || body != "0" {
			t.Errorf("%d %q", status, body)
		}
		if status, body := ask("mcpa_nobody"); status != 401 || !strings.HasPrefix(body, "Code: 516.") {
			t.Errorf("%d %q", status, body)
		}
		client.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		<-port.done
		if got := book.methods(); !slices.Equal(got, []string{"mcpaudit/sql", "mcpaudit/login", "mcpaudit/sql_hour"}) {
			t.Errorf("%q", got)
		}
	}
	cfg := testConfig(t, t.TempDir())
	if port, err := newSQL(&cfg, s, nil, nil, &edge{cfg: &cfg, log: quiet}, d); port != nil || err != nil {
		t.Errorf("without an address: %v %v", port, err)
	}
	cfg.Listen.SQL = "127.0.0.1:99999"
	if _, err := newSQL(&cfg, s, nil, nil, &edge{cfg: &cfg, log: quiet}, d); err == nil || !strings.Contains(err.Error(), "--listen.sql") {
		t.Errorf("%v", err)
	}
}
