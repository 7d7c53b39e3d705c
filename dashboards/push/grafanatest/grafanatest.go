// Package grafanatest is a server that keeps what Grafana's HTTP API keeps, as far as
// package push uses it, for tests: folders, data sources, dashboards, alert rules,
// contact points and the tree of notification policies of one organisation.
//
// It decodes what it is sent strictly into the types of grafana-openapi-client-go, so a
// field that Grafana does not know is an error, and answers with the fields, versions,
// defaults and refusals that Grafana 11 has (pkg/api and pkg/services/ngalert/api of its
// sources). Requests that change something are counted, and one of them can be made to
// fail before or after it is done.
package grafanatest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/grafana/grafana-openapi-client-go/models"
)

// Token is the only one that is known.
const Token = "glsa_test_0123456789abcdef"

// Server is such a Grafana. Its fields are for the time between requests.
type Server struct {
	*httptest.Server
	t  testing.TB
	mu sync.Mutex

	Folders     map[string]*models.Folder
	Sources     map[string]*models.DataSource
	Secrets     map[string]map[string]string // of data sources, which are never given back
	Boards      map[string]map[string]any
	BoardMeta   map[string]*models.DashboardMeta
	Rules       map[string]*models.ProvisionedAlertRule
	Intervals   map[string]int64 // seconds, by folder/group
	Contacts    map[string]*models.EmbeddedContactPoint
	Policies    json.RawMessage
	PolicyOwner string // provenance of the tree

	NoPlugin  bool              // grafana-clickhouse-datasource is not installed
	Deny      map[string]string // "POST /api/folders": the permission that lacks
	Unhealthy string            // what the health check of data sources says is wrong
	Version   string

	Writes   []string // method and path of each request that is not a GET
	FailAt   int      // which write fails, from 1; 0 for none
	FailDone bool     // it fails after it is done
	nextID   int64
}

// New starts one that is as Grafana is on its first day, with a contact point and the
// root of the policies, and ends it with the test.
func New(t testing.TB) *Server {
	s := &Server{t: t, Version: "11.6.0", Folders: map[string]*models.Folder{}, Sources: map[string]*models.DataSource{}, Secrets: map[string]map[string]string{},
		Boards: map[string]map[string]any{}, BoardMeta: map[string]*models.DashboardMeta{}, Rules: map[string]*models.ProvisionedAlertRule{},
		Intervals: map[string]int64{}, Contacts: map[string]*models.EmbeddedContactPoint{}, Deny: map[string]string{}}
	email := "email"
	s.Contacts["default"] = &models.EmbeddedContactPoint{UID: "default", Name: "grafana-default-email", Type: &email, Settings: map[string]any{"addresses": "<example@email.com>"}}
	s.Policies = json.RawMessage(`{"receiver":"grafana-default-email","group_by":["grafana_folder","alertname"]}`)
	mux := http.NewServeMux()
	s.organise(mux)
	s.alerting(mux)
	s.Server = httptest.NewServer(s.door(mux))
	t.Cleanup(s.Close)
	return s
}

// door is who comes in, and what of it is done.
func (s *Server) door(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.URL.Path == "/api/health" {
			answer(w, http.StatusOK, map[string]any{"commit": "abc", "database": "ok", "version": s.Version})
			return
		}
		if r.Header.Get("Authorization") != "Bearer "+Token {
			refuse(w, http.StatusUnauthorized, "Invalid API key")
			return
		}
		for what, lacks := range s.Deny {
			if method, path, _ := strings.Cut(what, " "); r.Method == method && strings.HasPrefix(r.URL.Path, path) {
				answer(w, http.StatusForbidden, map[string]any{"accessErrorId": "ACE1", "title": "Access denied",
					"message": "You'll need additional permissions to perform this action. Permissions needed: " + lacks})
				return
			}
		}
		if r.Method == http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		s.Writes = append(s.Writes, r.Method+" "+r.URL.Path)
		fails := len(s.Writes) == s.FailAt
		if fails && !s.FailDone {
			refuse(w, http.StatusInternalServerError, "Internal Server Error")
			return
		}
		kept := httptest.NewRecorder()
		next.ServeHTTP(kept, r)
		if fails {
			refuse(w, http.StatusInternalServerError, "Internal Server Error")
			return
		}
		for k, v := range kept.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(kept.Code)
		_, _ = w.Write(kept.Body.Bytes()) // who does not read it any more has gone
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // so that what goes back can be compared to the byte
	if err := e.Encode(v); err != nil {
		panic(err)
	}
}

func refuse(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]any{"message": message, "traceID": ""})
}

// read decodes a request's body strictly. A request that can't be is an error of the
// test too: Grafana might well take it and leave out what it does not know.
func read(s *Server, w http.ResponseWriter, r *http.Request, into any) bool {
	text, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		d.UseNumber()
		err = d.Decode(into)
	}
	if err != nil {
		s.t.Errorf("%s %s: the body is not of Grafana's type: %v\n%.500s", r.Method, r.URL.Path, err, text)
		refuse(w, http.StatusBadRequest, "bad request data")
		return false
	}
	if kind := r.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		s.t.Errorf("%s %s: Content-Type %q", r.Method, r.URL.Path, kind)
	}
	return true
}

// copied is a value as another reader would have it.
func copied[T any](v T) T {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var out T
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		panic(err)
	}
	return out
}

func (s *Server) id() int64 {
	s.nextID++
	return s.nextID
}

// State is all that is kept, as JSON, without what changes with each write: to compare
// the ends of two ways.
func (s *Server) State() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	folders, sources, boards, rules := copied(s.Folders), copied(s.Sources), copied(s.Boards), copied(s.Rules)
	for _, f := range folders {
		f.Version = 0
	}
	for _, d := range sources {
		d.ID, d.Version = 0, 0
	}
	for _, b := range boards {
		delete(b, "id")
		delete(b, "version")
	}
	for _, r := range rules {
		r.ID = 0
	}
	in := map[string]string{}
	for uid, m := range s.BoardMeta {
		in[uid] = m.FolderUID
	}
	var policies any
	if err := json.Unmarshal(s.Policies, &policies); err != nil {
		panic(err)
	}
	text, err := json.MarshalIndent(map[string]any{"folders": folders, "sources": sources, "secrets": s.Secrets, "boards": boards, "in": in, "rules": rules,
		"intervals": s.Intervals, "contacts": s.Contacts, "policies": policies, "owner": s.PolicyOwner}, "", " ")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Reset forgets the writes that were counted, and makes none fail.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Writes, s.FailAt, s.FailDone = nil, 0, false
}

func missing(w http.ResponseWriter, what string) {
	refuse(w, http.StatusNotFound, fmt.Sprintf("%s not found", what))
}

// strict decodes JSON that has no field which the type lacks.
func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
