package app

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func TestABadFileIsRefusedWithItsPlaceAndReason(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"stor:\n  path: x\n", `f.yaml:1: there is no setting "stor"; the nearest is "store.dsn"`},
		{"store:\n  pat: x\n", `f.yaml:2: there is no setting "store.pat"; the nearest is "store.path"`},
		{"ingest:\n  batch_row: 5\n", `f.yaml:2: there is no setting "ingest.batch_row"; the nearest is "ingest.batch_rows"`},
		{"store.path: x\nstore:\n  path: y\n", `f.yaml:3: store.path is set twice`},
		{"ingest:\n  batch_rows: 5\n  batch_rows: 6\n", `f.yaml:3: ingest.batch_rows is set twice`},
		{"ingest:\n  batch_rows: many\n", `f.yaml:2: ingest.batch_rows: "many" is not a whole number`},
		{"ingest:\n  batch_rows: 1.5\n", `f.yaml:2: ingest.batch_rows: "1.5" is not a whole number`},
		{"ingest:\n  batch_rows: 99999999999999999999\n", `f.yaml:2: ingest.batch_rows: "99999999999999999999" is not a whole number`},
		{"query:\n  memory_limit: -1\n", `f.yaml:2: query.memory_limit: "-1" is not a whole number from 0`},
		{"ingest:\n  batch_age: 25\n", `f.yaml:2: ingest.batch_age: "25" is not a duration such as 25ms`},
		{"ingest:\n  batch_age: soon\n", `f.yaml:2: ingest.batch_age: "soon" is not a duration such as 25ms`},
		{"ingest: 5\n", `f.yaml:1: ingest must have keys`},
		{"- ingest\n", `f.yaml:1: the file must have keys`},
		{"5", `f.yaml:1: the file must have keys`},
		{"store:\n  path: [a, b]\n", `f.yaml:2: store.path takes a single value`},
		{"store:\n  path: {a: b}\n", `f.yaml:2: store.path takes a single value`},
		{"store:\n  path:\n", `f.yaml:2: store.path has no value; leave it out for its default`},
		{"store:\n  path: ~\n", `f.yaml:2: store.path has no value; leave it out for its default`},
		{"roles:\n", `f.yaml:1: roles has no value; leave it out for its default`},
		{"roles: [[ingest]]\n", `f.yaml:1: roles takes a list of single values`},
		{"roles: [ingest]\n---\nroles: [query]\n", `f.yaml: has more than one document; settings after '---' would be ignored`},
		{"store:\n\tpath: x\n", `f.yaml: line 2: found character that cannot start any token`},
		{"#" + strings.Repeat("x", 1<<20) + "\n", `f.yaml: has more than 1048576 bytes`},
		// What the file says is well formed, and can't be.
		{"roles: []\n", `roles: name at least one of ingest, detect, query`},
		{"roles: [ingest, watch]\n", `roles: there is no role "watch"; use ingest, detect, query`},
		{"store:\n  path: \"\"\n", `store: path is empty; name a data folder, or a server in dsn`},
		{"store:\n  dsn: mysql://u:hunter2@h/db\n", `store: dsn begins with "mysql"; use clickhouse:// (native protocol), http:// or https://`},
		{"store:\n  memory_limit: 5\n", `store.memory_limit: is 5, must lie between 268435456 and 1099511627776`},
		{"store:\n  memory_limit: 18446744073709551615\n", `store.memory_limit: is 18446744073709551615, must lie between 268435456 and 1099511627776`},
		{"listen:\n  grpc: 4777\n", `listen.grpc: "4777" is not host:port`},
		{"listen:\n  http: localhost\n", `listen.http: "localhost" is not host:port`},
		{"listen:\n  grpc: 0.0.0.0:4777\n", `listen.grpc: "0.0.0.0:4777" is not a loopback address, and there is no TLS; set listen.tls_cert and listen.tls_key, or say twice that it may be plaintext: access.plaintext: [listen] and access.plaintext_reason`},
		{"listen:\n  grpc: :4777\n", `listen.grpc: ":4777" is not a loopback address, and there is no TLS; set listen.tls_cert and listen.tls_key, or say twice that it may be plaintext: access.plaintext: [listen] and access.plaintext_reason`},
		{"listen:\n  http: audit.example:80\n", `listen.http: "audit.example:80" is not a loopback address, and there is no TLS; set listen.tls_cert and listen.tls_key, or say twice that it may be plaintext: access.plaintext: [listen] and access.plaintext_reason`},
		{"listen:\n  grpc: 0.0.0.0:4777\naccess:\n  plaintext_reason: a mesh\n", `access.plaintext: there is a reason and nothing that it is for; name listen or kafka, or leave the reason out`},
		{"listen:\n  grpc: 0.0.0.0:4777\naccess:\n  plaintext: listen\n", `access.plaintext_reason: is empty; say why listen may be plaintext, such as: a service mesh encrypts it`},
		{"listen:\n  grpc: 0.0.0.0:4777\naccess:\n  plaintext: kafka\n  plaintext_reason: a mesh\n", `listen.grpc: "0.0.0.0:4777" is not a loopback address, and there is no TLS; set listen.tls_cert and listen.tls_key, or say twice that it may be plaintext: access.plaintext: [listen] and access.plaintext_reason`},
		{"access:\n  plaintext: [listen, everything]\n  plaintext_reason: a mesh\n", `access.plaintext: there is no "everything" to allow it for; use listen or kafka`},
		{"access:\n  plaintext: listen\n  plaintext_reason: " + strings.Repeat("x", 301) + "\n", `access.plaintext_reason: has 301 bytes; at most 300 are logged`},
		{"listen:\n  sql: 8123\n", `listen.sql: "8123" is not host:port`},
		{"listen:\n  sql: 0.0.0.0:8123\n", `listen.sql: "0.0.0.0:8123" is not a loopback address, and there is no TLS; set listen.tls_cert and listen.tls_key, or say twice that it may be plaintext: access.plaintext: [listen] and access.plaintext_reason`},
		{"listen:\n  sql: 127.0.0.1:8123\nstore:\n  dsn: http://h:8123/d\nledger:\n  path: l\n", `listen.sql: the store is a server, which Grafana asks itself, with an account of its own; see deploy/clickhouse/grafana.sql`},
		{"listen:\n  sql: 127.0.0.1:8123\nroles: [ingest]\n", `listen.sql: this instance answers no queries; add the role query, or leave it out`},
		{"notify:\n  file: f\nroles: [ingest]\n", `notify.file: this instance does not detect, and those who do tell of findings; add the role detect, or leave it out`},
		{"listen:\n  tls_cert: f\n", `listen.tls_key: there is a certificate in listen.tls_cert, and not its key; name both`},
		{"listen:\n  tls_key: f\n", `listen.tls_cert: there is a key in listen.tls_key, and no certificate that it is of; name both`},
		{"listen:\n  client_ca: f\n", `listen.client_ca: clients show certificates over TLS alone; name listen.tls_cert and listen.tls_key`},
		{"listen:\n  grpc: 4777\n  tls_cert: f\n  tls_key: f\n", `listen.grpc: "4777" is not host:port`},
		{"listen:\n  names: [https://audit.example]\n", `listen.names: "https://audit.example" is not a host name; write it without scheme, port or star`},
		{"listen:\n  names: [\"*.example\"]\n", `listen.names: "*.example" is not a host name; write it without scheme, port or star`},
		{"quota:\n  emitter_events: -1\n", `quota.emitter_events: is -1, must lie between 0 and 1000000000`},
		{"quota:\n  emitter_bytes: 1099511627777\n", `quota.emitter_bytes: is 1099511627777, must lie between 0 and 1099511627776`},
		{"quota:\n  tenant_events: 1000000001\n", `quota.tenant_events: is 1000000001, must lie between 0 and 1000000000`},
		{"quota:\n  tenant_bytes: -5\n", `quota.tenant_bytes: is -5, must lie between 0 and 1099511627776`},
		{"quota:\n  query_seconds: 1000001\n", `quota.query_seconds: is 1000001, must lie between 0 and 1000000`},
		{"quota:\n  query_seconds: 0.5\n", `f.yaml:2: quota.query_seconds: "0.5" is not a whole number`},
		{"kafka:\n  brokers: [\"127.0.0.1:1\", \"h:1\"]\n", `kafka.tls: is off, and the broker "h" is another machine; turn it on, or say twice that it may be plaintext: access.plaintext: [kafka] and access.plaintext_reason`},
		{"kafka:\n  brokers: [h:1]\naccess:\n  plaintext: listen\n  plaintext_reason: a mesh\n", `kafka.tls: is off, and the broker "h" is another machine; turn it on, or say twice that it may be plaintext: access.plaintext: [kafka] and access.plaintext_reason`},
		{"ledger:\n  log: a b\n", `ledger.log: "a b" is not a name of 1 to 64 letters, digits, dots, dashes and underscores`},
		{"ledger:\n  log: \"\"\n", `ledger.log: "" is not a name of 1 to 64 letters, digits, dots, dashes and underscores`},
		{"ingest:\n  batch_rows: 0\n", `ingest.batch_rows: is 0, must lie between 1 and 100000`},
		{"ingest:\n  memory_bytes: 1\n", `ingest.memory_bytes: is 1, must lie between 8388608 and 8589934592`},
		{"retention:\n  default: 1201\n", `retention.default: "1201" is neither a number of months from 1 to 1200 nor one of eu-ai-act, hipaa, pci`},
		{"retention:\n  tenants: [a]\n", `retention.tenants: "a" is not tenant=months or tenant=preset`},
		{"retention:\n  auto: maybe\n", `f.yaml:2: retention.auto: "maybe" is not true or false`},
		{"ledger:\n  anchor_every: 1ms\n", `ledger.anchor_every: is 1ms, must lie between 1s and 24h0m0s`},
		{"store:\n  dsn: clickhouse://h/db\n  path: \"\"\n", `ledger.path: name a folder for the log's signing key; with a server as store there is no default`},
		{"ingest:\n  batch_age: 11s\n", `ingest.batch_age: is 11s, must lie between 0s and 10s`},
		{"ingest:\n  clock_tolerance: -1s\n", `ingest.clock_tolerance: is -1s, must lie between 1s and 8760h0m0s`},
		{"query:\n  timeout: 1ms\n", `query.timeout: is 1ms, must lie between 100ms and 1h0m0s`},
		{"query:\n  memory_limit: 1\n", `query.memory_limit: is 1, must lie between 16777216 and 1099511627776`},
		{"ingest:\n  shared: true\n", `ingest.shared: several instances share a store only behind Kafka, which gives each emitter to one of them at a time; name kafka.brokers`},
		{"ingest:\n  shared: true\nkafka:\n  brokers: [h:9092]\n", `ingest.shared: the engine in process belongs to one instance; name a server in store.dsn`},
		{"kafka:\n  user: me\n", `kafka.brokers: there are other settings of kafka, and no broker is named`},
		{"kafka:\n  brokers: [h]\n", `kafka: "h" is not HOST:PORT of a broker`},
		{"kafka:\n  brokers: [h:1]\n  topic: \"\"\n", `kafka: "" is no topic: a topic's name has 1 to 249 letters, digits, dots, dashes and underscores`},
		{"kafka:\n  brokers: [h:1]\n  dead_letter: mcpaudit\n", `kafka: the topic for dead letters is the one that is read; they would come back for ever`},
		{"kafka:\n  brokers: [h:1]\n  sasl: GSSAPI\n  user: u\n", `kafka: there is no SASL mechanism "GSSAPI"; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512`},
		{"kafka:\n  brokers: [h:1]\n  sasl: PLAIN\n  user: u\n  password: hunter2\n", `kafka: SASL PLAIN sends the password as it is, and TLS is off; turn TLS on, or use SCRAM-SHA-512`},
		{"kafka:\n  brokers: [h:1]\n  tls_ca: f\n", `kafka: there are settings of TLS, and TLS is off; turn it on, or leave them out`},
		{"kafka:\n  brokers: [h:1]\n  password: hunter2\n  password_file: f\n", `kafka.password_file: there is a password as well; leave one of them out`},
		{"kafka:\n  brokers: [h:1]\n  session_timeout: 5ms\n", `kafka: session_timeout is 5ms, and may be 1s to 30m`},
		{"log:\n  level: loud\n", `log.level: there is no level "loud"; use debug, info, warn or error`},
		{"log:\n  format: xml\n", `log.format: there is no format "xml"; use text or json`},
	} {
		cfg := DefaultConfig("/data")
		err := cfg.ReadYAML("f.yaml", strings.NewReader(c.file))
		if err == nil {
			err = cfg.Validate()
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%.40q\n got %v\nwant %s", c.file, err, c.want)
		}
	}
}

