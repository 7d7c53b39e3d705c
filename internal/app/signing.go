package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/anchor"
	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// The files of a ledger folder.
const (
	keyName      = "signing-key.json"
	verifierName = "verifier-keys.txt"
	memoryName   = "checkpoint-%s.txt" // one for each log
)

// LedgerFolder is where the log's key and memory are: beside the store, so that
// who can change the one can't change the other unseen.
func (c *Config) LedgerFolder() string {
	if c.Ledger.Path != "" || c.Store.Path == "" {
		return c.Ledger.Path
	}
	return filepath.Clean(c.Store.Path) + ".ledger"
}

// KeyFile is the log's signing key.
func (c *Config) KeyFile() string { return filepath.Join(c.LedgerFolder(), keyName) }

// VerifierFile has the log's verifier keys, one a line, for everybody to read.
func (c *Config) VerifierFile() string { return filepath.Join(c.LedgerFolder(), verifierName) }

// Memories are the files in which services have kept what they signed last.
func (c *Config) Memories() ([]string, error) {
	return filepath.Glob(filepath.Join(c.LedgerFolder(), fmt.Sprintf(memoryName, "*")))
}

// lockFolder makes this process the only one that writes with the folder's key, until
// it ends. Two with one key would sign two logs.
func lockFolder(folder string) (unlock func(), err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("open the ledger's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the ledger's folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another mcpaudit writes with the key in %s; stop it, or give each instance a folder of its own with --ledger.path", folder)
		}
		return nil, fmt.Errorf("lock the ledger's folder %s: %w", folder, err)
	}
	return func() { f.Close() }, nil
}

// signing reads the log's key. On an empty store it makes one, and with it the log.
// An instance that does not write the log can do without.
func signing(ctx context.Context, cfg *Config, s *store.Store, log *slog.Logger) (keyfile.Signing, error) {
	file := cfg.KeyFile()
	k, err := keyfile.ReadSigning(file)
	if err == nil {
		return k, PublishKey(cfg, k)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if !slices.Contains(cfg.Roles, "ingest") {
		return k, nil
	}
	logs, err := s.Logs(ctx)
	if err != nil {
		return k, err
	}
	if cfg.Ingest.Shared {
		// The others' logs are theirs. One that has this instance's name was its own.
		logs = slices.DeleteFunc(logs, func(l store.LogInfo) bool { return ingest.LogName(l.ID) != cfg.Ledger.Log })
	}
	if len(logs) > 0 && cfg.Ingest.Shared {
		return k, fmt.Errorf("the store has log %q, and the key that signs it is not at %s: if this is another instance, give it a name of its own with --ledger.log; "+
			"if it is the same one, bring the file back from your backup, or name its folder with --ledger.path", logs[len(logs)-1].ID, file)
	}
	if len(logs) > 0 {
		last := logs[len(logs)-1].ID
		return k, fmt.Errorf("the store has log %q, and the key that signs it is not at %s: bring the file back from your backup, or name its folder with --ledger.path; "+
			"if it is lost, 'mcpaudit keys new --ledger.path %s' starts a new log beside the old one, which stays verifiable with its verifier key", last, file, filepath.Dir(file))
	}
	if n, err := s.Events(ctx); err != nil {
		return k, err
	} else if n > 0 && !cfg.Ingest.Shared {
		return k, fmt.Errorf("the store has %d events and no log: its ledger was removed; bring the store back from your backup, or start with an empty one", n)
	}
	if k, err = keyfile.NewSigning(file, ingest.NewLogID(cfg.Ledger.Log)); err != nil {
		return k, err
	}
	log.Info("started a log; keep a copy of its signing key, and give the verifier key to those who will verify", "log", k.Key.LogID(), "signing_key", file, "verifier_key", k.Key.Verifier())
	return k, PublishKey(cfg, k)
}

// PublishKey adds the verifier key to the file that has them, if it lacks it.
func PublishKey(cfg *Config, k keyfile.Signing) error {
	file := cfg.VerifierFile()
	have, err := VerifierKeys(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, v := range have {
		if v == k.Key.Verifier() {
			return nil
		}
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("publish verifier key: %w", err)
	}
	_, err = f.WriteString("\n" + k.Key.Verifier() + "\n") // behind a line that a crash has torn, too
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("publish verifier key: %w", err)
	}
	return nil
}

// VerifierKeys reads a file of verifier keys, one a line; lines that begin with #
// are for people.
func VerifierKeys(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read verifier keys: %w", err)
	}
	defer f.Close()
	var keys []string
	lines := bufio.NewScanner(f) // refuses lines of more than 64 KiB
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
		if len(keys) > 1000 {
			return nil, fmt.Errorf("read verifier keys: %s has more than 1000", file)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read verifier keys of %s: %w", file, err)
	}
	return keys, nil
}

// memory is the file in which the service keeps the newest checkpoint that it has
// signed, and no other. A store that was set back to an earlier time contradicts it.
type memory struct{ file string }

func newMemory(cfg *Config, logID string) *memory {
	return &memory{filepath.Join(cfg.LedgerFolder(), fmt.Sprintf(memoryName, logID))}
}

func (m *memory) String() string { return m.file }

// Put replaces the file. A crash leaves the one before.
func (m *memory) Put(_ context.Context, checkpoint string) error {
	f, err := os.CreateTemp(filepath.Dir(m.file), "checkpoint-*.tmp")
	if err != nil {
		return fmt.Errorf("remember checkpoint: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(notes.Append(nil, checkpoint))
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), m.file)
	}
	if err != nil {
		return fmt.Errorf("remember checkpoint: %w", err)
	}
	return nil
}

// read is what was remembered, nothing at first.
func (m *memory) read(ctx context.Context) (signed []string, err error) {
	err = anchor.Each(ctx, m.file, func(checkpoint string) error {
		signed = append(signed, checkpoint)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return signed, err
}

// memoryPause is how often the service writes down what it has signed: a store that
// is set back by more than that is found at the next start.
const memoryPause = 2 * time.Second

// anchors are the runners that keep checkpoints: in the service's own memory, and
// where the owner wants them.
func anchors(cfg *Config, own *memory, newest func() string, log *slog.Logger, watch func(place string, err error)) ([]*anchor.Runner, error) {
	out := []*anchor.Runner{{Sinks: []anchor.Sink{own}, Every: memoryPause, Newest: newest, Log: log,
		Observe: func(_ int, err error) { watch("memory", err) }}}
	r := &anchor.Runner{Every: cfg.Ledger.AnchorEvery, Newest: newest, Log: log,
		Observe: func(i int, err error) { watch(scheme(cfg.Ledger.Anchors[i]), err) }}
	for _, spec := range cfg.Ledger.Anchors {
		sink, err := anchor.Open(spec)
		if err != nil {
			return nil, fmt.Errorf("ledger.anchors: %w", err)
		}
		r.Sinks = append(r.Sinks, sink)
	}
	return append(out, r), nil
}

// scheme is what sort of place an anchor is.
func scheme(spec string) string {
	if s, _, ok := strings.Cut(spec, "://"); ok {
		return s
	}
	return "file"
}
