// Package deploy_test checks the files by which mcpaudit is deployed, as far as that can be
// done without a container engine: that they are what their readers take, that what they
// mount is there, and that they agree with each other.
package deploy_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/internal/app"
)

// project is the compose file as docker compose reads it: its own reader, with the
// specification's schema.
func project(t *testing.T) *types.Project {
	t.Helper()
	dir, err := filepath.Abs("compose")
	if err != nil {
		t.Fatal(err)
	}
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}},
		Environment: types.Mapping{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestComposeHasWhatItMountsAndWaitsFor(t *testing.T) {
	p := project(t)
	for _, name := range []string{"clickhouse", "kafka", "grafana", "alertmanager", "prometheus", "mcpaudit"} {
		if _, ok := p.Services[name]; !ok {
			t.Errorf("there is no service %s", name)
		}
	}
	made := secretsMade(t)
	for name, s := range p.Secrets {
		if file := filepath.Base(s.File); !slices.Contains(made, file) {
			t.Errorf("secret %s is in %s, which secrets.sh does not make: %v", name, file, made)
		}
	}
	for name, s := range p.Services {
		if s.Image == "" || strings.HasSuffix(s.Image, ":latest") || s.Build == nil && !strings.Contains(s.Image, ":") {
			t.Errorf("%s: image %q has no version", name, s.Image)
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				if _, ok := p.Volumes[v.Source]; !ok {
					t.Errorf("%s: there is no volume %q", name, v.Source)
				}
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !v.ReadOnly {
				t.Errorf("%s: may write to %s", name, v.Source)
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is published on %q, and not on loopback alone", name, port.Published, port.HostIP)
			}
		}
		for other, d := range s.DependsOn {
			on, ok := p.Services[other]
			if !ok {
				t.Errorf("%s waits for %s, which is not there", name, other)
			}
			if d.Condition == types.ServiceConditionHealthy && on.HealthCheck == nil {
				t.Errorf("%s waits until %s is healthy, which nobody checks", name, other)
			}
		}
		for _, secret := range s.Secrets {
			if _, ok := p.Secrets[secret.Source]; !ok {
				t.Errorf("%s: there is no secret %s", name, secret.Source)
			}
		}
	}
}

// secretsMade runs secrets.sh in a copy of its folder, twice: the second time it changes
// nothing.
func secretsMade(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	script, err := os.ReadFile("compose/secrets.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secrets.sh"), script, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "sh", filepath.Join(dir, "secrets.sh"))
	first := contents(t, filepath.Join(dir, "secrets"))
	run(t, "sh", filepath.Join(dir, "secrets.sh"))
	var names []string
	for name, text := range contents(t, filepath.Join(dir, "secrets")) {
		if names = append(names, name); text != first[name] {
			t.Errorf("secrets.sh makes %s again", name)
		}
		if !regexp.MustCompile(`^[0-9a-f]{48}$`).MatchString(text) {
			t.Errorf("%s has %d bytes, and is not 48 hexadecimal digits", name, len(text))
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "secrets")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can look into the folder of the secrets: %v, %v", info.Mode(), err)
	}
	return names
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name()] = string(text)
	}
	return out
}

