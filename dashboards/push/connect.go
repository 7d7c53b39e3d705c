package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/go-openapi/runtime"
	httptransport "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	"github.com/grafana/grafana-openapi-client-go/client"
)

const (
	// patience with one request.
	patience = 30 * time.Second
	// maxAnswer and maxRefusal are the most bytes that are read of an answer: a list of
	// all alert rules of an organisation is the longest one.
	maxAnswer  = 64 << 20
	maxRefusal = 64 << 10
)

// Refusal is an answer of Grafana's that is no success, or of something that is not
// Grafana. Its text is for people, and has no secret.
type Refusal struct {
	Status  int
	Message string // Grafana's own, cleaned and cut; "" when it said nothing
	Foreign string // why this is no answer of Grafana's API; "" when it is one
	path    string
}

func (r *Refusal) Error() string {
	said := ""
	if r.Message != "" {
		said = " (" + r.Message + ")"
	}
	switch {
	case r.Foreign != "":
		return r.Foreign
	case r.Status == http.StatusUnauthorized:
		return "Grafana does not know the token" + said + "; it may have expired or be of another Grafana: make a new one (Administration, Users and access, Service accounts)"
	case r.Status == http.StatusForbidden:
		return "the token may not do that" + said + "; give its service account the role Admin, or the permission that is named"
	case r.Status == http.StatusConflict:
		return "Grafana has something in the way" + said
	case r.Status == http.StatusPreconditionFailed:
		return "somebody changed it meanwhile, or its name is taken" + said + "; run it again"
	case r.Status == http.StatusTooManyRequests:
		return "Grafana takes no more requests now" + said + "; wait a minute and run it again"
	case r.Status >= 500:
		return fmt.Sprintf("Grafana failed with status %d%s; read its log, then run it again: what was done stays done", r.Status, said)
	}
	return fmt.Sprintf("Grafana answers %s with status %d%s", r.path, r.Status, said)
}

// missing says whether an error is that there is no such object.
func missing(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status == http.StatusNotFound && r.Foreign == ""
}

// forbidden says whether an error is that the token may not.
func forbidden(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status == http.StatusForbidden
}

// connection is how Grafana is spoken to: the generated client, and plain requests for
// what it lacks, over the same transport.
type connection struct {
	api     *client.GrafanaHTTPAPI
	http    *http.Client
	base    *url.URL
	headers http.Header
	secrets []string
}

