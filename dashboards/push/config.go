package push

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
)

// Secret is a text that is sent and never shown: however it is printed or encoded, it
// reads as "[secret]".
type Secret string

func (Secret) String() string               { return "[secret]" }
func (Secret) GoString() string             { return "[secret]" }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"[secret]"`), nil }

// What our objects are called.
const (
	Folder       = "mcpaudit" // uid and title of our folder
	FolderTitle  = "mcpaudit"
	Tag          = "mcpaudit"  // of our dashboards
	UIDPrefix    = "mcpaudit-" // of our dashboards and alert rules
	ContactPoint = "mcpaudit"  // name of our contact point, and uid of its first integration

	ClickHouseType = "grafana-clickhouse-datasource"
	PrometheusType = "prometheus"
)

// Config says which Grafana, and what is to be there. What no field names is left as it
// is there: a second run needs no more than URL and Token.
type Config struct {
	// URL of Grafana, with its path when it has one: https://grafana.example.com/sub.
	URL string
	// Token of a service account with the role Admin in its organisation, or with the
	// permissions that errors name.
	Token Secret
	// Org is the id of the organisation; 0 for the one of the token.
	Org int64
	// CA are PEM certificates of who signs Grafana's; empty for the system's authorities.
	CA []byte
	// PlaintextReason allows to send the token over http to another machine; for people.
	PlaintextReason string

	// FolderUID is of the folder for dashboards and alert rules; default Folder, which is
	// made and removed. Any other has to be there, and stays.
	FolderUID string
	// ClickHouse is the data source that is made; nil to keep the one that was made
	// before, or to use that of ClickHouseUID.
	ClickHouse    *ClickHouse
	ClickHouseUID string // of a data source of your own
	// Prometheus is the same for metrics. Without any, alert rules over metrics are left
	// as they are, and the dashboard of the service's health has no source.
	Prometheus    *Prometheus
	PrometheusUID string
	// Contact says where alerts go; nil to leave contact point and route as they are.
	Contact *Contact

	// Dashboards are the files *.json at the top of it.
	Dashboards fs.FS
	Rules      []alerts.Group

	// WriteSecrets writes secrets also where nothing else has changed. Grafana never
	// gives one back, so that whether they are the same can't be seen otherwise.
	WriteSecrets bool
	// Progress is told of each step before it is taken; nil for nobody.
	Progress func(step string)
}

// ClickHouse is how Grafana reaches mcpaudit's tables: 'listen.sql' of an embedded node,
// or a ClickHouse server.
type ClickHouse struct {
	// URL as Grafana sees it: http://host:port or https://host:port, or clickhouse://
	// host:port and clickhouses://host:port for the native protocol without and with TLS.
	URL      string
	User     string // default mcpaudit; an embedded node looks at the password alone
	Password Secret // an API key with the role analyst or auditor, or the account's password
	Database string // default "default"
	CA       []byte // PEM certificates of who signs its certificate
}

// Prometheus is where the service's metrics are.
type Prometheus struct {
	URL string // as Grafana sees it
}

// Contact is where alerts go: one of the three.
type Contact struct {
	// AlertmanagerURL is of an Alertmanager that Grafana sends to.
	AlertmanagerURL string
	// Integrations are of our contact point: type and settings as Grafana's provisioning
	// API has them. Their settings are taken for secret.
	Integrations []Integration
	// Name is of a contact point of your own.
	Name string
}

// Integration is one way of our contact point.
type Integration struct {
	Type                  string         `json:"type"`
	Settings              map[string]any `json:"settings"`
	DisableResolveMessage bool           `json:"disableResolveMessage,omitempty"`
}

// String is the configuration without what is secret.
func (c Config) String() string {
	return fmt.Sprintf("Grafana at %s, folder %s", shownURL(c.URL), c.folder())
}

// GoString is String, for %#v.
func (c Config) GoString() string { return "push.Config{" + c.String() + "}" }

func (c Config) folder() string {
	if c.FolderUID == "" {
		return Folder
	}
	return c.FolderUID
}

var folderUIDs = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,40}$`)

