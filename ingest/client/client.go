// Package client says how the service is reached: where it is, over TLS or not, and
// with what a program proves who it is. All that calls the service goes through it:
// the commands, emitters, what wraps a server.
//
// A key is never sent where others could read it: to this machine, or over TLS, or
// nowhere, unless the owner says why it may be otherwise.
package client

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// DefaultAddress is where a service listens unless configured.
const DefaultAddress = "127.0.0.1:4777"

// Environment variables that say how the service is reached.
const (
	AddressVariable   = "MCPAUDIT_SERVICE"
	KeyVariable       = "MCPAUDIT_API_KEY"
	KeyFileVariable   = "MCPAUDIT_API_KEY_FILE"
	CAVariable        = "MCPAUDIT_TLS_CA"
	CertVariable      = "MCPAUDIT_TLS_CERT"
	CertKeyVariable   = "MCPAUDIT_TLS_KEY"
	NameVariable      = "MCPAUDIT_TLS_NAME"
	PlaintextVariable = "MCPAUDIT_PLAINTEXT_REASON"
)

// Secrets are the variables with which one can act as this program. What it starts
// must not inherit them.
var Secrets = []string{KeyVariable, KeyFileVariable, CertVariable, CertKeyVariable}

// Config says how a service is reached. The zero value of a field means its default.
// Its texts hold no key, however it is printed.
type Config struct {
	// Address of the service's gRPC port, host:port; default [DefaultAddress].
	Address string
	// Key is an API key or a token, which is sent with each call.
	Key string `json:"-"`
	// KeyFile is a file with one. It is read again while the program runs, so that a
	// key can be replaced. Only its owner, and a group, may have rights to it.
	KeyFile string
	// TLS of the connection. To another machine there always is TLS; to this one when
	// anything is set here.
	TLS TLS
	// Plaintext and PlaintextReason, together, allow a connection to another machine
	// that others can read and change, and have the key sent over it. The reason is
	// for people: such as that a service mesh encrypts it.
	Plaintext       bool
	PlaintextReason string
}

// TLS names PEM files and a name. They are read for each connection: what replaces
// them is in force from the next connection on.
type TLS struct {
	CA   string // authorities that sign the service's certificate; default the system's
	Cert string // this program's certificate, which proves who it is instead of a key
	Key  string // of that certificate
	Name string // that the service's certificate is for, when it is not the host of Address
}

func (t TLS) set() bool { return t != TLS{} }

// FromEnv is what the environment says. home is the user's folder, which may be
// unknown (""); the key is looked for at [DefaultKeyFile] when nothing names one, and
// neither a certificate.
func FromEnv(env func(string) string, home string) Config {
	c := Config{Address: env(AddressVariable), Key: env(KeyVariable), KeyFile: env(KeyFileVariable),
		TLS:             TLS{CA: env(CAVariable), Cert: env(CertVariable), Key: env(CertKeyVariable), Name: env(NameVariable)},
		PlaintextReason: env(PlaintextVariable)}
	c.Plaintext = c.PlaintextReason != ""
	if c.Address == "" {
		c.Address = DefaultAddress
	}
	if file := DefaultKeyFile(env, home); c.Key == "" && c.KeyFile == "" && c.TLS.Cert == "" && file != "" {
		if _, err := os.Stat(file); err == nil {
			c.KeyFile = file
		}
	}
	return c
}

// DefaultKeyFile is where a user's key lies unless configured (XDG Base Directory
// specification); "" for a user without a home.
func DefaultKeyFile(env func(string) string, home string) string {
	if dir := env("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "mcpaudit", "key")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config", "mcpaudit", "key")
}

// Loopback says whether an address, host:port, is this machine alone. The error says
// that it is no such address.
func Loopback(address string) (bool, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("%q is not host:port, such as %s", address, DefaultAddress)
	}
	return loopbackHost(host), nil
}

// loopbackHost is about names as they are written: what a name leads to is checked
// when it is dialled.
func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Validate names what contradicts itself. It reads no file.
func (c Config) Validate() error {
	address := c.address()
	if strings.Contains(address, "://") {
		return fmt.Errorf("the service's address %q is a URL; its gRPC port is host:port, such as %s", address, DefaultAddress)
	}
	local, err := Loopback(address)
	switch {
	case err != nil:
		return fmt.Errorf("the service's address %w", err)
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return fmt.Errorf("a certificate and its key come together, and one is missing; name both files (%s, %s)", CertVariable, CertKeyVariable)
	case c.Key != "" && c.KeyFile != "":
		return fmt.Errorf("there are a key and a file with one; leave one of them out (%s, %s)", KeyVariable, KeyFileVariable)
	case c.Plaintext && strings.TrimSpace(c.PlaintextReason) == "":
		return errors.New("plaintext to another machine needs a reason; give one, or leave plaintext out for TLS")
	case c.Plaintext && c.TLS.set() && !local:
		return fmt.Errorf("there are settings of TLS and a reason for plaintext; leave one of them out (%s)", PlaintextVariable)
	}
	return nil
}

func (c Config) address() string {
	if c.Address == "" {
		return DefaultAddress
	}
	return c.Address
}

// Secure says whether the connection is over TLS.
func (c Config) Secure() bool {
	local, err := Loopback(c.address())
	return c.TLS.set() || err == nil && !local && !c.Plaintext
}

// Anonymous says that there is nothing with which the program could prove who it is.
func (c Config) Anonymous() bool { return c.Key == "" && c.KeyFile == "" && c.TLS.Cert == "" }

// Check reads the files once, for whoever wants to know of a mistake before calling.
func (c Config) Check() error {
	if err := c.Validate(); err != nil {
		return err
	}
	if c.KeyFile != "" {
		if _, err := readKey(c.KeyFile); err != nil {
			return err
		}
	}
	if c.Secure() {
		_, err := c.TLS.config()
		return err
	}
	return nil
}

// String is the configuration without what is secret.
func (c Config) String() string {
	how := "plaintext"
	if c.Secure() {
		how = "TLS"
	}
	with := "no credential"
	switch {
	case c.Key != "":
		with = "a key"
	case c.KeyFile != "":
		with = "the key in " + c.KeyFile
	case c.TLS.Cert != "":
		with = "the certificate in " + c.TLS.Cert
	}
	return fmt.Sprintf("%s over %s with %s", c.address(), how, with)
}

// GoString is String, for %#v.
func (c Config) GoString() string { return "client.Config{" + c.String() + "}" }

// file shortens what the system says of a file.
func file(doing, path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("%s %s: %w", doing, path, err)
}
