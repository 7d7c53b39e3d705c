package receiver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// patience is how long one request may take, from the dial to the end of the answer.
const patience = 10 * time.Second

// mostAnswer is how much of an answer is read, in bytes: it is thrown away.
const mostAnswer = 64 << 10

// target is a receiver's address and the way to it.
type target struct {
	kind, host string
	now        func() time.Time
	client     *http.Client
}

// String is what errors and logs call it.
func (t *target) String() string { return t.kind + " at " + t.host }

// GoString is the same: what %#v would show has keys in it.
func (t *target) GoString() string { return t.String() }

// LogValue is the same.
func (t *target) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText is the same.
func (t *target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// exchange is what was seen of one request on its way. The client libraries have ways
// of their own to tell of an answer, some of which quote it; what is judged is this.
type exchange struct {
	most    int64 // bytes of the answer to read
	status  int
	after   string // its Retry-After
	problem error  // why there was no answer
}

type exchangeKey struct{}

// do makes one request by call, which has to use t.client and the context, and judges
// the answer. taken says which answers mean that the message was taken; err is what the
// library says.
func (t *target) do(ctx context.Context, most int64, call func(context.Context) error, taken func(status int, err error) bool) (int, error) {
	x := &exchange{most: most}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := call(context.WithValue(limited, exchangeKey{}, x))
	switch {
	case x.status != 0 && taken(x.status, err):
		return x.status, nil
	case ctx.Err() != nil:
		return x.status, t.ended(ctx)
	case limited.Err() != nil:
		return x.status, t.slow()
	case x.status == 0:
		return 0, t.unreachable(errors.Join(x.problem, err))
	}
	return x.status, t.judge(x)
}

// idle ends the connections that a Send leaves: the next one is minutes away, and a
// sender that is replaced has nothing to close.
func (t *target) idle() { t.client.CloseIdleConnections() }

// guard notes what it sees of an exchange and bounds the answer.
type guard struct{ next *http.Transport }

// RoundTrip is of http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := g.next.RoundTrip(r)
	x, _ := r.Context().Value(exchangeKey{}).(*exchange)
	if x == nil { // no request leaves without one
		x = &exchange{most: mostAnswer}
	}
	if err != nil {
		x.problem = err
		return nil, err
	}
	x.status, x.after = answer.StatusCode, answer.Header.Get("Retry-After")
	answer.Body = &bounded{Reader: io.LimitReader(answer.Body, x.most), whole: answer.Body}
	return answer, nil
}

// CloseIdleConnections is called by the client's method of that name.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// bounded is an answer that ends early when it is too long. Closing it reads the rest
// within the bound, so that the connection can be used again.
type bounded struct {
	io.Reader
	whole io.ReadCloser
}

// Close is of io.Closer.
func (b *bounded) Close() error {
	_, _ = io.Copy(io.Discard, b.Reader) // what can't be read is not wanted
	return b.whole.Close()
}
