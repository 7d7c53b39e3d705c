// Package alerts holds the alert rules that Grafana evaluates for mcpaudit: what the
// owner of an audit log wants to be woken for that no finding says, or that stays when
// nobody has looked at a finding.
//
// rules.yaml is the one place where they are written. Package push makes them rules of
// Grafana's provisioning API, and this package makes them a file of Grafana's file
// provisioning (deploy/grafana/provisioning/alerting/rules.yaml).
//
// No text of a rule has a dollar sign: file provisioning puts environment variables
// in place of them, differently from version to version, and the API does not. So the
// SQL has no macros but asks for its own time, and annotations say .Labels.x.
package alerts

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// What marks a rule as ours: a prefix of its uid, and a label that the route of
// notifications matches too.
const (
	UIDPrefix = "mcpaudit-"
	MarkLabel = "mcpaudit"
	MarkValue = "true"
)

// The data sources that a rule may ask.
const (
	ClickHouse = "clickhouse"
	Prometheus = "prometheus"
)

// Group is rules that are evaluated together, one after the other.
type Group struct {
	Name string `yaml:"name"`
	// Every is how often, in whole multiples of 10 s (Grafana's base interval).
	Every time.Duration `yaml:"every"`
	Rules []Rule        `yaml:"rules"`
}

// Rule is one condition. It fires for each row (ClickHouse) or series (Prometheus) whose
// number is above a limit; the other columns, or its labels, are the alert's labels.
type Rule struct {
	UID    string `yaml:"uid"` // with UIDPrefix; at most 40 characters
	Title  string `yaml:"title"`
	Source string `yaml:"source"` // ClickHouse or Prometheus
	// Query is a SELECT with one number and any number of texts, or PromQL.
	Query string  `yaml:"query"`
	Above float64 `yaml:"above"` // fires when the number is larger
	// For is how long that has to be so, in whole minutes; 0 fires at once.
	For      time.Duration `yaml:"for"`
	Severity string        `yaml:"severity"` // critical, high or warning
	// NoData is what an answer without rows means: OK where rows are what is wrong,
	// Alerting where there always is one.
	NoData string `yaml:"no_data"`
	// Error is what a query that fails means; "" is Error: Grafana then says that it
	// could not look, with the labels of this rule, which is not that all is well.
	Error       string `yaml:"error"`
	Summary     string `yaml:"summary"`     // one line, with labels
	Description string `yaml:"description"` // what it means
	Runbook     string `yaml:"runbook"`     // what to do first
	Dashboard   string `yaml:"dashboard"`   // uid of the dashboard that shows it
	Panel       string `yaml:"panel"`       // title of its panel; "" for none
}

//go:generate go run ./generate ../../deploy/grafana/provisioning/alerting/rules.yaml

//go:embed rules.yaml
var shipped []byte

// Shipped are the rules of this version. They are part of the program: an error is a
// mistake in rules.yaml.
func Shipped() ([]Group, error) {
	groups, err := Parse(shipped)
	if err != nil {
		return nil, fmt.Errorf("read the alert rules: %w", err)
	}
	return groups, nil
}

// maxFile is the largest file of rules that is read, in bytes.
const maxFile = 1 << 20

// Parse reads groups of rules; unknown keys are refused, and what Grafana would refuse
// is as well.
func Parse(text []byte) ([]Group, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("%d bytes are more than the %d of a file of rules", len(text), maxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var file struct {
		Groups []Group `yaml:"groups"`
	}
	if err := d.Decode(&file); err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is a second document behind the rules")
	}
	seen := map[string]bool{}
	for g := range file.Groups {
		if err := file.Groups[g].check(); err != nil {
			return nil, fmt.Errorf("group %q: %w", file.Groups[g].Name, err)
		}
		for r := range file.Groups[g].Rules {
			rule := &file.Groups[g].Rules[r]
			rule.fill()
			if err := rule.check(); err != nil {
				return nil, fmt.Errorf("rule %q: %w", rule.UID, err)
			}
			if seen[rule.UID] || seen["title "+rule.Title] {
				return nil, fmt.Errorf("rule %q: its uid or title is there twice", rule.UID)
			}
			seen[rule.UID], seen["title "+rule.Title] = true, true
		}
	}
	return file.Groups, nil
}

func (g *Group) check() error {
	switch {
	case g.Name == "" || len(g.Name) > 190:
		return errors.New("a name has 1 to 190 characters")
	case g.Every < 10*time.Second || g.Every%(10*time.Second) != 0:
		return fmt.Errorf("every is %s; it is a multiple of 10s", g.Every)
	case len(g.Rules) == 0:
		return errors.New("there are no rules")
	}
	return nil
}

func (r *Rule) fill() {
	r.Query = strings.TrimSpace(r.Query)
	for _, text := range []*string{&r.Summary, &r.Description, &r.Runbook} {
		*text = strings.TrimSpace(*text)
	}
	if r.Error == "" {
		r.Error = "Error"
	}
}

var uids = regexp.MustCompile(`^mcpaudit-[a-z0-9-]{1,31}$`)

func (r *Rule) check() error {
	switch {
	case !uids.MatchString(r.UID):
		return fmt.Errorf("a uid is %s and up to 31 small letters, digits and dashes", UIDPrefix)
	case r.Title == "" || len(r.Title) > 190:
		return errors.New("a title has 1 to 190 characters")
	case r.Source != ClickHouse && r.Source != Prometheus:
		return fmt.Errorf("source is %q; it is %s or %s", r.Source, ClickHouse, Prometheus)
	case r.Query == "":
		return errors.New("there is no query")
	case r.For < 0 || r.For%time.Minute != 0:
		return fmt.Errorf("for is %s; it is whole minutes", r.For)
	case !slices.Contains([]string{"critical", "high", "warning"}, r.Severity):
		return fmt.Errorf("severity is %q; it is critical, high or warning", r.Severity)
	case !slices.Contains([]string{"OK", "NoData", "Alerting"}, r.NoData):
		return fmt.Errorf("no_data is %q; it is OK, NoData or Alerting", r.NoData)
	case !slices.Contains([]string{"OK", "Error", "Alerting"}, r.Error):
		return fmt.Errorf("error is %q; it is OK, Error or Alerting", r.Error)
	case r.Summary == "" || r.Description == "" || r.Runbook == "":
		return errors.New("summary, description and runbook are needed: somebody is woken by it")
	case r.Panel != "" && r.Dashboard == "":
		return errors.New("there is a panel and no dashboard")
	}
	for _, text := range []string{r.Title, r.Query, r.Summary, r.Description, r.Runbook} {
		if strings.ContainsRune(text, '$') {
			return fmt.Errorf("%q has a dollar sign, which file provisioning would take for a variable", text)
		}
	}
	return nil
}
