package receiver

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

func TestEachStatusIsJudged(t *testing.T) {
	const (
		taken = iota
		refused
		later
		again
	)
	other := map[string]map[int]int{ // by kind, where it is not as below
		Alertmanager: {201: again, 202: again, 204: again},
		PagerDuty:    {200: again, 201: again, 204: again},
	}
	for status, want := range map[int]int{
		200: taken, 201: taken, 202: taken, 204: taken,
		300: refused, 301: refused, 302: refused, 303: refused, 307: refused, 308: refused,
		400: refused, 401: refused, 403: refused, 404: refused, 405: refused, 406: refused, 407: refused, 410: refused, 413: refused, 415: refused, 422: refused, 451: refused,
		408: again, 409: again, 423: again, 425: again, 429: later,
		500: again, 501: again, 502: again, 503: again, 504: again, 599: again,
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "https://elsewhere.example/said by the receiver")
			w.WriteHeader(status)
			if status != 204 {
				fmt.Fprintf(w, `{"status":"error","message":"said by the receiver","errors":["said by the receiver"]}`)
			}
		}))
		for _, kind := range kinds {
			want := want
			if o, ok := other[kind][status]; ok {
				want = o
			}
			got, err := newSender(t, settings(kind, s.URL)).Send(t.Context(), notification(sample(1, message.Firing)))
			is := again
			var no Refused
			var wait Later
			switch {
			case err == nil:
				is = taken
			case errors.As(err, &no):
				is = refused
				if no.Status != status {
					t.Errorf("%s: refused with %d, not %d", kind, no.Status, status)
				}
			case errors.As(err, &wait):
				is = later
				if wait.Status != status || wait.After != commonWait {
					t.Errorf("%s: %d says later by %d in %v", kind, status, wait.Status, wait.After)
				}
			}
			if is != want || got != status {
				t.Errorf("%s: %d is judged %d, not %d; status %d, error %v", kind, status, is, want, got, err)
			}
			if err != nil {
				showsNothing(t, err.Error())
				if text := err.Error(); !strings.HasPrefix(text, fmt.Sprintf("tell %s at 127.0.0.1:", kind)) || !strings.Contains(text, fmt.Sprintf("it answered %d: ", status)) || len(text) > 300 {
					t.Errorf("%d: %s", status, text)
				}
			}
		}
		s.Close()
	}
}

func TestRetryAfterIsObeyedForAnHourAtMost(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": time.Second, " 30 ": 30 * time.Second, "3600": time.Hour, "99999": time.Hour, "18446744073709551615": time.Hour,
		clock.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second, clock.Add(-time.Hour).Format(http.TimeFormat): time.Second,
		clock.Add(240 * time.Hour).Format(http.TimeFormat): time.Hour,
		"": 0, "-1": 0, "1.5": 0, "soon": 0, "99999999999999999999999": 0, strings.Repeat("1", 65): 0,
	} {
		for _, status := range []int{429, 503, 500, 404} {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", text)
				w.WriteHeader(status)
			}))
			_, err := newSender(t, settings(Webhook, s.URL)).Send(t.Context(), notification(sample(1, message.Firing)))
			s.Close()
			var wait Later
			isLater := errors.As(err, &wait)
			wanted := want
			if want == 0 && status == 429 {
				wanted = commonWait
			}
			if wantLater := status == 429 || status == 503 && want > 0; isLater != wantLater || isLater && wait.After != wanted {
				t.Errorf("%d with %q: %v", status, text, err)
			}
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s at another host", r.URL) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := httptest.NewServer(http.RedirectHandler(other.URL, status))
		for _, kind := range kinds {
			var no Refused
			if _, err := newSender(t, settings(kind, s.URL)).Send(t.Context(), notification(sample(1, message.Firing))); !errors.As(err, &no) {
				t.Errorf("%s: %d: %v", kind, status, err)
			}
		}
		s.Close()
	}
}

