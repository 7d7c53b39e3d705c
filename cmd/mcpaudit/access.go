package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/internal/app"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func accessCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "access", Short: "Say who may write and who may read: API keys",
		Long: `Nothing is answered without a credential: an API key, a token of an OpenID Connect
provider, or a client certificate (the last two by access.file of the service). The
first start on a laptop prints a key with all rights; elsewhere 'access bootstrap' makes
the first one.

Roles, each for one tenant or for all:

  emitter   writes events, as the emitters and for the servers it is bound to; reads none
  analyst   searches, reads and triages
  auditor   as an analyst, and logs, proofs and verification
  exporter  takes events out
  admin     keys, rules, retention and holds
  monitor   reads /metrics, and no event

Each use of a key, and each change of one, is an event of the log.

  mcpaudit access create 'crm servers' --role emitter --server 'crm*' --out crm.key
  mcpaudit access create 'Ada, on call' --role analyst --role exporter --lifetime 30d
  mcpaudit access list                        whose keys there are
  mcpaudit access rotate c2h4y6qgp3zxrw5a     a new key in place of one
  mcpaudit access revoke c2h4y6qgp3zxrw5a     end one at once`,
	}
	to := s.serviceFlag(cmd)
	cmd.AddCommand(accessCreate(s, to), accessList(s, to), accessRotate(s, to), accessRevoke(s, to),
		accessWhoAmI(s, to), accessLogin(s, to), accessLookUp(s, to), accessBootstrap(s))
	return cmd
}

// days reads a duration that may be in days: 30d, 12h.
func days(flag, text string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if d, err := time.ParseDuration(n + "h"); err == nil {
			return 24 * d, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("--%s: %q is not a duration such as 90d or 12h", flag, text)
	}
	return d, nil
}

func accessCreate(s *surroundings, to *client.Config) *cobra.Command {
	var roles, servers, emitters []string
	var tenant, content, lifetime, out string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an API key", Args: cobra.ExactArgs(1),
		Long: `Make an API key and print it, this once: the service keeps a hash of it alone. NAME is for
people: whose it is, or what it is for. With --out the key goes to a new file that its
owner alone may read, and not to the screen.

An emitter's key is best bound to the servers and emitters that it writes as: it can't
make events of others then. Names end with * for all that begin so.`,
		Example: `  mcpaudit access create 'crm servers' --role emitter --server 'crm*' --emitter 'crm-*' --out crm.key
  mcpaudit access create 'Ada, on call' --role analyst --lifetime 30d
  mcpaudit access create prometheus --role monitor --lifetime 365d`,
		ValidArgsFunction: noFiles,
	}
	f := cmd.Flags()
	f.StringSliceVar(&roles, "role", nil, "emitter, analyst, auditor, exporter, admin or monitor; may be given more than once; needed")
	f.StringVar(&tenant, "tenant", "", `for which tenant, "*" for all; default "default"`)
	f.StringSliceVar(&servers, "server", nil, "of an emitter: servers whose events it may write; default any")
	f.StringSliceVar(&emitters, "emitter", nil, "of an emitter: emitter ids it may use; default any")
	f.StringVar(&content, "content", "", "what a reader sees of arguments: none, redacted or lookup; default redacted")
	f.StringVar(&lifetime, "lifetime", "90d", "until it expires")
	f.StringVar(&out, "out", "", "new file for the key")
	f.BoolVar(&asJSON, "json", false, "one JSON object: key, text")
	completeWords(cmd, "role", roleNames()...)
	completeWords(cmd, "content", "none", "redacted", "lookup")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(roles) == 0 {
			return errors.New("create key: name at least one --role: " + strings.Join(roleNames(), ", "))
		}
		life, err := days("lifetime", lifetime)
		if err != nil {
			return fmt.Errorf("create key: %w", err)
		}
		return s.makeKey("create key", *to, out, asJSON, func(service pb.AccessServiceClient) (keyMade, error) {
			return service.CreateKey(cmd.Context(), &pb.CreateKeyRequest{
				Name: args[0], Roles: roles, Tenant: tenant, Servers: servers, Emitters: emitters, Content: content, Lifetime: durationpb.New(life)})
		})
	}
	return cmd
}

func roleNames() (names []string) {
	for _, r := range auth.Roles {
		names = append(names, string(r))
	}
	return names
}