// Validate names what contradicts itself.
func (c Config) Validate() error {
	at, err := parseURL("Grafana's URL", c.URL, "http", "https")
	switch {
	case err != nil:
		return err
	case c.Token == "":
		return errors.New("there is no token of Grafana; make a service account with the role Admin (Administration, Users and access, Service accounts) and a token of it")
	case strings.ContainsAny(string(c.Token), " \t\r\n"):
		return errors.New("the token of Grafana has blanks or line ends in it; it should be the token alone")
	case at.Scheme == "http" && !loopback(at.Hostname()) && strings.TrimSpace(c.PlaintextReason) == "":
		return fmt.Errorf("the token would go to %s in plaintext, for anybody on the way to read; use https, or say why that is well", at.Host)
	case at.Scheme == "http" && len(c.CA) > 0:
		return errors.New("there are certificates of an authority, and the URL is http; use https, or leave them out")
	case !folderUIDs.MatchString(c.folder()):
		return fmt.Errorf("folder %q is no uid of a folder: letters, digits, - and _, at most 40", c.FolderUID)
	case c.Org < 0:
		return fmt.Errorf("organisation %d: ids begin with 1", c.Org)
	case c.ClickHouse != nil && c.ClickHouseUID != "":
		return errors.New("there are a ClickHouse to make a data source of and a data source of your own; leave one of them out")
	case c.Prometheus != nil && c.PrometheusUID != "":
		return errors.New("there are a Prometheus to make a data source of and a data source of your own; leave one of them out")
	}
	if c.ClickHouse != nil {
		if _, err := c.ClickHouse.address(); err != nil {
			return err
		}
	}
	if c.Prometheus != nil {
		if _, err := parseURL("the URL of Prometheus", c.Prometheus.URL, "http", "https"); err != nil {
			return err
		}
	}
	if c.Contact != nil {
		return c.Contact.validate()
	}
	return nil
}

func (c *Contact) validate() error {
	ways := 0
	if c.AlertmanagerURL != "" {
		ways++
		if _, err := parseURL("the URL of Alertmanager", c.AlertmanagerURL, "http", "https"); err != nil {
			return err
		}
	}
	if c.Name != "" {
		ways++
	}
	if len(c.Integrations) > 0 {
		ways++
	}
	switch {
	case ways != 1:
		return errors.New("a contact is an Alertmanager, integrations, or the name of a contact point of yours: one of them")
	case c.Name == ContactPoint:
		return fmt.Errorf("the contact point %q is the one that is made here; name one of your own", ContactPoint)
	case len(c.Integrations) > 20:
		return fmt.Errorf("a contact point with %d integrations; 20 are enough", len(c.Integrations))
	}
	for i, one := range c.Integrations {
		if one.Type == "" || len(one.Settings) == 0 {
			return fmt.Errorf("integration %d of the contact point has no type or no settings", i+1)
		}
	}
	return nil
}

// address is where a ClickHouse is, as the data source's settings have it.
type address struct {
	host, protocol, path string
	port                 int
	secure               bool
}

// ports of ClickHouse by scheme, when a URL has none.
var ports = map[string]int{"http": 8123, "https": 8443, "clickhouse": 9000, "clickhouses": 9440}

func (c *ClickHouse) address() (address, error) {
	u, err := parseURL("the URL of ClickHouse", c.URL, "http", "https", "clickhouse", "clickhouses")
	if err != nil {
		return address{}, err
	}
	a := address{host: u.Hostname(), port: ports[u.Scheme], protocol: "http", secure: strings.HasSuffix(u.Scheme, "s"), path: strings.Trim(u.Path, "/")}
	if strings.HasPrefix(u.Scheme, "clickhouse") {
		a.protocol = "native"
		if a.path != "" {
			return address{}, errors.New("the URL of ClickHouse has a path, which the native protocol has no use for; name the database by itself")
		}
	}
	if p := u.Port(); p != "" {
		if a.port, err = strconv.Atoi(p); err != nil || a.port < 1 || a.port > 65535 {
			return address{}, fmt.Errorf("the URL of ClickHouse has the port %q", p)
		}
	}
	return a, nil
}

// parseURL reads a URL that names a place and no more. Its errors don't show what may be
// a password.
func parseURL(what, text string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, fmt.Errorf("%s is missing", what)
	case err != nil:
		return nil, fmt.Errorf("%s is not a URL", what)
	case u.User != nil:
		return nil, fmt.Errorf("%s has a user or a password in it; leave them out", what)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%s has more behind its path; leave that out", what)
	}
	for _, s := range schemes {
		if u.Scheme == s && u.Hostname() != "" {
			return u, nil
		}
	}
	return nil, fmt.Errorf("%s is %q; it begins with %s:// and a host", what, shownURL(text), strings.Join(schemes, ":// or "))
}

// shownURL is a URL without what could be secret in it.
func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "?"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
