// Package store keeps events in ClickHouse: the engine in process on a laptop or
// a single node, a server or a cluster by its DSN. There is one schema, one set
// of statements and one driver (clickhouse-go) for all of them.
//
// What it promises: when [Store.Append] returns nil, the batch is on disk, whole
// and once, and survives kill -9 and power loss. When it returns an error, the
// batch is stored whole or not at all, and appending the same batch again makes
// it stored once: the outcome of an error need not be known to be handled.
//
// The store never updates a row, and deletes none but whole months that have
// expired, which the ledger records before; see retention.go.
package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// Config says where the store is.
type Config struct {
	// DSN of a server: clickhouse://user:password@host:9000/database (native
	// protocol) or http://…, https://…. Empty: the engine in process.
	DSN string
	// Cluster is what the server's configuration (remote_servers) calls the cluster
	// over which the store is spread; empty for a server that has all of it. See
	// cluster.go.
	Cluster string
	// Path is the data folder of the engine in process. It is made when missing
	// and belongs to one process at a time.
	Path string
	// Library is libchdb's file, as embedded.Locate finds it.
	Library string
	// MemoryLimit bounds the engine in process, in bytes; 0 is 2 GiB. A query or
	// an insert that would go over it fails, the process does not.
	MemoryLimit uint64
}

// Validate says what is wrong with a configuration before anything is opened.
// The DSN is never part of the message: it holds a password.
func (c Config) Validate() error {
	if c.Cluster != "" && !clusterName.MatchString(c.Cluster) {
		return fmt.Errorf("store: cluster %q is not a name of 1 to 64 letters, digits, dots, dashes and underscores", c.Cluster)
	}
	if c.DSN == "" {
		if c.Cluster != "" {
			return errors.New("store: cluster is set and dsn is empty; name one of the cluster's servers in dsn")
		}
		if c.Path == "" {
			return errors.New("store: path is empty; name a data folder, or a server in dsn")
		}
		return nil
	}
	u, err := url.Parse(c.DSN)
	if err != nil {
		return errors.New("store: dsn is not a URL; it looks like clickhouse://user:password@host:9000/database")
	}
	switch u.Scheme {
	case "clickhouse", "http", "https":
	default:
		return fmt.Errorf("store: dsn begins with %q; use clickhouse:// (native protocol), http:// or https://", u.Scheme)
	}
	if u.Host == "" {
		return errors.New("store: dsn has no host; it looks like clickhouse://user:password@host:9000/database")
	}
	return nil
}

// Store is an open store. Its methods may be called by many goroutines.
type Store struct {
	conn     driver.Conn
	layout   layout
	engine   *embedded.Engine  // nil on a server
	raw      http.RoundTripper // to the engine, for what the driver can't do; nil on a server
	memories []string          // of memories, those that the engine has
	// readers has a token for each Query that may run: the rest of the connections
	// is for what the service itself asks and appends.
	readers chan struct{}
}

// The connections of a store: each runs one statement, from its start until its
// rows are read. Beside readers there are those of ingest (two that recover sequences,
// one that appends, one that seals) and of detection (one that follows the logs, one
// that saves what it remembers, one that reads history for a rule that is new).
const (
	connections = 11
	maxReaders  = 4
)