// keyFile is a file that will hold a key. It is opened before the key is made: a key
// that can't be saved is one that nobody has.
type keyFile struct{ f *os.File }

func newKeyFile(path string) (keyFile, error) {
	if path == "" {
		return keyFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return keyFile{f}, err
}

func (k keyFile) drop() {
	if k.f != nil {
		k.f.Close()
		_ = os.Remove(k.f.Name()) // it is empty
	}
}

func (k keyFile) save(text string) error {
	_, err := io.WriteString(k.f, text+"\n")
	return errors.Join(err, k.f.Sync(), k.f.Close())
}

// keyMade is the answer of a method that makes a key.
type keyMade interface {
	GetKey() *pb.Key
	GetText() string
}

// makeKey has the service make a key, and shows it.
func (s *surroundings) makeKey(doing string, to client.Config, out string, asJSON bool, ask func(pb.AccessServiceClient) (keyMade, error)) error {
	c, err := dial(doing, to, "")
	if err != nil {
		return err
	}
	defer c.conn.Close()
	save, err := newKeyFile(out)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	made, err := ask(pb.NewAccessServiceClient(c.conn))
	if err != nil {
		save.drop()
		return c.explain(err)
	}
	return s.showKey(save, made.GetKey(), made.GetText(), asJSON)
}

// showKey gives a new key to who asked for it, and says what to do with it.
func (s *surroundings) showKey(save keyFile, k *pb.Key, text string, asJSON bool) error {
	if save.f != nil {
		if err := save.save(text); err != nil {
			return fmt.Errorf("write %s: %w; revoke the key with 'mcpaudit access revoke %s' and make another", save.f.Name(), err, k.GetKeyId())
		}
		text = ""
	}
	if asJSON {
		return writeJSON(s.stdout, &pb.CreateKeyResponse{Key: k, Text: text})
	}
	if save.f != nil {
		return writeLine(s.stdout, fmt.Sprintf("%s (key %s, until %s)", save.f.Name(), k.GetKeyId(), k.GetExpiresAt().AsTime().Format("2006-01-02")))
	}
	fmt.Fprintf(s.stderr, "Key %s of %q, until %s. It is shown this once:\n", k.GetKeyId(), printable(k.GetName(), 100), k.GetExpiresAt().AsTime().Format("2006-01-02"))
	return writeLine(s.stdout, text)
}

func accessList(s *surroundings, to *client.Config) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use: "list", Short: "List API keys, the newest first", Args: cobra.NoArgs,
		Long: `List the API keys of the tenants that you administer, the newest first: those that are
good, and with --all those that expired or were revoked.`,
		Example: `  mcpaudit access list
  mcpaudit access list --all --json`,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that expired or were revoked")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("list keys", *to, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		clock := s.clock()
		t := newTable(s.screen(s.stdout), column{head: "KEY", most: 20}, column{head: "NAME", most: 30}, column{head: "ROLES", most: 60}, column{head: "TENANT", most: 20},
			column{head: clock.head("EXPIRES"), most: 24}, column{head: "STATE", most: 20}, column{head: "BOUND TO", most: 80, rest: true})
		req := &pb.ListKeysRequest{PageSize: 1000}
		for {
			resp, err := pb.NewAccessServiceClient(c.conn).ListKeys(cmd.Context(), req)
			if err != nil {
				return c.explain(err)
			}
			for _, k := range resp.GetKeys() {
				if !all && k.GetState() != "active" {
					continue
				}
				if asJSON {
					err = writeJSON(t.out, k)
				} else {
					err = t.add(apiKeyCells(k, clock)...)
				}
				if err != nil {
					return err
				}
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				return t.flush()
			}
		}
	}
	return cmd
}

func apiKeyCells(k *pb.Key, clock clock) []cell {
	var roles, bound []string
	tenant, content := "", ""
	for _, r := range k.GetRights() {
		roles, tenant = append(roles, r.GetRole()), r.GetTenant()
		for _, name := range r.GetServers() {
			bound = append(bound, "server "+name)
		}
		for _, name := range r.GetEmitters() {
			bound = append(bound, "emitter "+name)
		}
		content = cmp.Or(r.GetContent(), content)
	}
	if content != "" && content != string(auth.ContentRedacted) {
		bound = append(bound, "content "+content)
	}
	state := k.GetState()
	if k.GetSuccessor() != "" {
		state += ", rotated"
	}
	return []cell{{text: k.GetKeyId()}, {text: k.GetName()}, {text: strings.Join(roles, ",")}, {text: tenant}, {text: clock.second(k.GetExpiresAt().AsTime())},
		{text: state}, {text: strings.Join(bound, ", ")}}
}

