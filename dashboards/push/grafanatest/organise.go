package grafanatest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/grafana/grafana-openapi-client-go/models"
)

// organise answers for folders, data sources, dashboards and plugins.
func (s *Server) organise(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/plugins/{id}/settings", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "grafana-clickhouse-datasource" || s.NoPlugin {
			refuse(w, http.StatusNotFound, "Plugin not found, no installed plugin with that id")
			return
		}
		answer(w, http.StatusOK, map[string]any{"id": r.PathValue("id"), "type": "datasource", "enabled": true})
	})
	mux.HandleFunc("GET /api/search", s.search)
	s.folders(mux)
	s.sources(mux)
	s.boards(mux)
}

func (s *Server) folders(mux *http.ServeMux) {
	mux.HandleFunc("POST /api/folders", func(w http.ResponseWriter, r *http.Request) {
		var c models.CreateFolderCommand
		if !read(s, w, r, &c) {
			return
		}
		if s.Folders[c.UID] != nil {
			refuse(w, http.StatusPreconditionFailed, "a folder with that uid already exists")
			return
		}
		f := &models.Folder{UID: c.UID, OrgID: 1, Title: c.Title, Version: 1, CanAdmin: true, CanDelete: true, CanEdit: true, CanSave: true, CreatedBy: "sa-test", URL: "/dashboards/f/" + c.UID}
		s.Folders[c.UID] = f
		answer(w, http.StatusOK, f)
	})
	each := func(do func(http.ResponseWriter, *http.Request, *models.Folder)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if f := s.Folders[r.PathValue("uid")]; f != nil {
				do(w, r, f)
				return
			}
			missing(w, "folder")
		}
	}
	mux.HandleFunc("GET /api/folders/{uid}", each(func(w http.ResponseWriter, _ *http.Request, f *models.Folder) { answer(w, http.StatusOK, f) }))
	mux.HandleFunc("GET /api/folders/{uid}/counts", each(func(w http.ResponseWriter, _ *http.Request, f *models.Folder) {
		boards, rules := s.in(f.UID)
		answer(w, http.StatusOK, map[string]int{"alertrule": len(rules), "dashboard": len(boards), "folder": 0, "librarypanel": 0})
	}))
	mux.HandleFunc("PUT /api/folders/{uid}", each(func(w http.ResponseWriter, r *http.Request, f *models.Folder) {
		var c models.UpdateFolderCommand
		if !read(s, w, r, &c) {
			return
		}
		if c.Version != f.Version && !c.Overwrite {
			answer(w, http.StatusPreconditionFailed, map[string]any{"status": "version-mismatch", "message": "the folder has been changed by someone else"})
			return
		}
		f.Title, f.Version = c.Title, f.Version+1
		answer(w, http.StatusOK, f)
	}))
	mux.HandleFunc("DELETE /api/folders/{uid}", each(func(w http.ResponseWriter, r *http.Request, f *models.Folder) {
		boards, rules := s.in(f.UID)
		if len(rules) > 0 && r.URL.Query().Get("forceDeleteRules") != "true" {
			refuse(w, http.StatusBadRequest, "folder cannot be deleted: folder is not empty")
			return
		}
		for _, uid := range boards { // as Grafana does
			delete(s.Boards, uid)
			delete(s.BoardMeta, uid)
		}
		delete(s.Folders, f.UID)
		answer(w, http.StatusOK, map[string]any{"id": 1, "title": f.Title, "message": "Folder " + f.Title + " deleted"})
	}))
}

// in are the dashboards and rules of a folder.
func (s *Server) in(folder string) (boards, rules []string) {
	for uid, m := range s.BoardMeta {
		if m.FolderUID == folder {
			boards = append(boards, uid)
		}
	}
	for uid, r := range s.Rules {
		if *r.FolderUID == folder {
			rules = append(rules, uid)
		}
	}
	return boards, rules
}

