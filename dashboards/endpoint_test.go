package dashboards_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/transport"
	"github.com/mcpaudit/mcpaudit/query/sql"
)

// endpoint is where Grafana reads an embedded node, with a key.
type endpoint struct {
	*httptest.Server
	key string
}

// unread is a log of who read: dashboards don't look at this one.
type unread struct{}

func (unread) Note(context.Context, diary.Entry) error { return nil }

// openEndpoint serves the store to a key of an analyst of every tenant.
func openEndpoint(t *testing.T, s *store.Store) *endpoint {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	keys := auth.NewKeyring(s, time.Now, quiet)
	_, secret, err := keys.Make(t.Context(), "grafana", []auth.Grant{{Role: auth.Analyst, Tenant: auth.EveryTenant, Content: auth.ContentRedacted}}, "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	guard := auth.NewGuard(map[string]auth.Rule{sql.Method: sql.Rule}, auth.Deps{Keys: keys, Notes: unread{}, Now: time.Now, Log: quiet,
		Queries: auth.NewQueryQuota(auth.QueryLimits{}, time.Now),
		Caller: func(ctx context.Context) auth.Caller {
			address, agent, _, _ := transport.Caller(ctx)
			return auth.Caller{Address: address, UserAgent: agent}
		}})
	e := &endpoint{httptest.NewServer(sql.New(sql.Config{Incoming: transport.Incoming}, sql.Deps{Store: s, Guard: guard, Notes: unread{}, Now: time.Now, Log: quiet})), secret.Reveal()}
	t.Cleanup(e.Close)
	return e
}

// ask sends a statement as the data source does, and returns what is wrong with the answer.
func (e *endpoint) ask(t *testing.T, statement string) (problem string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, e.URL+"/?default_format=Native&max_execution_time=10", strings.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("grafana", e.key)
	resp, err := e.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return resp.Status + ": " + string(body)
	}
	return ""
}
