package notify

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// The file's parts as YAML has them, each with the line where it begins.
type (
	planDoc struct {
		Link          string        `key:"link"`
		TimeIntervals []hoursDoc    `key:"time_intervals"`
		Receivers     []receiverDoc `key:"receivers"`
		Routes        []routeDoc    `key:"routes"`
	}
	hoursDoc struct {
		line          int
		Name          string     `key:"name"`
		TimeIntervals []interval `key:"time_intervals"`
	}
	receiverDoc struct {
		line         int
		Name         string           `key:"name"`
		Alertmanager *alertmanagerDoc `key:"alertmanager"`
		PagerDuty    *pagerdutyDoc    `key:"pagerduty"`
		Slack        *slackDoc        `key:"slack"`
		Webhook      *webhookDoc      `key:"webhook"`
		Content      string           `key:"content"`
	}
	alertmanagerDoc struct {
		URL             string `key:"url"`
		BearerTokenFile string `key:"bearer_token_file"`
		CAFile          string `key:"ca_file"`
		PlaintextReason string `key:"plaintext_reason"`
	}
	pagerdutyDoc struct {
		URL            string `key:"url"`
		RoutingKeyFile string `key:"routing_key_file"`
		CAFile         string `key:"ca_file"`
	}
	slackDoc struct {
		URLFile string `key:"url_file"`
		CAFile  string `key:"ca_file"`
	}
	webhookDoc struct {
		URL             string `key:"url"`
		SecretFile      string `key:"secret_file"`
		CAFile          string `key:"ca_file"`
		PlaintextReason string `key:"plaintext_reason"`
	}
	routeDoc struct {
		line                int
		Receiver            string        `key:"receiver"`
		Severity            string        `key:"severity"`
		Rules               []string      `key:"rules"`
		Detectors           []string      `key:"detectors"`
		Tenants             []string      `key:"tenants"`
		Servers             []string      `key:"servers"`
		GroupBy             []string      `key:"group_by"`
		GroupWait           time.Duration `key:"group_wait"`
		GroupInterval       time.Duration `key:"group_interval"`
		RepeatInterval      time.Duration `key:"repeat_interval"`
		Limit               int           `key:"limit"`
		MuteTimeIntervals   []string      `key:"mute_time_intervals"`
		ActiveTimeIntervals []string      `key:"active_time_intervals"`
		Resolved            bool          `key:"resolved"`
		Continue            bool          `key:"continue"`
	}
)

func (d *hoursDoc) begin(line int)    { d.line = line }
func (d *receiverDoc) begin(line int) { d.line = line }
func (d *routeDoc) begin(line int) {
	d.line, d.Resolved, d.Limit = line, true, defaultLimit
	d.GroupWait, d.GroupInterval, d.RepeatInterval = defaultGroupWait, defaultGroupInterval, defaultRepeatInterval
}

// parse reads a plan's text. file reads the file that a key names.
func parse(text []byte, file func(key, name string) (string, error)) (*Plan, error) {
	var doc planDoc
	if err := decodeYAML(text, &doc); err != nil {
		return nil, err
	}
	p := &Plan{link: doc.Link}
	if err := checkLink(doc.Link); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	hours, err := doc.hours()
	if err != nil {
		return nil, err
	}
	if len(doc.Receivers) > maxReceivers {
		return nil, atLine(doc.Receivers[maxReceivers].line, "there are more than %d receivers", maxReceivers)
	}
	var names []string
	for i := range doc.Receivers {
		d := &doc.Receivers[i]
		r, err := d.receiver(file)
		if err != nil {
			return nil, atLine(d.line, "%w", err)
		}
		if slices.Contains(names, r.Name) {
			return nil, atLine(d.line, "receiver %q is there twice", r.Name)
		}
		names = append(names, r.Name)
		p.Receivers = append(p.Receivers, *r)
	}
	switch {
	case len(p.Receivers) == 0:
		return nil, errors.New("there are no receivers; name somebody who is told")
	case len(doc.Routes) == 0:
		return nil, errors.New("there are no routes, so nobody would be told of anything; add one with the name of a receiver")
	case len(doc.Routes) > maxRoutes:
		return nil, atLine(doc.Routes[maxRoutes].line, "there are more than %d routes", maxRoutes)
	}
	for i := range doc.Routes {
		d := &doc.Routes[i]
		r, err := d.route(names, hours)
		if err != nil {
			return nil, atLine(d.line, "%w", err)
		}
		p.Routes = append(p.Routes, *r)
	}
	return p, p.checkReach(&doc)
}

