package receiver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	pagerdutyapi "github.com/PagerDuty/go-pagerduty"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// PagerDuty is told by its Events API v2
// (https://developer.pagerduty.com/docs/events-api-v2/overview/): each alert of a
// notification is an event of its own, whose dedup_key is the finding's. A finding that
// is told again, or that worsens, is a trigger with the same key, which PagerDuty adds to
// the alert that is open; a resolve or an acknowledge for a key that it doesn't know
// does nothing. So when one event of a notification fails, the whole notification is
// sent again without harm.
//
// Whom a finding that worsens wakes is the service's own setting: with "dynamic
// notifications based on alert severity" an incident of low urgency (info, warning)
// becomes one of high urgency (error, critical) by such a trigger.
type pagerDuty struct {
	*target
	key    string
	client *pagerdutyapi.Client
}

// pagerDutyEvents is PagerDuty's own address for accounts in the United States.
const pagerDutyEvents = "https://events.pagerduty.com"

// routingKey is the form of an integration key.
var routingKey = regexp.MustCompile(`^[A-Za-z0-9]{32}$`)

func newPagerDuty(s Settings) (Sender, error) {
	address := s.URL
	if address == "" {
		address = pagerDutyEvents
	}
	t, u, err := newTarget(s, address)
	if err != nil {
		return nil, err
	}
	if err := s.checkPlainURL(u); err != nil {
		return nil, err
	}
	if !routingKey.MatchString(s.Secret) {
		return nil, s.wrong("routing_key_file has no routing key; it is the integration key of an Events API v2 integration, 32 letters and digits")
	}
	base := strings.TrimSuffix(strings.TrimSuffix(u.String(), "/"), "/v2/enqueue")
	client := pagerdutyapi.NewClient("", pagerdutyapi.WithV2EventsAPIEndpoint(base))
	client.HTTPClient = t.client
	return &pagerDuty{target: t, key: s.Secret, client: client}, nil
}

// checkPlainURL refuses a query: paths are put behind this URL.
func (s Settings) checkPlainURL(u *url.URL) error {
	if u.RawQuery != "" || u.ForceQuery {
		return s.wrong("its URL has a part after ?; leave that out")
	}
	return nil
}

// wrong is the error of New for a setting that does not do.
func (s Settings) wrong(what string) error {
	return fmt.Errorf("make the %s receiver: %s", s.Kind, what)
}

// Refresh is of Sender.
func (p *pagerDuty) Refresh() time.Duration { return 0 }

// Groups is of Sender.
func (p *pagerDuty) Groups() bool { return false }

// Send is of Sender. It ends at the first event that fails.
func (p *pagerDuty) Send(ctx context.Context, n *message.Notification) (status int, err error) {
	defer p.idle()
	for i := range n.Alerts {
		e := p.event(n, &n.Alerts[i])
		status, err = p.do(ctx, mostAnswer, func(ctx context.Context) error {
			_, err := p.client.ManageEventWithContext(ctx, e)
			return err
		}, func(status int, err error) bool { return status == http.StatusAccepted && err == nil })
		if err != nil {
			return status, err
		}
	}
	return status, nil
}

// event says an alert as PagerDuty does (PD-CEF). An event that is no trigger needs the
// key alone.
func (p *pagerDuty) event(n *message.Notification, a *message.Alert) *pagerdutyapi.V2Event {
	e := &pagerdutyapi.V2Event{RoutingKey: p.key, Action: "trigger", DedupKey: line(a.Key(), 255)}
	switch a.What {
	case message.Acknowledged:
		e.Action = "acknowledge"
		return e
	case message.Resolved:
		e.Action = "resolve"
		return e
	}
	f := &a.Finding
	source := line(f.Server, 255)
	if source == "" {
		source = line(f.Tenant, 255)
	}
	if source == "" {
		source = "mcpaudit"
	}
	e.Client, e.ClientURL = "mcpaudit", link(a)
	if e.ClientURL != "" {
		e.Links = []any{map[string]string{"href": e.ClientURL, "text": "What was found, and the calls behind it"}}
	}
	e.Payload = &pagerdutyapi.V2Payload{
		Summary: line(a.Title, 1024), Source: source, Severity: pagerDutySeverity(f.Severity),
		Timestamp: time.UnixMicro(f.StartedAt).UTC().Format(time.RFC3339Nano),
		Component: line(f.Target, 255), Group: line(f.Tenant, 255), Class: line(f.Rule, 255),
		Details: details(n, a),
	}
	if e.Payload.Summary == "" {
		e.Payload.Summary = line(f.Severity.String()+": "+f.Rule, 1024)
	}
	return e
}

// pagerDutySeverity is one of PagerDuty's four.
func pagerDutySeverity(s detect.Severity) string {
	switch s {
	case detect.Critical:
		return "critical"
	case detect.High:
		return "error"
	case detect.Medium:
		return "warning"
	}
	return "info"
}

// details are what the person on call reads first.
func details(n *message.Notification, a *message.Alert) map[string]string {
	what, _ := headline(a)
	out := map[string]string{"what": what, "severity": a.Finding.Severity.String(), "finding_id": line(a.Finding.ID, 255), "detector": line(a.Finding.Detector, 255)}
	for _, x := range facts(a) {
		out[x.key] = x.value
	}
	for key, text := range map[string]string{
		"reason": line(a.Finding.Reason, 1000), "first_steps": paragraph(a.Runbook, 2000), "command": line(a.Command, 500),
	} {
		if text != "" {
			out[key] = text
		}
	}
	if n.Left > 0 {
		out["also"] = fmt.Sprintf("%d more findings of this group were left out", n.Left)
	}
	return out
}
