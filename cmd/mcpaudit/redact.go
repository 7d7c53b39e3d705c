package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/profile"
	"github.com/mcpaudit/mcpaudit/ingest/protocol"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func redactCommand(s *surroundings) *cobra.Command {
	var keyFile, profileFile, lookup string
	cmd := &cobra.Command{
		Use: "redact", Short: "Turn raw calls into redacted events, or find a pseudonym", Args: cobra.NoArgs,
		Long: `Read raw calls from standard input, one JSON object a line: an event that may have
raw_arguments and raw_result (any JSON). Write events: redacted arguments,
digests, shape, signals and the redaction report. Nothing raw is written. Ids, time,
kind and outcome that a call lacks are made.

A profile adds to the built-in rules; names are compared without case and
punctuation, tools are SERVER/TOOL or patterns of them, and entries of their lists
are names at any depth or paths such as $.user.note:

  key_names: [customer_no]          # values of these are replaced whole
  allow_keys: [token_count]         # these are kept, though a rule would not
  tools:
    "shop/*": {drop: [note], digest: [order_id], keep: [$.user.name]}
    payments/refund: {drop_all: true}

With --lookup, print the pseudonyms that a value has under the key, one for each
class, to search stored events for.`,
		Example: `  mcpaudit redact --key-file redact.key < calls.jsonl > events.jsonl
  echo '{"method":"tools/call","raw_arguments":{"password":"hunter2"}}' | mcpaudit redact
  mcpaudit redact --key-file redact.key --lookup alice@example.com`,
	}
	cmd.Flags().StringVar(&keyFile, "key-file", s.env("MCPAUDIT_REDACT_KEY_FILE"), "file with the redaction key, 64 hex digits ($MCPAUDIT_REDACT_KEY_FILE)")
	cmd.Flags().StringVar(&profileFile, "profile", s.env("MCPAUDIT_REDACT_PROFILE"), "file that says what else is redacted ($MCPAUDIT_REDACT_PROFILE)")
	cmd.Flags().StringVar(&lookup, "lookup", "", "a value whose pseudonyms are wanted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var key []byte
		var err error
		switch {
		case keyFile != "":
			key, err = keyfile.Read(keyFile)
		case lookup != "":
			err = errors.New("look up a pseudonym: name the key that made it, with --key-file")
		default:
			key = keyfile.New()
			fmt.Fprintln(s.stderr, "mcpaudit: no --key-file, so this run has a key of its own: its digests and pseudonyms match no other run's")
		}
		if err != nil {
			return err
		}
		p, err := profile.Read(profileFile)
		if err != nil {
			return err
		}
		r, err := redact.New(p, key)
		if err != nil {
			return err
		}
		if lookup != "" {
			for _, class := range r.Classes() {
				if err := writeLine(s.stdout, r.Pseudonym(class, lookup)); err != nil {
					return err
				}
			}
			return nil
		}
		return redactLines(s.stdin, s.stdout, r, s.now)
	}
	return cmd
}

// maxRawLine bounds one raw call.
const maxRawLine = 64 << 20

func redactLines(in io.Reader, out io.Writer, r *redact.Redactor, now func() time.Time) error {
	lines := newLineReader(in, maxRawLine)
	w := bufio.NewWriter(out)
	numbers := numbering{base: "redact"}
	err := func() error {
		for {
			line, err := lines.next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil && len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			if err == nil {
				line, err = completeCall(line, &numbers, now)
			}
			if err == nil {
				line, err = redactLine(line, r)
			}
			if err != nil {
				return fmt.Errorf("redact line %d: %w", lines.n, err)
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return err
			}
		}
	}()
	// What was redacted before an error is good, and is given.
	return errors.Join(err, w.Flush())
}

// completeCall gives a raw call what an event has to have: somebody who wants to
// see what would leave need not make it up.
func completeCall(line []byte, numbers *numbering, now func() time.Time) ([]byte, error) {
	var h head
	var call struct{ Method, Kind, Outcome string }
	if line = bytes.TrimSpace(line); line[0] != '{' || json.Unmarshal(line, &h) != nil || json.Unmarshal(line, &call) != nil {
		return nil, errors.New("not a JSON object")
	}
	var more []byte
	add := func(name, value string) { more = fmt.Appendf(more, "%q:%q,", name, value) }
	if h.OccurredAt == nil {
		at := now().UTC().Format(time.RFC3339Nano)
		add("occurred_at", at)
		h.OccurredAt = json.RawMessage(strconv.Quote(at))
	}
	if call.Kind == "" {
		add("kind", protocol.Kind(call.Method))
	}
	if call.Outcome == "" {
		add("outcome", "success")
	}
	if rest := bytes.TrimSpace(line[1:]); len(more) > 0 && len(rest) == 1 {
		more = more[:len(more)-1] // nothing follows
	}
	return h.complete(append(append([]byte("{"), more...), line[1:]...), numbers)
}

// redactLine makes an event of one raw call. Errors never quote the line.
func redactLine(line []byte, r *redact.Redactor) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, errors.New("not a JSON object")
	}
	arguments, result := fields["raw_arguments"], fields["raw_result"]
	delete(fields, "raw_arguments")
	delete(fields, "raw_result")
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, errors.New("not a JSON object")
	}
	var m pb.Event
	if err := protojson.Unmarshal(rest, &m); err != nil {
		return nil, fmt.Errorf("not an event: %w", nameOnly(err))
	}
	var e event.Event
	if err := wire.Sealed(&m, &e); err != nil {
		return nil, err
	}
	r.Apply(redact.Call{Server: e.Server, Method: e.Method, Target: e.Target,
		Arguments: arguments, Result: result, ErrorMessage: e.ErrorMessage}, &e)
	e.Clip()
	r.Again(&e) // the other texts of the event
	if err := e.Check(); err != nil {
		return nil, err
	}
	return wire.MarshalJSON(&e)
}

// nameOnly keeps the part of a protojson error that names a field: the rest may
// quote a value.
func nameOnly(err error) error {
	text := err.Error()
	if i := bytes.IndexByte([]byte(text), '('); i >= 0 {
		if j := bytes.IndexByte([]byte(text[i:]), ')'); j >= 0 {
			if k := bytes.Index([]byte(text), []byte("unknown field")); k >= 0 {
				return errors.New(text[k:])
			}
			return errors.New("a value of the wrong form " + text[i:i+j+1])
		}
	}
	return errors.New("a value of the wrong form")
}