func (s *Server) sources(mux *http.ServeMux) {
	taken := func(w http.ResponseWriter, name, uid string) bool {
		for _, d := range s.Sources {
			if d.Name == name && d.UID != uid {
				refuse(w, http.StatusConflict, "data source with the same name already exists")
				return true
			}
		}
		return false
	}
	mux.HandleFunc("GET /api/datasources/uid/{uid}", func(w http.ResponseWriter, r *http.Request) {
		if d := s.Sources[r.PathValue("uid")]; d != nil {
			answer(w, http.StatusOK, d)
			return
		}
		missing(w, "Data source")
	})
	mux.HandleFunc("GET /api/datasources/uid/{uid}/health", func(w http.ResponseWriter, r *http.Request) {
		if s.Unhealthy != "" {
			answer(w, http.StatusBadRequest, map[string]any{"status": "ERROR", "message": s.Unhealthy})
			return
		}
		answer(w, http.StatusOK, map[string]any{"status": "OK", "message": "Data source is working"})
	})
	mux.HandleFunc("POST /api/datasources", func(w http.ResponseWriter, r *http.Request) {
		var c models.AddDataSourceCommand
		if !read(s, w, r, &c) || taken(w, c.Name, "") {
			return
		}
		if s.Sources[c.UID] != nil {
			refuse(w, http.StatusConflict, "data source with the same uid already exists")
			return
		}
		d := &models.DataSource{ID: s.id(), UID: c.UID, OrgID: 1, Name: c.Name, Type: c.Type, TypeLogoURL: "public/img/icn-datasource.svg", Access: c.Access, URL: c.URL,
			Database: c.Database, User: c.User, IsDefault: c.IsDefault, JSONData: c.JSONData, SecureJSONFields: map[string]bool{}, Version: 1}
		s.Sources[c.UID], s.Secrets[c.UID] = d, map[string]string{}
		s.keepSecrets(d, c.SecureJSONData)
		answer(w, http.StatusOK, map[string]any{"datasource": d, "id": d.ID, "message": "Datasource added", "name": d.Name})
	})
	mux.HandleFunc("PUT /api/datasources/uid/{uid}", func(w http.ResponseWriter, r *http.Request) {
		var c models.UpdateDataSourceCommand
		if !read(s, w, r, &c) || taken(w, c.Name, r.PathValue("uid")) {
			return
		}
		d := s.Sources[r.PathValue("uid")]
		switch {
		case d == nil:
			missing(w, "Data source")
		case d.ReadOnly:
			refuse(w, http.StatusForbidden, "Cannot update read-only data source")
		case c.Version != 0 && c.Version != d.Version:
			refuse(w, http.StatusConflict, "Datasource has already been updated by someone else. Please reload and try again")
		default:
			d.Name, d.Type, d.Access, d.URL, d.Database, d.User, d.IsDefault, d.JSONData = c.Name, c.Type, c.Access, c.URL, c.Database, c.User, c.IsDefault, c.JSONData
			d.BasicAuth, d.Version = c.BasicAuth, d.Version+1
			s.keepSecrets(d, c.SecureJSONData)
			answer(w, http.StatusOK, map[string]any{"datasource": d, "id": d.ID, "message": "Datasource updated", "name": d.Name})
		}
	})
	mux.HandleFunc("DELETE /api/datasources/uid/{uid}", func(w http.ResponseWriter, r *http.Request) {
		if s.Sources[r.PathValue("uid")] == nil {
			missing(w, "Data source")
			return
		}
		delete(s.Sources, r.PathValue("uid"))
		delete(s.Secrets, r.PathValue("uid"))
		answer(w, http.StatusOK, map[string]any{"message": "Data source deleted"})
	})
}

func (s *Server) keepSecrets(d *models.DataSource, secrets map[string]string) {
	for k, v := range secrets {
		d.SecureJSONFields[k], s.Secrets[d.UID][k] = true, v
	}
}

