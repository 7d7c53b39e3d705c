package sql

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// asked is a request as it is understood.
type asked struct {
	text     string
	format   string
	params   map[string]string
	settings map[string]string
	protocol uint64
}

// Bounds of what comes beside the statement.
const (
	maxParams     = 200
	maxParamBytes = 64 << 10 // of all of them
)

// ours are settings that a request may bring: how a result is written, and what some
// functions make of nothing. None bears on who sees what, or how much.
var ours = []string{
	"session_timezone", "limit", "offset", "join_use_nulls", "group_by_use_nulls", "aggregate_functions_null_for_empty", "transform_null_in",
	"union_default_mode", "cast_keep_nullable", "date_time_output_format", "bool_true_representation", "bool_false_representation",
	"format_csv_delimiter", "format_tsv_null_representation", "format_csv_null_representation",
	"output_format_json_quote_64bit_integers", "output_format_json_quote_64bit_floats", "output_format_json_quote_denormals",
	"output_format_json_quote_decimals", "output_format_json_named_tuples_as_objects", "output_format_json_array_of_rows",
	"output_format_json_escape_forward_slashes", "output_format_decimal_trailing_zeros", "output_format_csv_crlf_end_of_line",
	"output_format_tsv_crlf_end_of_line", "output_format_pretty_max_rows", "output_format_pretty_color", "output_format_parquet_compression_method",
	"output_format_arrow_string_as_string", "output_format_parquet_string_as_string",
}

// passed are URL parameters that clients send and that mean nothing here, or are so
// anyway: there is one database, no session, and a result comes uncompressed.
var passed = []string{
	"query", "default_format", "client_protocol_version", "query_id", "quota_key", "role", "session_id", "session_timeout", "session_check",
	"wait_end_of_query", "buffer_size", "compress", "decompress", "enable_http_compression", "http_zlib_compression_level", "readonly",
	"send_progress_in_http_headers", "http_headers_progress_interval_ms", "add_http_cors_header", "log_queries", "stacktrace", "cancel_http_readonly_queries_on_client_close",
	"allow_experimental_analyzer", "enable_analyzer",
}

// parse reads a request as ClickHouse's HTTP interface means it
// (clickhouse.com/docs/interfaces/http). most is the longest max_execution_time. The error
// is an *embedded.Exception, or of the body when that does not come.
func parse(r *http.Request, most time.Duration) (*asked, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return nil, embedded.Refuse(48, "NOT_IMPLEMENTED", "external tables are not taken here; put values into the statement, or bind them as param_NAME")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "the URL's parameters are malformed")
	}
	a := &asked{params: map[string]string{}, settings: map[string]string{}}
	if err := a.take(query, most); err != nil {
		return nil, err
	}
	database, format := query.Get("database"), query.Get("default_format")
	if database == "" {
		database = r.Header.Get("X-ClickHouse-Database")
	}
	if database != "" && database != "default" {
		return nil, embedded.Refuse(codeUnknownDatabase, "UNKNOWN_DATABASE", "there is one database here, default")
	}
	if format == "" {
		format = r.Header.Get("X-ClickHouse-Format")
	}
	if format == "" {
		format = "TabSeparated"
	}
	if a.format = format; !formats.MatchString(format) {
		return nil, denied("this format is not taken here; use Native, JSON, JSONEachRow, CSV, TSV or Parquet")
	}
	a.protocol, _ = strconv.ParseUint(query.Get("client_protocol_version"), 10, 32)
	a.text = query.Get("query")
	if err := a.read(r); err != nil {
		return nil, err
	}
	if strings.TrimSpace(a.text) == "" {
		return nil, embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "there is no statement; send it as the body, or as query in the URL")
	}
	return a, nil
}

// take sorts the URL's parameters.
func (a *asked) take(query url.Values, most time.Duration) error {
	size := 0
	for name, values := range query {
		value := values[len(values)-1]
		param, isParam := strings.CutPrefix(name, "param_")
		switch {
		case isParam:
			size += len(param) + len(value)
			a.params[param] = value
			if len(a.params) > maxParams || size > maxParamBytes {
				return embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "there are too many bound values; at most 200, and 64 KiB together")
			}
		case name == "user" || name == "password":
			return embedded.Refuse(codeNotLetIn, "AUTHENTICATION_FAILED", "a password in a URL is read by others; send it as X-ClickHouse-Key, or by basic authentication")
		case name == "database", slices.Contains(passed, name):
			// A driver that asks for its own compression would not understand what comes.
			if name == "compress" && value != "0" && value != "false" {
				return embedded.Refuse(48, "NOT_IMPLEMENTED", "blocks are not compressed here; set the driver's compression to none or gzip")
			}
		case name == "max_execution_time":
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil || !(seconds >= 0) {
				return embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "max_execution_time is no number of seconds")
			}
			if seconds > 0 && seconds < most.Seconds() {
				a.settings[name] = strconv.FormatFloat(seconds, 'f', -1, 64)
			}
		case slices.Contains(ours, name):
			if len(value) > 100 {
				return embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "the setting "+name+" is too long")
			}
			a.settings[name] = value
		default:
			return embedded.Refuse(codeReadonly, "READONLY", "the setting "+strconv.Quote(clip(name))+" can't be changed here")
		}
	}
	return nil
}

// read takes the body: the statement, or what is left of it.
func (a *asked) read(r *http.Request) error {
	if r.Body == nil || r.Method == http.MethodGet {
		return a.fits()
	}
	var body io.Reader = r.Body
	switch r.Header.Get("Content-Encoding") {
	case "":
	case "gzip":
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "the body is not gzip, as it says")
		}
		body = unpacked
	default:
		return embedded.Refuse(48, "NOT_IMPLEMENTED", "a statement comes as it is, or by gzip")
	}
	text, err := io.ReadAll(io.LimitReader(body, store.MaxSQL+1))
	if err != nil {
		if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) {
			return embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "the body is not gzip, as it says")
		}
		return err
	}
	if a.text != "" && len(text) > 0 {
		a.text += "\n"
	}
	a.text += string(text)
	return a.fits()
}

func (a *asked) fits() error {
	if len(a.text) > store.MaxSQL {
		return embedded.Refuse(codeSyntax, "SYNTAX_ERROR", "the statement is longer than "+strconv.Itoa(store.MaxSQL)+" bytes")
	}
	return nil
}

// credentials are those that a request brings, each as an Authorization header of RFC 6750:
// whoever brings two is refused by the guard.
func credentials(r *http.Request) (out []string) {
	for _, header := range r.Header.Values("Authorization") {
		scheme, _, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "basic") {
			out = append(out, header)
			continue
		}
		password := ""
		if _, p, ok := (&http.Request{Header: http.Header{"Authorization": {header}}}).BasicAuth(); ok {
			password = p
		}
		if password != "" { // an empty one is none: a certificate may count
			out = append(out, "Bearer "+password)
		}
	}
	for _, key := range r.Header.Values("X-ClickHouse-Key") {
		if key != "" {
			out = append(out, "Bearer "+key)
		}
	}
	return out
}
