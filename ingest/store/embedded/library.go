package embedded

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is libchdb's C interface, as far as this package needs it. The
// names follow the C functions without their chdb_ prefix. Text goes in by
// pointer and length everywhere, so NUL bytes survive; only error texts come
// back NUL-terminated.
//
// The engine keeps no thread-local state between calls, so a goroutine may
// move between threads from one call to the next. One connection runs one
// statement at a time; that is the pool's business (engine.go).
type library struct {
	setSignalHandlersEnabled func(enabled int32)
	connect                  func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn                func(conn unsafe.Pointer)
	classifyQuery            func(conn, sql unsafe.Pointer, sqlLen uintptr, database unsafe.Pointer, databaseLen uintptr, analysis unsafe.Pointer) int32

	queryWithParams       func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	streamQueryWithParams func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	streamFetchResult     func(conn, stream unsafe.Pointer) unsafe.Pointer
	streamCancelQuery     func(conn, stream unsafe.Pointer)

	streamInsert        func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr) unsafe.Pointer
	streamAppend        func(stream, data unsafe.Pointer, n uintptr) int32
	streamDone          func(stream unsafe.Pointer) unsafe.Pointer
	streamCancelInsert  func(stream unsafe.Pointer)
	streamInsertError   func(stream unsafe.Pointer) string
	destroyInsertStream func(stream unsafe.Pointer)

	resultBuffer       func(result unsafe.Pointer) unsafe.Pointer
	resultLength       func(result unsafe.Pointer) uintptr
	resultRows         func(result unsafe.Pointer) uint64
	resultError        func(result unsafe.Pointer) string
	destroyQueryResult func(result unsafe.Pointer)
}

// libraries holds every library this process has loaded, by path. A loaded
// library is never unloaded: its threads outlive every connection.
var libraries struct {
	sync.Mutex
	byPath map[string]*library
}

// load maps the library at path into the process, once.
func load(path string) (*library, error) {
	libraries.Lock()
	defer libraries.Unlock()
	if l, ok := libraries.byPath[path]; ok {
		return l, nil
	}
	if len(libraries.byPath) > 0 {
		// Two copies would fight over process-wide things (allocator, signals).
		return nil, fmt.Errorf("load engine library %q: this process has already loaded another one", path)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load engine library %q: %w", path, err)
	}
	l := new(library)
	for _, f := range []struct {
		name string
		fptr any
	}{
		{"chdb_set_signal_handlers_enabled", &l.setSignalHandlersEnabled},
		{"chdb_connect", &l.connect},
		{"chdb_close_conn", &l.closeConn},
		{"chdb_classify_query_n", &l.classifyQuery},
		{"chdb_query_with_params_n", &l.queryWithParams},
		{"chdb_stream_query_with_params_n", &l.streamQueryWithParams},
		{"chdb_stream_fetch_result", &l.streamFetchResult},
		{"chdb_stream_cancel_query", &l.streamCancelQuery},
		{"chdb_stream_insert_n", &l.streamInsert},
		{"chdb_stream_append", &l.streamAppend},
		{"chdb_stream_done", &l.streamDone},
		{"chdb_stream_cancel_insert", &l.streamCancelInsert},
		{"chdb_stream_insert_error", &l.streamInsertError},
		{"chdb_destroy_insert_stream", &l.destroyInsertStream},
		{"chdb_result_buffer", &l.resultBuffer},
		{"chdb_result_length", &l.resultLength},
		{"chdb_result_rows_read", &l.resultRows},
		{"chdb_result_error", &l.resultError},
		{"chdb_destroy_query_result", &l.destroyQueryResult},
	} {
		symbol, err := purego.Dlsym(handle, f.name)
		if err != nil {
			return nil, fmt.Errorf("load engine library %q: it has no function %s; version %s is needed", path, f.name, Version)
		}
		purego.RegisterFunc(f.fptr, symbol)
	}
	if err := keepSignals(func() { l.setSignalHandlersEnabled(0) }); err != nil {
		return nil, fmt.Errorf("load engine library %q: %w", path, err)
	}
	if libraries.byPath == nil {
		libraries.byPath = make(map[string]*library)
	}
	libraries.byPath[path] = l
	return l, nil
}

// deadlySignals are the ones libchdb sets back to their default action while
// its own handlers are switched off. Go's runtime needs its own: without the
// one for SIGSEGV a nil dereference ends the process instead of panicking.
// The numbers are those of Linux and darwin (SIGABRT, SIGSEGV, SIGILL, SIGBUS,
// SIGSYS, SIGFPE, SIGTSTP, SIGTRAP).
var deadlySignals = map[string][]int32{
	"linux":  {6, 11, 4, 7, 31, 8, 20, 5},
	"darwin": {6, 11, 4, 10, 12, 8, 18, 5},
}[runtime.GOOS]

