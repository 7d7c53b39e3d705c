package grafanatest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/grafana/grafana-openapi-client-go/models"
)

// alerting answers for /api/v1/provisioning.
func (s *Server) alerting(mux *http.ServeMux) {
	s.rules(mux)
	s.groups(mux)
	s.contacts(mux)
	s.policies(mux)
}

const root = "/api/v1/provisioning/"

// provenance is what a write through the API leaves behind.
func provenance(r *http.Request) string {
	if r.Header.Get("X-Disable-Provenance") != "" {
		return ""
	}
	return "api"
}

// mayFollow says whether Grafana lets a provenance come after another
// (ValidateProvenanceRelaxed of its package validation).
func mayFollow(w http.ResponseWriter, before, after string) bool {
	if before == "" || before == after || after == "" && before != "file" {
		return true
	}
	refuse(w, http.StatusConflict, fmt.Sprintf("cannot change provenance from '%s' to '%s'", before, after))
	return false
}

// shown is a rule as Grafana gives it: with the fields that it adds, and durations as
// Prometheus writes them.
func shown(rule *models.ProvisionedAlertRule) map[string]any {
	out := copied(map[string]any{"rule": rule})["rule"].(map[string]any)
	out["for"] = prometheus(time.Duration(*rule.For))
	out["keep_firing_for"] = prometheus(time.Duration(rule.KeepFiringFor))
	out["updated"] = "2026-02-03T04:05:06Z"
	out["isPaused"] = rule.IsPaused
	out["notification_settings"], out["record"] = nil, nil
	return out
}

func prometheus(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// good says what Grafana would say against a rule.
func (s *Server) good(w http.ResponseWriter, rule *models.ProvisionedAlertRule) bool {
	if err := rule.Validate(strfmt.Default); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return false
	}
	_, board := rule.Annotations["__dashboardUid__"]
	_, panel := rule.Annotations["__panelId__"]
	why := ""
	switch {
	case s.Folders[*rule.FolderUID] == nil:
		why = "folder does not exist"
	case board != panel:
		why = "both annotations __dashboardUid__ and __panelId__ must be specified"
	case !slices.ContainsFunc(rule.Data, func(q *models.AlertQuery) bool { return q.RefID == *rule.Condition }):
		why = "condition " + *rule.Condition + " does not exist"
	}
	for _, q := range rule.Data {
		if q.DatasourceUID != "__expr__" && s.Sources[q.DatasourceUID] == nil {
			why = "data source not found"
		}
	}
	for uid, other := range s.Rules {
		if uid != rule.UID && *other.FolderUID == *rule.FolderUID && *other.Title == *rule.Title {
			why = "a conflicting alert rule is found: rule title under the same organisation and folder should be unique"
		}
	}
	if why != "" {
		refuse(w, http.StatusBadRequest, why)
	}
	return why == ""
}

