// Package app wires mcpaudit's service together: configuration, the store, the
// pipeline, the servers. Commands use it; it knows no flags and no environment
// of its own.
package app

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/retention"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Config of the service. Each field is one setting with one name, in a YAML
// file (store: {path: …}), in the environment (MCPAUDIT_STORE_PATH) and as a
// flag (--store.path); a flag wins over the environment, and that over the file.
type Config struct {
	Roles     []string        `key:"roles" doc:"what this process does: ingest, detect, query"`
	Store     StoreConfig     `key:"store"`
	Listen    ListenConfig    `key:"listen"`
	Access    AccessConfig    `key:"access"`
	Quota     QuotaConfig     `key:"quota"`
	Ingest    IngestConfig    `key:"ingest"`
	Kafka     KafkaConfig     `key:"kafka"`
	Redact    RedactConfig    `key:"redact"`
	Ledger    LedgerConfig    `key:"ledger"`
	Retention RetentionConfig `key:"retention"`
	Detect    DetectConfig    `key:"detect"`
	Notify    NotifyConfig    `key:"notify"`
	Query     QueryConfig     `key:"query"`
	Logging   LoggingConfig   `key:"log"`
}

// StoreConfig says where events are kept.
type StoreConfig struct {
	DSN         string `key:"dsn" secret:"true" doc:"ClickHouse server, clickhouse://user:password@host:9000/database or http(s)://…; empty for the engine in process"`
	Cluster     string `key:"cluster" doc:"what the ClickHouse server calls the cluster over which the store is spread (remote_servers); empty when the server has all of it"`
	Path        string `key:"path" doc:"data folder of the engine in process"`
	Engine      string `key:"engine" doc:"libchdb.so or its folder; empty to look where 'mcpaudit engine install' puts it"`
	MemoryLimit uint64 `key:"memory_limit" doc:"bytes that the engine in process may allocate"`
}

// IngestConfig bounds the pipeline.
type IngestConfig struct {
	BatchRows      int           `key:"batch_rows" doc:"most events in one commit"`
	BatchAge       time.Duration `key:"batch_age" doc:"how long an event waits for others before a commit; 0 for 25ms in process, 200ms on a server"`
	MemoryBytes    int64         `key:"memory_bytes" doc:"most bytes of events under way; beyond it emitters wait"`
	ClockTolerance time.Duration `key:"clock_tolerance" doc:"difference of an emitter's clock that it is told of"`
	Shared         bool          `key:"shared" doc:"several instances write to one store, each a log of its own; events come over Kafka alone then"`
}

// KafkaConfig says from where events are read beside gRPC.
type KafkaConfig struct {
	Brokers          []string      `key:"brokers" doc:"host:port of some brokers of the cluster that events are read from; empty for none"`
	Topic            string        `key:"topic" doc:"topic of the events; make it with at least as many partitions as there will be instances"`
	Group            string        `key:"group" doc:"consumer group in which the instances share the topic"`
	DeadLetter       string        `key:"dead_letter" doc:"topic for messages that are no events; empty for the events' topic with -dead-letter behind it"`
	SessionTimeout   time.Duration `key:"session_timeout" doc:"after how long without a sign of life the others take over from an instance"`
	RebalanceTimeout time.Duration `key:"rebalance_timeout" doc:"how long the others wait until an instance has settled what is under way"`
	FetchBytes       int           `key:"fetch_bytes" doc:"most bytes that are fetched of a partition at once, as the brokers keep them"`
	LostLogs         []string      `key:"lost_logs" doc:"logs of instances that will not come back; what they stored and never sealed is not waited for"`
	TLS              bool          `key:"tls" doc:"connect with TLS"`
	TLSCA            string        `key:"tls_ca" doc:"PEM file of who signs the brokers' certificates; empty for the system's"`
	TLSCert          string        `key:"tls_cert" doc:"PEM file of this client's certificate, where brokers ask for one"`
	TLSKey           string        `key:"tls_key" doc:"PEM file of that certificate's key"`
	TLSName          string        `key:"tls_name" doc:"name that the brokers' certificates are for, when it is not their host"`
	SASL             string        `key:"sasl" doc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty for none"`
	User             string        `key:"user" doc:"who this is, for SASL"`
	Password         string        `key:"password" secret:"true" doc:"the user's password"`
	PasswordFile     string        `key:"password_file" doc:"file that holds it instead"`
}

