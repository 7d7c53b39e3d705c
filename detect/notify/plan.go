package notify

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
)

// Bounds of a plan. Each is far beyond what somebody writes by hand.
const (
	maxPlan      = 1 << 20
	maxSecret    = 64 << 10
	maxReceivers = 50 // their names are labels of metrics
	maxRoutes    = 200
	maxIntervals = 100
	maxName      = 64
	maxNames     = 200 // rules, tenants, … of one route
	maxLink      = 2000
	maxLimit     = 10_000
)

// What holds when a route does not say it.
const (
	defaultGroupWait      = 10 * time.Second
	defaultGroupInterval  = 5 * time.Minute
	defaultRepeatInterval = 4 * time.Hour
	defaultLimit          = 30
)

// Plan says who is told of which findings, how and when. It is YAML, in the terms of
// Alertmanager's configuration where that has them
// (https://prometheus.io/docs/alerting/latest/configuration/):
//
//	link: https://grafana.example.com/d/mcpaudit-investigate?var-finding={finding_id}&var-tenant={tenant}
//	time_intervals:
//	  - name: nights
//	    time_intervals:
//	      - times: [{start_time: '22:00', end_time: '24:00'}]
//	        location: Europe/Berlin
//	receivers:
//	  - name: oncall
//	    pagerduty: {routing_key_file: pagerduty.key}      # url: for another region
//	  - name: chat
//	    slack: {url_file: slack.url}
//	  - name: alerts
//	    alertmanager: {url: http://127.0.0.1:9093}        # bearer_token_file, ca_file, plaintext_reason
//	    content: none                                     # default: redacted
//	  - name: siem
//	    webhook: {url: https://siem.example.com/in, secret_file: siem.key}
//	routes:
//	  - receiver: oncall
//	    severity: high                                    # at least
//	    rules: [call-*]                                   # detectors, tenants, servers
//	    group_by: [rule, tenant]                          # also detector, principal, server, severity
//	    group_wait: 10s
//	    group_interval: 5m
//	    repeat_interval: 4h                               # 0: never
//	    limit: 30                                         # messages an hour; 0: none
//	    mute_time_intervals: [nights]
//	    resolved: true
//	    continue: true
//	  - receiver: chat
//
// A finding goes to the first route that matches, and to those behind it as long as
// each that matches says continue.
//
// The file holds no secret: keys, tokens and the URL of a Slack webhook are in files of
// their own, which only their owner and its group may read.
type Plan struct {
	Receivers []Receiver
	Routes    []Route
	link      string
}

// Receiver is somebody who is told.
type Receiver struct {
	Name     string
	Settings receiver.Settings // without Now
	// Quotes is set when it is told reason, observed and workings too, which may quote
	// what a server said.
	Quotes bool
}

// String is the receiver's name.
func (r Receiver) String() string { return r.Name }

// GoString is the same: no way of printing shows a secret.
func (r Receiver) GoString() string { return r.Name }

// LogValue is the same.
func (r Receiver) LogValue() slog.Value { return slog.StringValue(r.Name) }

// MarshalText is the same.
func (r Receiver) MarshalText() ([]byte, error) { return []byte(r.Name), nil }

// ReceiverInfo is what may be shown of a receiver.
type ReceiverInfo struct{ Name, Kind, Host string }

// ReceiverInfos are the receivers in the file's order.
func (p *Plan) ReceiverInfos() []ReceiverInfo {
	out := make([]ReceiverInfo, len(p.Receivers))
	for i := range p.Receivers {
		r := &p.Receivers[i]
		out[i] = ReceiverInfo{Name: r.Name, Kind: r.Settings.Kind, Host: hostOf(&r.Settings)}
	}
	return out
}

// hostOf is where a receiver is, without what may be secret of it.
func hostOf(s *receiver.Settings) string {
	address := s.URL
	switch {
	case s.Kind == receiver.Slack:
		address = s.Secret
	case s.Kind == receiver.PagerDuty && address == "":
		return "events.pagerduty.com"
	}
	if u, err := url.Parse(address); err == nil {
		return u.Host
	}
	return ""
}