// Open connects to the store, and starts the engine when there is no server.
// It changes nothing there; see [Store.Migrate]. Close it.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Store{readers: make(chan struct{}, maxReaders)}
	opt := &clickhouse.Options{}
	if c.DSN != "" {
		var err error
		if opt, err = clickhouse.ParseDSN(c.DSN); err != nil {
			return nil, errors.New("store: dsn is malformed; it looks like clickhouse://user:password@host:9000/database")
		}
	} else {
		if c.MemoryLimit == 0 {
			c.MemoryLimit = 2 << 30
		}
		engine, err := embedded.Open(embedded.Config{Library: c.Library, Path: c.Path, MemoryLimit: c.MemoryLimit, Connections: connections, Readers: sqlReaders})
		if err != nil {
			return nil, err
		}
		s.engine = engine
		opt.Protocol = clickhouse.HTTP
		opt.Addr = []string{"embedded:0"}
		opt.TransportFunc = engine.Transport
		if s.raw, err = engine.Transport(nil); err != nil {
			return nil, fmt.Errorf("open store: %w", errors.Join(err, s.Close()))
		}
	}
	opt.DialTimeout = 10 * time.Second
	opt.ReadTimeout = 2 * time.Minute
	opt.MaxOpenConns, opt.MaxIdleConns = connections, connections
	conn, err := clickhouse.Open(opt)
	if err == nil {
		s.conn = discreet{conn}
		err = s.conn.Ping(ctx)
	}
	if err == nil && c.Cluster != "" {
		err = s.openCluster(ctx, opt, c.Cluster)
	}
	if err == nil {
		err = s.learn(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// Close ends all statements and, with the engine in process, gives the data
// folder free.
func (s *Store) Close() error {
	var err error
	if s.conn != nil {
		err = s.conn.Close()
	}
	if s.engine != nil {
		err = errors.Join(err, s.engine.Close())
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Ping asks the store for a sign of life.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.conn.QueryRow(ctx, "SELECT 1").Scan(new(uint8)); err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	return nil
}

// Limits of one reading statement. They hold whatever the question is.
type Limits struct {
	Time   time.Duration // default 30 s
	Memory uint64        // bytes, default 1 GiB
	Rows   uint64        // rows read, 0 for no limit
	// Tenants whose events, findings and steps of triage the statement sees: nil for
	// all, and none at all when it is empty. The tables logs, ledger and kept are about
	// all tenants at once and are not narrowed: who reads those for some has to know why
	// it may. What the service itself remembers, keys among it, is not there then.
	Tenants []string
}

func (l Limits) withDefaults() Limits {
	if l.Time == 0 {
		l.Time = 30 * time.Second
	}
	if l.Memory == 0 {
		l.Memory = 1 << 30
	}
	return l
}

// Query runs a reading statement with bound parameters ({name:Type} in the
// text, clickhouse.Named as arguments) under the limits. Text is static or made
// of static fragments: a value never becomes part of it. When too many run
// already, it waits: an append must always find a connection. Close the rows.
func (s *Store) Query(ctx context.Context, l Limits, sql string, args ...any) (driver.Rows, error) {
	l = l.withDefaults()
	settings := clickhouse.Settings{
		"max_memory_usage": l.Memory,
	}
	if l.Rows > 0 {
		settings["max_rows_to_read"] = l.Rows
	}
	for name, value := range s.narrowed(l.Tenants) {
		settings[name] = value
	}
	ctx, span := startSpan(ctx, sql)
	rows, err := s.read(limited(ctx, l.Time, settings), sql, args)
	if err != nil || !span.IsRecording() {
		endSpan(span, err)
		return rows, err
	}
	return &tracedRows{Rows: rows, span: span}, nil
}

// place waits for a reader's place; free gives it back.
func (s *Store) place(ctx context.Context) (free func(), err error) {
	select {
	case s.readers <- struct{}{}:
		return sync.OnceFunc(func() { <-s.readers }), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other queries to end: %w", ctx.Err())
	}
}

// read waits for a reader's place and runs the statement in it.
func (s *Store) read(ctx context.Context, sql string, args []any) (driver.Rows, error) {
	free, err := s.place(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		free()
		return nil, err
	}
	return &placedRows{rows, free}, nil
}

// placedRows give their place free when they are read to the end or closed.
type placedRows struct {
	driver.Rows
	free func()
}

func (r *placedRows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.free()
	}
	return more
}

func (r *placedRows) Close() error {
	defer r.free()
	return r.Rows.Close()
}

// Code is the ClickHouse error code in err, 0 when there is none.
func Code(err error) int {
	var e *clickhouse.Exception
	if errors.As(err, &e) {
		return int(e.Code)
	}
	// Over HTTP the code is in the text: "Code: 62. DB::Exception: …".
	if err != nil {
		if _, rest, ok := strings.Cut(err.Error(), "Code: "); ok {
			n := 0
			for _, c := range rest {
				if c < '0' || c > '9' || n > 1e6 {
					break
				}
				n = n*10 + int(c-'0')
			}
			return n
		}
	}
	return 0
}
