package broker_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
)

// wantError checks an error's text, or that there is none when want is empty.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, and wanted %q", err, want)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	one, far := []string{"127.0.0.1:9092"}, []string{"127.0.0.1:9092", "kafka.example:9092"}
	plain := broker.SASL{Mechanism: "PLAIN", User: "u", Password: "hunter2"}
	for _, test := range []struct {
		name   string
		config broker.Config
		want   string
	}{
		{"one broker", broker.Config{Brokers: one}, ""},
		{"an IPv6 address", broker.Config{Brokers: []string{"[::1]:9092"}}, ""},
		{"no broker", broker.Config{}, "no broker is named"},
		{"no port", broker.Config{Brokers: []string{"kafka.example"}}, `"kafka.example" is not HOST:PORT`},
		{"an empty port", broker.Config{Brokers: []string{"kafka.example:"}}, "is not HOST:PORT"},
		{"no host", broker.Config{Brokers: []string{":9092"}}, "is not HOST:PORT"},
		{"the second one is wrong", broker.Config{Brokers: []string{"a:1", "b"}}, `"b" is not HOST:PORT`},
		{"an authority, and TLS off", broker.Config{Brokers: one, TLS: broker.TLS{CA: "ca.pem"}}, "TLS is off"},
		{"a name, and TLS off", broker.Config{Brokers: one, TLS: broker.TLS{Name: "kafka"}}, "TLS is off"},
		{"a certificate, and TLS off", broker.Config{Brokers: one, TLS: broker.TLS{Cert: "c", Key: "k"}}, "TLS is off"},
		{"a certificate without its key", broker.Config{Brokers: one, TLS: broker.TLS{On: true, Cert: "c"}}, "come together"},
		{"a key without its certificate", broker.Config{Brokers: one, TLS: broker.TLS{On: true, Key: "k"}}, "come together"},
		{"files are not read yet", broker.Config{Brokers: one, TLS: broker.TLS{On: true, CA: "none.pem", Cert: "c", Key: "k"}}, ""},
		{"no user", broker.Config{Brokers: one, SASL: broker.SASL{Mechanism: "SCRAM-SHA-256"}}, "SCRAM-SHA-256 needs a user"},
		{"a user and no mechanism", broker.Config{Brokers: one, SASL: broker.SASL{User: "u"}}, "no mechanism"},
		{"a password and no mechanism", broker.Config{Brokers: one, SASL: broker.SASL{Password: "hunter2"}}, "no mechanism"},
		{"a mechanism that is not there", broker.Config{Brokers: one, SASL: broker.SASL{Mechanism: "GSSAPI", User: "u"}}, `no SASL mechanism "GSSAPI"`},
		{"PLAIN on this machine", broker.Config{Brokers: one, SASL: plain}, ""},
		{"PLAIN to localhost", broker.Config{Brokers: []string{"localhost:9092"}, SASL: plain}, ""},
		{"PLAIN to another machine", broker.Config{Brokers: far, SASL: plain}, "TLS is off; turn TLS on"},
		{"the same in small letters", broker.Config{Brokers: far, SASL: broker.SASL{Mechanism: "plain", User: "u", Password: "hunter2"}}, "TLS is off; turn TLS on"},
		{"PLAIN to another machine over TLS", broker.Config{Brokers: far, TLS: broker.TLS{On: true}, SASL: plain}, ""},
		{"a password that SCRAM can't take", broker.Config{Brokers: one, SASL: broker.SASL{Mechanism: "SCRAM-SHA-512", User: "u", Password: "hunter2\x00"}}, "characters that SCRAM does not allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.config.Validate()
			wantError(t, err, test.want)
			if _, dialerErr := test.config.Dialer(); test.want != "" && dialerErr == nil {
				t.Error("connections are made with settings that are wrong")
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestFilesOfTLSAreNamedWhenTheyAreWrong(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.pem")
	for _, test := range []struct {
		name string
		tls  broker.TLS
		want string
	}{
		{"no such authority", broker.TLS{On: true, CA: missing}, "read the brokers' authorities: open " + missing},
		{"an empty authority", broker.TLS{On: true, CA: empty}, "no certificate in PEM form"},
		{"no such certificate", broker.TLS{On: true, Cert: missing, Key: empty}, "read the client's certificate: open " + missing},
		{"an empty certificate", broker.TLS{On: true, Cert: empty, Key: empty}, "read the client's certificate: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := broker.Config{Brokers: []string{"127.0.0.1:9092"}, TLS: test.tls}
			_, err := c.Transport()
			wantError(t, err, test.want)
			_, err = c.Dialer()
			wantError(t, err, test.want)
		})
	}
}

func TestAURLNamesATopicOfACluster(t *testing.T) {
	for _, test := range []struct {
		text   string
		config broker.Config
		topic  string
		want   string
	}{
		{text: "kafka://a:1/events", config: broker.Config{Brokers: []string{"a:1"}}, topic: "events"},
		{text: "kafka://a:1, b:2,/ev.en_t-s", config: broker.Config{Brokers: []string{"a:1", "b:2"}}, topic: "ev.en_t-s"},
		{text: "kafkas://a:1/events", config: broker.Config{Brokers: []string{"a:1"}, TLS: broker.TLS{On: true}}, topic: "events"},
		{text: "kafkas://a:1/events?ca=/etc/ca.pem&cert=c%20d.pem&key=k&server_name=kafka&mechanism=SCRAM-SHA-512&user=audit", topic: "events",
			config: broker.Config{Brokers: []string{"a:1"}, TLS: broker.TLS{On: true, CA: "/etc/ca.pem", Cert: "c d.pem", Key: "k", Name: "kafka"},
				SASL: broker.SASL{Mechanism: "SCRAM-SHA-512", User: "audit"}}},
		{text: "http://a:1/events", want: "does not begin with kafka:// or kafkas://"},
		{text: "a:1/events", want: "does not begin with kafka:// or kafkas://"},
		{text: "kafka://a:1", want: "is no topic"},
		{text: "kafka://a:1/", want: "is no topic"},
		{text: "kafka://a:1/events/more", want: "is no topic"},
		{text: "kafka://a:1/events#1", want: "is no topic"},
		{text: "kafka://a:1/" + strings.Repeat("t", 250), want: "is no topic"},
		{text: "kafka:///events", want: "no broker is named"},
		{text: "kafka://a/events", want: `"a" is not HOST:PORT`},
		{text: "kafka://u:hunter2@a:1/events", want: "don't belong into the URL"},
		{text: "kafka://a:1/events?password=hunter2", want: `no parameter "password"`},
		{text: "kafka://a:1/events?ca=ca.pem", want: "TLS is off"},
		{text: "kafka://a:1/events?user=audit", want: "no mechanism"},
		{text: "kafka://a:1/events?mechanism=PLAIN&user=audit", want: "TLS is off"},
		{text: "kafka://a:1/events?ca=%zz", want: "no list of parameters"},
	} {
		t.Run(test.text, func(t *testing.T) {
			config, topic, err := broker.Parse(test.text)
			wantError(t, err, test.want)
			if err != nil {
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the password is in %q", err)
				}
				return
			}
			if topic != test.topic || !reflect.DeepEqual(config, test.config) {
				t.Errorf("topic %q and %+v, and wanted %+v", topic, config, test.config)
			}
		})
	}
}

func TestAClusterIsNamedWithoutItsSecrets(t *testing.T) {
	c := broker.Config{Brokers: []string{"a:1", "b:2"}, TLS: broker.TLS{On: true}, SASL: broker.SASL{Mechanism: "PLAIN", User: "u", Password: "hunter2"}}
	if got := c.String(); got != "kafkas://a:1,b:2" {
		t.Errorf("it is called %q", got)
	}
}