func connect(c Config) (*connection, error) {
	base, err := parseURL("Grafana's URL", c.URL, "http", "https")
	if err != nil {
		return nil, err
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: patience, MaxResponseHeaderBytes: 1 << 20,
		MaxIdleConns: 2, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if len(c.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("the file of authorities has no certificate in PEM")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	n := &connection{base: base, headers: http.Header{"Authorization": {"Bearer " + string(c.Token)}}}
	if c.Org > 0 {
		n.headers.Set(client.OrgIDHeader, fmt.Sprint(c.Org))
	}
	n.secrets = secretsOf(c)
	n.http = &http.Client{Timeout: patience, Transport: gate{transport, n}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // where it leads may be anybody: the token does not follow
	}}
	// Not the client's own constructor: that changes http.DefaultTransport, and reads
	// answers of any length.
	rt := httptransport.NewWithClient(base.Host, base.Path+client.DefaultBasePath, []string{base.Scheme}, n.http)
	rt.SetDebug(false) // $DEBUG would have it print requests, with the token
	rt.DefaultAuthentication = runtime.ClientAuthInfoWriterFunc(func(r runtime.ClientRequest, _ strfmt.Registry) error {
		for name, values := range n.headers {
			if err := r.SetHeaderParam(name, values...); err != nil {
				return err
			}
		}
		return nil
	})
	n.api = client.New(rt, client.DefaultTransportConfig(), nil)
	return n, nil
}

// secretsOf are the texts that no message may have.
func secretsOf(c Config) (out []string) {
	add := func(s string) {
		if len(s) >= 4 { // shorter ones would make holes in every word
			out = append(out, s)
		}
	}
	add(string(c.Token))
	if c.ClickHouse != nil {
		add(string(c.ClickHouse.Password))
	}
	if c.Contact != nil {
		for _, i := range c.Contact.Integrations {
			eachText(i.Settings, add)
		}
	}
	return out
}

func eachText(v any, do func(string)) {
	switch v := v.(type) {
	case string:
		do(v)
	case map[string]any:
		for _, x := range v {
			eachText(x, do)
		}
	case []any:
		for _, x := range v {
			eachText(x, do)
		}
	}
}

// gate lets through what is an answer of Grafana's API and makes all else a Refusal, so
// that there is one place that knows how Grafana says no. It reads whole answers, up to
// a limit.
type gate struct {
	next http.RoundTripper
	of   *connection
}

func (g gate) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	fine := resp.StatusCode >= 200 && resp.StatusCode < 300
	most := int64(maxRefusal)
	if fine {
		most = maxAnswer
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if fine && int64(len(body)) > most {
		return nil, fmt.Errorf("the answer to %s is longer than %d bytes", req.URL.Path, most)
	}
	r := &Refusal{Status: resp.StatusCode, path: req.URL.Path}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	isJSON := kind == "application/json" || kind == "" || kind == "text/plain"
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		r.Foreign = "it leads to " + g.of.clean(shownURL(resp.Header.Get("Location"))) + " instead of answering; give the URL of Grafana itself, with its path (root_url), behind whatever logs people in"
		return nil, r
	case !isJSON && (fine || resp.StatusCode == http.StatusNotFound):
		r.Foreign = fmt.Sprintf("what answers there is not Grafana's API (%s, status %d); give the URL of Grafana itself, with its path when it has one (root_url)", g.of.clean(kind), resp.StatusCode)
		return nil, r
	case !fine:
		r.Message = g.of.message(body, isJSON)
		return nil, r
	}
	if len(bytes.TrimSpace(body)) > 0 && !json.Valid(body) {
		r.Foreign = "what answers there is not Grafana's API: the answer is no JSON; give the URL of Grafana itself"
		return nil, r
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Type", "application/json")
	return resp, nil
}

// message is what Grafana said, in one line.
func (n *connection) message(body []byte, isJSON bool) string {
	if !isJSON {
		return ""
	}
	var said struct {
		Message string `json:"message"`
		Error   string `json:"error"`
	}
	if json.Unmarshal(body, &said) != nil {
		return ""
	}
	if said.Message == "" {
		said.Message = said.Error
	}
	return n.clean(said.Message)
}

const maxMessage = 300 // characters

// clean makes another's text fit to be shown: without secrets, in one line, cut.
func (n *connection) clean(text string) string {
	for _, s := range n.secrets {
		text = strings.ReplaceAll(text, s, "[secret]")
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage]) + "…"
	}
	return text
}

// get asks for what the generated client lacks; path is below the API's root.
func (n *connection) get(ctx context.Context, path string, withToken bool, into any) error {
	at := *n.base
	at.Path += client.DefaultBasePath + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return err
	}
	if withToken {
		req.Header = n.headers.Clone()
	}
	req.Header.Set("Accept", "application/json")
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// explain turns an error of a request into what a person needs.
func (n *connection) explain(err error) error {
	var r *Refusal
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var u *url.Error
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted; what was done stays done, run it again to go on")
	case errors.As(err, &authority):
		return errors.New("its certificate is signed by nobody who is known here; name the authority's PEM file with --ca")
	case errors.As(err, &name):
		return fmt.Errorf("its certificate is for another name than %s; use the name that it is for", n.base.Hostname())
	case errors.As(err, &record):
		return errors.New("it does not speak TLS; is its URL http?")
	case errors.As(err, &dns):
		return fmt.Errorf("there is no host %s; is the URL right?", n.base.Hostname())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing answers at %s; is Grafana running, and the port right?", n.base.Host)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &u) && u.Timeout():
		return fmt.Errorf("no answer from %s within %s; is it the right address, or overloaded?", n.base.Host, patience)
	case errors.As(err, &u):
		err = u.Err
	}
	if strings.Contains(err.Error(), "malformed HTTP response") || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return errors.New("it does not speak what the URL says; try https instead of http, or the other way round")
	}
	return errors.New(n.clean(err.Error()))
}
