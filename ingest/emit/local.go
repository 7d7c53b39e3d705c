package emit

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/user"
	"path/filepath"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// DefaultService is where a service listens unless configured.
const DefaultService = client.DefaultAddress

// Identify fills what this machine knows of a server on standard input and
// output: host and process, the account that it runs as unless the event names a
// principal, and a session id. Such a server has one client, so that its process
// is the session.
func Identify(e *event.Event) {
	host, _ := os.Hostname()
	if e.Principal == "" {
		if u, err := user.Current(); err == nil {
			e.Principal, e.PrincipalName, e.AuthMethod = "os:"+u.Username+"@"+host, u.Name, "os"
		}
	}
	e.ServerInstance = fmt.Sprintf("%s/%d", host, os.Getpid())
	var noise [8]byte
	rand.Read(noise[:])
	e.SessionID = "stdio-" + hex.EncodeToString(noise[:])
}

// DefaultSpool is where spools are kept unless configured: below the user's
// state folder (XDG Base Directory specification); "" for a user without one.
func DefaultSpool(env func(string) string, home string) string {
	if dir := env("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "mcpaudit", "spool")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".local", "state", "mcpaudit", "spool")
}
