package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Addr is what to give as clickhouse-go's address. Nothing is dialled.
const Addr = "embedded:0"

// Config says which engine to open, and how.
type Config struct {
	// Library is the path of libchdb.so, as [Locate] gives it. Required.
	Library string
	// Path is the data folder; it is created if missing. Required.
	Path string
	// Connections is how many statements run at once. Default 4, at most 64.
	Connections int
	// Readers is how many statements of [Engine.Read] run at once beside them: these
	// have connections of their own, whose rights are those of the role reader in
	// users.xml. Default 0, which is no Read at all; at most 16.
	Readers int
	// MemoryLimit bounds what the engine allocates in all, in bytes. Default,
	// and at most, nine tenths of the machine's memory.
	MemoryLimit uint64
	// Settings are query settings for every statement that does not bring its
	// own value. A setting the engine does not know is ignored.
	Settings map[string]string
}

// Validate reports what is wrong with a configuration.
func (c Config) Validate() error {
	switch {
	case c.Library == "":
		return errors.New("embedded engine: library is empty")
	case c.Path == "":
		return errors.New("embedded engine: path is empty")
	case c.Connections < 0 || c.Connections > 64:
		return fmt.Errorf("embedded engine: connections is %d, and may be 1 to 64", c.Connections)
	case c.Readers < 0 || c.Readers > 16:
		return fmt.Errorf("embedded engine: readers is %d, and may be 0 to 16", c.Readers)
	}
	for name := range c.Settings {
		if !plainName.MatchString(name) {
			return fmt.Errorf("embedded engine: %q is not the name of a setting", name)
		}
	}
	return nil
}

// Engine is one open data folder. Its methods may be called concurrently.
type Engine struct {
	lib     *library
	path    string
	args    []string
	base    map[string]string // settings every connection is opened with
	version string            // of the ClickHouse inside
	zone    string            // its time zone

	idle    chan *conn // connections that run nothing; as many as Config.Connections
	readers chan *conn // the same of Config.Readers
	closing chan struct{}
	once    sync.Once

	control     sync.Mutex // guards killer
	killer      *conn      // stops other connections' statements
	connections atomic.Uint64
}

// conn is one engine connection. Whoever took it from Engine.idle owns it.
type conn struct {
	address  unsafe.Pointer    // chdb_connection *
	mark     string            // what its statements are found by among the engine's running ones
	database string            // the current one
	settings map[string]string // in force since the last statement, beyond Engine.base
	reads    bool              // it has the rights of a reader, for as long as it lasts
}

func (c *conn) handle() unsafe.Pointer { return *(*unsafe.Pointer)(c.address) }

// opened is the engine this process has open: libchdb holds one data folder
// per process, whatever the number of connections.
var opened struct {
	sync.Mutex
	engine *Engine
}

// Open opens the data folder. The error wraps [ErrLocked] when another process
// has it open, and [ErrBusy] when this one has a folder open.
func Open(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	opened.Lock()
	defer opened.Unlock()
	if opened.engine != nil {
		return nil, fmt.Errorf("open engine on %q: %w (%q)", path, ErrBusy, opened.engine.path)
	}
	lib, err := load(cfg.Library)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	if err := checkUnlocked(path); err != nil {
		return nil, fmt.Errorf("open engine on %q: %w", path, err)
	}
	configFile, err := writeServerConfig(path)
	if err != nil {
		return nil, fmt.Errorf("open engine on %q: %w", path, err)
	}
	e := &Engine{lib: lib, path: path, base: maps.Clone(defaultSettings), closing: make(chan struct{})}
	maps.Copy(e.base, cfg.Settings)
	e.args = arguments(path, configFile, cfg.MemoryLimit, e.base)
	n := cfg.Connections
	if n == 0 {
		n = 4
	}
	e.idle, e.readers = make(chan *conn, n), make(chan *conn, cfg.Readers)
	if err := e.connectAll(n, cfg.Readers); err != nil {
		e.disconnectAll()
		if locked := checkUnlocked(path); locked != nil {
			err = locked // it was taken between our look and the engine's
		}
		return nil, fmt.Errorf("open engine on %q: %w", path, err)
	}
	opened.engine = e
	return e, nil
}