// keepSignals runs f and puts the signal handlers back as they were.
func keepSignals(f func()) error {
	symbol, err := purego.Dlsym(purego.RTLD_DEFAULT, "sigaction")
	if err != nil {
		return fmt.Errorf("find sigaction: %w", err)
	}
	var sigaction func(signal int32, set, get unsafe.Pointer) int32
	purego.RegisterFunc(&sigaction, symbol)

	// struct sigaction is 152 bytes on Linux and 16 on darwin, and opaque here.
	saved := make([][256]byte, len(deadlySignals))
	for i, s := range deadlySignals {
		if sigaction(s, nil, unsafe.Pointer(&saved[i])) != 0 {
			return fmt.Errorf("read the handler of signal %d", s)
		}
	}
	f()
	for i, s := range deadlySignals {
		if sigaction(s, unsafe.Pointer(&saved[i]), nil) != 0 {
			return fmt.Errorf("restore the handler of signal %d", s)
		}
	}
	return nil
}

// open connects with the given arguments ("--path=…", "--setting=value").
// It returns nil when the engine refuses; the engine gives no reason.
func (l *library) open(args []string) unsafe.Pointer {
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		argv[i] = &append([]byte(a), 0)[0]
	}
	conn := l.connect(int32(len(args)), unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(argv)
	return conn
}

// analysis is what the engine's parser makes of a text. The layout is
// chdb_query_analysis_v1's.
type analysis struct {
	size       uint32
	statements uint32 // 0 when the text does not parse
	flags      uint32
	class      class
}

// class is chdb_query_class: what a statement does to state that outlives it.
type class uint32

const (
	readOnly      class = iota
	mutating            // kept by a database
	mutatingOther       // kept elsewhere: functions, users
	control             // of the session or the engine: SET, USE, SYSTEM; or writes outside
	unknown
)

// classify has the engine's own parser look at sql without running it.
func (l *library) classify(conn unsafe.Pointer, sql string) (analysis, error) {
	a := &analysis{class: unknown}
	a.size = uint32(unsafe.Sizeof(*a))
	state := l.classifyQuery(conn, unsafe.Pointer(bytePointer(sql)), uintptr(len(sql)), nil, 0, unsafe.Pointer(a))
	runtime.KeepAlive(sql)
	if state != 0 {
		return *a, &engineError{text: "the engine did not analyse the statement"}
	}
	return *a, nil
}

// parameter is a value bound to {name:Type} in a statement.
type parameter struct{ name, value string }

// bound is a list of parameters laid out as the C interface wants them.
type bound struct {
	names, values         []*byte
	nameLens, valueLens   []uintptr
	namesP, valuesP       unsafe.Pointer
	nameLensP, valueLensP unsafe.Pointer
}

func bind(params []parameter) *bound {
	b := new(bound)
	if len(params) == 0 {
		return b
	}
	for _, p := range params {
		b.names = append(b.names, bytePointer(p.name))
		b.nameLens = append(b.nameLens, uintptr(len(p.name)))
		b.values = append(b.values, bytePointer(p.value))
		b.valueLens = append(b.valueLens, uintptr(len(p.value)))
	}
	b.namesP, b.nameLensP = unsafe.Pointer(&b.names[0]), unsafe.Pointer(&b.nameLens[0])
	b.valuesP, b.valueLensP = unsafe.Pointer(&b.values[0]), unsafe.Pointer(&b.valueLens[0])
	return b
}

// bytePointer is the address of s's bytes; never nil, which the engine takes
// for a missing value rather than an empty one.
func bytePointer(s string) *byte {
	if s == "" {
		return new(byte)
	}
	return unsafe.StringData(s)
}

// query runs one statement to its end and returns its whole result.
func (l *library) query(conn unsafe.Pointer, sql, format string, params []parameter) ([]byte, error) {
	b := bind(params)
	result := l.queryWithParams(conn,
		unsafe.Pointer(bytePointer(sql)), uintptr(len(sql)),
		unsafe.Pointer(bytePointer(format)), uintptr(len(format)),
		b.namesP, b.nameLensP, b.valuesP, b.valueLensP, uintptr(len(b.names)))
	runtime.KeepAlive(b)
	runtime.KeepAlive(sql)
	runtime.KeepAlive(format)
	defer l.destroyQueryResult(result)
	if err := l.errorOf(result); err != nil {
		return nil, err
	}
	view := l.view(result)
	return append(make([]byte, 0, len(view)), view...), nil
}

// errorOf is the error a result carries, or nil.
func (l *library) errorOf(result unsafe.Pointer) error {
	if result == nil {
		return &engineError{text: "the engine returned no result"}
	}
	if text := l.resultError(result); text != "" {
		return newEngineError(text)
	}
	return nil
}

// view is a result's bytes in the engine's memory: dead once it is destroyed.
func (l *library) view(result unsafe.Pointer) []byte {
	n := l.resultLength(result)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(l.resultBuffer(result)), n)
}