func accessRotate(s *surroundings, to *client.Config) *cobra.Command {
	var lifetime, overlap, out string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "rotate KEY", Short: "Make a key in place of another", Args: cobra.ExactArgs(1),
		Long: `Make a key with the rights of another one, whose id KEY is, and print it this once. The
old one goes on being taken for --overlap, so that its holders can change over.`,
		Example: `  mcpaudit access rotate c2h4y6qgp3zxrw5a --overlap 7d --out crm-2027.key`,
	}
	cmd.Flags().StringVar(&lifetime, "lifetime", "90d", "until the new key expires")
	cmd.Flags().StringVar(&overlap, "overlap", "1d", "until the old key expires")
	cmd.Flags().StringVar(&out, "out", "", "new file for the key")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: key, text")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		life, err := days("lifetime", lifetime)
		if err != nil {
			return fmt.Errorf("rotate key: %w", err)
		}
		lap, err := days("overlap", overlap)
		if err != nil {
			return fmt.Errorf("rotate key: %w", err)
		}
		return s.makeKey("rotate key", *to, out, asJSON, func(service pb.AccessServiceClient) (keyMade, error) {
			return service.RotateKey(cmd.Context(), &pb.RotateKeyRequest{KeyId: args[0], Lifetime: durationpb.New(life), Overlap: durationpb.New(lap)})
		})
	}
	return cmd
}

func accessRevoke(s *surroundings, to *client.Config) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke KEY", Short: "End a key at once", Args: cobra.ExactArgs(1),
		Long: `End the key whose id KEY is: at once, within two seconds at other instances, within ten
where a connection lives on it.`,
		Example: `  mcpaudit access revoke c2h4y6qgp3zxrw5a --reason 'was in a public repository'`,
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the log")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := dial("revoke key", *to, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewAccessServiceClient(c.conn).RevokeKey(cmd.Context(), &pb.RevokeKeyRequest{KeyId: args[0], Reason: reason})
		if err != nil {
			return c.explain(err)
		}
		return writeLine(s.stdout, fmt.Sprintf("revoked key %s of %q", resp.GetKey().GetKeyId(), printable(resp.GetKey().GetName(), 100)))
	}
	return cmd
}

func accessWhoAmI(s *surroundings, to *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "whoami", Short: "Say who you are to the service", Args: cobra.NoArgs,
		Long:    `Say whom your credential proves, as the log names you, and what you may do.`,
		Example: `  mcpaudit access whoami`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("ask who you are", *to, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		me, err := pb.NewAccessServiceClient(c.conn).WhoAmI(cmd.Context(), &pb.WhoAmIRequest{})
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			return writeJSON(s.stdout, me)
		}
		return writeLine(s.stdout, describeMe(me))
	}
	return cmd
}

func describeMe(me *pb.WhoAmIResponse) string {
	var may []string
	for _, r := range me.GetRights() {
		text := r.GetRole() + " of "
		if r.GetTenant() == auth.EveryTenant {
			text += "every tenant"
		} else {
			text += "tenant " + r.GetTenant()
		}
		may = append(may, text)
	}
	return fmt.Sprintf("%s (%s): %s", printable(me.GetIdentity(), 300), printable(me.GetName(), 100), strings.Join(may, ", "))
}