// On says whether events are read from Kafka.
func (k KafkaConfig) On() bool { return len(k.Brokers) > 0 }

// Cluster is how the brokers are reached. It reads the password's file.
func (k KafkaConfig) Cluster() (broker.Config, error) {
	c := broker.Config{Brokers: k.Brokers, TLS: broker.TLS{On: k.TLS, CA: k.TLSCA, Cert: k.TLSCert, Key: k.TLSKey, Name: k.TLSName},
		SASL: broker.SASL{Mechanism: k.SASL, User: k.User, Password: k.Password}}
	if k.PasswordFile != "" {
		var err error
		if c.SASL.Password, err = broker.ReadPassword(k.PasswordFile); err != nil {
			return c, fmt.Errorf("kafka.password_file: %w", err)
		}
	}
	return c, nil
}

// source is what the settings say of reading a topic.
func (c *Config) source(cluster broker.Config) kafka.Config {
	k := c.Kafka
	return kafka.Config{Cluster: cluster, Topic: k.Topic, Group: k.Group, DeadLetter: k.DeadLetter, FetchBytes: k.FetchBytes,
		SessionTimeout: k.SessionTimeout, RebalanceTimeout: k.RebalanceTimeout, Shared: c.Ingest.Shared, LostLogs: k.LostLogs}
}

// validateKafka names the first setting that is wrong.
func (c *Config) validateKafka() error {
	k := c.Kafka
	switch {
	case c.Ingest.Shared && !k.On():
		return errors.New("ingest.shared: several instances share a store only behind Kafka, which gives each emitter to one of them at a time; name kafka.brokers")
	case c.Ingest.Shared && c.Store.DSN == "":
		return errors.New("ingest.shared: the engine in process belongs to one instance; name a server in store.dsn")
	case !k.On() && (k.User != "" || k.Password != "" || k.SASL != "" || k.TLS):
		return errors.New("kafka.brokers: there are other settings of kafka, and no broker is named")
	case !k.On():
		return nil
	case k.Password != "" && k.PasswordFile != "":
		return errors.New("kafka.password_file: there is a password as well; leave one of them out")
	}
	cluster := broker.Config{Brokers: k.Brokers, TLS: broker.TLS{On: k.TLS, CA: k.TLSCA, Cert: k.TLSCert, Key: k.TLSKey, Name: k.TLSName},
		SASL: broker.SASL{Mechanism: k.SASL, User: k.User, Password: k.Password}}
	if err := c.source(cluster).Validate(); err != nil {
		return err
	}
	if k.TLS {
		return nil
	}
	return c.Access.plaintext().Brokers(k.Brokers)
}

// RedactConfig sets up the second pass of redaction, the one in the service.
type RedactConfig struct {
	KeyFile string `key:"key_file" doc:"file with the key of digests and pseudonyms; empty for a key of this run alone"`
	Profile string `key:"profile" doc:"file that says what is redacted beyond the built-in rules; see 'mcpaudit redact --help'; empty for those alone"`
}

// LedgerConfig says who signs the log, and where its checkpoints are kept.
type LedgerConfig struct {
	Path        string        `key:"path" doc:"folder with the log's signing key and its memory, beside the store and never in it; empty for <store.path>.ledger"`
	Log         string        `key:"log" doc:"how the id of a log begins that this instance starts; of several that share a store, the name of each, such as ingest-1"`
	Anchors     []string      `key:"anchors" doc:"where checkpoints are kept as well: files, http(s) URLs to POST to, kafka://HOST:PORT/TOPIC"`
	AnchorEvery time.Duration `key:"anchor_every" doc:"how often"`
}