// checkReach refuses what could never have an effect: a receiver without a route, and a
// route behind one that takes everything.
func (p *Plan) checkReach(doc *planDoc) error {
	for i := range p.Receivers {
		if name := p.Receivers[i].Name; !slices.ContainsFunc(p.Routes, func(r Route) bool { return r.Receiver == name }) {
			return atLine(doc.Receivers[i].line, "no route leads to receiver %q; add one, or leave the receiver out", name)
		}
	}
	for i := range p.Routes[:len(p.Routes)-1] {
		r := &p.Routes[i]
		if !r.Continue && r.Severity <= detect.Info && len(r.Rules)+len(r.Detectors)+len(r.Tenants)+len(r.Servers) == 0 {
			return atLine(doc.Routes[i+1].line, "this route is never reached: the one at line %d takes every finding; put that last, or give it continue: true", doc.Routes[i].line)
		}
	}
	return nil
}

var receiverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// hours are the named time intervals.
func (d *planDoc) hours() (map[string][]timeinterval.TimeInterval, error) {
	if len(d.TimeIntervals) > maxIntervals {
		return nil, atLine(d.TimeIntervals[maxIntervals].line, "there are more than %d time intervals", maxIntervals)
	}
	out := map[string][]timeinterval.TimeInterval{}
	for i := range d.TimeIntervals {
		h := &d.TimeIntervals[i]
		switch {
		case h.Name == "":
			return nil, atLine(h.line, "the time interval has no name")
		case out[h.Name] != nil:
			return nil, atLine(h.line, "time interval %q is there twice", clip(h.Name, maxName))
		case len(h.TimeIntervals) == 0:
			return nil, atLine(h.line, "time interval %q is empty; say when in its time_intervals", clip(h.Name, maxName))
		case len(h.TimeIntervals) > maxIntervals:
			return nil, atLine(h.line, "time interval %q has more than %d entries", clip(h.Name, maxName), maxIntervals)
		}
		for _, t := range h.TimeIntervals {
			out[h.Name] = append(out[h.Name], t.TimeInterval)
		}
	}
	return out, nil
}

// receiver is the receiver that an entry describes.
func (d *receiverDoc) receiver(file func(key, name string) (string, error)) (*Receiver, error) {
	switch {
	case d.Name == "":
		return nil, errors.New("the receiver has no name")
	case len(d.Name) > maxName || !receiverName.MatchString(d.Name):
		return nil, fmt.Errorf("receiver %q: a name has 1 to %d letters, digits, dots, dashes and underscores", clip(d.Name, maxName), maxName)
	}
	r := &Receiver{Name: d.Name, Quotes: true}
	switch d.Content {
	case "", "redacted":
	case "none":
		r.Quotes = false
	default:
		return nil, fmt.Errorf("receiver %q: there is no content %q; use redacted or none", d.Name, clip(d.Content, maxName))
	}
	kinds := 0
	s := &r.Settings
	var secretKey, secretFile, caFile string
	if a := d.Alertmanager; a != nil {
		kinds++
		s.Kind, s.URL, secretKey, secretFile, caFile = receiver.Alertmanager, a.URL, "bearer_token_file", a.BearerTokenFile, a.CAFile
		s.PlaintextReason = a.PlaintextReason
	}
	if a := d.PagerDuty; a != nil {
		kinds++
		s.Kind, s.URL, secretKey, secretFile, caFile = receiver.PagerDuty, a.URL, "routing_key_file", a.RoutingKeyFile, a.CAFile
	}
	if a := d.Slack; a != nil {
		kinds++
		s.Kind, secretKey, secretFile, caFile = receiver.Slack, "url_file", a.URLFile, a.CAFile
	}
	if a := d.Webhook; a != nil {
		kinds++
		s.Kind, s.URL, secretKey, secretFile, caFile = receiver.Webhook, a.URL, "secret_file", a.SecretFile, a.CAFile
		s.PlaintextReason = a.PlaintextReason
	}
	switch {
	case kinds == 0:
		return nil, fmt.Errorf("receiver %q is of no kind; give it alertmanager, pagerduty, slack or webhook", d.Name)
	case kinds > 1:
		return nil, fmt.Errorf("receiver %q is of several kinds; write a receiver for each, and a route with continue: true", d.Name)
	case secretFile == "" && s.Kind != receiver.Alertmanager:
		return nil, fmt.Errorf("receiver %q: %s needs %s", d.Name, s.Kind, secretKey)
	case s.URL == "" && (s.Kind == receiver.Alertmanager || s.Kind == receiver.Webhook):
		return nil, fmt.Errorf("receiver %q: %s needs a url", d.Name, s.Kind)
	}
	var err error
	if secretFile != "" {
		if s.Secret, err = file(secretKey, secretFile); err != nil {
			return nil, fmt.Errorf("receiver %q: %s: %w", d.Name, secretKey, err)
		}
	}
	if caFile != "" {
		if s.CA, err = file("ca_file", caFile); err != nil {
			return nil, fmt.Errorf("receiver %q: ca_file: %w", d.Name, err)
		}
	}
	return r, nil
}

// groupKeys are what findings may be grouped by.
var groupKeys = []string{"rule", "detector", "tenant", "principal", "server", "severity"}

