package store_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

func init() { storetest.Server = enginetest.Databases() }

// What is true of a store in process is true of one on a server. Left out are the
// tests that open no store by storetest, and so would say nothing new.
func TestAllIsTheSameOnAServer(t *testing.T) {
	enginetest.Again(t, "^Test", "PastSchema|CouldLoseEvents|AnotherProgram|SchemaFiles|ReachedByItsDSN|BadConfiguration|IsAway|LikeTheEngineInProcess|Crash")
}

// What was asked for names people, and a list of emitters can be a megabyte: neither
// belongs into a log, and nor does the password.
func TestAServerThatIsAwayIsReportedWithoutWhatWasAsked(t *testing.T) {
	server := enginetest.Start(t)
	s, err := store.Open(t.Context(), store.Config{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	ask := func() (errs []error) {
		_, err := s.Query(t.Context(), store.Limits{}, "SELECT {who:String}", store.Named("who", "alice-in-person"))
		errs = append(errs, err)
		_, err = s.Sequences(t.Context(), []string{"alice-in-person"})
		errs = append(errs, err)
		_, err = s.Rival(t.Context(), "main", 1, time.Time{})
		errs = append(errs, err)
		errs = append(errs, s.StartLog(t.Context(), store.LogInfo{ID: "main", VerifierKey: "alice-in-person"}))
		events := randomEvents(rand.New(rand.NewPCG(11, 11)), 5, 1)
		return append(errs, s.Append(t.Context(), store.Batch{Events: events, Token: "alice-in-person"}), s.Ping(t.Context()))
	}
	server.Kill()
	for i, err := range ask() {
		if err == nil || strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), server.Password()) || !strings.Contains(err.Error(), "reach the server: ") {
			t.Errorf("%d: %v", i, err)
		}
	}
	_, err = store.Open(t.Context(), store.Config{DSN: server.DSN()})
	if err == nil || strings.Contains(err.Error(), server.Password()) {
		t.Errorf("open: %v", err)
	}
	server.Restart()
	for i, err := range ask()[3:] {
		if err != nil {
			t.Errorf("%d, after a restart: %v", i, err)
		}
	}
}

// A statement's own limit holds also where its context would have more time, and the
// context's where that has less.
func TestAStatementHasTheShorterOfItsLimits(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	for _, c := range []struct {
		limit, left time.Duration // of the context
		from, to    float64       // seconds
	}{{30 * time.Second, 0, 30, 30}, {30 * time.Second, time.Hour, 30, 30}, {time.Hour, 20 * time.Second, 10, 20}, {0, time.Hour, 30, 30}} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if c.left > 0 {
			ctx, cancel = context.WithTimeout(ctx, c.left)
		}
		rows, err := s.Query(ctx, store.Limits{Time: c.limit}, "SELECT toFloat64(getSetting('max_execution_time'))")
		if err != nil {
			t.Fatal(err)
		}
		var got float64
		for rows.Next() {
			if err := rows.Scan(&got); err != nil {
				t.Fatal(err)
			}
		}
		rows.Close()
		cancel()
		if got < c.from || got > c.to {
			t.Errorf("limit %s, context %s: %g s", c.limit, c.left, got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := s.Append(ctx, store.Batch{Events: randomEvents(rand.New(rand.NewPCG(12, 12)), 5, 1), Token: "late"}); err == nil {
		t.Error("an append without time succeeded")
	}
	checkEvents(t, s, nil)
}
