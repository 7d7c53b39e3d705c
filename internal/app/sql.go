package app

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/transport"
	"github.com/mcpaudit/mcpaudit/query/sql"
)

// statements is the port at which people read the engine in process with SQL.
type statements struct {
	answers  *sql.Server
	web      *http.Server
	listener net.Listener
	edge     *edge
	done     chan struct{} // closed when nothing is asked any more and all of it is noted
}

// newSQL takes the port listen.sql; nil when that is empty. notes are those of the guard.
// Run it, and let the pipeline go on until done is closed: the last notes are written when
// the port has closed.
func newSQL(cfg *Config, s *store.Store, guard *auth.Guard, notes auth.Notes, outside *edge, d Deps) (*statements, error) {
	if cfg.Listen.SQL == "" {
		return nil, nil
	}
	if !s.HasEngine() {
		return nil, errors.New("listen.sql: the store is a ClickHouse server, which has accounts of its own; leave listen.sql empty, and see deploy/clickhouse/grafana.sql")
	}
	p := &statements{edge: outside, done: make(chan struct{})}
	p.answers = sql.New(sql.Config{Limits: store.Limits{Time: cfg.Query.Timeout, Memory: cfg.Query.MemoryLimit}, Incoming: transport.Incoming},
		sql.Deps{Store: s, Guard: guard, Notes: notes, Now: d.Now, Log: d.Log})
	l, err := net.Listen("tcp", cfg.Listen.SQL)
	if err != nil {
		return nil, listenError("SQL", "sql", err)
	}
	p.listener = transport.Bound(l, outside.most)
	hosts := transport.Hosts{Listen: cfg.Listen.SQL, Names: cfg.Listen.Names, Certs: outside.certs}
	p.web = &http.Server{Handler: transport.Headers(hosts.Refuse(p.answers)),
		// A request's head holds its statement when it comes by GET. What a body and an answer
		// may take is the handler's business: their times are set anew with every piece.
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: cfg.Query.Timeout + time.Minute, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: store.MaxSQL + 64<<10,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 20, MaxReceiveBufferPerConnection: 512 << 10, MaxReceiveBufferPerStream: 256 << 10, SendPingTimeout: time.Minute, PingTimeout: 20 * time.Second},
		ErrorLog: log.New(webLog{outside}, "", 0)}
	if outside.certs != nil {
		p.web.TLSConfig = outside.certs.Config("h2", "http/1.1")
	}
	return p, nil
}

// sqlGrace is how long statements that are under way may go on when the service stops.
const sqlGrace = 5 * time.Second

// run answers until ctx ends; then it takes no more, and what was asked is noted. The
// error is that of the port.
func (p *statements) run(ctx context.Context) error {
	defer close(p.done)
	noting, stop := context.WithCancel(context.WithoutCancel(ctx))
	noted := make(chan struct{})
	go func() { defer close(noted); p.answers.Run(noting) }()
	ended := make(chan error, 1)
	go func() { ended <- p.edge.serveWeb(p.web, p.listener) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), sqlGrace)
		if p.web.Shutdown(soon) != nil {
			_ = p.web.Close() // ends what still runs
		}
		cancel()
		err = <-ended
	}
	stop()
	<-noted
	return err
}

// address is that of the port.
func (p *statements) address() net.Addr { return p.listener.Addr() }
