package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/dashboards"
	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
	"github.com/mcpaudit/mcpaudit/dashboards/push"
)

// Environment variables that say which Grafana.
const (
	grafanaURLVariable       = "MCPAUDIT_GRAFANA_URL"
	grafanaTokenVariable     = "MCPAUDIT_GRAFANA_TOKEN"
	grafanaTokenFileVariable = "MCPAUDIT_GRAFANA_TOKEN_FILE"
)

func dashboardsCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "dashboards", Short: "Put dashboards and alerts into Grafana",
		Long: `Make Grafana show what mcpaudit knows: data sources, a folder, dashboards, alert rules, and
where their alerts go. Only what is mcpaudit's is touched, and it is marked as such;
anything else with one of its names stops the command before anything is written.

  mcpaudit dashboards diff                    what would change: status 0 nothing, 1 something
  mcpaudit dashboards apply                   make it so; twice is as good as once
  mcpaudit dashboards remove                  take it all out again

Grafana is named by --url, and a token of a service account with the role Admin by
--token-file. Where ClickHouse and the like are has to be said the first time; what no
flag names is left as it is.

Secrets are not compared, for Grafana gives none back. They are written when their data
source or contact point is made or changes, and with --secrets. Of an API key of mcpaudit
(never of another password) a short digest is kept there, so that another key is seen.

The same as files of Grafana's is in deploy/grafana/provisioning; use one of the two.`,
	}
	at := &grafanaFlags{s: s}
	at.add(cmd)
	cmd.AddCommand(dashboardsDiff(s, at), dashboardsApply(s, at), dashboardsRemove(s, at))
	return cmd
}

// grafanaFlags are which Grafana and what is to be there, as flags and environment say.
// None takes a secret itself: everybody on the machine sees what a command was called
// with.
type grafanaFlags struct {
	s                               *surroundings
	url, tokenFile, ca, folder, why string
	org                             int64
	asJSON                          bool

	clickhouse                                     push.ClickHouse
	clickhouseKeyFile, clickhouseCA, clickhouseUID string
	prometheusURL, prometheusUID                   string
	alertmanagerURL, contactFile, contact          string
	secrets                                        bool
}

func (g *grafanaFlags) add(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&g.url, "url", g.s.env(grafanaURLVariable), "URL of Grafana, with its path when it has one ($"+grafanaURLVariable+")")
	f.StringVar(&g.tokenFile, "token-file", g.s.env(grafanaTokenFileVariable), "file with a token of a service account; its text may be in $"+grafanaTokenVariable+" instead ($"+grafanaTokenFileVariable+")")
	f.Int64Var(&g.org, "org", 0, "id of the organisation; default the token's")
	f.StringVar(&g.ca, "ca", "", "PEM file of who signs Grafana's certificate; default: the system's authorities")
	f.StringVar(&g.why, "plaintext-reason", "", "why the token may be sent to another machine over http; for people")
	f.StringVar(&g.folder, "folder", push.Folder, "uid of the folder for dashboards and alert rules; this one is made, any other has to be there")
	f.BoolVar(&g.asJSON, "json", false, "one JSON object: changes (action, kind, uid, name, paths), notes")
}

// addWanted adds what says how it is to be.
func (g *grafanaFlags) addWanted(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.clickhouse.URL, "clickhouse-url", "", "where Grafana reaches ClickHouse, or listen.sql of mcpaudit: http(s)://host:port, or clickhouse(s)://host:port for the native protocol")
	f.StringVar(&g.clickhouseKeyFile, "clickhouse-key-file", "", "file with the API key (role analyst or auditor) for listen.sql, or the password of a ClickHouse account")
	f.StringVar(&g.clickhouse.User, "clickhouse-user", "", "account of a ClickHouse server; listen.sql takes any; default mcpaudit")
	f.StringVar(&g.clickhouse.Database, "clickhouse-database", "", `database; default "default"`)
	f.StringVar(&g.clickhouseCA, "clickhouse-ca", "", "PEM file of who signs ClickHouse's certificate, for Grafana")
	f.StringVar(&g.clickhouseUID, "clickhouse-uid", "", "uid of a ClickHouse data source of yours, to be used in place of one that is made")
	f.StringVar(&g.prometheusURL, "prometheus-url", "", "where Grafana reaches the Prometheus that scrapes mcpaudit")
	f.StringVar(&g.prometheusUID, "prometheus-uid", "", "uid of a Prometheus data source of yours, to be used in place of one that is made")
	f.StringVar(&g.alertmanagerURL, "alertmanager-url", "", "Alertmanager that alerts go to")
	f.StringVar(&g.contactFile, "contact-file", "", "JSON file with the contact point's integrations: [{\"type\": \"slack\", \"settings\": {…}}], as Grafana's provisioning API has them")
	f.StringVar(&g.contact, "contact", "", "name of a contact point of yours that alerts go to")
	f.BoolVar(&g.secrets, "secrets", false, "write secrets also where nothing else changes")
}

