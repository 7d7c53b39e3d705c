package transport

import (
	"fmt"
	"net"
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/client"
)

// What may be plaintext off this machine when it is said twice.
const (
	Listen = "listen" // the service's own ports
	Kafka  = "kafka"  // connections to brokers
)

// Plaintext is what an operator allows to be read and changed by the network, and why.
// It takes both: a name alone may be a line that was copied.
type Plaintext struct {
	Allowed []string // Listen, Kafka
	Reason  string
}

// Validate names what is wrong with it.
func (p Plaintext) Validate() error {
	for _, what := range p.Allowed {
		if what != Listen && what != Kafka {
			return fmt.Errorf("access.plaintext: there is no %q to allow it for; use %s or %s", what, Listen, Kafka)
		}
	}
	switch {
	case len(p.Allowed) > 0 && p.Reason == "":
		return fmt.Errorf("access.plaintext_reason: is empty; say why %s may be plaintext, such as: a service mesh encrypts it", p.Allowed[0])
	case len(p.Allowed) == 0 && p.Reason != "":
		return fmt.Errorf("access.plaintext: there is a reason and nothing that it is for; name %s or %s, or leave the reason out", Listen, Kafka)
	case len(p.Reason) > 300:
		return fmt.Errorf("access.plaintext_reason: has %d bytes; at most 300 are logged", len(p.Reason))
	}
	return nil
}

// Allows says whether something may be plaintext to other machines.
func (p Plaintext) Allows(what string) bool {
	return slices.Contains(p.Allowed, what) && p.Reason != ""
}

// Plain says what is wrong with a listener without TLS at an address; name is its
// setting's.
func (p Plaintext) Plain(name, address string) error {
	local, err := client.Loopback(address)
	if err != nil {
		return fmt.Errorf("%s: %q is not host:port", name, address)
	}
	if !local && !p.Allows(Listen) {
		return fmt.Errorf("%s: %q is not a loopback address, and there is no TLS; set listen.tls_cert and listen.tls_key, or say twice that it may be plaintext: access.plaintext: [%s] and access.plaintext_reason", name, address, Listen)
	}
	return nil
}

// Brokers says what is wrong with connections to brokers without TLS.
func (p Plaintext) Brokers(addresses []string) error {
	for _, a := range addresses {
		if local, err := client.Loopback(a); err == nil && !local && !p.Allows(Kafka) {
			host, _, _ := net.SplitHostPort(a)
			return fmt.Errorf("kafka.tls: is off, and the broker %q is another machine; turn it on, or say twice that it may be plaintext: access.plaintext: [%s] and access.plaintext_reason", host, Kafka)
		}
	}
	return nil
}