func TestLongAnswersAreCutAndNeverWaitedFor(t *testing.T) {
	for _, status := range []int{202, 200, 500} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			w.Write([]byte(`{"message":"`))
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
					return
				}
			}
		}))
		for _, kind := range kinds {
			got, err := newSender(t, settings(kind, s.URL)).Send(t.Context(), notification(sample(1, message.Firing)))
			if got != status || status == 500 && err == nil {
				t.Errorf("%s: status %d, %v", kind, got, err)
			}
			if err != nil {
				showsNothing(t, err.Error())
			}
		}
		s.Close()
	}
}

// silent is a connection to somebody who takes everything and says nothing.
func silent() http.RoundTripper {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		return here, nil
	}}
}

func TestSlowReceiversAreGivenTenSeconds(t *testing.T) {
	for _, kind := range kinds {
		synctest.Test(t, func(t *testing.T) {
			sender := newSender(t, settings(kind, "http://127.0.0.1:1"))
			targetOf(sender).client.Transport = &guard{next: silent().(*http.Transport)}
			began := time.Now()
			status, err := sender.Send(t.Context(), notification(sample(1, message.Firing)))
			if took := time.Since(began); err == nil || status != 0 || took != patience || !strings.Contains(err.Error(), "did not answer within 10s") {
				t.Errorf("%s: %d, %v after %v", kind, status, err, took)
			}
			showsNothing(t, err.Error())
		})
	}
}

func TestASendEndsWithItsContext(t *testing.T) {
	for _, kind := range kinds {
		synctest.Test(t, func(t *testing.T) {
			sender := newSender(t, settings(kind, "http://127.0.0.1:1"))
			targetOf(sender).client.Transport = &guard{next: silent().(*http.Transport)}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if _, err := sender.Send(ctx, notification(sample(1, message.Firing))); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
				t.Errorf("%s: %v", kind, err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			if _, err := sender.Send(ctx, notification(sample(1, message.Firing))); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", kind, err)
			}
		})
	}
}

func targetOf(s Sender) *target {
	switch s := s.(type) {
	case *alertmanager:
		return s.target
	case *pagerDuty:
		return s.target
	case *chat:
		return s.target
	}
	return s.(*signed).target
}

func TestWhyThereIsNoAnswerIsSaidInOurWords(t *testing.T) {
	tlsServer := httptest.NewTLSServer(http.NotFoundHandler())
	defer tlsServer.Close()
	tlsServer.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	hangsUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer hangsUp.Close()
	for base, want := range map[string]string{
		tlsServer.URL:              "signed by nobody who is trusted here",
		closed.URL:                 "nothing listens there",
		hangsUp.URL:                "it can't be reached",
		"https://receiver.invalid": "its name is not known here",
	} {
		for _, kind := range kinds {
			status, err := newSender(t, settings(kind, base)).Send(t.Context(), notification(sample(1, message.Firing)))
			if err == nil || status != 0 || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %d, %v, not %q", kind, status, err, want)
				continue
			}
			showsNothing(t, err.Error())
		}
	}
}

func TestAReceiverIsTrustedByItsOwnAuthority(t *testing.T) {
	for _, kind := range kinds {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/v2/enqueue") {
				w.WriteHeader(http.StatusAccepted)
				io.WriteString(w, "{}")
			}
		}))
		with := settings(kind, s.URL)
		with.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
		if _, err := newSender(t, with).Send(t.Context(), notification(sample(1, message.Firing))); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		s.Close()
	}
}

func TestNoConnectionIsLeftBehind(t *testing.T) {
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	changed := make(chan struct{}, 100)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		open[c] = state != http.StateClosed
		mu.Unlock()
		changed <- struct{}{}
	}
	s.Start()
	defer s.Close()
	for _, kind := range kinds {
		newSender(t, settings(kind, s.URL)).Send(t.Context(), notification(sample(1, message.Firing), sample(2, message.Firing)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		mu.Lock()
		left, all := 0, len(open)
		for _, is := range open {
			if is {
				left++
			}
		}
		mu.Unlock()
		if left == 0 && all == len(kinds) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%d of %d connections are left", left, all)
		}
	}
}
