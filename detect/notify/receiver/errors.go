package receiver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Refused says that the receiver does not take the notification and will not take it
// when it is sent again: a key or an address is wrong, or the two sides do not agree on
// the form. Somebody has to change the settings.
type Refused struct {
	Status int // HTTP
	text   string
}

// Error names the receiver's kind, host and status, and what to do.
func (r Refused) Error() string {
	if r.text == "" {
		return fmt.Sprintf("the receiver answered %d; check its settings", r.Status)
	}
	return r.text
}

// Later says that the receiver wants to be left alone for a while: HTTP 429, or 503
// with Retry-After.
type Later struct {
	After  time.Duration // from now, above 0, at most an hour
	Status int           // HTTP
	text   string
}

// Error names the receiver's kind, host and status, and what to do.
func (l Later) Error() string {
	if l.text == "" {
		return fmt.Sprintf("the receiver answered %d; it is tried again in %v", l.Status, l.After)
	}
	return l.text
}

// Bounds of Later.After. A receiver that says 429 and no time is left alone for the
// middle one: PagerDuty counts by the minute.
const (
	leastWait  = time.Second
	commonWait = time.Minute
	mostWait   = time.Hour
)

// judge says what an answer means that is not the one that was wanted.
func (t *target) judge(x *exchange) error {
	text := func(advice string) string {
		return fmt.Sprintf("tell %s: it answered %d: %s", t, x.status, advice)
	}
	after, said := retryAfter(x.after, t.now())
	switch s := x.status; {
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable && said:
		return Later{After: after, Status: s, text: text("it is asked too often or has to rest; it is tried again in " + after.String())}
	case s == http.StatusRequestTimeout, s == http.StatusConflict, s == http.StatusLocked, s == http.StatusTooEarly:
		return errors.New(text("it could not take it now; it is tried again"))
	case s >= 300 && s < 400:
		return Refused{Status: s, text: text("it is elsewhere, and a redirect is not followed; set its URL to where it is")}
	case s >= 400 && s < 500:
		return Refused{Status: s, text: text(advice(t.kind, s))}
	case s >= 200 && s < 300:
		return errors.New(text(t.kind + " answers otherwise; check that its URL leads to it and not to a proxy or a page to log in"))
	}
	return errors.New(text("it is in trouble; it is tried again, and its own log says why"))
}

// keys are what the kinds of receivers are asked to trust us by.
var keys = map[string]string{Alertmanager: "bearer token", PagerDuty: "routing key", Slack: "webhook's URL", Webhook: "signature's secret"}

// advice for a request that was refused.
func advice(kind string, status int) string {
	switch {
	case status == http.StatusBadRequest && kind == PagerDuty: // for a wrong key, too
		return "it does not take the routing key or the event; check that the key is of an Events API v2 integration there"
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return "it does not accept the " + keys[kind] + "; check that, and who may write there"
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusMethodNotAllowed:
		return "nothing takes messages at that address any more; check its URL, or make it anew there"
	case status == http.StatusRequestEntityTooLarge:
		return "the message is too long for it; let what stands before it take 1 MiB"
	}
	return "it does not take a message of this form; check that its URL is of a " + kind + ", and what it logs"
}

// retryAfter reads the header (RFC 9110, section 10.2.3): seconds or a date. What is
// absent or can't be read gives commonWait and false.
func retryAfter(text string, now time.Time) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if len(text) > 64 {
		return commonWait, false
	}
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		return max(leastWait, time.Duration(min(seconds, uint64(mostWait/time.Second)))*time.Second), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(leastWait, min(at.Sub(now), mostWait)).Round(time.Second), true
	}
	return commonWait, false
}

// ended is the error of a Send whose context ended.
func (t *target) ended(ctx context.Context) error { return fmt.Errorf("tell %s: %w", t, ctx.Err()) }

// slow is the error of a request that took too long.
func (t *target) slow() error {
	return fmt.Errorf("tell %s: it did not answer within %v; it is tried again", t, patience)
}

// unreachable says in our own words why there was no answer: what the libraries say
// quotes the URL.
func (t *target) unreachable(err error) error {
	why := "it can't be reached; check the network between here and there"
	var (
		name      *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &name):
		why = "its name is not known here; check the host and the name servers"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nothing listens there; check whether it runs, and the port"
	case errors.As(err, &authority):
		why = "its certificate is signed by nobody who is trusted here; set ca_file to its authority"
	case errors.As(err, &host):
		why = "its certificate is for another name; check the host"
	case errors.As(err, &invalid):
		why = "its certificate is not valid now or not for this; renew it, and compare the clocks"
	case errors.As(err, &timeout) && timeout.Timeout():
		why = "it did not answer in time; it is tried again"
	}
	return fmt.Errorf("tell %s: %s", t, why)
}
