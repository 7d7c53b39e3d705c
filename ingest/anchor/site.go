package anchor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// site is an HTTP server that takes each checkpoint by POST, as text/plain, and
// says so by a status 2xx. For reading, GET of the same URL gives all that it
// took, as a list of notes.
type site struct {
	url    string
	name   string
	client *http.Client
}

func openSite(spec string) (*site, error) {
	u, err := url.Parse(spec)
	if err != nil || u.Host == "" {
		return nil, errors.New("open anchor: it is no URL, such as https://example.org/anchors")
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout, t.DisableKeepAlives = patience, true // a checkpoint a minute
	return &site{spec, u.Scheme + "://" + u.Host + u.Path, &http.Client{Transport: t, CheckRedirect: follow}}, nil
}

// follow goes on to another place of the same server alone, and with the same
// method: a POST that becomes a GET would say that a checkpoint is kept that was
// never sent.
func follow(next *http.Request, before []*http.Request) error {
	first := before[0]
	switch {
	case next.URL.Host != first.URL.Host || next.URL.Scheme != first.URL.Scheme:
		return fmt.Errorf("it redirects to another server, %s://%s; name that one if it is meant", next.URL.Scheme, next.URL.Host)
	case next.Method != first.Method:
		return errors.New("it redirects to a page that takes no checkpoint; a server that moved answers 307 or 308")
	case len(before) > 3:
		return errors.New("it redirects again and again")
	}
	return nil
}

func (s *site) String() string { return s.name }

func (s *site) Put(ctx context.Context, checkpoint string) error {
	if _, err := ledger.PeekCheckpoint(checkpoint); err != nil {
		return fmt.Errorf("post to %s: %w", s.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := s.do(ctx, http.MethodPost, strings.NewReader(checkpoint))
	if err != nil {
		return fmt.Errorf("post to %s: %w", s.name, err)
	}
	defer resp.Body.Close()
	return nil
}

// do makes a request and returns its answer if that is good.
func (s *site) do(ctx context.Context, method string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url, body)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the URL may have a credential
		}
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		resp.Body.Close()
		return nil, fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return resp, nil
}

func (s *site) each(ctx context.Context, found func(string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := s.do(ctx, http.MethodGet, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// found may take its time: only waiting for the server is bounded.
	silence := time.AfterFunc(patience, func() { cancel(fmt.Errorf("the server sent nothing for %v", patience)) })
	defer silence.Stop()
	err = notes.Each(&patient{resp.Body, silence}, found)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// patient reads while a timer runs that is begun anew for each read.
type patient struct {
	from    io.Reader
	silence *time.Timer
}

func (p *patient) Read(b []byte) (int, error) {
	p.silence.Reset(patience)
	defer p.silence.Stop()
	return p.from.Read(b)
}