func (s *Server) boards(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/dashboards/uid/{uid}", func(w http.ResponseWriter, r *http.Request) {
		if b := s.Boards[r.PathValue("uid")]; b != nil {
			answer(w, http.StatusOK, map[string]any{"dashboard": b, "meta": s.BoardMeta[r.PathValue("uid")]})
			return
		}
		missing(w, "Dashboard")
	})
	mux.HandleFunc("DELETE /api/dashboards/uid/{uid}", func(w http.ResponseWriter, r *http.Request) {
		uid := r.PathValue("uid")
		switch {
		case s.Boards[uid] == nil:
			missing(w, "Dashboard")
		case s.BoardMeta[uid].Provisioned:
			refuse(w, http.StatusBadRequest, "provisioned dashboard cannot be deleted")
		default:
			title := s.Boards[uid]["title"]
			delete(s.Boards, uid)
			delete(s.BoardMeta, uid)
			answer(w, http.StatusOK, map[string]any{"title": title, "message": "Dashboard deleted", "uid": uid})
		}
	})
	mux.HandleFunc("POST /api/dashboards/db", func(w http.ResponseWriter, r *http.Request) {
		var c models.SaveDashboardCommand
		if !read(s, w, r, &c) {
			return
		}
		b, _ := c.Dashboard.(map[string]any)
		uid, _ := b["uid"].(string)
		title, _ := b["title"].(string)
		old := s.Boards[uid]
		switch {
		case uid == "" || title == "":
			refuse(w, http.StatusBadRequest, "Dashboard title cannot be empty")
		case c.FolderUID != "" && s.Folders[c.FolderUID] == nil:
			refuse(w, http.StatusBadRequest, "folder not found")
		case old != nil && s.BoardMeta[uid].Provisioned:
			refuse(w, http.StatusBadRequest, "Cannot save provisioned dashboard")
		case old != nil && !c.Overwrite && number(b["version"]) != number(old["version"]):
			answer(w, http.StatusPreconditionFailed, map[string]any{"status": "version-mismatch", "message": "The dashboard has been changed by someone else"})
		default:
			stored, version, id := copied(b), int64(1), s.id()
			if old != nil {
				version, id = number(old["version"])+1, number(old["id"])
			}
			stored["id"], stored["version"] = id, version
			s.Boards[uid] = copied(stored)
			s.BoardMeta[uid] = &models.DashboardMeta{FolderUID: c.FolderUID, Version: version, Type: "db", CanSave: true, CanEdit: true, CanAdmin: true, CanDelete: true, Slug: strings.ToLower(title), URL: "/d/" + uid}
			answer(w, http.StatusOK, map[string]any{"folderUid": c.FolderUID, "id": id, "slug": "x", "status": "success", "uid": uid, "url": "/d/" + uid, "version": version})
		}
	})
}

// number is one of a dashboard's, which may be of either kind.
func number(v any) int64 {
	text, _ := json.Marshal(v)
	var n int64
	_ = json.Unmarshal(text, &n) // what is no number is 0, as in Grafana
	return n
}

func (s *Server) search(w http.ResponseWriter, r *http.Request) {
	hits := []map[string]any{}
	for uid, b := range s.Boards {
		tags := []string{}
		list, _ := b["tags"].([]any)
		for _, x := range list {
			if tag, ok := x.(string); ok {
				tags = append(tags, tag)
			}
		}
		all := true
		for _, tag := range r.URL.Query()["tag"] {
			all = all && slices.Contains(tags, tag)
		}
		if all {
			hits = append(hits, map[string]any{"id": b["id"], "uid": uid, "title": b["title"], "type": "dash-db", "tags": tags, "folderUid": s.BoardMeta[uid].FolderUID, "url": "/d/" + uid, "sortMeta": 0})
		}
	}
	answer(w, http.StatusOK, hits)
}
