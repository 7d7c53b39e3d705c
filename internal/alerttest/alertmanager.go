package alerttest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/api/v2/client"
	"github.com/prometheus/alertmanager/api/v2/client/alert"
	"github.com/prometheus/alertmanager/api/v2/client/silence"
	"github.com/prometheus/alertmanager/api/v2/models"
)

// AlertmanagerServer is a real Alertmanager.
type AlertmanagerServer struct {
	*Server
	api *client.AlertmanagerAPI
}

// Alertmanager starts one with a configuration (alertmanager.yml), alone: it gossips
// with nobody. Silences and what was notified are kept when it is stopped and started
// again; alerts are not, as always with an Alertmanager.
func Alertmanager(t testing.TB, config string) *AlertmanagerServer {
	t.Helper()
	server, tool := program(t, "alertmanager", "prometheus-alertmanager"), program(t, "amtool")
	dir := t.TempDir()
	s := start(t, "alertmanager", dir, config,
		func(file string) *exec.Cmd { return exec.Command(tool, "check-config", file) },
		func(file, address string) *exec.Cmd {
			return exec.Command(server, "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"),
				"--web.listen-address="+address, "--cluster.listen-address=", "--log.level=info")
		})
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	api := client.NewHTTPClientWithConfig(strfmt.Default, client.DefaultTransportConfig().WithHost(u.Host).WithSchemes([]string{u.Scheme}))
	return &AlertmanagerServer{Server: s, api: api}
}

// Alerts are those that it has and that have not ended, silenced ones too. Each filter
// is a matcher such as severity="high".
func (a *AlertmanagerServer) Alerts(filters ...string) models.GettableAlerts {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := a.api.Alert.GetAlerts(alert.NewGetAlertsParamsWithContext(ctx).WithFilter(filters))
	if err != nil {
		a.t.Fatalf("ask alertmanager for its alerts: %v", err)
	}
	return answer.Payload
}

// Await waits until it has n alerts that match, and returns them.
func (a *AlertmanagerServer) Await(n int, filters ...string) models.GettableAlerts {
	a.t.Helper()
	var found models.GettableAlerts
	err := a.await(fmt.Sprintf("has %d alerts of %q", n, filters), func(context.Context) error {
		if found = a.Alerts(filters...); len(found) != n {
			return fmt.Errorf("it has %d", len(found))
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return found
}

// Settle waits until it has noted whom it called, which it does a moment after the
// call: what it has not noted when it is stopped, it says again when it is started. It
// has to have one group of alerts, with a short group_interval: Settle waits for the
// group to look at its notes twice, as it does one thing after another.
func (a *AlertmanagerServer) Settle() {
	a.t.Helper()
	first := -1.0
	err := a.await("has noted its calls", func(ctx context.Context) error {
		return a.get(ctx, "/metrics", func(body []byte) error {
			for line := range strings.Lines(string(body)) {
				text, ok := strings.CutPrefix(line, "alertmanager_nflog_queries_total ")
				if !ok {
					continue
				}
				looks, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
				if err != nil {
					return err
				}
				if first < 0 {
					first = looks
				}
				if looks >= first+2 {
					return nil
				}
			}
			return errors.New("its group has not looked twice")
		})
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// Silence silences alerts with a label for an hour and returns the silence's id.
func (a *AlertmanagerServer) Silence(label, value string) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	by, comment, exactly, equal := "alerttest", "silenced by a test", false, true
	starts, ends := strfmt.DateTime(time.Now()), strfmt.DateTime(time.Now().Add(time.Hour))
	answer, err := a.api.Silence.PostSilences(silence.NewPostSilencesParamsWithContext(ctx).WithSilence(&models.PostableSilence{Silence: models.Silence{
		CreatedBy: &by, Comment: &comment, StartsAt: &starts, EndsAt: &ends,
		Matchers: models.Matchers{{Name: &label, Value: &value, IsRegex: &exactly, IsEqual: &equal}},
	}}))
	if err != nil {
		a.t.Fatalf("silence %s=%q: %v", label, value, err)
	}
	return answer.Payload.SilenceID
}