// RetentionConfig says how long events are kept. It holds for events that come from
// then on: when an event expires is sealed with it.
type RetentionConfig struct {
	Default string   `key:"default" doc:"months that events are kept, or a preset: pci (12), hipaa (72), eu-ai-act (6)"`
	Tenants []string `key:"tenants" doc:"tenants that differ, each as tenant=months or tenant=preset"`
	Auto    bool     `key:"auto" doc:"drop what has expired once a day; otherwise with 'mcpaudit retention apply'"`
}

// DetectConfig says what is a finding.
type DetectConfig struct {
	Rules   []string      `key:"rules" doc:"rule files over the shipped rules; see 'mcpaudit rules --help'"`
	History time.Duration `key:"history" doc:"how much of what is stored the detectors learn from when they start with nothing, and a rule that is new"`
	Shards  int           `key:"shards" doc:"into how many parts the work on this store is split, the same number for all instances; over kafka.brokers they share them and take over from each other, and the topic needs as many partitions"`
}

// NotifyConfig says who is told of findings.
type NotifyConfig struct {
	File string `key:"file" doc:"YAML file of receivers and routes; see 'mcpaudit notify --help'; empty to tell nobody"`
}

// QueryConfig bounds each query.
type QueryConfig struct {
	Timeout     time.Duration `key:"timeout" doc:"longest time of one query"`
	MemoryLimit uint64        `key:"memory_limit" doc:"most bytes one query may allocate"`
}

// LoggingConfig says how the service logs, always to standard error.
type LoggingConfig struct {
	Level  string `key:"level" doc:"debug, info, warn or error"`
	Format string `key:"format" doc:"text or json"`
}

// DefaultConfig is what an empty file means. dataDir is the user's data folder.
func DefaultConfig(dataDir string) Config {
	return Config{
		Roles:     []string{"ingest", "detect", "query"},
		Store:     StoreConfig{Path: dataDir, MemoryLimit: 2 << 30},
		Listen:    ListenConfig{GRPC: "127.0.0.1:4777", HTTP: "127.0.0.1:4778"},
		Quota:     defaultQuota,
		Ingest:    IngestConfig{BatchRows: 20000, MemoryBytes: 128 << 20, ClockTolerance: 5 * time.Minute},
		Kafka:     KafkaConfig{Topic: "mcpaudit", Group: "mcpaudit", SessionTimeout: 30 * time.Second, RebalanceTimeout: 2 * time.Minute, FetchBytes: 256 << 10},
		Ledger:    LedgerConfig{Log: "main", AnchorEvery: time.Minute},
		Retention: RetentionConfig{Default: "12", Auto: true},
		Detect:    DetectConfig{History: 35 * 24 * time.Hour, Shards: 1},
		Query:     QueryConfig{Timeout: 30 * time.Second, MemoryLimit: 1 << 30},
		Logging: LoggingConfig{
			Level: "info", Format: "text",
		},
	}
}

