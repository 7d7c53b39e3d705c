package alerttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Call is what an Alertmanager sends to a webhook
// (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config, version 4).
type Call struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"` // firing or resolved
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []CalledAlert     `json:"alerts"`
}

// CalledAlert is one alert of a Call.
type CalledAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// Listener is the person on call: what an Alertmanager is told to call.
type Listener struct {
	URL string

	t     testing.TB
	calls chan Call
	bad   chan error
}

// Listen starts one, which ends with the test.
func Listen(t testing.TB) *Listener {
	t.Helper()
	l := &Listener{t: t, calls: make(chan Call, 1000), bad: make(chan error, 1000)}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	l.URL = s.URL
	return l
}

// ServeHTTP is of http.Handler.
func (l *Listener) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	d := json.NewDecoder(io.LimitReader(r.Body, mostAnswer))
	d.DisallowUnknownFields()
	var c Call
	if err := d.Decode(&c); err != nil {
		l.bad <- fmt.Errorf("read a call of alertmanager: %w", err)
		return
	}
	l.calls <- c
}

// Next waits for the next call.
func (l *Listener) Next() Call {
	l.t.Helper()
	select {
	case c := <-l.calls:
		return c
	case err := <-l.bad:
		l.t.Fatal(err)
	case <-time.After(patience):
		l.t.Fatalf("nobody was called within %v", patience)
	}
	return Call{}
}

// Quiet fails the test when there were calls that were not taken by Next.
func (l *Listener) Quiet() {
	l.t.Helper()
	select {
	case c := <-l.calls:
		l.t.Errorf("called with %+v, and nobody had to be", c)
	case err := <-l.bad:
		l.t.Fatal(err)
	default:
	}
}
