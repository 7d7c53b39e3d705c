package receiver

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/api/v2/models"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// posted is an alert as an Alertmanager gets it.
type posted struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
}

// fakeAM is an Alertmanager that notes what it gets and has what it is told to have.
type fakeAM struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	has     []map[string]string // labels of the alerts that it lists
	listing int                 // status of the list, 0 for 200
	filters []string            // of each list
	posts   [][]posted
}

func newFakeAM(t *testing.T) *fakeAM {
	f := &fakeAM{t: t}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.url = s.URL + "/am/"
	return f
}

func (f *fakeAM) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.URL.Path != "/am/api/v2/alerts" || r.Header.Get("Authorization") != "Bearer "+tokenOfAM {
		f.t.Errorf("%s %s with %q", r.Method, r.URL.Path, r.Header.Get("Authorization"))
	}
	if r.Method == http.MethodGet {
		f.filters = append(f.filters, strings.Join(r.URL.Query()["filter"], " "))
		w.Header().Set("Content-Type", "application/json")
		if f.listing != 0 {
			w.WriteHeader(f.listing)
			return
		}
		list := []map[string]any{}
		for _, labels := range f.has {
			at := clock.Format(time.RFC3339)
			list = append(list, map[string]any{"labels": labels, "annotations": map[string]string{}, "startsAt": at, "endsAt": at, "updatedAt": at, "fingerprint": "1",
				"receivers": []any{}, "status": map[string]any{"state": "active", "silencedBy": []string{}, "inhibitedBy": []string{}}})
		}
		json.NewEncoder(w).Encode(list)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	var alerts []posted
	strict(f.t, body, &alerts)
	var checked models.PostableAlerts
	if err := json.Unmarshal(body, &checked); err != nil {
		f.t.Error(err)
	}
	if err := checked.Validate(strfmt.Default); err != nil {
		f.t.Error(err)
	}
	for _, a := range alerts {
		if a.Labels["alertname"] == "" || a.EndsAt.Before(a.StartsAt) || a.StartsAt.IsZero() || a.EndsAt.IsZero() {
			f.t.Errorf("%+v is refused by Alertmanager", a)
		}
	}
	f.posts = append(f.posts, alerts)
}

// send sends alerts and returns what that made.
func (f *fakeAM) send(s Sender, alerts ...message.Alert) []posted {
	f.t.Helper()
	f.posts = nil
	if status, err := s.Send(f.t.Context(), notification(alerts...)); err != nil || status != 200 {
		f.t.Fatalf("%d, %v", status, err)
	}
	if len(f.posts) != 1 {
		f.t.Fatalf("%d posts", len(f.posts))
	}
	return f.posts[0]
}

// at is a finding's version with a severity.
func at(a message.Alert, version uint32, s detect.Severity) message.Alert {
	a.Finding.Version, a.Finding.Severity = version, s
	return a
}

func TestAnAlertmanagerIsToldAFindingAsAnAlert(t *testing.T) {
	f := newFakeAM(t)
	sender := newSender(t, settings(Alertmanager, f.url))
	a := sample(1, message.Firing)
	want := posted{
		Labels: map[string]string{"alertname": "call-spike", "severity": "high", "detector": "call_spike", "finding_id": a.Finding.ID,
			"tenant": "acme", "principal": "user:ada", "server": "crm", "target": "search"},
		Annotations: map[string]string{"summary": a.Title, "description": a.Finding.Reason, "observed": "142 calls in 5 min", "expected": "3 to 11",
			"since": "2026-10-02 09:26:12 UTC", "runbook": a.Runbook, "command": a.Command},
		StartsAt: clock.Add(-4 * time.Minute), EndsAt: clock.Add(30 * time.Minute), GeneratorURL: a.Link,
	}
	for _, what := range []message.What{message.Firing, message.Worse, message.Acknowledged} {
		a.What = what
		if got := f.send(sender, a); !reflect.DeepEqual(got, []posted{want}) {
			t.Errorf("%s: told\n%+v, not\n%+v", what, got, want)
		}
	}
	a.What, want.EndsAt = message.Test, clock.Add(5*time.Minute)
	if got := f.send(sender, a); !reflect.DeepEqual(got, []posted{want}) {
		t.Errorf("told\n%+v, not\n%+v", got, want)
	}
	a.What, want.EndsAt = message.Resolved, clock
	if got := f.send(sender, a); !reflect.DeepEqual(got, []posted{want}) {
		t.Errorf("of what was closed while it went on, told\n%+v, not\n%+v", got, want)
	}
	a = sample(1, message.Resolved)
	want.EndsAt = clock.Add(-30 * time.Second)
	if got := f.send(sender, a); !reflect.DeepEqual(got, []posted{want}) {
		t.Errorf("told\n%+v, not\n%+v", got, want)
	}
	if len(f.filters) != 0 {
		t.Errorf("asked for %q, and nothing worsened", f.filters)
	}
	if sender.Refresh() != time.Minute || !sender.Groups() {
		t.Error("an Alertmanager is refreshed each minute and groups by itself")
	}
}