// config reads the files. doing is what the command does, for its errors.
func (g *grafanaFlags) config() (push.Config, error) {
	c := push.Config{URL: g.url, Org: g.org, PlaintextReason: g.why, FolderUID: g.folder, Dashboards: dashboards.FS, WriteSecrets: g.secrets,
		ClickHouseUID: g.clickhouseUID, PrometheusUID: g.prometheusUID}
	if c.URL == "" {
		return c, fmt.Errorf("which Grafana? give --url, or set %s", grafanaURLVariable)
	}
	token := g.s.env(grafanaTokenVariable)
	var err error
	if g.tokenFile != "" {
		if token, err = readSecretFile(g.tokenFile, "Grafana's token"); err != nil {
			return c, err
		}
	}
	c.Token = push.Secret(strings.TrimSpace(token))
	if c.CA, err = readPEM(g.ca); err != nil {
		return c, err
	}
	if c.Rules, err = alerts.Shipped(); err != nil {
		return c, err
	}
	if err := g.clickHouse(&c); err != nil {
		return c, err
	}
	if g.prometheusURL != "" {
		c.Prometheus = &push.Prometheus{URL: g.prometheusURL}
	}
	return c, g.contacts(&c)
}

func (g *grafanaFlags) clickHouse(c *push.Config) error {
	if g.clickhouse.URL == "" {
		if g.clickhouseKeyFile != "" || g.clickhouseCA != "" || g.clickhouse.User != "" || g.clickhouse.Database != "" {
			return errors.New("there are settings of ClickHouse and no --clickhouse-url; give it too")
		}
		return nil
	}
	if g.clickhouseKeyFile == "" {
		return errors.New("--clickhouse-url needs --clickhouse-key-file: a file with an API key (mcpaudit access create grafana --role analyst --out FILE) or the password of the account")
	}
	text, err := readSecretFile(g.clickhouseKeyFile, "ClickHouse's key")
	if err != nil {
		return err
	}
	to := g.clickhouse
	to.Password = push.Secret(text)
	if to.CA, err = readPEM(g.clickhouseCA); err != nil {
		return err
	}
	c.ClickHouse = &to
	return nil
}

func (g *grafanaFlags) contacts(c *push.Config) error {
	if g.alertmanagerURL == "" && g.contactFile == "" && g.contact == "" {
		return nil
	}
	c.Contact = &push.Contact{AlertmanagerURL: g.alertmanagerURL, Name: g.contact}
	if g.contactFile == "" {
		return nil
	}
	text, err := readSecretFile(g.contactFile, "the contact point")
	if err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c.Contact.Integrations); err != nil {
		// What the decoder says may quote the file.
		return fmt.Errorf(`read the contact point from %s: it is no list such as [{"type": "slack", "settings": {"url": "…"}}]`, g.contactFile)
	}
	if len(c.Contact.Integrations) == 0 {
		return fmt.Errorf("read the contact point from %s: the list is empty", g.contactFile)
	}
	return nil
}

// maxSecretFile is the most that is read of a file with a secret, in bytes.
const maxSecretFile = 64 << 10

// readSecretFile reads a text that is nobody else's. Its errors don't show it.
func readSecretFile(path, what string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", what, err)
	case info.IsDir():
		return "", fmt.Errorf("read %s from %s: it is a folder", what, path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0: // there the mode says nothing of rights
		return "", fmt.Errorf("read %s from %s: everybody may read it; run: chmod 600 %s", what, path, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", what, err)
	case len(text) > maxSecretFile:
		return "", fmt.Errorf("read %s from %s: it has more than %d bytes", what, path, maxSecretFile)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("read %s from %s: the file is empty", what, path)
	}
	return secret, nil
}

func readPEM(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read certificates from %s: %w", path, err)
	}
	return text, nil
}