// Validate names the first setting that is wrong and what it may be.
func (c *Config) Validate() error {
	for _, r := range c.Roles {
		if !slices.Contains([]string{"ingest", "detect", "query"}, r) {
			return fmt.Errorf("roles: there is no role %q; use ingest, detect, query", r)
		}
	}
	if len(c.Roles) == 0 {
		return errors.New("roles: name at least one of ingest, detect, query")
	}
	if err := (store.Config{DSN: c.Store.DSN, Cluster: c.Store.Cluster, Path: c.Store.Path}).Validate(); err != nil {
		return err
	}
	if err := c.validateListen(); err != nil {
		return err
	}
	if err := c.validateNotes(); err != nil {
		return err
	}
	if err := c.validateKafka(); err != nil {
		return err
	}
	if err := c.Quota.validate(); err != nil {
		return err
	}
	if !plainName.MatchString(c.Ledger.Log) {
		return fmt.Errorf("ledger.log: %q is not a name of 1 to 64 letters, digits, dots, dashes and underscores", c.Ledger.Log)
	}
	if slices.Contains(c.Roles, "ingest") && c.LedgerFolder() == "" {
		return errors.New("ledger.path: name a folder for the log's signing key; with a server as store there is no default")
	}
	if _, err := retention.ParsePolicy(c.Retention.Default, c.Retention.Tenants); err != nil {
		return err
	}
	if c.Notify.File != "" && !slices.Contains(c.Roles, "detect") {
		return errors.New("notify.file: this instance does not detect, and those who do tell of findings; add the role detect, or leave it out")
	}
	err := errors.Join(
		within("ingest.batch_rows", c.Ingest.BatchRows, 1, 100000),
		within("ingest.memory_bytes", c.Ingest.MemoryBytes, 8<<20, 8<<30),
		within("ledger.anchor_every", c.Ledger.AnchorEvery, time.Second, 24*time.Hour),
		within("ingest.batch_age", c.Ingest.BatchAge, 0, 10*time.Second),
		within("ingest.clock_tolerance", c.Ingest.ClockTolerance, time.Second, 365*24*time.Hour),
		within("store.memory_limit", c.Store.MemoryLimit, 256<<20, 1<<40),
		within("detect.shards", c.Detect.Shards, 1, live.MostShares),
		within("detect.history", c.Detect.History, time.Hour, 10*365*24*time.Hour),
		within("query.timeout", c.Query.Timeout, 100*time.Millisecond, time.Hour),
		within("query.memory_limit", c.Query.MemoryLimit, 16<<20, 1<<40),
	)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Logging.Level) {
		return fmt.Errorf("log.level: there is no level %q; use debug, info, warn or error", c.Logging.Level)
	}
	if !slices.Contains([]string{"text", "json"}, c.Logging.Format) {
		return fmt.Errorf("log.format: there is no format %q; use text or json", c.Logging.Format)
	}
	return nil
}

// plainName is what a log may be called: its name goes into checkpoints and keys.
var plainName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func within[T cmp.Ordered](name string, value, least, most T) error {
	if value < least || value > most {
		return fmt.Errorf("%s: is %v, must lie between %v and %v", name, value, least, most)
	}
	return nil
}

// Setting is one leaf of a Config.
type Setting struct {
	Name   string // such as store.path
	Doc    string
	Secret bool
	value  reflect.Value
}

// Env is the setting's environment variable.
func (s Setting) Env() string {
	return "MCPAUDIT_" + strings.ToUpper(strings.ReplaceAll(s.Name, ".", "_"))
}

// Settings are all settings of c; setting one changes c.
func (c *Config) Settings() []Setting { return leaves("", reflect.ValueOf(c).Elem()) }

func leaves(prefix string, v reflect.Value) []Setting {
	var out []Setting
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := prefix + f.Tag.Get("key")
		if f.Type.Kind() == reflect.Struct {
			out = append(out, leaves(name+".", v.Field(i))...)
			continue
		}
		out = append(out, Setting{name, f.Tag.Get("doc"), f.Tag.Get("secret") == "true", v.Field(i)})
	}
	return out
}

// IsBool says whether the setting is on or off.
func (s Setting) IsBool() bool { return s.value.Kind() == reflect.Bool }

func (s Setting) isList() bool {
	_, ok := s.value.Interface().([]string)
	return ok
}

// Set reads a setting's value from text.
func (s Setting) Set(text string) error {
	bad := func(want string) error { return fmt.Errorf("%s: %q is not %s", s.Name, text, want) }
	if s.Secret {
		bad = func(want string) error { return fmt.Errorf("%s: the value is not %s", s.Name, want) }
	}
	switch p := s.value.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		*p = nil
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return bad("true or false")
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return bad("a whole number")
		}
		*p = n
	case *int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return bad("a whole number")
		}
		*p = n
	case *uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return bad("a whole number from 0")
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return bad("a duration such as 25ms")
		}
		*p = d
	default:
		return fmt.Errorf("%s: settings of type %T can't be read", s.Name, p)
	}
	return nil
}

