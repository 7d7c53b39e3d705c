package push

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-openapi/strfmt"
	"github.com/grafana/grafana-openapi-client-go/client/provisioning"
	"github.com/grafana/grafana-openapi-client-go/models"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
)

// defaultInterval is how often Grafana evaluates a group that was made by writing a rule
// into it, in seconds (its own setting may say otherwise: the group is written then).
const defaultInterval = 60

// rules reads the alert rules of the organisation. Those that the token may not see are
// not among them.
func (d *desk) rules(ctx context.Context) (map[string]*models.ProvisionedAlertRule, error) {
	resp, err := d.n.api.Provisioning.GetAlertRulesWithParams(provisioning.NewGetAlertRulesParamsWithContext(ctx))
	if err != nil {
		return nil, d.reading("the alert rules", err)
	}
	out := map[string]*models.ProvisionedAlertRule{}
	for _, r := range resp.Payload {
		if r != nil && strings.HasPrefix(r.UID, alerts.UIDPrefix) {
			out[r.UID] = r
		}
	}
	return out, nil
}

// wantRules plans our rules one by one, and not as groups: a group that is written
// whole loses what others have put into it. How often a group is evaluated is a write of
// its own, without rules, which leaves all of them as they are.
func (d *desk) wantRules(ctx context.Context) error {
	have, err := d.rules(ctx)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, g := range d.cfg.Rules {
		fresh := true
		for _, r := range g.Rules {
			kept[r.UID] = true
			if r.Source == alerts.Prometheus && d.prometheus == "" {
				continue
			}
			want := d.rule(g, r)
			old := have[r.UID]
			if old != nil && old.RuleGroup != nil && *old.RuleGroup == g.Name && old.FolderUID != nil && *old.FolderUID == d.cfg.folder() {
				fresh = false
			}
			if err := d.wantRule(want, old); err != nil {
				return err
			}
		}
		if err := d.wantInterval(ctx, g, fresh); err != nil {
			return err
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(have)) {
		if !kept[uid] {
			d.dropRule(have[uid])
		}
	}
	return nil
}

// rule is a rule in the API's form.
func (d *desk) rule(g alerts.Group, r alerts.Rule) *models.ProvisionedAlertRule {
	source := d.clickhouse
	if r.Source == alerts.Prometheus {
		source = d.prometheus
	}
	org, folder, group, title, condition := max(d.cfg.Org, 1), d.cfg.folder(), g.Name, r.Title, alerts.Condition
	noData, failed, lasts := r.NoData, r.Error, strfmt.Duration(r.For)
	out := &models.ProvisionedAlertRule{UID: r.UID, OrgID: &org, FolderUID: &folder, RuleGroup: &group, Title: &title, Condition: &condition,
		NoDataState: &noData, ExecErrState: &failed, For: &lasts, Labels: r.Labels(), Annotations: r.Annotations(d.panels[r.Dashboard][r.Panel])}
	for _, q := range r.Queries(source) {
		out.Data = append(out.Data, &models.AlertQuery{RefID: q.RefID, QueryType: q.QueryType, DatasourceUID: q.DatasourceUID, Model: q.Model,
			RelativeTimeRange: &models.RelativeTimeRange{From: models.Duration(q.RelativeTimeRange.From), To: models.Duration(q.RelativeTimeRange.To)}})
	}
	return out
}

func (d *desk) wantRule(want, have *models.ProvisionedAlertRule) error {
	change := Change{Action: Create, Kind: "alert rule", UID: want.UID, Name: *want.Title}
	if have == nil {
		d.plan(change, func(ctx context.Context) error {
			_, err := d.n.api.Provisioning.PostAlertRule(provisioning.NewPostAlertRuleParamsWithContext(ctx).WithXDisableProvenance(byPeople("")).WithBody(want))
			return err
		})
		return nil
	}
	if why := notOurRule(have); why != "" {
		return inTheWay("alert rule", want.UID, why, "Give it another uid, or delete it in Grafana.")
	}
	paths, err := ruleDifferences(want, have)
	if err != nil || len(paths) == 0 {
		return err
	}
	change.Action, change.Paths = Update, few(paths)
	d.plan(change, func(ctx context.Context) error {
		_, err := d.n.api.Provisioning.PutAlertRule(provisioning.NewPutAlertRuleParamsWithContext(ctx).WithXDisableProvenance(byPeople(string(have.Provenance))).WithUID(want.UID).WithBody(want))
		return err
	})
	return nil
}

// ruleDifferences compares what people can set of a rule; Grafana adds the rest.
func ruleDifferences(want, have *models.ProvisionedAlertRule) ([]string, error) {
	var both [2]any
	for i, r := range []*models.ProvisionedAlertRule{want, have} {
		c := *r
		c.ID, c.OrgID, c.Provenance, c.Updated = 0, nil, "", strfmt.DateTime{}
		v, err := plain(&c)
		if err != nil {
			return nil, fmt.Errorf("compare alert rule %s: %w", want.UID, err)
		}
		if m, ok := v.(map[string]any); ok {
			delete(m, "updated") // a zero time is no omitted one
		}
		both[i] = bare(v)
	}
	return differences(both[0], both[1]), nil
}

func notOurRule(r *models.ProvisionedAlertRule) string {
	switch {
	case r.Labels[alerts.MarkLabel] != alerts.MarkValue:
		return fmt.Sprintf("lacks the label %s=%q, so it is not mcpaudit's", alerts.MarkLabel, alerts.MarkValue)
	case r.Provenance != "" && r.Provenance != "api": // what is of the API may be written by the API
		return provisioned(string(r.Provenance))
	}
	return ""
}

// wantInterval plans how often a group is evaluated. fresh says that none of our rules is
// in the group yet.
func (d *desk) wantInterval(ctx context.Context, g alerts.Group, fresh bool) error {
	every := int64(g.Every.Seconds())
	var now int64
	if !d.folderThere {
		now = defaultInterval
	} else {
		resp, err := d.n.api.Provisioning.GetAlertRuleGroupWithParams(provisioning.NewGetAlertRuleGroupParamsWithContext(ctx).WithFolderUID(d.cfg.folder()).WithGroup(g.Name))
		switch {
		case missing(err):
			now = defaultInterval
		case err != nil:
			return d.reading("alert group "+g.Name, err)
		default:
			now = resp.Payload.Interval
		}
	}
	if now == every || fresh && !d.makesRuleOf(g) {
		return nil
	}
	d.plan(Change{Action: Update, Kind: "alert group", UID: d.cfg.folder() + "/" + g.Name, Name: g.Name, Paths: []string{"interval"}}, func(ctx context.Context) error {
		_, err := d.n.api.Provisioning.PutAlertRuleGroup(provisioning.NewPutAlertRuleGroupParamsWithContext(ctx).WithXDisableProvenance(byPeople("")).
			WithFolderUID(d.cfg.folder()).WithGroup(g.Name).WithBody(&models.AlertRuleGroup{FolderUID: d.cfg.folder(), Title: g.Name, Interval: every}))
		return err
	})
	return nil
}

// makesRuleOf says whether this run writes a rule of a group: there is none without.
func (d *desk) makesRuleOf(g alerts.Group) bool {
	for _, r := range g.Rules {
		for _, s := range d.steps {
			if s.Kind == "alert rule" && s.UID == r.UID && s.Action != Remove {
				return true
			}
		}
	}
	return false
}

func (d *desk) dropRules(ctx context.Context) error {
	have, err := d.rules(ctx)
	if err != nil {
		return err
	}
	for _, uid := range slices.Sorted(maps.Keys(have)) {
		d.dropRule(have[uid])
	}
	return nil
}

func (d *desk) dropRule(r *models.ProvisionedAlertRule) {
	if why := notOurRule(r); why != "" {
		d.note("alert rule %s stays: it %s", d.n.clean(r.UID), why)
		return
	}
	name := r.UID
	if r.Title != nil {
		name = d.n.clean(*r.Title)
	}
	d.plan(Change{Action: Remove, Kind: "alert rule", UID: r.UID, Name: name}, func(ctx context.Context) error {
		_, err := d.n.api.Provisioning.DeleteAlertRule(provisioning.NewDeleteAlertRuleParamsWithContext(ctx).WithXDisableProvenance(byPeople(string(r.Provenance))).WithUID(r.UID))
		return err
	})
}
