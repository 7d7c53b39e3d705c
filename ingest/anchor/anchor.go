// Package anchor keeps checkpoints of a log outside of its store: in a file, at a
// URL or in a Kafka topic. Whoever later cuts or rewrites the log contradicts
// them. An anchor is worth as much as the place where it is kept is out of the
// reach of those who can write the store.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
)

// Sink is a place where checkpoints are kept.
type Sink interface {
	// Put keeps a signed checkpoint; it is durable there when Put returns nil. After
	// an error it may be there or not, and putting it again is right: a place may
	// have it twice. Put returns soon after ctx has ended. One call at a time.
	Put(ctx context.Context, checkpoint string) error
	// String names the place, without credentials.
	String() string
}

// patience is how long a place on the network may say nothing.
const patience = 15 * time.Second

// place is a sink that can be read as well.
type place interface {
	Sink
	// each calls found with each signed checkpoint that is kept there by now.
	each(ctx context.Context, found func(checkpoint string) error) error
}

// Open makes the sink that spec names:
//
//	/path or file:///path       a file that is appended to
//	http://… or https://…       each checkpoint is POSTed there
//	kafka://HOST:PORT,…/TOPIC   a topic of the cluster that these brokers are of
//	kafkas://…                  the same over TLS
//
// See [broker.Parse] for the parameters of a topic's URL; a SASL password is taken
// from the environment variable MCPAUDIT_KAFKA_PASSWORD.
// Nothing is written or connected to before the first Put.
func Open(spec string) (Sink, error) { return open(spec) }

func open(spec string) (place, error) {
	scheme, rest, ok := strings.Cut(spec, "://")
	switch {
	case spec == "":
		return nil, errors.New("open anchor: no place is named; name a file, an http(s):// URL or kafka://HOST:PORT/TOPIC")
	case !ok:
		return &file{path: spec}, nil
	case scheme == "file":
		if !strings.HasPrefix(rest, "/") {
			return nil, fmt.Errorf("open anchor %q: a file's URL has three slashes, as in file:///var/lib/anchors", spec)
		}
		path, err := url.PathUnescape(rest)
		if err != nil {
			return nil, fmt.Errorf("open anchor %q: it is no URL of a file", spec)
		}
		return &file{path: path}, nil
	case scheme == "http", scheme == "https":
		return openSite(spec)
	case scheme == "kafka", scheme == "kafkas":
		return openTopic(spec)
	}
	return nil, fmt.Errorf("open anchor: there are no anchors at %s://; name a file, an http(s):// URL or kafka://HOST:PORT/TOPIC", scheme)
}

// Each calls found with each signed checkpoint that is kept at a place, see Open,
// in the order in which they were put (in a topic: those of one log), in constant
// memory. At a URL they are read by GET. What comes later than the call may be
// left out. What a checkpoint says is a claim until its signature is checked. A
// place where nothing was kept yet is an error when it does not exist.
func Each(ctx context.Context, spec string, found func(checkpoint string) error) error {
	p, err := open(spec)
	if err != nil {
		return err
	}
	if err := p.each(ctx, found); err != nil {
		return fmt.Errorf("read anchors of %s: %w", p, err)
	}
	return nil
}

// Parse reads the signed checkpoints of a text, at most [notes.MaxRead]: a file
// of anchors, receipts of an emitter, or one checkpoint that somebody has sent.
func Parse(r io.Reader) ([]string, error) {
	l, err := notes.Read(r)
	return l.Checkpoints, err
}
