package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/grafana/grafana-openapi-client-go/client/datasources"
	"github.com/grafana/grafana-openapi-client-go/models"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
)

// Keys of jsonData that are ours; plugins don't look at them.
const (
	markKey    = "managedBy"
	markValue  = "mcpaudit"
	digestKey  = "mcpauditKeyDigest"
	pluginName = "ClickHouse data source"
)

// apiKeys are mcpaudit's: mcpa_, an id of 10 random bytes and a secret of 32, in base32.
var apiKeys = regexp.MustCompile(`^mcpa_[a-z2-7]{16}_[a-z2-7]{52}$`)

// source is a data source as it should be.
type source struct {
	uid, name, kind, url string
	jsonData             map[string]any
	secrets              map[string]string
}

// source is the data source for a ClickHouse. The keys of jsonData are those of version 4
// of grafana-clickhouse-datasource
// (https://grafana.com/docs/plugins/grafana-clickhouse-datasource/latest/configure/).
func (c *ClickHouse) source() (source, error) {
	a, err := c.address()
	if err != nil {
		return source{}, err
	}
	s := source{uid: alerts.ClickHouseUID, name: "mcpaudit ClickHouse", kind: ClickHouseType, secrets: map[string]string{}, jsonData: map[string]any{
		"host": a.host, "port": a.port, "protocol": a.protocol, "secure": a.secure, "username": c.User, "defaultDatabase": c.Database,
		"dialTimeout": "10", "queryTimeout": "60", "tlsSkipVerify": false, "tlsAuthWithCACert": len(c.CA) > 0, markKey: markValue,
	}}
	if c.User == "" {
		s.jsonData["username"] = "mcpaudit"
	}
	if c.Database == "" {
		s.jsonData["defaultDatabase"] = "default"
	}
	if a.path != "" {
		s.jsonData["path"] = a.path
	}
	if c.Password != "" {
		s.secrets["password"] = string(c.Password)
		if digest := keyDigest(string(c.Password)); digest != "" {
			s.jsonData[digestKey] = digest
		}
	}
	if len(c.CA) > 0 {
		s.secrets["tlsCACert"] = string(c.CA)
	}
	return s, nil
}

