package auth

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"time"
)

// issuerClient is the HTTP client for an issuer: bounded in time and in what it reads,
// and it goes nowhere else than where it is sent. base may be nil; what it says of the
// authorities gives way to roots when these are not nil.
func issuerClient(base *http.Client, roots *x509.CertPool) *http.Client {
	var c http.Client
	if base != nil {
		c = *base
	}
	if c.Transport == nil || roots != nil {
		own, ok := c.Transport.(*http.Transport)
		if !ok {
			own, ok = http.DefaultTransport.(*http.Transport)
		}
		if ok {
			own = own.Clone()
		} else {
			own = &http.Transport{Proxy: http.ProxyFromEnvironment}
		}
		if own.TLSClientConfig == nil {
			own.TLSClientConfig = &tls.Config{}
		}
		own.TLSClientConfig.MinVersion = tls.VersionTLS12
		if roots != nil {
			own.TLSClientConfig.RootCAs = roots
		}
		own.MaxResponseHeaderBytes = 64 << 10
		own.MaxIdleConnsPerHost = 1
		own.IdleConnTimeout = 30 * time.Second
		c.Transport = own
	}
	c.Transport = boundedTransport{c.Transport}
	c.Jar = nil
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.Timeout <= 0 || c.Timeout > keysTimeout {
		c.Timeout = keysTimeout
	}
	return &c
}

// boundedTransport ends answers that are too long with an error. It stands outside the
// transport that unpacks them, so that it counts what comes out.
type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: keysBytes}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return b.left, errTooLong
	}
	b.left -= n
	return n, err
}

var errTooLong = fmt.Errorf("the answer has more than %d bytes", keysBytes)