func (e *Engine) connectAll(n, readers int) error {
	for range n {
		c, err := e.connect(false)
		if err != nil {
			return err
		}
		e.idle <- c
	}
	for range readers {
		c, err := e.connect(true)
		if err != nil {
			return err
		}
		e.readers <- c
	}
	killer, err := e.connect(false)
	if err != nil {
		return err
	}
	e.killer = killer
	row, err := e.lib.query(killer.handle(), "SELECT version(), timezone()", "TSV", nil)
	if err != nil {
		return err
	}
	e.version, e.zone, _ = strings.Cut(strings.TrimSpace(string(row)), "\t")
	return nil
}

// connect opens one connection; the first one opens the data folder. A reader's gives
// up all other rights at once. Nothing gives them back to it but a SET ROLE, and what
// acts on a session is not served.
func (e *Engine) connect(reads bool) (*conn, error) {
	var address unsafe.Pointer
	if err := keepSignals(func() { address = e.lib.open(e.args) }); err != nil {
		return nil, err
	}
	if address == nil {
		return nil, errors.New("the engine refused; it has said why on standard error")
	}
	c := &conn{address: address, mark: strconv.FormatUint(e.connections.Add(1), 10), database: defaultDatabase, reads: reads}
	begin := []string{markStatement(c.mark), "SET ROLE engine"}
	if reads {
		begin[1] = "SET ROLE reader"
	}
	for _, sql := range begin {
		if _, err := e.lib.query(c.handle(), sql, "Native", nil); err != nil {
			e.disconnect(c)
			return nil, err
		}
	}
	return c, nil
}

func (e *Engine) disconnect(c *conn) { e.lib.closeConn(c.address) }

func (e *Engine) disconnectAll() {
	for _, pool := range []chan *conn{e.idle, e.readers} {
		for len(pool) > 0 {
			e.disconnect(<-pool)
		}
	}
	if e.killer != nil {
		e.disconnect(e.killer)
	}
}

// Close refuses new requests, waits until every statement has ended and every
// result's body has been read or closed, and closes the data folder, which
// may then be opened again. Closing twice is no error.
func (e *Engine) Close() error {
	e.once.Do(func() {
		close(e.closing)
		for _, pool := range []chan *conn{e.idle, e.readers} {
			for range cap(pool) {
				if c := <-pool; c != nil {
					e.disconnect(c)
				}
			}
		}
		e.control.Lock()
		defer e.control.Unlock()
		opened.Lock()
		defer opened.Unlock()
		e.disconnect(e.killer)
		opened.engine = nil
	})
	return nil
}

// Transport has the signature of clickhouse.Options.TransportFunc.
func (e *Engine) Transport(*http.Transport) (http.RoundTripper, error) { return e, nil }

// Version is that of the ClickHouse inside, such as "26.7.2.1".
func (e *Engine) Version() string { return e.version }

// pool is where a connection is while it runs nothing.
func (e *Engine) pool(reads bool) chan *conn {
	if reads {
		return e.readers
	}
	return e.idle
}

// acquire waits for a connection. It gives up when ctx ends, when Close begins, and
// after patience, when that is not 0.
func (e *Engine) acquire(ctx context.Context, reads bool, patience time.Duration) (*conn, error) {
	pool := e.pool(reads)
	select {
	case <-e.closing:
		return nil, ErrClosed
	default:
	}
	var enough <-chan time.Time // never, without a limit
	if patience > 0 {
		enough = time.After(patience)
	}
	select {
	case <-e.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-enough:
		return nil, refuse(codeTooMany, "TOO_MANY_SIMULTANEOUS_QUERIES", fmt.Sprintf("all %d connections were busy for %s", cap(pool), patience))
	case c := <-pool:
		if c != nil {
			return c, nil
		}
		// Its place was kept after a failed replacement.
		c, err := e.connect(reads)
		if err != nil {
			pool <- nil
			return nil, fmt.Errorf("reconnect to engine on %q: %w", e.path, err)
		}
		return c, nil
	}
}

