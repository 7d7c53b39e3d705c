package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
	"github.com/segmentio/kafka-go"
)

// byTransport asks the cluster for its brokers as the source and the emitter do.
func byTransport(ctx context.Context, c broker.Config) error {
	transport, err := c.Transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	client := kafka.Client{Addr: c.Addr(), Transport: transport}
	answer, err := client.Metadata(ctx, &kafka.MetadataRequest{})
	if err == nil && len(answer.Brokers) == 0 {
		err = errors.New("no broker was named")
	}
	return err
}

// byDialer asks as consumer groups do.
func byDialer(ctx context.Context, c broker.Config) error {
	dialer, err := c.Dialer()
	if err != nil {
		return err
	}
	conn, err := dialer.DialContext(ctx, "tcp", c.Brokers[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Brokers()
	return err
}

func TestRealBrokersAreReachedWithEverySetting(t *testing.T) {
	c := kafkatest.Start(t, 1, kafkatest.Secure())
	s := c.Security()
	with := func(c broker.Config, change func(*broker.Config)) broker.Config {
		change(&c)
		return c
	}
	for _, test := range []struct {
		name   string
		config broker.Config
		want   string // of the error; empty when it works
	}{
		{"plaintext", c.Config(), ""},
		{"PLAIN", s.SASL("PLAIN"), ""},
		{"SCRAM-SHA-256", s.SASL("SCRAM-SHA-256"), ""},
		{"SCRAM-SHA-512", s.SASL("SCRAM-SHA-512"), ""},
		{"a mechanism in small letters", s.SASL("scram-sha-512"), ""},
		{"a client's certificate", s.MutualTLS(), ""},
		{"PLAIN over TLS", s.SASLOverTLS("PLAIN"), ""},
		{"SCRAM-SHA-256 over TLS", s.SASLOverTLS("SCRAM-SHA-256"), ""},
		{"SCRAM-SHA-512 over TLS", s.SASLOverTLS("SCRAM-SHA-512"), ""},
		{"the name of a broker", with(s.MutualTLS(), func(c *broker.Config) { c.TLS.Name = "localhost" }), ""},

		{"a wrong password, PLAIN", with(s.SASL("PLAIN"), func(c *broker.Config) { c.SASL.Password = "hunter2" }), "SASL Authentication Failed"},
		{"a wrong password, SCRAM", with(s.SASL("SCRAM-SHA-512"), func(c *broker.Config) { c.SASL.Password = "hunter2" }), "SASL Authentication Failed"},
		{"a user that is not there", with(s.SASL("SCRAM-SHA-256"), func(c *broker.Config) { c.SASL.User = "nobody" }), "SASL Authentication Failed"},
		{"another authority", with(s.MutualTLS(), func(c *broker.Config) { c.TLS.CA = s.OtherCA }), "certificate signed by unknown authority"},
		{"the system's authorities", with(s.MutualTLS(), func(c *broker.Config) { c.TLS.CA = "" }), "certificate signed by unknown authority"},
		{"another name", with(s.MutualTLS(), func(c *broker.Config) { c.TLS.Name = "kafka.example" }), "not kafka.example"},
		{"no client's certificate", with(s.MutualTLS(), func(c *broker.Config) { c.TLS.Cert, c.TLS.Key = "", "" }), "tls: "},
		{"a stranger's certificate", with(s.MutualTLS(), func(c *broker.Config) { c.TLS.Cert, c.TLS.Key = s.Stranger, s.StrangerKey }), "tls: "},
		{"no user where one is asked for", with(s.SASL("PLAIN"), func(c *broker.Config) { c.SASL = broker.SASL{} }), "EOF"},
		{"TLS where there is none", with(c.Config(), func(c *broker.Config) { c.TLS.On = true }), "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for way, ask := range map[string]func(context.Context, broker.Config) error{"transport": byTransport, "dialer": byDialer} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				err := ask(ctx, test.config)
				cancel()
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("by %s: %v, and wanted %q", way, err, test.want)
				}
				if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), s.Password)) {
					t.Errorf("by %s: the password is in %q", way, err)
				}
			}
		})
	}
}
