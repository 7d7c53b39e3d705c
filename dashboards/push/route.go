package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/go-openapi/runtime"
	"github.com/go-openapi/strfmt"
	"github.com/grafana/grafana-openapi-client-go/client/provisioning"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
)

// tree is Grafana's notification policies: the root and, of each route below it, the
// bytes. They are not decoded into the client's types, which lack what a newer Grafana
// may have: what is of others goes back as it came.
type tree struct {
	root   map[string]json.RawMessage // without routes
	routes []json.RawMessage
}

// Keys of a route that are ours, with their values; what people add besides, such as
// mute timings, stays.
func routeTo(receiver string) map[string]any {
	return map[string]any{
		"receiver":        receiver,
		"object_matchers": []any{[]any{alerts.MarkLabel, "=", alerts.MarkValue}},
		"group_by":        []any{"grafana_folder", "alertname"},
		"group_wait":      "30s",
		"group_interval":  "5m",
		"repeat_interval": "4h",
	}
}

// maxRoutes is how many routes below the root are read.
const maxRoutes = 10_000

func parseTree(text []byte) (tree, error) {
	var t tree
	if err := json.Unmarshal(text, &t.root); err != nil || t.root == nil {
		return tree{}, errors.New("the answer is no tree of notification policies")
	}
	if routes, ok := t.root["routes"]; ok {
		if err := json.Unmarshal(routes, &t.routes); err != nil {
			return tree{}, errors.New("the routes of Grafana's notification policies are no list")
		}
	}
	if len(t.routes) > maxRoutes {
		return tree{}, fmt.Errorf("there are %d notification policies; %d are the most that are read", len(t.routes), maxRoutes)
	}
	delete(t.root, "routes")
	return t, nil
}

// text is the tree as it is sent. provenance is Grafana's to say.
func (t tree) text() (json.RawMessage, error) {
	all := map[string]any{}
	if len(t.routes) > 0 {
		all["routes"] = t.routes
	}
	for k, v := range t.root {
		if k != "provenance" {
			all[k] = v
		}
	}
	return encode(all)
}

// keeper is who provisions the tree; "" for people.
func (t tree) keeper() string {
	var kept string
	_ = json.Unmarshal(t.root["provenance"], &kept) // what is no text is no keeper
	return kept
}

// ours is the place of the route whose only matcher is our label, -1 for none.
func (t tree) ours() (int, error) {
	at := -1
	for i, text := range t.routes {
		var r struct {
			Object  [][]string        `json:"object_matchers"`
			Match   map[string]string `json:"match"`
			MatchRE map[string]any    `json:"match_re"`
			Others  []any             `json:"matchers"`
		}
		if json.Unmarshal(text, &r) != nil {
			continue // of a shape that we never write
		}
		if len(r.Match)+len(r.MatchRE)+len(r.Others) > 0 || len(r.Object) != 1 || len(r.Object[0]) != 3 ||
			r.Object[0][0] != alerts.MarkLabel || r.Object[0][1] != "=" || r.Object[0][2] != alerts.MarkValue {
			continue
		}
		if at >= 0 {
			return 0, fmt.Errorf("two notification policies match %s=%q alone; delete one of them in Grafana (Alerting, Notification policies)", alerts.MarkLabel, alerts.MarkValue)
		}
		at = i
	}
	return at, nil
}

// policies reads the tree.
func (d *desk) policies(ctx context.Context) (tree, error) {
	var text []byte
	_, err := d.n.api.Provisioning.GetPolicyTreeWithParams(provisioning.NewGetPolicyTreeParamsWithContext(ctx), func(op *runtime.ClientOperation) {
		op.Reader = runtime.ClientResponseReaderFunc(func(resp runtime.ClientResponse, _ runtime.Consumer) (any, error) {
			var err error
			text, err = io.ReadAll(resp.Body()) // bounded by the gate
			return provisioning.NewGetPolicyTreeOK(), err
		})
	})
	if err != nil {
		return tree{}, err
	}
	return parseTree(text)
}

