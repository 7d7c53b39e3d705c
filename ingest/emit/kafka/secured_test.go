package kafka_test

import (
	"os"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/emit/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

// A cluster that asks who somebody is: a wrong password and a missing right keep
// events in the spool and say what to do; once that is mended they come.
func TestPromise8AClusterThatLetsNobodyInIsWaitedFor(t *testing.T) {
	c := kafkatest.Start(t, 1, kafkatest.Secure())
	s := c.Security()
	topic, closed := c.NewTopic(1), c.NewTopic(1)
	c.Deny(closed)
	at := func(to string, cluster broker.Config) *kafka.Transport {
		return transport(t, c, to, func(cfg *kafka.Config) { cfg.Cluster = cluster })
	}
	wrong := s.SASLOverTLS("SCRAM-SHA-512")
	wrong.SASL.Password = "not the word"
	stranger := s.MutualTLS()
	stranger.TLS.CA = s.OtherCA
	for name, x := range map[string]struct {
		to   *kafka.Transport
		says string
	}{
		"a wrong password":    {at(topic, wrong), "is not let in; check the mechanism, the user and its password"},
		"a wrong authority":   {at(topic, stranger), "certificate signed by unknown authority"},
		"no right to write":   {at(closed, s.SASL("SCRAM-SHA-256")), "may not write to the topic"},
		"a missing authority": {at(topic, broker.Config{Brokers: stranger.Brokers, TLS: broker.TLS{On: true}}), "certificate signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			spool := t.TempDir()
			e, log := open(t, x.to, spool)
			emitAll(t, e, 0, 10)
			rpctest.Eventually(t, "it is said", func() bool { return log.has(x.says) })
			id := e.ID()
			leave(t, e)
			if log.has(wrong.SASL.Password) || log.has(s.Password) {
				t.Error("a password is in the log")
			}
			e, _ = open(t, at(topic, s.SASLOverTLS("SCRAM-SHA-512")), spool)
			mustClose(t, e, 10)
			wantDense(t, c, topic, id, 10)
		})
	}
	t.Run("by its URL", func(t *testing.T) { secured(t, c, topic) })
}

// secured reaches a cluster by its URL, as wrap has it, with the password from a file.
func secured(t *testing.T, c *kafkatest.Cluster, topic string) {
	s := c.Security()
	word := t.TempDir() + "/word"
	if err := os.WriteFile(word, []byte(s.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{broker.PasswordFileVariable: word}
	for n, url := range []string{
		"kafkas://" + s.SASLOverTLS("PLAIN").Brokers[0] + "/" + topic + "?mechanism=PLAIN&user=" + s.User + "&ca=" + s.CA,
		"kafkas://" + s.MutualTLS().Brokers[0] + "/" + topic + "?cert=" + s.Cert + "&key=" + s.Key + "&ca=" + s.CA,
		"kafka://" + s.SASL("SCRAM-SHA-512").Brokers[0] + "/" + topic + "?mechanism=SCRAM-SHA-512&user=" + s.User,
	} {
		to, err := kafka.Open(url, func(name string) string { return env[name] })
		if err != nil {
			t.Fatal(err)
		}
		e, _ := open(t, to, t.TempDir())
		emitAll(t, e, 0, 10*(n+1))
		mustClose(t, e, 10*(n+1))
		wantDense(t, c, topic, e.ID(), 10*(n+1))
	}
}