// What may face the network: TLS, or plaintext for which two settings were made.
func TestOnlyWhatIsEncryptedOrSaidTwiceFacesTheNetwork(t *testing.T) {
	for _, text := range []string{
		"listen:\n  grpc: 0.0.0.0:4777\n  http: \":4778\"\n  tls_cert: f\n  tls_key: f\n  client_ca: f\n  names: [audit.example]\n",
		"listen:\n  grpc: audit.example:4777\naccess:\n  plaintext: listen\n  plaintext_reason: a mesh\n",
		"listen:\n  grpc: \"[::1]:4777\"\n  http: localhost:4778\n",
		"kafka:\n  brokers: [h:1]\n  tls: true\n",
		"kafka:\n  brokers: [\"127.0.0.1:1\", \"[::1]:2\", \"localhost:3\"]\n",
		"kafka:\n  brokers: [h:1]\naccess:\n  plaintext: [kafka, listen]\n  plaintext_reason: a mesh\n",
		"quota:\n  emitter_events: 0\n  emitter_bytes: 0\n  tenant_events: 0\n  tenant_bytes: 0\n  query_seconds: 0\n",
	} {
		cfg := DefaultConfig("/data")
		if err := cfg.ReadYAML("f.yaml", strings.NewReader(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		} else if err := cfg.Validate(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAFileOfNothingIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# a comment\n", "---\n", "store:\n", "store: {}\ningest: ~\n"} {
		got, want := DefaultConfig("/data"), DefaultConfig("/data")
		if err := got.ReadYAML("f.yaml", strings.NewReader(text)); err != nil || dump(got) != dump(want) {
			t.Errorf("%q: %v\n%s", text, err, dump(got))
		}
	}
	c := DefaultConfig("/data")
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func dump(c Config) string {
	var b bytes.Buffer
	c.Dump(&b)
	return b.String()
}

// What is dumped is a file that means the same, whatever the settings are.
func TestADumpReadsBackAsTheSameSettings(t *testing.T) {
	c := DefaultConfig(`/data/with "quotes", # and: more`)
	for _, s := range c.Settings() {
		if s.Secret {
			continue
		}
		value := map[string]string{"roles": "query", "listen.grpc": "[::1]:1", "listen.http": "localhost:2", "log.level": "debug", "log.format": "json",
			"ledger.log": "null", "ingest.batch_age": "1.5s", "query.timeout": "2m", "ingest.clock_tolerance": "90s",
			"store.memory_limit": "1099511627776", "query.memory_limit": "16777216", "ingest.memory_bytes": "8388608",
			"ingest.batch_rows": "7", "retention.default": "hipaa", "retention.tenants": "a=3,b=pci", "retention.auto": "false", "ledger.anchors": "/a,kafka://h:1/t", "store.engine": "yes", "redact.key_file": "~",
			"access.notes_to": "127.0.0.1:9", "access.notes_key_file": "k"}[s.Name]
		if value == "" {
			continue
		}
		if err := s.Set(value); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	text := dump(c)
	back := DefaultConfig("")
	if err := back.ReadYAML("f.yaml", strings.NewReader(text)); err != nil || dump(back) != text {
		t.Errorf("%v\nfirst:\n%s\nthen:\n%s", err, text, dump(back))
	}
	c.Store.DSN = "clickhouse://u:hunter2@h/db"
	if strings.Contains(dump(c), "hunter2") {
		t.Errorf("the password is dumped:\n%s", dump(c))
	}
}

func TestEverySettingHasANameADocAndAVariable(t *testing.T) {
	c := DefaultConfig("/data")
	seen := map[string]bool{}
	for _, s := range c.Settings() {
		if s.Doc == "" || seen[s.Env()] || strings.ToUpper(s.Env()) != s.Env() || !strings.HasPrefix(s.Env(), "MCPAUDIT_") {
			t.Errorf("setting %q, variable %q, doc %q", s.Name, s.Env(), s.Doc)
		}
		seen[s.Env()] = true
	}
	if len(seen) < 15 {
		t.Errorf("there are only %d settings", len(seen))
	}
}

func TestTheNearestNameIsTheOneThatWasMeant(t *testing.T) {
	c := DefaultConfig("")
	var names []string
	for _, s := range c.Settings() {
		names = append(names, s.Name)
	}
	for typed, want := range map[string]string{"store.pth": "store.path", "listen.http_": "listen.http", "retention.auot": "retention.auto",
		"lod.level": "log.level", "query.time_out": "query.timeout", "role": "roles"} {
		if got := event.Nearest(typed, names); got != want {
			t.Errorf("%s: %s, want %s", typed, got, want)
		}
	}
}
