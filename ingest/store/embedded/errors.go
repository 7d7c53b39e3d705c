package embedded

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Errors of [Open] and of requests. Engine errors are not among them: they
// come back as ClickHouse's HTTP interface sends them, and the driver makes
// them *clickhouse.Exception.
var (
	// ErrLocked: another process has the data folder open.
	ErrLocked = errors.New("another process is using this data folder")
	// ErrBusy: this process already has a data folder open.
	ErrBusy = errors.New("this process already has a data folder open; close it first")
	// ErrClosed: the engine was closed.
	ErrClosed = errors.New("the embedded engine is closed")
)

// engineError is what the engine said about a statement.
type engineError struct {
	code int // ClickHouse's error code; 0 when the engine gave none
	text string
}

func (e *engineError) Error() string { return e.text }

// codeText finds where ClickHouse's own text starts; libchdb may put words of
// its own before it.
var codeText = regexp.MustCompile(`Code: (\d{1,6})\. `)

func newEngineError(text string) *engineError {
	text = strings.TrimSpace(text)
	e := &engineError{text: text}
	if at := codeText.FindStringSubmatchIndex(text); at != nil {
		e.code, _ = strconv.Atoi(text[at[2]:at[3]])
		e.text = text[at[0]:]
	}
	return e
}

// Codes of ClickHouse's that this package gives by itself.
const (
	codeSyntaxError    = 62
	codeUnknownSetting = 115
	codeNotImplemented = 48
	codeNoData         = 108
	codeTooSlow        = 159
	codeTooMany        = 202
	codeNotLetIn       = 516
	codeReadFailed     = 1000
)

// refuse makes an error of our own in ClickHouse's form.
func refuse(code int, name, text string) *engineError {
	return &engineError{code: code, text: "Code: " + strconv.Itoa(code) + ". DB::Exception: " + text + ". (" + name + ")"}
}

// response answers a request as ClickHouse's HTTP interface would.
func (e *engineError) response(req *http.Request) *http.Response {
	resp := newResponse(req, http.StatusInternalServerError, strings.NewReader(e.text+"\n"), int64(len(e.text)+1))
	resp.Header.Set("Content-Type", "text/plain; charset=UTF-8")
	if e.code != 0 {
		resp.Header.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.code))
	}
	return resp
}

// exceptionTag stands where a server puts a random tag. Clients look for the
// marker's line, not for a particular tag.
const exceptionTag = "mcpaudit-engine."

// framed is the error as ClickHouse appends it to a body already under way.
func (e *engineError) framed() string {
	const marker = "\r\n__exception__\r\n"
	return marker + exceptionTag + "\r\n" + e.text + "\n" + strconv.Itoa(len(e.text)+1) + " " + exceptionTag + marker
}

func newResponse(req *http.Request, status int, body io.Reader, length int64) *http.Response {
	rc, ok := body.(io.ReadCloser)
	if !ok {
		rc = io.NopCloser(body)
	}
	return &http.Response{
		Status:        strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode:    status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        make(http.Header),
		Body:          rc,
		ContentLength: length,
		Request:       req,
	}
}
