package kafkatest

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/segmentio/kafka-go"
)

// Security is what a client needs at the listeners of a cluster that was started with
// Secure. The files are in PEM form.
type Security struct {
	User, Password string // of SASL, by every mechanism
	CA             string // file of the authority that signed the brokers' certificates
	Cert, Key      string // files of a client's certificate, which CA signed too
	OtherCA        string // file of an authority that signed nothing here
	// Stranger and StrangerKey are files of a client's certificate that OtherCA signed.
	Stranger, StrangerKey string

	store     string              // file of the brokers' own certificate with its key
	addresses map[string][]string // by listener
}

// Secure gives the brokers three more listeners, see Cluster.Security, and access
// control: all is allowed until a test says otherwise (Deny).
func Secure() Option { return func(o *options) { o.secure = true } }

// Security of a cluster that was started with Secure.
func (c *Cluster) Security() *Security {
	c.t.Helper()
	c.NeedReal("ask who a client is")
	if c.secure == nil {
		c.t.Fatal("the cluster was started without kafkatest.Secure")
	}
	return c.secure
}

// SASL reaches the listeners that ask for a user, without TLS.
func (s *Security) SASL(mechanism string) broker.Config {
	return broker.Config{Brokers: s.addresses[saslPlain], SASL: broker.SASL{Mechanism: mechanism, User: s.User, Password: s.Password}}
}

// MutualTLS reaches the listeners that ask for a client's certificate.
func (s *Security) MutualTLS() broker.Config {
	return broker.Config{Brokers: s.addresses[withTLS], TLS: broker.TLS{On: true, CA: s.CA, Cert: s.Cert, Key: s.Key}}
}

// SASLOverTLS reaches the listeners that ask for a user behind TLS.
func (s *Security) SASLOverTLS(mechanism string) broker.Config {
	return broker.Config{Brokers: s.addresses[saslTLS], TLS: broker.TLS{On: true, CA: s.CA},
		SASL: broker.SASL{Mechanism: mechanism, User: s.User, Password: s.Password}}
}

// Deny forbids Security's user to write to a topic, from some moments later on.
func (c *Cluster) Deny(topic string) {
	c.t.Helper()
	rule := kafka.ACLEntry{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ResourcePatternType: kafka.PatternTypeLiteral,
		Principal: "User:" + c.Security().User, Host: "*", Operation: kafka.ACLOperationTypeWrite, PermissionType: kafka.ACLPermissionTypeDeny}
	// A resource with a rule is closed to all whom no rule lets in: others stay allowed.
	rest := rule
	rest.Principal, rest.Operation, rest.PermissionType = "User:*", kafka.ACLOperationTypeAll, kafka.ACLPermissionTypeAllow
	answer, err := c.client.CreateACLs(c.t.Context(), &kafka.CreateACLsRequest{ACLs: []kafka.ACLEntry{rule, rest}})
	if err == nil {
		err = errors.Join(answer.Errors...)
	}
	if err != nil {
		c.t.Fatalf("deny writing to topic %q: %v", topic, err)
	}
}

// newSecurity makes the certificates in dir. It is nil, with no error, when none are
// asked for.
func newSecurity(dir string, o options) (*Security, error) {
	if !o.secure {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for certificates: %w", err)
	}
	// What some client takes apart wrongly: SASLprep leaves these as they are.
	s := &Security{User: "mcpaudit", Password: `p=w,"` + rand.Text() + `"`}
	file := func(name string) string { return filepath.Join(dir, name) }
	s.CA, s.Cert, s.Key, s.store = file("ca.pem"), file("client.pem"), file("client.key"), file("broker.pem")
	s.OtherCA, s.Stranger, s.StrangerKey = file("other-ca.pem"), file("stranger.pem"), file("stranger.key")
	ours, err := newAuthority(s.CA)
	if err != nil {
		return nil, err
	}
	theirs, err := newAuthority(s.OtherCA)
	if err != nil {
		return nil, err
	}
	return s, errors.Join(ours.sign("client", s.Cert, s.Key), theirs.sign("stranger", s.Stranger, s.StrangerKey), ours.sign("broker", s.store, s.store))
}

// properties of the brokers.
func (s *Security) properties() []string {
	if s == nil {
		return nil
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace
	scram := "org.apache.kafka.common.security.scram.ScramLoginModule required;"
	// A file of properties takes a backslash away before the JAAS text is read.
	plainUsers := strings.ReplaceAll(fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required user_%s="%s";`, s.User, quoted(s.Password)), `\`, `\\`)
	out := []string{
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"allow.everyone.if.no.acl.found=true",
		"super.users=User:ANONYMOUS", // the brokers themselves, and the tests' administration
	}
	for _, name := range []string{saslPlain, saslTLS} {
		prefix := "listener.name." + strings.ToLower(name) + "."
		out = append(out, prefix+"plain.sasl.jaas.config="+plainUsers,
			prefix+"scram-sha-256.sasl.jaas.config="+scram, prefix+"scram-sha-512.sasl.jaas.config="+scram)
	}
	for _, name := range []string{withTLS, saslTLS} {
		prefix := "listener.name." + strings.ToLower(name) + "."
		out = append(out, prefix+"ssl.keystore.type=PEM", prefix+"ssl.keystore.location="+s.store,
			prefix+"ssl.truststore.type=PEM", prefix+"ssl.truststore.location="+s.CA)
	}
	return append(out, "listener.name."+strings.ToLower(withTLS)+".ssl.client.auth=required")
}

// at notes where the listeners are.
func (s *Security) at(brokers []*process) {
	if s == nil {
		return
	}
	s.addresses = map[string][]string{}
	for _, b := range brokers {
		for _, name := range []string{saslPlain, withTLS, saslTLS} {
			s.addresses[name] = append(s.addresses[name], b.address(name))
		}
	}
}

// addUser gives the user its SCRAM credentials, RFC 5802 section 3: the password as
// the brokers keep it, salted by PBKDF2.
func (s *Security) addUser(client *kafka.Client) error {
	const rounds = 4096
	salt := []byte(rand.Text())
	small, err := pbkdf2.Key(sha256.New, s.Password, salt, rounds, sha256.Size)
	if err != nil {
		return err
	}
	large, err := pbkdf2.Key(sha512.New, s.Password, salt, rounds, sha512.Size)
	if err != nil {
		return err
	}
	for _, credential := range []kafka.UserScramCredentialsUpsertion{ // a request may name a user once
		{Name: s.User, Mechanism: kafka.ScramMechanismSha256, Iterations: rounds, Salt: salt, SaltedPassword: small},
		{Name: s.User, Mechanism: kafka.ScramMechanismSha512, Iterations: rounds, Salt: salt, SaltedPassword: large},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		answer, err := client.AlterUserScramCredentials(ctx, &kafka.AlterUserScramCredentialsRequest{Upsertions: []kafka.UserScramCredentialsUpsertion{credential}})
		cancel()
		if err == nil {
			for _, r := range answer.Results {
				err = errors.Join(err, r.Error)
			}
		}
		if err != nil {
			return fmt.Errorf("add a SCRAM user: %w", err)
		}
	}
	return nil
}