func TestAFindingThatWorsensEndsTheAlertThatItWas(t *testing.T) {
	f := newFakeAM(t)
	sender := newSender(t, settings(Alertmanager, f.url))
	first := at(sample(1, message.Firing), 1, detect.Medium)
	old := f.send(sender, first)[0].Labels
	other := maps.Clone(old)
	other["alertname"] = "somebody else's rule about the same finding"
	f.has = []map[string]string{old, other}
	worse := at(sample(1, message.Worse), 2, detect.Critical)
	got := f.send(sender, worse, sample(2, message.Firing))
	if len(got) != 3 || got[0].Labels["severity"] != "critical" || !got[0].EndsAt.After(clock) ||
		!maps.Equal(got[2].Labels, old) || got[2].EndsAt.After(clock) {
		t.Errorf("told %+v", got)
	}
	if want := []string{`finding_id=~"` + worse.Finding.ID + `"`}; !slices.Equal(f.filters, want) {
		t.Errorf("asked for %q, not %q", f.filters, want)
	}
	f.filters = nil
	for _, again := range []message.Alert{worse, at(sample(1, message.Firing), 3, detect.Critical), at(sample(1, message.Resolved), 4, detect.Critical)} {
		if got := f.send(sender, again); len(got) != 1 {
			t.Errorf("told %+v", got)
		}
	}
	if len(f.filters) != 0 {
		t.Errorf("asked again for %q", f.filters)
	}
}

func TestAProcessThatStartsAgainEndsWhatItWasBefore(t *testing.T) {
	for _, what := range []message.What{message.Resolved, message.Firing, message.Worse, message.Acknowledged} {
		f := newFakeAM(t)
		before := at(sample(1, message.Firing), 1, detect.Low)
		old := labels(&before.Finding)
		now := at(sample(1, what), 3, detect.High)
		f.has = []map[string]string{old, labels(&now.Finding)}
		got := f.send(newSender(t, settings(Alertmanager, f.url)), now)
		if len(got) != 2 || !maps.Equal(got[1].Labels, old) || got[1].EndsAt.After(clock) {
			t.Errorf("%s: told %+v", what, got)
		}
	}
}

func TestAnAlertmanagerThatIsNotReadIsToldAllLowerSeverities(t *testing.T) {
	for _, status := range []int{401, 403, 404, 405} {
		f := newFakeAM(t)
		f.listing = status
		got := f.send(newSender(t, settings(Alertmanager, f.url)), at(sample(1, message.Worse), 2, detect.High))
		var severities []string
		for _, a := range got[1:] {
			severities = append(severities, a.Labels["severity"])
			if a.EndsAt.After(clock) {
				t.Errorf("%d: %+v has not ended", status, a)
			}
		}
		if !slices.Equal(severities, []string{"info", "low", "medium"}) {
			t.Errorf("%d: ended %q", status, severities)
		}
	}
	f := newFakeAM(t)
	f.listing = 500
	if status, err := newSender(t, settings(Alertmanager, f.url)).Send(t.Context(), notification(at(sample(1, message.Worse), 2, detect.High))); err == nil || status != 500 || len(f.posts) != 0 {
		t.Errorf("%d, %v, and %d posts", status, err, len(f.posts))
	}
}

func TestAnAlertmanagerTakesFindingsOfClocksThatAreOff(t *testing.T) {
	f := newFakeAM(t)
	sender := newSender(t, settings(Alertmanager, f.url))
	const h = time.Hour
	for _, off := range []struct{ start, end time.Duration }{{48 * h, 72 * h}, {48 * h, 0}, {-h, -2 * h}, {-h, -h}, {0, 0}, {-24 * 400 * h, -24 * 300 * h}} {
		for _, what := range []message.What{message.Firing, message.Resolved} {
			a := sample(1, what)
			a.Finding.StartedAt, a.Finding.OpenedAt = clock.Add(off.start).UnixMicro(), clock.Add(off.start).UnixMicro()
			if what == message.Resolved {
				a.Finding.EndedAt = clock.Add(off.end).UnixMicro()
			}
			got := f.send(sender, a)[0]
			if got.StartsAt.After(clock) || got.EndsAt.After(clock) == (what == message.Resolved) {
				t.Errorf("%v, %s: from %v to %v", off, what, got.StartsAt, got.EndsAt)
			}
		}
	}
}

func TestAnAlertmanagerTakesHostileFindings(t *testing.T) {
	f := newFakeAM(t)
	sender := newSender(t, settings(Alertmanager, f.url))
	for _, name := range hostile {
		a := named(name)
		a.Finding.Rule = "call-spike" + name // a rule has a name
		for label, value := range f.send(sender, a)[0].Labels {
			if value == "" || !utf8.ValidString(value) || characters(value) > 256 || strings.ContainsAny(value, "\n\x00\u202e") {
				t.Errorf("%s is %.300q", label, value)
			}
		}
	}
}