func (s *Server) rules(mux *http.ServeMux) {
	mux.HandleFunc("GET "+root+"alert-rules", func(w http.ResponseWriter, _ *http.Request) {
		out := []any{}
		for _, rule := range s.Rules {
			out = append(out, shown(rule))
		}
		answer(w, http.StatusOK, out)
	})
	mux.HandleFunc("POST "+root+"alert-rules", func(w http.ResponseWriter, r *http.Request) {
		var rule models.ProvisionedAlertRule
		if !read(s, w, r, &rule) || !s.good(w, &rule) {
			return
		}
		if s.Rules[rule.UID] != nil {
			refuse(w, http.StatusConflict, "alert rule with the same UID already exists")
			return
		}
		rule.ID, rule.Provenance = s.id(), models.Provenance(provenance(r))
		s.Rules[rule.UID] = &rule
		if group := *rule.FolderUID + "/" + *rule.RuleGroup; s.Intervals[group] == 0 {
			s.Intervals[group] = 60
		}
		answer(w, http.StatusCreated, shown(&rule))
	})
	mux.HandleFunc("PUT "+root+"alert-rules/{uid}", func(w http.ResponseWriter, r *http.Request) {
		var rule models.ProvisionedAlertRule
		old := s.Rules[r.PathValue("uid")]
		if old == nil {
			missing(w, "alert rule")
			return
		}
		if !read(s, w, r, &rule) || !s.good(w, &rule) || !mayFollow(w, string(old.Provenance), provenance(r)) {
			return
		}
		rule.ID, rule.UID, rule.Provenance = old.ID, old.UID, models.Provenance(provenance(r))
		s.Rules[rule.UID] = &rule
		answer(w, http.StatusOK, shown(&rule))
	})
	mux.HandleFunc("DELETE "+root+"alert-rules/{uid}", func(w http.ResponseWriter, r *http.Request) {
		if old := s.Rules[r.PathValue("uid")]; old != nil {
			if !mayFollow(w, string(old.Provenance), provenance(r)) {
				return
			}
			delete(s.Rules, old.UID)
			group := *old.FolderUID + "/" + *old.RuleGroup
			if !s.used(group) {
				delete(s.Intervals, group)
			}
		}
		w.WriteHeader(http.StatusNoContent) // also for one that is not there
	})
}

func (s *Server) used(group string) bool {
	for _, rule := range s.Rules {
		if *rule.FolderUID+"/"+*rule.RuleGroup == group {
			return true
		}
	}
	return false
}

func (s *Server) groups(mux *http.ServeMux) {
	const path = root + "folder/{folder}/rule-groups/{group}"
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		key := r.PathValue("folder") + "/" + r.PathValue("group")
		rules := []any{}
		for _, rule := range s.Rules {
			if *rule.FolderUID+"/"+*rule.RuleGroup == key {
				rules = append(rules, shown(rule))
			}
		}
		if len(rules) == 0 {
			missing(w, "rule group")
			return
		}
		answer(w, http.StatusOK, map[string]any{"title": r.PathValue("group"), "folderUid": r.PathValue("folder"), "interval": s.Intervals[key], "rules": rules})
	})
	mux.HandleFunc("PUT "+path, func(w http.ResponseWriter, r *http.Request) {
		var g models.AlertRuleGroup
		if !read(s, w, r, &g) {
			return
		}
		key := r.PathValue("folder") + "/" + r.PathValue("group")
		switch {
		case g.Interval <= 0 || g.Interval%10 != 0:
			refuse(w, http.StatusBadRequest, "interval should be non-zero and divided exactly by scheduler interval: 10")
		case g.Rules != nil:
			s.t.Errorf("PUT of group %s has rules: those of others would be lost", key)
			refuse(w, http.StatusBadRequest, "not in this test")
		default:
			if s.used(key) {
				s.Intervals[key] = g.Interval
			}
			answer(w, http.StatusOK, g)
		}
	})
}

// secretSettings are those that Grafana does not give back, by type.
var secretSettings = map[string][]string{"slack": {"url", "token"}, "webhook": {"password", "authorization_credentials"}, "pagerduty": {"integrationKey"}, "prometheus-alertmanager": {"basicAuthPassword"}}