// String is the setting's value as Set reads it.
func (s Setting) String() string {
	switch p := s.value.Interface().(type) {
	case []string:
		return strings.Join(p, ",")
	default:
		return fmt.Sprint(p)
	}
}

// ReadYAML sets what a file sets. name is for messages, which have the line; an
// unknown key is an error that names the nearest known one.
func (c *Config) ReadYAML(name string, r io.Reader) error {
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > most {
		return fmt.Errorf("%s: has more than %d bytes", name, most)
	}
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // empty, or comments alone
		}
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: has more than one document; settings after '---' would be ignored", name)
	}
	settings := map[string]Setting{}
	for _, s := range c.Settings() {
		settings[s.Name] = s
	}
	return readNode(name, "", doc.Content[0], settings, map[string]bool{})
}

func readNode(file, prefix string, n *yaml.Node, settings map[string]Setting, seen map[string]bool) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: %s must have keys", file, n.Line, orTop(prefix))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := prefix + key.Value
		if seen[name] {
			return fmt.Errorf("%s:%d: %s is set twice", file, key.Line, name)
		}
		seen[name] = true
		s, known := settings[name]
		section := slices.ContainsFunc(sortedKeys(settings), func(k string) bool { return strings.HasPrefix(k, name+".") })
		switch {
		case !known && !section:
			return fmt.Errorf("%s:%d: there is no setting %q; the nearest is %q", file, key.Line, name, event.Nearest(name, sortedKeys(settings)))
		case section:
			if err := readNode(file, name+".", value, settings, seen); err != nil {
				return err
			}
		case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
			return fmt.Errorf("%s:%d: %s has no value; leave it out for its default", file, key.Line, name)
		case value.Kind == yaml.ScalarNode:
			if err := s.Set(value.Value); err != nil {
				return fmt.Errorf("%s:%d: %w", file, value.Line, err)
			}
		case value.Kind == yaml.SequenceNode && s.isList():
			var parts []string
			for _, c := range value.Content {
				if c.Kind != yaml.ScalarNode {
					return fmt.Errorf("%s:%d: %s takes a list of single values", file, c.Line, name)
				}
				parts = append(parts, c.Value)
			}
			if err := s.Set(strings.Join(parts, ",")); err != nil {
				return fmt.Errorf("%s:%d: %w", file, value.Line, err)
			}
		default:
			return fmt.Errorf("%s:%d: %s takes a single value", file, value.Line, name)
		}
	}
	return nil
}

func orTop(prefix string) string {
	if prefix == "" {
		return "the file"
	}
	return strings.TrimSuffix(prefix, ".")
}

func sortedKeys(m map[string]Setting) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Dump writes the settings in force as YAML, each with its explanation; a
// secret's value is left out.
func (c *Config) Dump(w io.Writer) {
	section := ""
	for _, s := range c.Settings() {
		indent, key := "", s.Name
		if group, rest, ok := strings.Cut(s.Name, "."); ok {
			if group != section {
				fmt.Fprintf(w, "%s:\n", group)
				section = group
			}
			indent, key = "  ", rest
		}
		value := s.String()
		if s.Secret && value != "" {
			// A comment: the file can be used, and says what it lacks.
			fmt.Fprintf(w, "%s# %s (%s)\n%s# %s is set and not shown\n", indent, s.Doc, s.Env(), indent, key)
			continue
		}
		quoted, _ := yaml.Marshal(value)
		if s.isList() {
			quoted = []byte("[" + strings.ReplaceAll(value, ",", ", ") + "]")
		} else if s.value.Kind() != reflect.String {
			quoted = []byte(value)
		}
		fmt.Fprintf(w, "%s# %s (%s)\n%s%s: %s\n", indent, s.Doc, s.Env(), indent, key, bytes.TrimSpace(quoted))
	}
}