func (e *Engine) release(c *conn) { e.pool(c.reads) <- c }

// prepare puts a statement's database and settings in force on c, which is
// replaced by a new connection (0.2 ms) when that fails half-way or when it
// is in a read-only mode that SET cannot leave. It returns the connection to
// use and release.
func (e *Engine) prepare(c *conn, database string, want map[string]string) (*conn, error) {
	if c.settings["readonly"] != "" && !maps.Equal(c.settings, want) {
		fresh, err := e.replace(c)
		if err != nil {
			return nil, err
		}
		c = fresh
	}
	if database != c.database {
		if _, err := e.lib.query(c.handle(), "USE "+quoteIdentifier(database), "Native", nil); err != nil {
			return c, err
		}
		c.database = database
	}
	if set := setStatement(c.settings, want, e.base); set != "" {
		if _, err := e.lib.query(c.handle(), set, "Native", nil); err != nil {
			fresh, replaceErr := e.replace(c)
			if replaceErr != nil {
				return nil, replaceErr
			}
			return fresh, err
		}
		c.settings = want
	}
	return c, nil
}

func (e *Engine) replace(c *conn) (*conn, error) {
	fresh, err := e.connect(c.reads)
	if err != nil {
		// Keep the pool's size; acquire tries again.
		e.disconnect(c)
		e.pool(c.reads) <- nil
		return nil, fmt.Errorf("reconnect to engine on %q: %w", e.path, err)
	}
	e.disconnect(c)
	return fresh, nil
}

// kill stops the statement of the connection with this mark, if one runs by now.
func (e *Engine) kill(mark string) {
	e.control.Lock()
	defer e.control.Unlock()
	// An error means the statement goes on, and whoever waits for it with it.
	_, _ = e.lib.query(e.killer.handle(), killStatement(mark), "Native", nil)
}

// defaultDatabase is the one a new connection is in.
const defaultDatabase = "default"

// defaultSettings are those of every connection.
var defaultSettings = map[string]string{
	// As at a server: an expression alone is no statement.
	"implicit_select": "0",
	// Symbols and stacks of this process are nobody's business.
	"allow_introspection_functions": "0",
	// Sampling would interrupt threads of a process that is not the engine's own.
	"query_profiler_real_time_period_ns": "0",
	"query_profiler_cpu_time_period_ns":  "0",
	"log_queries":                        "0",
}

// arguments are those of every connection: the first reads the server's
// options from them, each its own query settings.
func arguments(path, configFile string, memory uint64, settings map[string]string) []string {
	args := []string{"mcpaudit",
		"--path=" + path,
		// Without one, the engine would pick up a config.xml from the working
		// directory or the user's home.
		"--config-file=" + configFile,
		"--background_pool_size=" + strconv.Itoa(max(2, runtime.NumCPU()/2)),
		"--background_schedule_pool_size=4",
		"--background_common_pool_size=2",
		"--background_move_pool_size=1",
		"--background_fetches_pool_size=1",
		"--background_message_broker_schedule_pool_size=1",
		"--background_distributed_schedule_pool_size=1",
		"--max_server_memory_usage=" + strconv.FormatUint(memory, 10),
		"--mark_cache_size=" + strconv.Itoa(256<<20),
		"--index_mark_cache_size=" + strconv.Itoa(64<<20),
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "--"+name+"="+settings[name])
	}
	return args
}

// checkUnlocked says whether the engine's lock on path is free. The engine
// tells a refusal for that reason from others only on standard error.
func checkUnlocked(path string) error {
	f, err := os.Open(filepath.Join(path, "status"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
