package embedded

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxStatement bounds a statement's text, in bytes. Rows do not count when
// they come as a body beside a statement in the URL.
const maxStatement = 16 << 20

// request is a statement as it came over HTTP.
type request struct {
	sql      string
	data     io.Reader // rows that follow sql; nil when the body was the statement
	format   string    // of rows in either direction, unless sql names one
	database string
	settings map[string]string
	params   []parameter
	protocol uint64    // client_protocol_version
	deadline time.Time // by max_execution_time, from the arrival; zero for none

	// tell, when it is set, says what a client may read of an error that ends a result
	// which is under way.
	tell func(code int, text string) string
	rows *atomic.Int64 // counts the rows of a streamed result; nil for nobody
}

// overdue is the error of a statement whose max_execution_time is over, else nil.
func (r *request) overdue() error {
	if r.deadline.IsZero() || time.Now().Before(r.deadline) {
		return nil
	}
	return refuse(codeTooSlow, "TIMEOUT_EXCEEDED", "Timeout exceeded: the rows of the insert did not come within "+r.settings[timeLimit]+" s")
}

// timeLimit is the setting that bounds a statement's time, in seconds.
const timeLimit = "max_execution_time"

// notSettings are the URL parameters of ClickHouse's HTTP interface that are
// no settings. Those without a session, a user or a network to act on are
// ignored.
var notSettings = map[string]bool{
	"query": true, "database": true, "default_format": true, "client_protocol_version": true,
	"query_id": true, "quota_key": true, "session_id": true, "session_timeout": true, "session_check": true,
	"session_timezone_check": true, "user": true, "password": true, "role": true,
	"compress": true, "decompress": true, "wait_end_of_query": true, "buffer_size": true, "stacktrace": true,
	"close_session": true,
}

func parseRequest(req *http.Request) (*request, error) {
	if strings.HasPrefix(req.Header.Get("Content-Type"), "multipart/") {
		return nil, refuse(codeNotImplemented, "NOT_IMPLEMENTED", "external tables are not available in the embedded engine")
	}
	if encoding := req.Header.Get("Content-Encoding"); encoding != "" {
		return nil, refuse(codeNotImplemented, "NOT_IMPLEMENTED", "bodies are not compressed inside one process: set Compression to none, not "+strconv.Quote(encoding))
	}
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return nil, refuse(codeSyntaxError, "SYNTAX_ERROR", "the URL's parameters are malformed")
	}
	r := &request{format: "Native", database: defaultDatabase, settings: make(map[string]string)}
	for name, values := range query {
		value := values[len(values)-1]
		param, isParam := strings.CutPrefix(name, "param_")
		switch {
		case isParam:
			r.params = append(r.params, parameter{param, value})
		case name == "compress" || name == "decompress":
			if value != "0" && value != "false" {
				return nil, refuse(codeNotImplemented, "NOT_IMPLEMENTED", "blocks are not compressed inside one process: set Compression to none")
			}
		case notSettings[name]:
		case !plainName.MatchString(name):
			return nil, refuse(codeUnknownSetting, "UNKNOWN_SETTING", fmt.Sprintf("%q is not the name of a setting", name))
		default:
			r.settings[name] = value
		}
	}
	for _, given := range []struct {
		name string
		into *string
	}{{"database", &r.database}, {"default_format", &r.format}, {"query", &r.sql}} {
		if value := query.Get(given.name); value != "" {
			*given.into = value
		}
	}
	if seconds, err := strconv.ParseFloat(r.settings[timeLimit], 64); err == nil && seconds > 0 && seconds < 1e9 {
		r.deadline = time.Now().Add(time.Duration(seconds * float64(time.Second)))
	}
	r.protocol, _ = strconv.ParseUint(query.Get("client_protocol_version"), 10, 32)
	if r.sql != "" {
		r.data = req.Body
		if r.data == nil {
			r.data = http.NoBody
		}
		return r, nil
	}
	return r, r.readStatement(req.Body)
}

// readStatement takes the rest of the statement from body.
func (r *request) readStatement(body io.Reader) error {
	if body == nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(body, maxStatement+1))
	if err != nil {
		return fmt.Errorf("read statement: %w", err)
	}
	if len(text) > maxStatement {
		return refuse(codeSyntaxError, "SYNTAX_ERROR", fmt.Sprintf("the statement is longer than %d bytes", maxStatement))
	}
	if r.sql != "" && len(text) > 0 {
		r.sql += "\n"
	}
	r.sql += string(text)
	return nil
}

// insert takes an INSERT whose rows are in data apart.
func (r *request) insert() (head, format string, ok bool) {
	if r.data == nil || keyword(r.sql) != "INSERT" {
		return "", "", false
	}
	return cutFormat(r.sql)
}

// allowedControl are the statements of class control that are served. They
// act on the engine; SET and USE act on a session, and there is none.
var allowedControl = map[string]bool{"KILL": true, "SYSTEM": true, "BACKUP": true, "RESTORE": true}

// admit decides whether a statement may run at all, by what the engine's
// parser says it is.
func (r *request) admit(a analysis) error {
	first := keyword(r.sql)
	switch {
	case a.statements > 1:
		return refuse(codeSyntaxError, "SYNTAX_ERROR", "the text holds more than one statement")
	case a.class == unknown && strings.Contains(strings.TrimRight(r.sql, "; \t\r\n"), ";"):
		// What does not parse is run only to hear the engine's own complaint,
		// and must not begin with something that does.
		return refuse(codeSyntaxError, "SYNTAX_ERROR", "the statement does not parse")
	case a.class == control && (first == "SET" || first == "USE"):
		return refuse(codeNotImplemented, "NOT_IMPLEMENTED", first+" has no session to act on: send settings and the database with each statement")
	case a.class == control && !allowedControl[first]:
		return refuse(codeNotImplemented, "NOT_IMPLEMENTED", "the statement acts outside the database, which the embedded engine does not allow")
	case (a.class == control || first == "INSERT" || first == "EXPLAIN" || first == "WITH") && a.class != readOnly && clientSide.MatchString(r.sql),
		first == "EXPLAIN" && clientSide.MatchString(r.sql):
		return refuse(codeNotImplemented, "NOT_IMPLEMENTED", "files outside the data folder cannot be read or written by a statement")
	}
	return nil
}
