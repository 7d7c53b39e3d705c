package push

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/grafana/grafana-openapi-client-go/client/dashboards"
	"github.com/grafana/grafana-openapi-client-go/client/search"
	"github.com/grafana/grafana-openapi-client-go/models"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
)

// board is a dashboard as it should be.
type board struct {
	uid, title string
	model      map[string]any
}

// maxBoards is how many dashboards a folder of files may have, and maxBoard how long one
// may be, in bytes.
const (
	maxBoards = 100
	maxBoard  = 4 << 20
)

// readBoards reads the dashboards of a folder of files, in the order of their names.
func readBoards(from fs.FS) ([]board, error) {
	names, err := fs.Glob(from, "*.json")
	if err != nil {
		return nil, fmt.Errorf("list the dashboards: %w", err)
	}
	if len(names) == 0 || len(names) > maxBoards {
		return nil, fmt.Errorf("list the dashboards: there are %d files *.json; 1 to %d are expected", len(names), maxBoards)
	}
	var out []board
	for _, name := range names {
		b, err := readBoard(from, name)
		if err != nil {
			return nil, fmt.Errorf("read dashboard %s: %w", path.Base(name), err)
		}
		out = append(out, b)
	}
	return out, nil
}

func readBoard(from fs.FS, name string) (board, error) {
	info, err := fs.Stat(from, name)
	if err != nil {
		return board{}, err
	}
	if info.Size() > maxBoard {
		return board{}, fmt.Errorf("it has %d bytes; %d are the most", info.Size(), maxBoard)
	}
	text, err := fs.ReadFile(from, name)
	if err != nil {
		return board{}, err
	}
	v, err := decode(text)
	if err != nil {
		return board{}, err
	}
	model, ok := v.(map[string]any)
	if !ok {
		return board{}, errors.New("it is no JSON object")
	}
	b := board{model: model}
	b.uid, _ = model["uid"].(string)
	b.title, _ = model["title"].(string)
	switch {
	case !strings.HasPrefix(b.uid, UIDPrefix) || len(b.uid) > 40:
		return board{}, fmt.Errorf("its uid is %q; it begins with %s and has at most 40 characters", b.uid, UIDPrefix)
	case b.title == "":
		return board{}, errors.New("it has no title")
	case !slices.Contains(texts(model["tags"]), Tag):
		return board{}, fmt.Errorf("it lacks the tag %q", Tag)
	}
	return b, nil
}