func (s *Server) contacts(mux *http.ServeMux) {
	const redacted = "[REDACTED]"
	mux.HandleFunc("GET "+root+"contact-points", func(w http.ResponseWriter, _ *http.Request) {
		out := []*models.EmbeddedContactPoint{}
		for _, p := range s.Contacts {
			p = copied(p)
			settings, _ := p.Settings.(map[string]any)
			for _, name := range secretSettings[*p.Type] {
				if settings[name] != nil {
					settings[name] = redacted
				}
			}
			out = append(out, p)
		}
		answer(w, http.StatusOK, out)
	})
	mux.HandleFunc("POST "+root+"contact-points", func(w http.ResponseWriter, r *http.Request) {
		var p models.EmbeddedContactPoint
		if !read(s, w, r, &p) {
			return
		}
		if p.UID == "" || p.Name == "" || p.Type == nil || s.Contacts[p.UID] != nil {
			refuse(w, http.StatusBadRequest, "invalid object specification: receiver UID exists, or something lacks")
			return
		}
		p.Provenance = provenance(r)
		s.Contacts[p.UID] = &p
		answer(w, http.StatusAccepted, p)
	})
	mux.HandleFunc("PUT "+root+"contact-points/{uid}", func(w http.ResponseWriter, r *http.Request) {
		var p models.EmbeddedContactPoint
		old := s.Contacts[r.PathValue("uid")]
		if old == nil {
			missing(w, "contact point")
			return
		}
		if !read(s, w, r, &p) || !mayFollow(w, old.Provenance, provenance(r)) {
			return
		}
		p.UID, p.Provenance = old.UID, provenance(r)
		s.Contacts[p.UID] = &p
		answer(w, http.StatusAccepted, map[string]any{"message": "contactpoint updated"})
	})
	mux.HandleFunc("DELETE "+root+"contact-points/{uid}", func(w http.ResponseWriter, r *http.Request) {
		p := s.Contacts[r.PathValue("uid")]
		if p == nil {
			missing(w, "contact point")
			return
		}
		others := 0
		for _, x := range s.Contacts {
			if x.Name == p.Name && x.UID != p.UID {
				others++
			}
		}
		if others == 0 && slices.Contains(s.receivers(), p.Name) {
			refuse(w, http.StatusConflict, "contact point is currently used by a notification policy")
			return
		}
		delete(s.Contacts, p.UID)
		answer(w, http.StatusAccepted, map[string]any{"message": "contactpoint deleted"})
	})
}

// receivers are the contact points that policies name.
func (s *Server) receivers() (out []string) {
	var walk func(r *models.Route)
	walk = func(r *models.Route) {
		out = append(out, r.Receiver)
		for _, x := range r.Routes {
			walk(x)
		}
	}
	var tree models.Route
	if err := json.Unmarshal(s.Policies, &tree); err != nil {
		panic(err)
	}
	walk(&tree)
	return out
}

func (s *Server) policies(mux *http.ServeMux) {
	mux.HandleFunc("GET "+root+"policies", func(w http.ResponseWriter, _ *http.Request) {
		var tree map[string]json.RawMessage
		if err := json.Unmarshal(s.Policies, &tree); err != nil {
			panic(err)
		}
		if s.PolicyOwner != "" {
			tree["provenance"], _ = json.Marshal(s.PolicyOwner)
		}
		answer(w, http.StatusOK, tree)
	})
	mux.HandleFunc("PUT "+root+"policies", func(w http.ResponseWriter, r *http.Request) {
		var text json.RawMessage
		if !read(s, w, r, &text) {
			return
		}
		r.Body = http.NoBody
		var tree models.Route
		if err := strict(text, &tree); err != nil {
			s.t.Errorf("PUT policies: the body is not of Grafana's type: %v\n%s", err, text)
		}
		if !mayFollow(w, s.PolicyOwner, provenance(r)) {
			return
		}
		before := s.Policies
		s.Policies = text
		for _, name := range s.receivers() {
			if name != "" && !slices.ContainsFunc(s.all(), func(p *models.EmbeddedContactPoint) bool { return p.Name == name }) {
				s.Policies = before
				refuse(w, http.StatusBadRequest, fmt.Sprintf("invalid object specification: receiver '%s' does not exist", name))
				return
			}
		}
		s.PolicyOwner = provenance(r)
		answer(w, http.StatusAccepted, map[string]any{"message": "policies updated"})
	})
}

func (s *Server) all() (out []*models.EmbeddedContactPoint) {
	for _, p := range s.Contacts {
		out = append(out, p)
	}
	return out
}
