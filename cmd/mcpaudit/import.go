package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/semaphore"

	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/profile"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func importCommand(s *surroundings) *cobra.Command {
	im := &importer{s: s}
	var keyFile, profileFile string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "import [FILE...|-]", Short: "Store events or raw calls from files", Args: cobra.ArbitraryArgs,
		Long: `Store what files hold, one JSON object a line: events, as 'mcpaudit events list
--json' writes them, or raw calls, as 'mcpaudit redact' reads them. Raw calls are
redacted here, with the key of --key-file. Without a file, or with -, it reads
standard input.

An import that was stopped, by whatever, is run again with the same command: what
is stored already is not stored twice. Events that carry emitter_id and
emitter_seq are known by these. The others get them: the emitter's id is made of
--emitter, the first 4 KiB of the file and the key if there is one, and the number
is that of the line, not counting blank lines and those that have numbers. So a
file may grow at its end; one that is changed at its beginning is another file.

A line that can't be taken is reported with its number and the reason. The others
are stored, and the exit status is 1. Put such lines right in a file of their own.`,
		Example: `  mcpaudit import events.jsonl
  mcpaudit import --key-file redact.key calls-2026-10.jsonl calls-2026-11.jsonl
  zcat old.jsonl.gz | mcpaudit import --emitter archive -`,
	}
	reach := s.serviceFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&keyFile, "key-file", s.env("MCPAUDIT_REDACT_KEY_FILE"), "file with the key that raw calls are redacted with, 64 hex digits ($MCPAUDIT_REDACT_KEY_FILE)")
	f.StringVar(&profileFile, "profile", s.env("MCPAUDIT_REDACT_PROFILE"), "file that says what else of raw calls is redacted; see 'mcpaudit redact --help' ($MCPAUDIT_REDACT_PROFILE)")
	f.StringVar(&im.name, "emitter", "import", "what the ids of emitters that are made begin with")
	f.BoolVar(&im.strict, "strict", false, "stop at the first line that can't be taken; those before it are stored")
	f.DurationVar(&im.patience, "patience", 5*time.Minute, "how long to try again when the service takes nothing")
	f.BoolVar(&asJSON, "json", false, "say what was done as one JSON object")
	mustRegister(cmd.MarkFlagFilename("key-file"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := im.checkName(); err != nil {
			return err
		}
		if keyFile != "" {
			key, err := keyfile.Read(keyFile)
			if err != nil {
				return fmt.Errorf("import: %w", err)
			}
			p, err := profile.Read(profileFile)
			if err != nil {
				return fmt.Errorf("import: %w", err)
			}
			if im.redact, err = redact.New(p, key); err != nil {
				return fmt.Errorf("import: %w", err)
			}
			im.key = key
		}
		c, err := dial("import", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		im.service, im.ingest = c, pb.NewIngestServiceClient(c.conn)
		if len(args) == 0 {
			args = []string{"-"}
		}
		files, err := s.openAll(args)
		if err != nil {
			return err
		}
		defer files.close()
		im.progress = newProgress(s, files.size)
		err = im.run(cmd.Context(), files)
		return errors.Join(err, im.report(asJSON, err))
	}
	return cmd
}

// importer reads lines, makes events of them and has them stored. One goroutine
// reads, the caller of run sends; between them at most itemBytes of events wait.
type importer struct {
	*service
	s        *surroundings
	ingest   pb.IngestServiceClient
	redact   *redact.Redactor // nil without a key
	key      []byte
	name     string // begins the ids of emitters that are made
	strict   bool
	patience time.Duration
	progress *progress
	reached  bool // the service has answered; the sender's
}

func (im *importer) checkName() error {
	if im.name == "" || len(im.name) > 128 || im.name != printable(im.name, 128) {
		return fmt.Errorf("import: --emitter is %q; name it with 1 to 128 bytes that show", im.name)
	}
	return nil
}

// errStopped ends an import at its first bad line, which has been reported.
var errStopped = errors.New("stopped at the first line that can't be taken")

const (
	itemBytes = 8 << 20 // events that wait for the sender, by size
	itemQueue = 2 * batchEvents
)

// run imports files. Its error is what ended it early.
func (im *importer) run(ctx context.Context, files *openFiles) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	items := make(chan item, itemQueue)
	room := semaphore.NewWeighted(itemBytes)
	var readErr error // set before items is closed
	// The reader may hang in a read of standard input; the command doesn't wait for
	// it then, and the process ends with it.
	go func() {
		defer close(items)
		for _, f := range files.all {
			if readErr = im.read(ctx, f, room, items); readErr != nil {
				return
			}
		}
	}()
	sendErr := im.send(ctx, items, room)
	if sendErr != nil {
		return sendErr
	}
	return readErr // items is closed: the sender returns without an error only then
}

// report says at the end what was done, and what to do next.
func (im *importer) report(asJSON bool, ended error) error {
	n := im.progress.finish()
	if ended != nil && !im.reached {
		return nil // nothing was done
	}
	if asJSON {
		line, err := json.Marshal(n)
		if err != nil {
			return fmt.Errorf("print as JSON: %w", err)
		}
		return errors.Join(writeLine(im.s.stdout, string(line)), n.status(ended))
	}
	return errors.Join(writeLine(im.s.stdout, n.String()), n.status(ended))
}

// tally is what became of lines. Blank ones are not counted.
type tally struct {
	Lines    uint64 `json:"lines"`
	Stored   uint64 `json:"stored"`
	Before   uint64 `json:"stored_before"`
	NotTaken uint64 `json:"not_taken"`
}

func (n tally) String() string {
	text := count(n.Lines, "line") + ": " + fmt.Sprint(n.Stored) + " stored"
	if n.Before > 0 {
		text += fmt.Sprintf(", %d stored before", n.Before)
	}
	if n.NotTaken > 0 {
		text += fmt.Sprintf(", %d not taken", n.NotTaken)
	}
	return text
}

// status is the exit status of an import that ended by itself: each line that
// was not taken has been reported.
func (n tally) status(ended error) error {
	if ended == nil && n.NotTaken > 0 {
		return exitStatus(1)
	}
	return nil
}

// openFiles are an import's files. All are open before the first is read: a
// misspelt name is found at once.
type openFiles struct {
	all  []*source
	size int64 // of all together; 0 when that is not known
}

// source is one file.
type source struct {
	name string
	io.Reader
	file *os.File // nil for standard input
}

func (s *surroundings) openAll(names []string) (*openFiles, error) {
	files := &openFiles{}
	known := true
	for _, name := range names {
		if name == "-" {
			files.all = append(files.all, &source{name: "standard input", Reader: s.stdin})
			known = false
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			files.close()
			return nil, fmt.Errorf("import: %w", err)
		}
		files.all = append(files.all, &source{name: name, Reader: f, file: f})
		info, err := f.Stat()
		if err == nil && info.IsDir() {
			err = fmt.Errorf("%s is a folder; name the files in it", name)
		}
		if err != nil {
			files.close()
			return nil, fmt.Errorf("import: %w", err)
		}
		known = known && info.Mode().IsRegular()
		files.size += info.Size()
	}
	if !known {
		files.size = 0
	}
	return files, nil
}

func (f *openFiles) close() {
	for _, one := range f.all {
		if one.file != nil {
			one.file.Close()
		}
	}
}
