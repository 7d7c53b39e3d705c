package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

func runs(t *testing.T, s Store, k *ledger.Key) (p *Pipeline, ended chan error) {
	p = New(Config{MaxAge: time.Millisecond, Key: k}, s, leaveAlone{}, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)), &counts{})
	ended = make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { ended <- p.Run(ctx) }()
	synctest.Wait()
	return p, ended
}

// Each instance trusts its own memory of what is stored, so two of them would
// store events twice.
func TestASecondInstanceOnAStoreIsRefused(t *testing.T) {
	t.Run("with a log of its own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &inMemory{}
			p, _ := runs(t, s, testKey)
			<-submitted(t.Context(), p, 1, these("a", 1)...)
			time.Sleep(rivalPause - time.Second)
			_, ended := runs(t, s, otherKey)
			if err := <-ended; !errors.Is(err, ErrRival) || !strings.Contains(err.Error(), `log "test" was written to within the last 10s`) {
				t.Errorf("Run: %v", err)
			}
			// The first one is gone, and the second one takes its place.
			time.Sleep(2 * time.Second)
			p, _ = runs(t, s, otherKey)
			if err := p.Ready(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("with the same log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &inMemory{}
			one, oneEnded := runs(t, s, testKey)
			two, twoEnded := runs(t, s, testKey)
			var err error
			for n := range uint64(60) {
				<-submitted(t.Context(), one, 1, these("a", n+1)...)
				time.Sleep(500 * time.Millisecond)
				<-submitted(t.Context(), two, 1, these("b", 2*n+1)...)
				time.Sleep(time.Second)
				<-submitted(t.Context(), two, 1, these("b", 2*n+2)...)
				select {
				case err = <-oneEnded:
				case err = <-twoEnded:
				default:
					continue
				}
				break
			}
			if !errors.Is(err, ErrRival) || !strings.Contains(err.Error(), `log "test" has batches that are not of this instance`) {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, _ := runs(t, &inMemory{}, testKey)
			for n := range uint64(60) {
				if got := <-submitted(t.Context(), p, 1, these("a", n+1)...); got.err != nil {
					t.Fatal(got.err)
				}
				time.Sleep(time.Second)
			}
		})
	})
}