func accessLogin(s *surroundings, to *client.Config) *cobra.Command {
	cmd := &cobra.Command{
		Use: "login", Short: "Keep a key for the commands of this user", Args: cobra.NoArgs,
		Long: `Read an API key from standard input, try it, and keep it in a file of yours that commands
use when nothing else says what to use ($MCPAUDIT_API_KEY, $MCPAUDIT_API_KEY_FILE). Who
can read your files can use it then.`,
		Example: `  mcpaudit access login < ada.key`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file := client.DefaultKeyFile(s.env, s.home)
		if file == "" {
			return errors.New("keep key: you have no home folder; name the key's file in $MCPAUDIT_API_KEY_FILE instead")
		}
		text, err := io.ReadAll(io.LimitReader(s.stdin, 16<<10))
		if err != nil {
			return fmt.Errorf("keep key: %w", err)
		}
		key := strings.TrimSpace(string(text))
		if key == "" {
			return errors.New("keep key: there is nothing on standard input; try: mcpaudit access login < FILE")
		}
		with := *to
		with.Key, with.KeyFile = key, ""
		c, err := dial("keep key", with, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		me, err := pb.NewAccessServiceClient(c.conn).WhoAmI(cmd.Context(), &pb.WhoAmIRequest{})
		if err != nil {
			return c.explain(err)
		}
		if err := keepKey(file, key); err != nil {
			return fmt.Errorf("keep key: %w", err)
		}
		return writeLine(s.stdout, fmt.Sprintf("%s\nkept in %s", describeMe(me), file))
	}
	return cmd
}

// keepKey replaces a file: whoever reads it sees the old key or the new one.
func keepKey(file, key string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".key-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := (keyFile{f}).save(key); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

func accessLookUp(s *surroundings, to *client.Config) *cobra.Command {
	var class string
	cmd := &cobra.Command{
		Use: "lookup", Short: "Find what stands in events in place of a value", Args: cobra.NoArgs,
		Long: `Read a value from standard input, such as an e-mail address, and print the pseudonyms that
stand in redacted events in its place: search for them with 'arguments: "…"'. It wants
the content level lookup. That it was asked is in the log; the value is not.`,
		Example: `  echo ada@example.com | mcpaudit access lookup --class email`,
	}
	cmd.Flags().StringVar(&class, "class", "", "what kind of value it is, such as email; default all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		text, err := io.ReadAll(io.LimitReader(s.stdin, 8<<10))
		if err != nil {
			return fmt.Errorf("look up pseudonym: %w", err)
		}
		c, err := dial("look up pseudonym", *to, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewAccessServiceClient(c.conn).LookUpPseudonym(cmd.Context(), &pb.LookUpPseudonymRequest{Value: strings.TrimRight(string(text), "\r\n"), Class: class})
		if err != nil {
			return c.explain(err)
		}
		return writeLine(s.stdout, strings.Join(resp.GetPseudonyms(), "\n"))
	}
	return cmd
}

func accessBootstrap(s *surroundings) *cobra.Command {
	var out, tenant, lifetime string
	cmd := &cobra.Command{
		Use: "bootstrap", Short: "Make the first key, beside the service", Args: cobra.NoArgs,
		Long: `Make a key of role admin in the store itself and print it, this once: for a new
installation, or when all keys are lost. It needs what the service needs to write to the
store: its settings, and for the engine in process that the service is stopped. The
service notes in the log that the key was made this way.`,
		Example: `  mcpaudit access bootstrap --config mcpaudit.yaml --out admin.key
  MCPAUDIT_STORE_DSN=clickhouse://writer:…@db:9000/audit mcpaudit access bootstrap`,
	}
	st := s.settings(cmd, "store.dsn", "store.cluster", "store.path", "store.engine")
	cmd.Flags().StringVar(&out, "out", "", "new file for the key")
	cmd.Flags().StringVar(&tenant, "tenant", auth.EveryTenant, "whose administrator")
	cmd.Flags().StringVar(&lifetime, "lifetime", "7d", "until it expires: make lasting keys with it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := st.load()
		if err != nil {
			return err
		}
		life, err := days("lifetime", lifetime)
		if err != nil {
			return fmt.Errorf("make first key: %w", err)
		}
		save, err := newKeyFile(out)
		if err != nil {
			return fmt.Errorf("make first key: %w", err)
		}
		k, text, err := app.Bootstrap(cmd.Context(), cfg, []string{s.engineDir()}, auth.Grant{Role: auth.Admin, Tenant: tenant}, life, s.now, s.logger(cfg.Logging))
		if err != nil {
			save.drop()
			return fmt.Errorf("make first key: %w", err)
		}
		return s.showKey(save, &pb.Key{KeyId: k.ID, Name: k.Name, ExpiresAt: timestamppb.New(k.ExpiresAt)}, text, false)
	}
	return cmd
}
