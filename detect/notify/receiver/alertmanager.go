package receiver

import (
	"context"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"time"

	httptransport "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/alertmanager/api/v2/client/alert"
	"github.com/prometheus/alertmanager/api/v2/models"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// An Alertmanager (API v2, https://github.com/prometheus/alertmanager, api/v2/openapi.yaml)
// knows an alert by its labels, and routes by them. So severity has to be one of them,
// and a finding that worsens becomes another alert: the new one is sent, and the one
// with the old severity is ended in the same request. All other labels are the same
// from a finding's first version to its last.
//
// Which severities a finding was sent with is not remembered here: a process that
// starts again would not know. When it may have had another one (its version is above
// 1), the Alertmanager is asked which alerts it has for the finding, and those with
// another severity are ended. That is one question for all findings of a notification,
// and none for those that are known to be at rest. An Alertmanager that lets us write
// but not read (401, 403, 404 or 405 to the question) is sent an end for every lower
// severity instead, which its messages may then list as resolved.
//
// An alert starts when the rule could first know, as Prometheus's alerts start when they
// fire, not when what they are about began: an alert that started longer ago than
// group_wait is not waited with, so findings of one minute would come one by one. When it
// began is the annotation since.
//
// An open finding ends half an hour after it was last sent, which Refresh has done each
// minute: so an alert outlives a restart or an upgrade of mcpaudit, and ends by itself
// when mcpaudit never comes back.
//
// Of a cluster of Alertmanagers each is a receiver of its own, as for Prometheus.
type alertmanager struct {
	*target
	alerts alert.ClientService
	// sent has the severity that a finding was last sent with, once it has no alert of
	// another one; a finding that fell out is asked for again.
	sent *lru.Cache[string, detect.Severity]
}

const (
	refreshEvery = time.Minute
	openFor      = 30 * time.Minute
	testFor      = 5 * time.Minute // longer than a group_wait, or nobody would see it
	// unused is the client library's own timeout: target.do has the one that counts.
	unused = 2 * patience
	// mostSent bounds what is remembered: about 1 MiB.
	mostSent = 10_000
	// mostFound bounds the answer that lists alerts, in bytes: those of one notification.
	mostFound = 8 << 20
)

func newAlertmanager(s Settings) (Sender, error) {
	t, u, err := newTarget(s, s.URL)
	if err != nil {
		return nil, err
	}
	if err := s.checkPlainURL(u); err != nil {
		return nil, err
	}
	if s.Secret != "" && (len(s.Secret) > mostSecret || !tokenForm.MatchString(s.Secret)) {
		return nil, s.wrong("bearer_token_file has no bearer token: one word without spaces, of at most 8 KiB")
	}
	path := strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/api/v2")
	transport := httptransport.NewWithClient(u.Host, path+"/api/v2", []string{u.Scheme}, t.client)
	transport.Debug = false // DEBUG in the environment would print the token
	if s.Secret != "" {
		transport.DefaultAuthentication = httptransport.BearerToken(s.Secret)
	}
	sent, err := lru.New[string, detect.Severity](mostSent)
	if err != nil {
		return nil, err
	}
	return &alertmanager{target: t, alerts: alert.New(transport, strfmt.Default), sent: sent}, nil
}

// tokenForm is of RFC 6750, section 2.1, and a little wider.
var tokenForm = regexp.MustCompile(`^[!-~]+$`)

// Refresh is of Sender.
func (a *alertmanager) Refresh() time.Duration { return refreshEvery }

// Groups is of Sender.
func (a *alertmanager) Groups() bool { return true }

// Send is of Sender.
func (a *alertmanager) Send(ctx context.Context, n *message.Notification) (int, error) {
	defer a.idle()
	now := a.now()
	ended, status, err := a.others(ctx, n, now)
	if err != nil {
		return status, err
	}
	alerts := make(models.PostableAlerts, 0, len(n.Alerts)+len(ended))
	for i := range n.Alerts {
		alerts = append(alerts, postable(&n.Alerts[i], now))
	}
	params := alert.NewPostAlertsParams().WithTimeout(unused).WithAlerts(append(alerts, ended...))
	status, err = a.do(ctx, mostAnswer, func(ctx context.Context) error {
		_, err := a.alerts.PostAlerts(params.WithContext(ctx))
		return err
	}, func(status int, err error) bool { return status == http.StatusOK && err == nil })
	if err != nil {
		return status, err
	}
	for i := range n.Alerts {
		if f := &n.Alerts[i].Finding; n.Alerts[i].What == message.Resolved {
			a.sent.Remove(f.ID)
		} else {
			a.sent.Add(f.ID, f.Severity)
		}
	}
	return status, nil
}

// postable is what an alert looks like to an Alertmanager. Alertmanager takes no alert
// that ends before it starts, and one that starts or ends in the future, by a clock that
// is off, would not be what it is.
func postable(a *message.Alert, now time.Time) *models.PostableAlert {
	start := time.UnixMicro(a.Finding.OpenedAt)
	if a.Finding.OpenedAt == 0 {
		start = time.UnixMicro(a.Finding.StartedAt)
	}
	start = earlier(start, now)
	end := now.Add(openFor)
	switch {
	case a.What == message.Test:
		end = now.Add(testFor)
	case a.What == message.Resolved && a.Finding.EndedAt > 0:
		end = earlier(time.UnixMicro(a.Finding.EndedAt), now)
	case a.What == message.Resolved: // somebody closed it while it went on
		end = now
	}
	if !end.After(start) {
		start = end.Add(-time.Millisecond) // what the wire format can say
	}
	return &models.PostableAlert{
		StartsAt: strfmt.DateTime(start), EndsAt: strfmt.DateTime(end), Annotations: annotations(a),
		Alert: models.Alert{Labels: labels(&a.Finding), GeneratorURL: strfmt.URI(link(a))},
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// labels are what an alert is known and routed by. An empty one is left out, as
// Alertmanager does.
func labels(f *detect.Finding) models.LabelSet {
	return filled(map[string]string{
		"alertname": f.Rule, "severity": f.Severity.String(), "detector": f.Detector, "finding_id": f.ID,
		"tenant": f.Tenant, "principal": f.Principal, "server": f.Server, "target": f.Target,
	}, 256)
}

// annotations are what people read.
func annotations(a *message.Alert) models.LabelSet {
	set := filled(map[string]string{
		"summary": a.Title, "description": a.Finding.Reason, "since": when(a.Finding.StartedAt),
		"observed": a.Finding.Observed, "expected": a.Finding.Expected, "command": a.Command,
	}, 1000)
	if runbook := paragraph(a.Runbook, 2000); runbook != "" {
		set["runbook"] = runbook
	}
	return set
}

func filled(texts map[string]string, most int) models.LabelSet {
	set := models.LabelSet{}
	for name, text := range texts {
		if text = line(text, most); text != "" {
			set[name] = text
		}
	}
	return set
}

// others are the ends of alerts for the notification's findings that have another
// severity than they have now.
func (a *alertmanager) others(ctx context.Context, n *message.Notification, now time.Time) (models.PostableAlerts, int, error) {
	var unsure []*message.Alert
	var ids []string
	for i := range n.Alerts {
		f := &n.Alerts[i].Finding
		if sent, known := a.sent.Get(f.ID); f.Version > 1 && !(known && sent == f.Severity) {
			unsure = append(unsure, &n.Alerts[i])
			ids = append(ids, regexp.QuoteMeta(line(f.ID, 256)))
		}
	}
	if len(unsure) == 0 {
		return nil, 0, nil
	}
	var found models.GettableAlerts
	params := alert.NewGetAlertsParams().WithTimeout(unused).WithFilter([]string{`finding_id=~"` + quoted(strings.Join(ids, "|")) + `"`})
	status, err := a.do(ctx, mostFound, func(ctx context.Context) error {
		answer, err := a.alerts.GetAlerts(params.WithContext(ctx))
		if err == nil {
			found = answer.Payload
		}
		return err
	}, func(status int, err error) bool { return status == http.StatusOK && err == nil })
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return lower(unsure, now), status, nil
	}
	if err != nil {
		return nil, status, err
	}
	var ends models.PostableAlerts
	for _, has := range found {
		for _, u := range unsure {
			if has != nil && differsInSeverity(has.Labels, labels(&u.Finding)) {
				ends = append(ends, over(has.Labels, u, now))
			}
		}
	}
	return ends, status, nil
}

// quoted is a regular expression as it stands between the quotes of a matcher.
func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}

// lower are ends for every severity below the present one.
func lower(unsure []*message.Alert, now time.Time) models.PostableAlerts {
	var ends models.PostableAlerts
	for _, u := range unsure {
		for s := detect.Info; s < u.Finding.Severity; s++ {
			had := u.Finding
			had.Severity = s
			ends = append(ends, over(labels(&had), u, now))
		}
	}
	return ends
}

// differsInSeverity says whether two alerts are the same but for that.
func differsInSeverity(has, is models.LabelSet) bool {
	if has["severity"] == is["severity"] {
		return false
	}
	has, is = maps.Clone(has), maps.Clone(is)
	delete(has, "severity")
	delete(is, "severity")
	return maps.Equal(has, is)
}

// over is the end of an alert.
func over(labels models.LabelSet, a *message.Alert, now time.Time) *models.PostableAlert {
	end := postable(a, now)
	end.Labels = labels
	if end.EndsAt = strfmt.DateTime(earlier(time.Time(end.EndsAt), now)); !time.Time(end.EndsAt).After(time.Time(end.StartsAt)) {
		end.StartsAt = strfmt.DateTime(time.Time(end.EndsAt).Add(-time.Millisecond))
	}
	return end
}