func (p *Plan) receiver(name string) *Receiver {
	i := slices.IndexFunc(p.Receivers, func(r Receiver) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Receivers[i]
}

// Route says which findings a receiver is told of, and when.
type Route struct {
	Receiver                           string
	Severity                           detect.Severity // at least
	Rules, Detectors, Tenants, Servers []string        // one of each that is not empty; a * at the end stands for any rest
	GroupBy                            []string
	GroupWait                          time.Duration // of a group's first message
	GroupInterval                      time.Duration // between messages of a group
	RepeatInterval                     time.Duration // 0: never
	Limit                              int           // messages an hour; 0: none
	Resolved, Continue                 bool
	mute, active                       []timeinterval.TimeInterval
	// bounded is set when there are active intervals.
	bounded bool
}

// Muted says whether nobody is told at a time.
func (r *Route) Muted(at time.Time) bool {
	at = at.UTC()
	contains := func(i timeinterval.TimeInterval) bool { return i.ContainsTime(at) }
	return slices.ContainsFunc(r.mute, contains) || r.bounded && !slices.ContainsFunc(r.active, contains)
}

// matches says whether a finding is one of the route's.
func (r *Route) matches(f *detect.Finding) bool {
	return f.Severity >= r.Severity && named(r.Rules, f.Rule) && named(r.Detectors, f.Detector) &&
		named(r.Tenants, f.Tenant) && named(r.Servers, f.Server)
}

// named says whether a name is one of those in a list; every name is in an empty one.
func named(list []string, name string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p string) bool {
		head, any := strings.CutSuffix(p, "*")
		return p == name || any && strings.HasPrefix(name, head)
	})
}

// routesOf are the routes by which a finding goes, the first one for each receiver.
func (p *Plan) routesOf(f *detect.Finding) []*Route {
	var out []*Route
	for i := range p.Routes {
		r := &p.Routes[i]
		if !r.matches(f) {
			continue
		}
		if !slices.ContainsFunc(out, func(o *Route) bool { return o.Receiver == r.Receiver }) {
			out = append(out, r)
		}
		if !r.Continue {
			break
		}
	}
	return out
}

// routeTo is the route by which a finding goes to a receiver, or would if no other one
// were before it: a receiver that was told of a finding hears how it goes on, also when
// it goes elsewhere by now. nil when the plan has no route to the receiver.
func (p *Plan) routeTo(name string, f *detect.Finding) *Route {
	for _, r := range p.routesOf(f) {
		if r.Receiver == name {
			return r
		}
	}
	var any *Route
	for i := range p.Routes {
		if r := &p.Routes[i]; r.Receiver == name {
			if r.matches(f) {
				return r
			}
			if any == nil {
				any = r
			}
		}
	}
	return any
}

// knowsAcknowledged says whether a kind of receiver has use for Acknowledged.
func knowsAcknowledged(kind string) bool {
	return kind == receiver.PagerDuty || kind == receiver.Webhook
}

// Read reads a plan of at most 1 MiB. It is strict: an unknown key is an error that
// names the nearest known one, and errors name their line. Files that it names are
// looked for beside it unless their paths are absolute.
func Read(path string) (*Plan, error) {
	text, err := readBounded(path, maxPlan)
	if err != nil {
		return nil, fmt.Errorf("read notify file: %w", err)
	}
	p, err := parse(text, func(kind, name string) (string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		if kind == "ca_file" {
			text, err := readBounded(name, maxPlan)
			return string(text), err
		}
		return readSecret(name)
	})
	if err != nil {
		return nil, fmt.Errorf("read notify file %s: %w", path, err)
	}
	for i := range p.Receivers {
		if _, err := receiver.New(p.Receivers[i].Settings); err != nil { // addresses and the form of secrets
			return nil, fmt.Errorf("read notify file %s: receiver %q: %w", path, p.Receivers[i].Name, err)
		}
	}
	return p, nil
}

func readBounded(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return text, nil
}

// readSecret reads a file that others may not read, without the white space around it.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0: // there the mode says nothing of rights
		return "", fmt.Errorf("everybody may read %s; run: chmod 600 %s", path, path)
	}
	text, err := readBounded(path, maxSecret)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", errors.New(path + " is empty")
	}
	return secret, nil
}
