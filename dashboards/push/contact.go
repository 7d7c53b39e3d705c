package push

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/grafana/grafana-openapi-client-go/client/provisioning"
	"github.com/grafana/grafana-openapi-client-go/models"
)

// redacted is what Grafana gives in place of a secret setting.
const redacted = "[REDACTED]"

// integrations are those of our contact point.
func (c *Contact) integrations() []Integration {
	if c.AlertmanagerURL != "" {
		return []Integration{{Type: "prometheus-alertmanager", Settings: map[string]any{"url": strings.TrimSuffix(c.AlertmanagerURL, "/")}}}
	}
	return c.Integrations
}

// integrationUID is ours of the nth integration, from 0.
func integrationUID(n int) string {
	if n == 0 {
		return ContactPoint
	}
	return fmt.Sprintf("%s-%d", ContactPoint, n+1)
}

var integrationUIDs = regexp.MustCompile(`^mcpaudit(-[1-9][0-9]?)?$`)

// contacts reads the integrations of all contact points.
func (d *desk) contacts(ctx context.Context) (models.ContactPoints, error) {
	resp, err := d.n.api.Provisioning.GetContactpoints(provisioning.NewGetContactpointsParamsWithContext(ctx))
	if err != nil {
		return nil, d.reading("the contact points", err)
	}
	all := slices.DeleteFunc(resp.Payload, func(p *models.EmbeddedContactPoint) bool { return p == nil })
	slices.SortFunc(all, func(a, b *models.EmbeddedContactPoint) int { return strings.Compare(a.UID, b.UID) })
	return all, nil
}

// wantContact plans our contact point, when one is configured.
func (d *desk) wantContact(ctx context.Context) error {
	if d.cfg.Contact == nil {
		d.note("no contact is given (--alertmanager-url, --contact-file or --contact): contact point and route are left as they are")
		return nil
	}
	all, err := d.contacts(ctx)
	if err != nil {
		return err
	}
	if own := d.cfg.Contact.Name; own != "" {
		if !slices.ContainsFunc(all, func(p *models.EmbeddedContactPoint) bool { return p.Name == own }) {
			return fmt.Errorf("use contact point %q: Grafana has none of that name; make it first (Alerting, Contact points)", own)
		}
		return nil
	}
	have := map[string]*models.EmbeddedContactPoint{}
	for _, p := range all {
		switch {
		case (p.Name == ContactPoint) != integrationUIDs.MatchString(p.UID):
			return inTheWay("contact point", d.n.clean(p.Name), fmt.Sprintf("its integration with the uid %q is not mcpaudit's", d.n.clean(p.UID)), "Rename it, or use it as it is with --contact.")
		case p.Name != ContactPoint:
			continue
		case p.Provenance != "" && p.Provenance != "api":
			return inTheWay("contact point", p.Name, provisioned(p.Provenance), "Use it as it is with --contact.")
		}
		have[p.UID] = p
	}
	for i, one := range d.cfg.Contact.integrations() {
		if err := d.wantIntegration(integrationUID(i), one, have[integrationUID(i)]); err != nil {
			return err
		}
		delete(have, integrationUID(i))
	}
	for _, uid := range slices.Sorted(maps.Keys(have)) {
		d.dropIntegration(have[uid])
	}
	return nil
}

func (d *desk) wantIntegration(uid string, want Integration, have *models.EmbeddedContactPoint) error {
	change := Change{Action: Create, Kind: "contact point", UID: uid, Name: ContactPoint + " (" + want.Type + ")"}
	body := &models.EmbeddedContactPoint{UID: uid, Name: ContactPoint, Type: &want.Type, Settings: want.Settings, DisableResolveMessage: want.DisableResolveMessage}
	if have == nil {
		d.plan(change, func(ctx context.Context) error {
			_, err := d.n.api.Provisioning.PostContactpoints(provisioning.NewPostContactpointsParamsWithContext(ctx).WithXDisableProvenance(byPeople("")).WithBody(body))
			return err
		})
		return nil
	}
	paths, hidden, err := integrationDifferences(body, have)
	switch {
	case err != nil:
		return err
	case len(paths) == 0 && hidden && d.cfg.WriteSecrets:
		paths = []string{"settings"}
	case len(paths) == 0 && hidden:
		d.note("secret settings of contact point %s are not compared, for Grafana gives none back; --secrets writes them", change.Name)
	}
	if len(paths) == 0 {
		return nil
	}
	change.Action, change.Paths = Update, few(paths)
	d.plan(change, func(ctx context.Context) error {
		_, err := d.n.api.Provisioning.PutContactpoint(provisioning.NewPutContactpointParamsWithContext(ctx).WithXDisableProvenance(byPeople(have.Provenance)).WithUID(uid).WithBody(body))
		return err
	})
	return nil
}

// integrationDifferences compares an integration; hidden says that Grafana did not show
// all of it.
func integrationDifferences(want, have *models.EmbeddedContactPoint) (paths []string, hidden bool, err error) {
	now, err := plain(want.Settings)
	if err != nil {
		return nil, false, fmt.Errorf("compare contact point %s: %w", want.UID, err)
	}
	before, err := plain(have.Settings)
	if err != nil {
		return nil, false, fmt.Errorf("compare contact point %s: %w", want.UID, err)
	}
	now, before = bare(now), bare(before)
	hidden = unveil(before, now)
	paths = under("settings", differences(now, before))
	if have.Type == nil || *have.Type != *want.Type {
		paths = append(paths, "type")
	}
	if have.DisableResolveMessage != want.DisableResolveMessage {
		paths = append(paths, "disableResolveMessage")
	}
	return sorted(paths), hidden, nil
}

// unveil puts what is wanted in place of what Grafana does not show, and says whether it
// did.
func unveil(have, want any) (did bool) {
	h, _ := have.(map[string]any)
	w, _ := want.(map[string]any)
	for k, v := range h {
		if v == redacted && w[k] != nil {
			h[k], did = w[k], true
		} else if unveil(v, w[k]) {
			did = true
		}
	}
	return did
}

func (d *desk) dropIntegration(p *models.EmbeddedContactPoint) {
	kind := ""
	if p.Type != nil {
		kind = " (" + d.n.clean(*p.Type) + ")"
	}
	d.plan(Change{Action: Remove, Kind: "contact point", UID: p.UID, Name: ContactPoint + kind}, func(ctx context.Context) error {
		_, err := d.n.api.Provisioning.DeleteContactpointsWithParams(provisioning.NewDeleteContactpointsParamsWithContext(ctx).WithUID(p.UID))
		return err
	})
}

func (d *desk) dropContact(ctx context.Context) error {
	all, err := d.contacts(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		switch ours := integrationUIDs.MatchString(p.UID); {
		case p.Name != ContactPoint:
		case !ours:
			d.note("an integration of contact point %s stays: its uid %q is not mcpaudit's", ContactPoint, d.n.clean(p.UID))
		case p.Provenance != "" && p.Provenance != "api":
			d.note("contact point %s stays: it %s", ContactPoint, provisioned(p.Provenance))
		default:
			d.dropIntegration(p)
		}
	}
	return nil
}
