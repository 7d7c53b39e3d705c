package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/internal/app"
)

// engineServer are the flags of engine serve.
type engineServer struct {
	path, listen, library, user, passwordFile string
	connections                               int
	memory                                    uint64
}

func engineServeCommand(s *surroundings) *cobra.Command {
	var o engineServer
	cmd := &cobra.Command{
		Use: "serve", Short: "Offer the engine to several processes of this machine", Args: cobra.NoArgs,
		Long: `Open a data folder and answer ClickHouse's HTTP interface on loopback until
interrupted, so that several mcpaudit processes of this machine share one store:
each has http://default:PASSWORD@127.0.0.1:8123/default as its store.dsn, best by
$MCPAUDIT_STORE_DSN, since others see command lines. curl and Grafana's ClickHouse
data source work too. For several machines use a ClickHouse server.

A password is always needed. It is in a file that only you may read; without
--password-file that is the data folder's name with .password behind it, which the
first start makes. Nobody gets beyond the data: there are no table functions, no
files and no other users.

What an insert brought is kept when it was answered, and nothing of an insert whose
client died on the way. A process has the folder to itself: stop an 'mcpaudit serve'
that uses it before.`,
		Example: `  mcpaudit engine serve --path ./audit-data
  mcpaudit engine serve --listen unix:/run/mcpaudit/engine.sock --password-file engine.password
  curl -u "default:$(cat audit-data.password)" 127.0.0.1:8123 -d 'SELECT count() FROM events'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.serveEngine(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.path, "path", filepath.Join(s.dataHome(), "data"), "data folder; it is made when missing")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8123", "address of loopback, or unix: and the path of a socket")
	f.StringVar(&o.library, "library", "", "file of the engine's library ($MCPAUDIT_ENGINE); empty for the one that 'mcpaudit engine path' prints")
	f.StringVar(&o.user, "user", "default", "name of the only user")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the user's password; empty for <path>.password, which is made when missing")
	f.IntVar(&o.connections, "connections", 32, "statements that run at once, at most 64; each mcpaudit process uses up to 11")
	f.Uint64Var(&o.memory, "memory-limit", app.DefaultConfig("").Store.MemoryLimit, "bytes that the engine may allocate")
	return cmd
}

func (s *surroundings) serveEngine(cmd *cobra.Command, o engineServer) error {
	if o.library == "" {
		o.library = s.env("MCPAUDIT_ENGINE")
	}
	library, err := embedded.Locate(o.library, s.engineDir())
	if err != nil {
		return err
	}
	path, err := filepath.Abs(o.path)
	if err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	file := o.passwordFile
	if file == "" {
		file = path + ".password"
	}
	password, made, err := enginePassword(file, o.passwordFile == "")
	if err != nil {
		return err
	}
	access := embedded.Access{User: o.user, Password: password}
	if err := access.Validate(); err != nil {
		return fmt.Errorf("%w; the password is what %s holds", err, file)
	}
	l, err := embedded.Listen(o.listen)
	if err != nil {
		return err
	}
	engine, err := embedded.Open(embedded.Config{Library: library, Path: path, Connections: o.connections, MemoryLimit: o.memory})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	note := ""
	if made {
		note = " (made now)"
	}
	fmt.Fprintf(s.stdout, "ClickHouse %s serves %s\npassword: %s%s\n", engine.Version(), path, file, note)
	if l.Addr().Network() == "tcp" {
		fmt.Fprintf(s.stdout, "store.dsn: http://%s:PASSWORD@%s/default\n", url.User(o.user), l.Addr())
	} else {
		fmt.Fprintf(s.stdout, "socket: %s\n", l.Addr())
	}
	return errors.Join(engine.Serve(cmd.Context(), l, access), engine.Close())
}

// enginePassword reads the password of a file that only its owner may read, and
// makes one when there is none and it may. Two processes that make it at the same
// time end up with one password.
func enginePassword(file string, mayMake bool) (password string, made bool, err error) {
	password, err = readPassword(file)
	if !errors.Is(err, fs.ErrNotExist) || !mayMake {
		return password, false, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", false, fmt.Errorf("make the engine's password: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".engine-*.password") // of mode 0600
	if err != nil {
		return "", false, fmt.Errorf("make the engine's password: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = io.WriteString(f, rand.Text()+"\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), file) // never over one that another process made
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, fmt.Errorf("make the engine's password: %w", err)
	}
	made = err == nil
	password, err = readPassword(file)
	return password, made, err
}

// readPassword takes a file's text without the end of its line.
func readPassword(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("read the engine's password: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("read the engine's password: others may read %s; run: chmod 600 %s", file, file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the engine's password: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
