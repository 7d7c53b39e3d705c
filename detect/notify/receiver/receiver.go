// Package receiver brings notifications to those who are told: an Alertmanager,
// PagerDuty, a Slack-compatible webhook, or any webhook that checks signatures by
// Standard Webhooks. Whom to tell, when, and how often again is the business of
// package notify, which calls Send until it succeeds.
//
// A receiver is told at least once. What tells it is made so that once more does no
// harm where the other side allows that: Alertmanager knows an alert by its labels,
// PagerDuty by its dedup_key, a webhook by its webhook-id. A chat shows it twice.
//
// URLs, keys and what a receiver answers never appear in an error or a log: an error
// names the kind of receiver, its host, the HTTP status and what to do.
package receiver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// The kinds of receivers.
const (
	Alertmanager = "alertmanager"
	PagerDuty    = "pagerduty"
	Slack        = "slack"
	Webhook      = "webhook"
)

// Settings of one receiver. Printed, logged or marshalled they say the kind and the
// host alone.
type Settings struct {
	// Kind is one of the constants above.
	Kind string
	// URL is where it is: of an Alertmanager the address that its own pages have,
	// without /api/v2; of PagerDuty empty, or the Events API of another region such as
	// https://events.eu.pagerduty.com; of a webhook the whole URL. Empty for Slack,
	// whose URL is a secret. It is https, or http on loopback, or http with a
	// PlaintextReason.
	URL string
	// PlaintextReason is why what is said to an Alertmanager or a webhook may be read on
	// the way, such as: a service mesh encrypts it. Empty where it may not.
	PlaintextReason string
	// Secret is PagerDuty's routing key (integration key, 32 letters and digits), the
	// URL of a Slack webhook, the signing secret of a webhook (whsec_ and 24 to 64 bytes
	// in base64), or the bearer token of an Alertmanager, which may be empty.
	Secret string
	// CA is the PEM text of those who may sign the receiver's certificate; empty for
	// those that the system trusts.
	CA string
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// String says what may be shown of the settings.
func (s Settings) String() string {
	address := s.URL
	if s.Kind == Slack {
		address = s.Secret
	}
	if u, err := url.Parse(strings.TrimSpace(address)); err == nil && u.Host != "" {
		return s.Kind + " at " + u.Host
	}
	return s.Kind
}

// GoString says the same.
func (s Settings) GoString() string { return s.String() }

// LogValue says the same.
func (s Settings) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText says the same.
func (s Settings) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Sender tells one receiver.
type Sender interface {
	// Send brings a notification to the receiver and returns the HTTP status of its
	// last answer, 0 when there was none. The error is a Refused when the same again is
	// of no use, a Later when the receiver said when to come again, or the context's
	// when that ended; anything else is worth another try. A request takes 10 seconds
	// at most. Calls may overlap.
	Send(ctx context.Context, n *message.Notification) (status int, err error)
	// Refresh is how often a finding that is open has to be sent again, 0 for never.
	Refresh() time.Duration
	// Groups says that the receiver groups by itself and has to be given each alert at
	// once: nothing may be left out of a notification.
	Groups() bool
}

// New makes a sender. It sends nothing; an error says which setting is wrong, and never
// quotes it.
func New(s Settings) (Sender, error) {
	s.URL, s.Secret = strings.TrimSpace(s.URL), strings.TrimSpace(s.Secret)
	if s.Now == nil {
		s.Now = time.Now
	}
	switch s.Kind {
	case Alertmanager:
		return newAlertmanager(s)
	case PagerDuty:
		return newPagerDuty(s)
	case Slack:
		return newSlack(s)
	case Webhook:
		return newWebhook(s)
	}
	return nil, fmt.Errorf("make a receiver: there is no kind %q; use alertmanager, pagerduty, slack or webhook", clip(s.Kind, 40))
}

// most that is taken of settings, in bytes: a file that is something else.
const (
	mostURL    = 2048
	mostSecret = 8 << 10
	mostCA     = 1 << 20
)

// newTarget checks an address and makes the way to it.
func newTarget(s Settings, address string) (*target, *url.URL, error) {
	u, err := parseAddress(address, s.PlaintextReason != "" && (s.Kind == Alertmanager || s.Kind == Webhook))
	if err != nil {
		return nil, nil, fmt.Errorf("make the %s receiver: %w", s.Kind, err)
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		settings.RootCAs = x509.NewCertPool()
		if len(s.CA) > mostCA || !settings.RootCAs.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, nil, fmt.Errorf("make the %s receiver: ca_file has no certificate in PEM that can be read", s.Kind)
		}
	}
	return &target{kind: s.Kind, host: u.Host, now: s.Now, client: newClient(settings)}, u, nil
}

// parseAddress reads a URL that a key is sent to. Its errors do not quote it: of some
// receivers the path is a secret. With plaintext, http to other machines will do.
func parseAddress(text string, plaintext bool) (*url.URL, error) {
	switch {
	case text == "":
		return nil, errors.New("it has no URL; say where it is")
	case len(text) > mostURL:
		return nil, fmt.Errorf("its URL has more than %d bytes; is it another file?", mostURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("its URL is not one; write it as https://host/path")
	case u.User != nil:
		return nil, errors.New("its URL has a user name or password; put what authenticates into the file for it")
	case u.Fragment != "":
		return nil, errors.New("its URL has a part after #, which is never sent; leave that out")
	case u.Scheme == "http" && !plaintext && !loopback(u.Hostname()):
		return nil, errors.New("its URL is http, and what is said there would be readable on the way; use https (with ca_file for an authority of your own), http to a proxy on loopback, or, of an Alertmanager or a webhook, say why it may be with plaintext_reason")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("its URL is neither https nor http; write it as https://host/path")
	}
	return u, nil
}

// loopback says whether a host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// newClient makes the HTTP client of one receiver. It follows no redirect: a key that
// was given for one host would be sent to another.
func newClient(settings *tls.Config) *http.Client {
	return &http.Client{
		Transport: &guard{next: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: patience / 2}).DialContext,
			TLSClientConfig:        settings,
			TLSHandshakeTimeout:    patience / 2,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        patience,
			MaxResponseHeaderBytes: mostAnswer,
			DisableCompression:     true,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