// route is the route that an entry describes.
func (d *routeDoc) route(receivers []string, hours map[string][]timeinterval.TimeInterval) (*Route, error) {
	r := &Route{Receiver: d.Receiver, Rules: d.Rules, Detectors: d.Detectors, Tenants: d.Tenants, Servers: d.Servers,
		GroupBy: d.GroupBy, GroupWait: d.GroupWait, GroupInterval: d.GroupInterval, RepeatInterval: d.RepeatInterval,
		Limit: d.Limit, Resolved: d.Resolved, Continue: d.Continue}
	switch {
	case d.Receiver == "":
		return nil, errors.New("the route has no receiver")
	case !slices.Contains(receivers, d.Receiver):
		return nil, fmt.Errorf("there is no receiver %q; the nearest is %q", clip(d.Receiver, maxName), event.Nearest(d.Receiver, receivers))
	}
	var err error
	if d.Severity != "" {
		if r.Severity, err = detect.ParseSeverity(d.Severity); err != nil {
			return nil, err
		}
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"rules", d.Rules}, {"detectors", d.Detectors}, {"tenants", d.Tenants}, {"servers", d.Servers}} {
		if err := checkNames(l.key, l.list); err != nil {
			return nil, err
		}
	}
	if d.GroupBy == nil {
		r.GroupBy = []string{"rule", "tenant"}
	}
	for i, key := range r.GroupBy {
		switch {
		case !slices.Contains(groupKeys, key):
			return nil, fmt.Errorf("group_by: there is no %q; use %s", clip(key, maxName), strings.Join(groupKeys, ", "))
		case slices.Contains(r.GroupBy[:i], key):
			return nil, fmt.Errorf("group_by: %s is there twice", key)
		}
	}
	for _, w := range []struct {
		key   string
		value time.Duration
		least time.Duration
		most  time.Duration
	}{{"group_wait", d.GroupWait, 0, time.Hour}, {"group_interval", d.GroupInterval, 0, 24 * time.Hour}} {
		if w.value < w.least || w.value > w.most {
			return nil, fmt.Errorf("%s %s is not between %s and %s", w.key, w.value, w.least, w.most)
		}
	}
	switch {
	case d.RepeatInterval != 0 && (d.RepeatInterval < 5*time.Minute || d.RepeatInterval > 14*24*time.Hour):
		return nil, fmt.Errorf("repeat_interval %s is neither 0, for never, nor between 5m and 336h", d.RepeatInterval)
	case d.Limit < 0 || d.Limit > maxLimit:
		return nil, fmt.Errorf("limit %d is not between 0, for none, and %d messages an hour", d.Limit, maxLimit)
	}
	if r.mute, err = choose("mute_time_intervals", d.MuteTimeIntervals, hours); err != nil {
		return nil, err
	}
	if r.active, err = choose("active_time_intervals", d.ActiveTimeIntervals, hours); err != nil {
		return nil, err
	}
	r.bounded = len(d.ActiveTimeIntervals) > 0
	return r, nil
}

func checkNames(key string, list []string) error {
	if list != nil && len(list) == 0 {
		return fmt.Errorf("%s is empty and would match nothing; leave it out to match all", key)
	}
	if len(list) > maxNames {
		return fmt.Errorf("%s has more than %d names", key, maxNames)
	}
	for _, name := range list {
		if name == "" || strings.Contains(strings.TrimSuffix(name, "*"), "*") {
			return fmt.Errorf("%s: %q is not a name, or the beginning of one with * at its end", key, clip(name, maxName))
		}
	}
	return nil
}

// choose collects time intervals by their names.
func choose(key string, names []string, hours map[string][]timeinterval.TimeInterval) (out []timeinterval.TimeInterval, err error) {
	if names != nil && len(names) == 0 {
		return nil, fmt.Errorf("%s is empty; leave it out", key)
	}
	for _, name := range names {
		if hours[name] == nil {
			var have []string
			for n := range hours {
				have = append(have, n)
			}
			if len(have) == 0 {
				return nil, fmt.Errorf("%s: there is no time interval %q; the file has none", key, clip(name, maxName))
			}
			return nil, fmt.Errorf("%s: there is no time interval %q; the nearest is %q", key, clip(name, maxName), event.Nearest(name, have))
		}
		out = append(out, hours[name]...)
	}
	return out, nil
}

// checkLink says what is wrong with a link.
func checkLink(link string) error {
	if link == "" {
		return nil
	}
	if len(link) > maxLink {
		return fmt.Errorf("has more than %d bytes", maxLink)
	}
	filled, err := fillLink(link, &detect.Finding{})
	if err != nil {
		return err
	}
	u, err := url.Parse(filled)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is not a URL such as https://grafana.example.com/d/mcpaudit-investigate?var-finding={finding_id}", clip(link, 100))
	}
	return nil
}