func dashboardsDiff(s *surroundings, at *grafanaFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "diff", Short: "Show what apply would change", Args: cobra.NoArgs,
		Long: `Compare what is in Grafana with what should be, and show what apply would create, update
and remove; of an update, the places in its JSON that differ. Nothing is written. The
exit status is 0 when nothing would change, 1 when something would, 2 when that could not
be found out.`,
		Example: `  mcpaudit dashboards diff --url https://grafana.example.com --token-file grafana.token`,
	}
	at.addWanted(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := at.run(cmd.Context(), "compare dashboards", push.Diff)
		if err == nil {
			err = s.showPlan(p, at.asJSON, "would be")
		}
		if err != nil {
			fmt.Fprintf(s.stderr, "mcpaudit: %v\n", err)
			return exitStatus(2)
		}
		if len(p.Changes) > 0 {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

func dashboardsApply(s *surroundings, at *grafanaFlags) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "apply", Short: "Make Grafana's objects what they should be", Args: cobra.NoArgs,
		Long: `Create and update mcpaudit's data sources, folder, dashboards, contact point, route and
alert rules in Grafana, and remove those of an earlier version. What is as it should be is
not written. A run that was interrupted is finished by the next one.`,
		Example: `  mcpaudit dashboards apply --url https://grafana.example.com --token-file grafana.token --clickhouse-url https://audit.example.com:4779 --clickhouse-key-file grafana.key --prometheus-url http://prometheus:9090
  mcpaudit dashboards apply --url http://localhost:3000 --alertmanager-url http://localhost:9093
  mcpaudit dashboards apply --dry-run`,
	}
	at.addWanted(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be done, and write nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		run, done := push.Apply, "was"
		if dry {
			run, done = push.Diff, "would be"
		}
		p, err := at.run(cmd.Context(), "apply dashboards", run)
		return s.showDone(p, at.asJSON, done, err)
	}
	return cmd
}

func dashboardsRemove(s *surroundings, at *grafanaFlags) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "remove", Short: "Take everything of mcpaudit out of Grafana", Args: cobra.NoArgs,
		Long: `Remove mcpaudit's alert rules, route, contact point, dashboards, folder and data sources
from Grafana. What others have made stays, and with it the folder when they have put
something there.`,
		Example: `  mcpaudit dashboards remove --dry-run
  mcpaudit dashboards remove --url https://grafana.example.com --token-file grafana.token`,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be removed, and write nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		run, done := push.RemoveAll, "was"
		if dry {
			run, done = push.Removal, "would be"
		}
		p, err := at.run(cmd.Context(), "remove dashboards", run)
		return s.showDone(p, at.asJSON, done, err)
	}
	return cmd
}

// run makes one run, and says on standard error how far it is when it takes long.
func (g *grafanaFlags) run(ctx context.Context, doing string, run func(context.Context, push.Config) (push.Plan, error)) (push.Plan, error) {
	c, err := g.config()
	if err != nil {
		return push.Plan{}, fmt.Errorf("%s: %w", doing, err)
	}
	status := newStatusLine(g.s, doing, g.asJSON)
	defer status.clear()
	c.Progress = status.draw
	p, err := run(ctx, c)
	if err != nil {
		err = fmt.Errorf("%s: %s", doing, printable(err.Error(), 2000))
	}
	return p, err
}

// showDone shows what was done, also of a run that failed on the way.
func (s *surroundings) showDone(p push.Plan, asJSON bool, done string, err error) error {
	if err != nil && len(p.Changes) == 0 {
		return err
	}
	return errors.Join(err, s.showPlan(p, asJSON, done))
}

func (s *surroundings) showPlan(p push.Plan, asJSON bool, done string) error {
	if asJSON {
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		return writeLine(s.stdout, string(visible(text)))
	}
	out := s.screen(s.stdout)
	t := newTable(out, column{head: "ACTION", most: 8}, column{head: "KIND", most: 14}, column{head: "NAME", most: 60}, column{head: "DIFFERS IN", most: 120, rest: true})
	for _, c := range p.Changes {
		look := map[string]style{push.Create: green, push.Update: yellow, push.Remove: red}[c.Action]
		if err := t.add(cell{c.Action, look}, cell{text: c.Kind}, cell{text: c.Name}, cell{text: strings.Join(c.Paths, ", ")}); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, n := range p.Notes {
		if err := writeLine(s.stderr, "note: ", printable(n, longText)); err != nil {
			return err
		}
	}
	if len(p.Changes) == 0 {
		return writeLine(out, "nothing "+done+" changed")
	}
	return writeLine(out, count(uint64(len(p.Changes)), "change")+" "+map[string]string{"was": "made", "would be": "to make"}[done])
}