func texts(v any) (out []string) {
	list, _ := v.([]any)
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// choose sets what the variables that choose a data source begin with.
func (b board) choose(byType map[string]chosen) {
	templating, _ := b.model["templating"].(map[string]any)
	list, _ := templating["list"].([]any)
	for _, x := range list {
		v, _ := x.(map[string]any)
		if v["type"] != "datasource" {
			continue
		}
		if kind, _ := v["query"].(string); byType[kind].uid != "" {
			v["current"] = map[string]any{"selected": false, "text": byType[kind].name, "value": byType[kind].uid}
		}
	}
}

// chosen is a data source that a variable begins with.
type chosen struct{ uid, name string }

// strip leaves out what Grafana puts into a dashboard when it stores one.
func strip(model map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range model {
		if k != "id" && k != "version" && k != "iteration" && v != nil {
			out[k] = v
		}
	}
	return out
}

// wantDashboards plans ours, and to remove those of ours that are not wanted any more.
func (d *desk) wantDashboards(ctx context.Context) error {
	boards, err := readBoards(d.cfg.Dashboards)
	if err != nil {
		return err
	}
	byType, err := d.choices(ctx)
	if err != nil {
		return err
	}
	if d.panels, err = alerts.PanelsOf(d.cfg.Dashboards); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, b := range boards {
		if wanted[b.uid] {
			return fmt.Errorf("two dashboards have the uid %s", b.uid)
		}
		wanted[b.uid] = true
		b.choose(byType)
		if err := d.wantDashboard(ctx, b); err != nil {
			return err
		}
	}
	return d.dropDashboardsBut(ctx, wanted)
}

// choices are the data sources by type, as variables show them.
func (d *desk) choices(ctx context.Context) (map[string]chosen, error) {
	out := map[string]chosen{}
	for kind, uid := range map[string]string{ClickHouseType: d.clickhouse, PrometheusType: d.prometheus} {
		if uid == "" {
			continue
		}
		name := uid
		if have, err := d.source(ctx, uid); err != nil {
			return nil, err
		} else if have != nil {
			name = have.Name
		}
		for _, s := range d.steps { // it is made or renamed by this run
			if s.Kind == "data source" && s.UID == uid {
				name = s.Name
			}
		}
		out[kind] = chosen{uid, name}
	}
	return out, nil
}

func (d *desk) wantDashboard(ctx context.Context, b board) error {
	have, meta, err := d.dashboard(ctx, b.uid)
	if err != nil {
		return err
	}
	change := Change{Action: Create, Kind: "dashboard", UID: b.uid, Name: b.title}
	model := strip(b.model)
	if have != nil {
		if why := notOurBoard(have, meta); why != "" {
			return inTheWay("dashboard", b.uid, why, "Move it out of the way in Grafana: save it under another name and delete it.")
		}
		paths := differences(model, strip(have))
		if meta.FolderUID != d.cfg.folder() {
			paths = append(paths, "folder")
		}
		if len(paths) == 0 {
			return nil
		}
		change.Action, change.Paths = Update, few(paths)
		model["version"] = have["version"] // so that Grafana refuses should somebody save it meanwhile
	}
	d.plan(change, func(ctx context.Context) error {
		_, err := d.n.api.Dashboards.PostDashboardWithParams(dashboards.NewPostDashboardParamsWithContext(ctx).WithBody(&models.SaveDashboardCommand{
			Dashboard: model, FolderUID: d.cfg.folder(), Message: "mcpaudit dashboards apply"}))
		return err
	})
	return nil
}

// dashboard reads one; nil for none.
func (d *desk) dashboard(ctx context.Context, uid string) (map[string]any, *models.DashboardMeta, error) {
	resp, err := d.n.api.Dashboards.GetDashboardByUIDWithParams(dashboards.NewGetDashboardByUIDParamsWithContext(ctx).WithUID(uid))
	switch {
	case missing(err):
		return nil, nil, nil
	case err != nil:
		return nil, nil, d.reading("dashboard "+uid, err)
	}
	model, ok := resp.Payload.Dashboard.(map[string]any)
	if !ok || resp.Payload.Meta == nil {
		return nil, nil, fmt.Errorf("read dashboard %s: Grafana's answer has no dashboard", uid)
	}
	return model, resp.Payload.Meta, nil
}

// notOurBoard says why a dashboard with one of our uids is not ours, or can't be written.
func notOurBoard(have map[string]any, meta *models.DashboardMeta) string {
	switch {
	case meta.Provisioned:
		return "is provisioned from a file of Grafana's"
	case !slices.Contains(texts(have["tags"]), Tag):
		return fmt.Sprintf("lacks the tag %q, so it is not mcpaudit's", Tag)
	}
	return ""
}

func (d *desk) dropDashboards(ctx context.Context) error { return d.dropDashboardsBut(ctx, nil) }

// dropDashboardsBut plans to remove dashboards that are ours and not wanted. They are
// found by their tag, wherever somebody has moved them.
func (d *desk) dropDashboardsBut(ctx context.Context, wanted map[string]bool) error {
	kind, limit := "dash-db", int64(5000)
	found, err := d.n.api.Search.Search(search.NewSearchParamsWithContext(ctx).WithTag([]string{Tag}).WithType(&kind).WithLimit(&limit))
	if err != nil {
		return d.reading("which dashboards there are", err)
	}
	hits := slices.DeleteFunc(found.Payload, func(hit *models.Hit) bool {
		return hit == nil || !strings.HasPrefix(hit.UID, UIDPrefix) || wanted[hit.UID]
	})
	slices.SortFunc(hits, func(a, b *models.Hit) int { return strings.Compare(a.UID, b.UID) })
	for _, hit := range hits {
		// Asked again: the search may be behind.
		have, meta, err := d.dashboard(ctx, hit.UID)
		switch {
		case err != nil:
			return err
		case have == nil:
			continue
		}
		if why := notOurBoard(have, meta); why != "" {
			d.note("dashboard %s stays: it %s", d.n.clean(hit.UID), why)
			continue
		}
		title, _ := have["title"].(string)
		d.plan(Change{Action: Remove, Kind: "dashboard", UID: hit.UID, Name: d.n.clean(title)}, func(ctx context.Context) error {
			_, err := d.n.api.Dashboards.DeleteDashboardByUIDWithParams(dashboards.NewDeleteDashboardByUIDParamsWithContext(ctx).WithUID(hit.UID))
			return err
		})
	}
	return nil
}