// keyDigest tells whether an API key is the one that was written before, which Grafana
// itself does not say. It is made of API keys alone: they are 256 random bits, of which
// 64 bits of a SHA-256 tell nothing. Of a password that people think of it would be a
// help to who guesses.
func keyDigest(key string) string {
	if !apiKeys.MatchString(key) {
		return ""
	}
	sum := sha256.Sum256([]byte("mcpaudit grafana data source\x00" + key))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

func (p *Prometheus) source() source {
	return source{uid: alerts.PrometheusUID, name: "mcpaudit Prometheus", kind: PrometheusType, url: strings.TrimSuffix(p.URL, "/"),
		jsonData: map[string]any{"httpMethod": "POST", markKey: markValue}}
}

// lookForPlugin finds out whether Grafana can read ClickHouse at all. Who may not look
// at plugins learns it from the data source.
func (d *desk) lookForPlugin(ctx context.Context) error {
	var is struct {
		ID string `json:"id"`
	}
	err := d.n.get(ctx, "/plugins/"+url.PathEscape(ClickHouseType)+"/settings", true, &is)
	switch {
	case missing(err):
		return fmt.Errorf("look for the %[2]s: Grafana has no plugin %[1]s; install it: grafana cli plugins install %[1]s, or GF_PLUGINS_PREINSTALL=%[1]s for a container (GF_INSTALL_PLUGINS before Grafana 12), then start Grafana anew",
			ClickHouseType, pluginName)
	case forbidden(err):
		d.note("the token may not look at plugins: it is not known whether %s is installed", ClickHouseType)
		return nil
	case err != nil:
		return d.reading("the plugins of Grafana", err)
	}
	return nil
}

// wantSources plans the data sources and settles which ones dashboards and rules read.
func (d *desk) wantSources(ctx context.Context) error {
	var err error
	var want *source
	if d.cfg.ClickHouse != nil {
		s, err := d.cfg.ClickHouse.source()
		if err != nil {
			return err
		}
		want = &s
	}
	if d.clickhouse, err = d.wantSource(ctx, want, d.cfg.ClickHouseUID, alerts.ClickHouseUID, ClickHouseType); err != nil {
		return err
	}
	if d.clickhouse == "" {
		return fmt.Errorf("choose a data source: Grafana has no %s yet; say where ClickHouse is (--clickhouse-url, --clickhouse-key-file) or which data source of yours to use (--clickhouse-uid)", alerts.ClickHouseUID)
	}
	want = nil
	if d.cfg.Prometheus != nil {
		s := d.cfg.Prometheus.source()
		want = &s
	}
	if d.prometheus, err = d.wantSource(ctx, want, d.cfg.PrometheusUID, alerts.PrometheusUID, PrometheusType); err != nil {
		return err
	}
	if d.prometheus == "" {
		d.note("there is no Prometheus (--prometheus-url or --prometheus-uid): the dashboard of the service's health shows nothing, and alert rules over metrics are left as they are")
	}
	return nil
}

// wantSource settles one data source: to be made or mended, one of the owner's, or the
// one that is there. It returns its uid, "" when there is none.
func (d *desk) wantSource(ctx context.Context, want *source, own, uid, kind string) (string, error) {
	if own != "" {
		have, err := d.source(ctx, own)
		switch {
		case err != nil:
			return "", err
		case have == nil:
			return "", fmt.Errorf("use data source %q: Grafana has none with that uid; its page's address ends with it (Connections, Data sources)", own)
		case have.Type != kind:
			return "", fmt.Errorf("data source %q is of type %q; one of type %s is needed", own, d.n.clean(have.Type), kind)
		}
		return own, nil
	}
	have, err := d.source(ctx, uid)
	if err != nil {
		return "", err
	}
	if have != nil {
		if why := notOurs(have, kind); why != "" {
			return "", inTheWay("data source", uid, why, "Use it as it is with --clickhouse-uid or --prometheus-uid, or give it another uid.")
		}
	}
	switch {
	case want == nil && have == nil:
		return "", nil
	case want == nil:
		return uid, nil
	case have == nil:
		d.plan(Change{Action: Create, Kind: "data source", UID: uid, Name: want.name}, func(ctx context.Context) error {
			_, err := d.n.api.Datasources.AddDataSourceWithParams(datasources.NewAddDataSourceParamsWithContext(ctx).WithBody(&models.AddDataSourceCommand{
				UID: uid, Name: want.name, Type: kind, Access: "proxy", URL: want.url, JSONData: want.jsonData, SecureJSONData: want.secrets}))
			return err
		})
		return uid, nil
	}
	return uid, d.mendSource(want, have)
}

// mendSource plans an update when settings of ours differ. Settings that people added
// stay. Secrets are written with it, for that is when they may be others.
func (d *desk) mendSource(want *source, have *models.DataSource) error {
	had, _ := have.JSONData.(map[string]any)
	wanted, err := plain(want.jsonData)
	if err != nil {
		return err
	}
	seen, err := plain(had)
	if err != nil {
		return err
	}
	now, _ := bare(wanted).(map[string]any)
	before, _ := bare(seen).(map[string]any)
	paths := under("jsonData", lacking(now, before))
	for key := range want.jsonData { // what we want to be off, and is on
		if _, on := before[key]; on && now[key] == nil {
			paths = append(paths, "jsonData."+key)
		}
	}
	if had[digestKey] != nil && want.jsonData[digestKey] == nil && want.secrets["password"] != "" {
		paths = append(paths, "jsonData."+digestKey)
	}
	for what, differs := range map[string]bool{"name": want.name != have.Name, "url": want.url != have.URL, "access": have.Access != "proxy", "basicAuth": have.BasicAuth} {
		if differs {
			paths = append(paths, what)
		}
	}
	for name := range want.secrets {
		if !have.SecureJSONFields[name] {
			paths = append(paths, "secureJsonData."+name)
		}
	}
	if len(paths) == 0 && d.cfg.WriteSecrets && len(want.secrets) > 0 {
		paths = []string{"secureJsonData"}
	}
	if len(paths) == 0 {
		if _, known := want.jsonData[digestKey]; !known && want.secrets["password"] != "" {
			d.note("the password of data source %s is not compared, for Grafana gives none back; --secrets writes it", want.uid)
		}
		return nil
	}
	merged := map[string]any{}
	for k, v := range had {
		merged[k] = v
	}
	delete(merged, digestKey)
	for k, v := range want.jsonData {
		merged[k] = v
	}
	d.plan(Change{Action: Update, Kind: "data source", UID: want.uid, Name: want.name, Paths: few(sorted(paths))}, func(ctx context.Context) error {
		_, err := d.n.api.Datasources.UpdateDataSourceByUIDWithParams(datasources.NewUpdateDataSourceByUIDParamsWithContext(ctx).WithUID(want.uid).WithBody(&models.UpdateDataSourceCommand{
			UID: want.uid, Name: want.name, Type: want.kind, Access: "proxy", URL: want.url, IsDefault: have.IsDefault, Database: have.Database,
			JSONData: merged, SecureJSONData: want.secrets, Version: have.Version}))
		return err
	})
	return nil
}

// notOurs says why a data source with our uid is not ours, or can't be written.
func notOurs(have *models.DataSource, kind string) string {
	data, _ := have.JSONData.(map[string]any)
	switch {
	case have.ReadOnly:
		return "is provisioned from a file of Grafana's"
	case data[markKey] != markValue || have.Type != kind:
		return "does not say that it is mcpaudit's"
	}
	return ""
}

// source reads a data source; nil for none.
func (d *desk) source(ctx context.Context, uid string) (*models.DataSource, error) {
	resp, err := d.n.api.Datasources.GetDataSourceByUIDWithParams(datasources.NewGetDataSourceByUIDParamsWithContext(ctx).WithUID(uid))
	switch {
	case missing(err):
		return nil, nil
	case err != nil:
		return nil, d.reading("data source "+uid, err)
	}
	return resp.Payload, nil
}

// tryOut asks Grafana whether it reaches ClickHouse now. What it says is a note: the
// dashboards are there all the same.
func (d *desk) tryOut(ctx context.Context) {
	_, err := d.n.api.Datasources.CheckDatasourceHealthWithUIDWithParams(datasources.NewCheckDatasourceHealthWithUIDParamsWithContext(ctx).WithUID(d.clickhouse))
	if err != nil && !forbidden(err) {
		d.note("Grafana does not reach ClickHouse through data source %s: %s", d.clickhouse, d.n.explain(err))
	}
}

func (d *desk) dropSources(ctx context.Context) error {
	for _, of := range [][2]string{{alerts.PrometheusUID, PrometheusType}, {alerts.ClickHouseUID, ClickHouseType}} {
		uid, kind := of[0], of[1]
		have, err := d.source(ctx, uid)
		switch {
		case err != nil:
			return err
		case have == nil:
			continue
		}
		if why := notOurs(have, kind); why != "" {
			d.note("data source %s stays: it %s", uid, why)
			continue
		}
		d.plan(Change{Action: Remove, Kind: "data source", UID: uid, Name: have.Name}, func(ctx context.Context) error {
			_, err := d.n.api.Datasources.DeleteDataSourceByUIDWithParams(datasources.NewDeleteDataSourceByUIDParamsWithContext(ctx).WithUID(uid))
			return err
		})
	}
	return nil
}
