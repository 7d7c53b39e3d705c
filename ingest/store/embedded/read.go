package embedded

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Reading is a statement that somebody wrote who is to read and do nothing else. What
// it may ask for is first the caller's to decide, by its [Outline]: the rights that a
// reader has in users.xml are the last wall and not the only one, since the engine knows
// settings in subqueries, functions that read files and system tables that it lets
// anybody see.
type Reading struct {
	Text     string
	Format   string            // of the result, unless the text names one
	Params   map[string]string // for {name:Type} in the text
	Settings map[string]string // put in force before the statement; readonly among them
	Protocol uint64            // client_protocol_version of a driver's first query, else 0
	// Tell says what a client may read of the engine's error.
	Tell func(code int, text string) string
	// Rows counts the rows of the result as it is read; nil for nobody.
	Rows *atomic.Int64
	// Patience is how long it waits for a connection before it is refused with
	// ClickHouse's code 202.
	Patience time.Duration
}

// Outline is what the engine's own parser makes of a statement, which is not run.
type Outline struct {
	// Canonical is the statement as the engine writes it, in one line.
	Canonical string
	// Normal is the statement with a ? in place of each literal.
	Normal string
	// Tree is the syntax tree, as EXPLAIN AST draws it: a node a line, one space for
	// each level.
	Tree string
}

// Exception is what ClickHouse says against a statement.
type Exception struct {
	Code int    // ClickHouse's, 0 for none
	Text string // "Code: 62. DB::Exception: …"
}

func (e *Exception) Error() string { return e.Text }

// Refuse is an exception of our own in ClickHouse's form; name is that of the code, such
// as ACCESS_DENIED.
func Refuse(code int, name, text string) *Exception {
	return &Exception{Code: code, Text: refuse(code, name, text).text}
}

// Outline says what a reader's statement is. The error is an *Exception when the text is
// not one statement that only reads, or not one at all.
func (e *Engine) Outline(ctx context.Context, r Reading) (Outline, error) {
	var o Outline
	c, err := e.acquire(ctx, true, r.Patience)
	if err != nil {
		return o, exception(err)
	}
	// Not c itself: a replaced connection goes back in its place.
	defer func() {
		if c != nil {
			e.release(c)
		}
	}()
	if c, err = e.prepare(c, defaultDatabase, r.Settings); err != nil {
		return o, exception(err)
	}
	if _, err := e.analyse(c, r.Text); err != nil {
		return o, exception(err)
	}
	own := []parameter{{"text", escaped.Replace(r.Text)}}
	for _, ask := range []struct {
		sql    string
		params []parameter
		into   *string
	}{
		{"SELECT formatQuerySingleLine({text:String})", own, &o.Canonical},
		{"SELECT normalizeQueryKeepNames({text:String})", own, &o.Normal},
		// It parses and draws. The text alone is one statement, so that nothing of it is
		// left over behind the drawing.
		{"EXPLAIN AST " + r.Text, parameters(r.Params), &o.Tree},
	} {
		done := e.whileRunning(ctx, c.mark)
		text, err := e.lib.query(c.handle(), ask.sql, "TSVRaw", ask.params)
		done()
		if err != nil {
			return o, exception(err)
		}
		*ask.into = strings.TrimSuffix(string(text), "\n")
	}
	return o, nil
}

// escaped is a text as a bound value comes: as in TabSeparated.
var escaped = strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\t", "\\t", "\r", "\\r", "\x00", "\\0")

// analyse says what a reader's text is, and refuses what does not only read.
func (e *Engine) analyse(c *conn, sql string) (analysis, error) {
	a, err := e.lib.classify(c.handle(), sql)
	switch {
	case err != nil:
		return a, err
	case a.statements == 0 || a.class == unknown:
		// The engine says best why: this way nothing of the text can run.
		if _, err := e.lib.query(c.handle(), "SELECT formatQuerySingleLine({text:String})", "TSVRaw", []parameter{{"text", escaped.Replace(sql)}}); err != nil {
			return a, err
		}
		return a, refuse(codeSyntaxError, "SYNTAX_ERROR", "the statement does not parse")
	case a.statements > 1:
		return a, refuse(codeSyntaxError, "SYNTAX_ERROR", "the text holds more than one statement")
	case a.class != readOnly || !slices.Contains(readingWords, keyword(sql)):
		return a, refuse(codeReadonly, "READONLY", "this endpoint only reads: SELECT, EXPLAIN, DESCRIBE, SHOW and EXISTS")
	}
	return a, nil
}

// readingWords are what a reader's statement begins with.
var readingWords = []string{"SELECT", "WITH", "EXPLAIN", "DESCRIBE", "DESC", "SHOW", "EXISTS"}

// codeReadonly is ClickHouse's READONLY.
const codeReadonly = 164

// Read runs a statement that was judged by its outline. The error is an *Exception when
// it was refused or failed before its first row; what fails later ends the body as
// ClickHouse's HTTP interface does, with a read error of none: a body that ends in the
// exception is not the whole. Read the body to its end or close it: it holds one of few
// connections.
func (e *Engine) Read(ctx context.Context, r Reading) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+Addr, nil)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(r.Text) == helloQuery && r.Protocol > 0 {
		return e.hello(req, r.Protocol)
	}
	c, err := e.acquire(ctx, true, r.Patience)
	if err != nil {
		return nil, exception(err)
	}
	resp, c, err := e.read(req, r, c)
	if c != nil {
		e.release(c)
	}
	return resp, exception(ended(ctx, err))
}

// read is Read on c. The connection that it returns is as in run.
func (e *Engine) read(req *http.Request, r Reading, c *conn) (*http.Response, *conn, error) {
	c, err := e.prepare(c, defaultDatabase, r.Settings)
	if err != nil {
		return nil, c, err
	}
	a, err := e.analyse(c, r.Text)
	if err != nil {
		return nil, c, err
	}
	return e.carryOut(req, &request{sql: r.Text, format: r.Format, params: parameters(r.Params), tell: r.Tell, rows: r.Rows}, c, a)
}

// IsHello says whether a text is the first query of clickhouse-go, which Read answers
// without the engine.
func IsHello(text string) bool { return strings.TrimSpace(text) == helloQuery }

func parameters(values map[string]string) []parameter {
	var out []parameter
	for name, value := range values {
		out = append(out, parameter{name, value})
	}
	return out
}

// exception is err as others than this package know it.
func exception(err error) error {
	if said, ok := err.(*engineError); ok { //nolint:errorlint // it is never wrapped
		return &Exception{Code: said.code, Text: said.text}
	}
	return err
}

// Failed says whether the body of a response of Read, which was read to its end, ended in
// an exception.
func Failed(resp *http.Response) bool {
	s, ok := resp.Body.(*stream)
	return ok && s.failed()
}

// ExceptionHeader is ClickHouse's header with the code of an error.
const ExceptionHeader = "X-ClickHouse-Exception-Code"

// Answer writes the head of an exception, and the exception.
func (e *Exception) Answer(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	if e.Code != 0 {
		w.Header().Set(ExceptionHeader, strconv.Itoa(e.Code))
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(e.Text + "\n"))
}