func (d *desk) putPolicies(ctx context.Context, t tree) error {
	body, err := t.text()
	if err != nil {
		return err
	}
	_, err = d.n.api.Provisioning.PutPolicyTree(provisioning.NewPutPolicyTreeParamsWithContext(ctx), func(op *runtime.ClientOperation) {
		op.Params = runtime.ClientRequestWriterFunc(func(r runtime.ClientRequest, _ strfmt.Registry) error {
			return errors.Join(r.SetTimeout(patience), r.SetHeaderParam("X-Disable-Provenance", "true"), r.SetBodyParam(body))
		})
	})
	return err
}

// wantRoute plans our route. The tree is read again when it is written, so that what
// others change between the plan and the write stays; Grafana's API has no way to close
// the moment that is left.
func (d *desk) wantRoute(ctx context.Context) error {
	if d.cfg.Contact == nil {
		return nil
	}
	receiver := ContactPoint
	if d.cfg.Contact.Name != "" {
		receiver = d.cfg.Contact.Name
	}
	t, err := d.policies(ctx)
	if err != nil {
		return d.reading("the notification policies", err)
	}
	at, err := t.ours()
	if err != nil {
		return err
	}
	paths, err := t.differences(at, receiver)
	if err != nil || at >= 0 && len(paths) == 0 {
		return err
	}
	if kept := t.keeper(); kept != "" {
		return inTheWay("the tree of", "notification policies", provisioned(kept), fmt.Sprintf(
			"Have whoever keeps it add a route with the matcher %s=%s to the contact point %s, and run this without a contact.", alerts.MarkLabel, alerts.MarkValue, receiver))
	}
	change := Change{Action: Create, Kind: "route", UID: alerts.MarkLabel + "=" + alerts.MarkValue, Name: "to " + receiver}
	if at >= 0 {
		change.Action, change.Paths = Update, few(paths)
	}
	d.plan(change, func(ctx context.Context) error { return d.writeRoute(ctx, receiver) })
	return nil
}

// differences are those of our route, at its place, from what it should be.
func (t tree) differences(at int, receiver string) ([]string, error) {
	if at < 0 {
		return nil, nil
	}
	v, err := decode(t.routes[at])
	if err != nil {
		return nil, err
	}
	have, _ := v.(map[string]any)
	return lacking(routeTo(receiver), have), nil
}

func (d *desk) writeRoute(ctx context.Context, receiver string) error {
	t, err := d.policies(ctx)
	if err != nil {
		return err
	}
	at, err := t.ours()
	if err != nil {
		return err
	}
	route := map[string]any{}
	if at >= 0 {
		if err := json.Unmarshal(t.routes[at], &route); err != nil {
			return err
		}
	}
	for k, v := range routeTo(receiver) {
		route[k] = v
	}
	text, err := encode(route)
	if err != nil {
		return err
	}
	if at >= 0 {
		t.routes[at] = text
	} else { // in front: it matches our alerts alone, and behind a route that matches all it would get none
		t.routes = append([]json.RawMessage{text}, t.routes...)
	}
	return d.putPolicies(ctx, t)
}

func (d *desk) dropRoute(ctx context.Context) error {
	t, err := d.policies(ctx)
	if err != nil {
		return d.reading("the notification policies", err)
	}
	at, err := t.ours()
	if err != nil || at < 0 {
		return err
	}
	if kept := t.keeper(); kept != "" {
		d.note("the route of mcpaudit stays: the tree of notification policies %s", provisioned(kept))
		return nil
	}
	d.plan(Change{Action: Remove, Kind: "route", UID: alerts.MarkLabel + "=" + alerts.MarkValue, Name: "to the contact point"}, func(ctx context.Context) error {
		t, err := d.policies(ctx)
		if err != nil {
			return err
		}
		at, err := t.ours()
		if err != nil || at < 0 {
			return err
		}
		t.routes = append(t.routes[:at:at], t.routes[at+1:]...)
		return d.putPolicies(ctx, t)
	})
	return nil
}
