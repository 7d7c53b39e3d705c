package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/internal/app"
)

func keysCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys", Short: "Make, show and rotate the key that signs the log",
		Long: `The log is signed with one key. Its public half, the verifier key, is what proves an
export or a store; give it to those who will verify. The signing key is in a file of
the ledger folder that only its owner may read: keep a copy elsewhere.`,
	}
	cmd.AddCommand(keysNew(s), keysShow(s), keysRotate(s))
	return cmd
}

// ledgerSettings are the flags that say where the ledger folder is.
var ledgerSettings = []string{"store.path", "ledger.path", "ledger.log"}

func keysNew(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "new", Short: "Make the key of a new log", Args: cobra.NoArgs,
		Long: `Make the signing key of a new log. The next 'mcpaudit serve' with this ledger folder
starts that log, also in a store that has others: those stay as they are, and
verifiable with their own keys. An empty store needs no such step: 'serve' makes its
key itself. A key that is there is never replaced.`,
		Example: `  mcpaudit keys new --ledger.path /etc/mcpaudit/ledger
  mcpaudit keys new --ledger.log production`,
	}
	st := s.settings(cmd, ledgerSettings...)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := st.ledger()
		if err != nil {
			return err
		}
		k, err := keyfile.NewSigning(cfg.KeyFile(), ingest.NewLogID(cfg.Ledger.Log))
		if err != nil {
			return err
		}
		if err := app.PublishKey(&cfg, k); err != nil {
			return err
		}
		fmt.Fprintf(s.stderr, "mcpaudit: made the key of log %s in %s; keep a copy of the file elsewhere. The verifier key is public:\n", k.Key.LogID(), cfg.KeyFile())
		return writeLine(s.stdout, k.Key.Verifier())
	}
	return cmd
}

func keysShow(s *surroundings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show the verifier key", Args: cobra.NoArgs,
		Long: `Show the verifier key of the log that this ledger folder's key signs. The signing key
itself is never shown.`,
		Example: `  mcpaudit keys show
  mcpaudit keys show --json`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: log_id, verifier_key, rotations, file")
	st := s.settings(cmd, ledgerSettings...)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := st.ledger()
		if err != nil {
			return err
		}
		k, err := keyfile.ReadSigning(cfg.KeyFile())
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("show key: there is none at %s; 'mcpaudit serve' makes one on an empty store", cfg.KeyFile())
		}
		if err != nil {
			return err
		}
		if !asJSON {
			return writeLine(s.stdout, k.Key.Verifier())
		}
		text, err := json.Marshal(struct {
			LogID     string   `json:"log_id"`
			Verifier  string   `json:"verifier_key"`
			Rotations []string `json:"rotations,omitempty"`
			File      string   `json:"file"`
		}{k.Key.LogID(), k.Key.Verifier(), k.Rotations, cfg.KeyFile()})
		if err != nil {
			return fmt.Errorf("show key: %w", err)
		}
		return writeLine(s.stdout, string(text))
	}
	return cmd
}

func keysRotate(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate", Short: "Replace the signing key", Args: cobra.NoArgs,
		Long: `Replace the signing key of the log by a new one. Both sign a statement of it, which
becomes part of the log when 'mcpaudit serve' starts next: whoever trusts the old
verifier key then trusts the new one, and what the old key has signed stays
verifiable with the new one. The old signing key is removed from the folder.

When somebody else may have the old key, this is not enough: he can sign such a
statement too. Give the new verifier key to those who verify, by a way of its own.`,
		Example: `  mcpaudit keys rotate
  mcpaudit keys rotate --ledger.path /etc/mcpaudit/ledger`,
	}
	st := s.settings(cmd, ledgerSettings...)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := st.ledger()
		if err != nil {
			return err
		}
		old, k, err := keyfile.Rotate(cfg.KeyFile())
		if err != nil {
			return err
		}
		fmt.Fprintf(s.stderr, "mcpaudit: the key of log %s is a new one; restart 'mcpaudit serve' to use it. The old verifier key was %s, the new one is:\n", k.Key.LogID(), old)
		return writeLine(s.stdout, k.Key.Verifier())
	}
	return cmd
}

// ledger loads the settings of a command that needs the ledger folder.
func (st *settings) ledger() (app.Config, error) {
	cfg, err := st.load()
	if err == nil && cfg.LedgerFolder() == "" {
		err = errors.New("ledger.path: name the folder of the log's key")
	}
	return cfg, err
}