// The service takes its settings, and listens where the others look for it.
func TestComposesSettingsAreTaken(t *testing.T) {
	p := project(t)
	f, err := os.Open("compose/mcpaudit.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cfg := app.DefaultConfig("/var/lib/mcpaudit")
	if err := cfg.ReadYAML("mcpaudit.yaml", f); err != nil {
		t.Fatal(err)
	}
	cfg.Store.DSN = "clickhouse://mcpaudit_writer:x@clickhouse:9000/mcpaudit" // as with-store.sh has it
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, broker := range cfg.Kafka.Brokers {
		host, port, _ := strings.Cut(broker, ":")
		if _, ok := p.Services[host]; !ok || !strings.Contains(*p.Services[host].Environment["KAFKA_LISTENERS"], ":"+port) {
			t.Errorf("no service listens at %s", broker)
		}
	}
	topics := strings.Join(p.Services["topics"].Command, " ")
	for _, topic := range []string{cfg.Kafka.Topic, cfg.Kafka.Topic + "-dead-letter"} {
		if !regexp.MustCompile(`\b` + topic + `\b`).MatchString(topics) {
			t.Errorf("nobody makes the topic %s", topic)
		}
	}
}

// Prometheus and Alertmanager take their files, and the alerts are raised when they
// should be and not otherwise.
func TestPrometheusAndAlertmanagerTakeTheirFiles(t *testing.T) {
	for _, command := range [][]string{
		{"promtool", "check", "config", "--syntax-only", "compose/prometheus.yml"},
		{"promtool", "check", "rules", "prometheus/alerts.yml"},
		{"promtool", "test", "rules", "prometheus/alerts_test.yml"},
		{"amtool", "check-config", "compose/alertmanager.yml"},
	} {
		if _, err := exec.LookPath(command[0]); err != nil {
			if os.Getenv("MCPAUDIT_ALERTMANAGER") == "real" {
				t.Fatalf("%v; install what is missing with deploy/dev/setup.sh alerting", err)
			}
			t.Skipf("%v; deploy/dev/setup.sh alerting installs it", err)
		}
		run(t, command...)
	}
}

// What Prometheus scrapes and whom it tells are services of the project, at ports where
// they listen.
func TestPrometheusFindsTheServices(t *testing.T) {
	p := project(t)
	text, err := os.ReadFile("compose/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		RuleFiles []string `yaml:"rule_files"`
		Alerting  struct {
			Alertmanagers []struct {
				StaticConfigs []targets `yaml:"static_configs"`
			}
		}
		ScrapeConfigs []struct {
			Authorization struct {
				CredentialsFile string `yaml:"credentials_file"`
			}
			StaticConfigs []targets `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var all []targets
	for _, a := range file.Alerting.Alertmanagers {
		all = append(all, a.StaticConfigs...)
	}
	var keys []string
	for _, s := range file.ScrapeConfigs {
		all, keys = append(all, s.StaticConfigs...), append(keys, s.Authorization.CredentialsFile)
	}
	n := 0
	for _, some := range all {
		for _, target := range some.Targets {
			host, port, _ := strings.Cut(target, ":")
			s := p.Services[host]
			if n++; !slices.ContainsFunc(s.Ports, func(c types.ServicePortConfig) bool { return c.Published == port }) {
				t.Errorf("%s is no service's port", target)
			}
		}
	}
	if n != 2 || len(keys) != 1 {
		t.Errorf("%d targets, keys %q", n, keys)
	}
	script, err := os.ReadFile("compose/keys/more.sh")
	if err != nil || !strings.Contains(string(script), keys[0]) {
		t.Errorf("nobody makes %s: %v", keys[0], err)
	}
	mounted := p.Services["prometheus"].Volumes
	for _, name := range append(file.RuleFiles, filepath.Dir(keys[0])) {
		if !slices.ContainsFunc(mounted, func(v types.ServiceVolumeConfig) bool { return v.Target == name }) {
			t.Errorf("Prometheus has no %s", name)
		}
	}
}

type targets struct{ Targets []string }

func TestScriptsParse(t *testing.T) {
	for _, pattern := range []string{"compose/*.sh", "compose/*/*.sh", "dev/*.sh", "demo/*.sh"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, f := range files {
			run(t, "bash", "-n", f)
			if info, err := os.Stat(f); err != nil || info.Mode()&0o111 == 0 {
				t.Errorf("%s can't be executed: %v", f, err)
			}
		}
	}
}

// What the accounts' script hands to ClickHouse on a single server knows no cluster, and
// has no password of the files that everybody reads left in force.
func TestASingleServersAccounts(t *testing.T) {
	dir := t.TempDir()
	script, err := os.ReadFile("compose/clickhouse/accounts.sh")
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("clickhouse")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"clickhouse_writer", "clickhouse_grafana"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("a1", 24)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.NewReplacer("/etc/mcpaudit", here, "/run/secrets", dir, "clickhouse-client --multiquery", "cat").Replace(string(script))
	sql := run(t, "bash", "-c", text)
	if strings.Contains(strings.ToLower(sql), "on cluster") {
		t.Error("it speaks of a cluster")
	}
	sql = regexp.MustCompile(`(?m)^--.*\n`).ReplaceAllString(sql, "")
	statement := regexp.MustCompile(`(?s)\bCREATE USER[^;]*?(mcpaudit_\w+)[^;]*;`)
	for _, m := range statement.FindAllStringSubmatch(sql, -1) {
		user := m[1]
		if !strings.Contains(m[0], "change me") {
			continue
		}
		if !strings.Contains(sql, "ALTER USER "+user+" IDENTIFIED") && !strings.Contains(sql, "DROP USER IF EXISTS "+user+";") {
			t.Errorf("%s keeps the password of the file", user)
		}
	}
	for _, user := range []string{"mcpaudit_writer", "mcpaudit_grafana"} {
		if !regexp.MustCompile(`CREATE USER [^;]*` + user).MatchString(sql) {
			t.Errorf("nobody makes %s:\n%s", user, sql)
		}
	}
}

// run runs a command and returns what it writes.
func run(t *testing.T, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out.String())
	}
	return out.String()
}

// Prometheus runs as a user of its own, so the folder that becomes its volume has to let
// others in; what a build copies has no passwords in it; and nobody waits for ClickHouse by
// something that is true before its accounts are there.
func TestComposesUsersReachWhatTheyRead(t *testing.T) {
	build, err := os.ReadFile("compose/Dockerfile")
	if err != nil || !regexp.MustCompile(`install -d -o mcpaudit -m 755 /var/lib/mcpaudit/monitor\n`).Match(build) {
		t.Errorf("Prometheus can't look into the folder of its key: %v", err)
	}
	left, err := os.ReadFile("compose/Dockerfile.dockerignore")
	if err != nil || !strings.Contains(string(left), "deploy/compose/secrets\n") {
		t.Errorf("passwords get into a layer of the image's build: %v", err)
	}
	check := strings.Join(project(t).Services["clickhouse"].HealthCheck.Test, " ")
	if !strings.Contains(check, "//clickhouse:") || !strings.Contains(check, "throwIf(") {
		t.Errorf("ClickHouse is healthy before it has accounts: %s", check)
	}
}
