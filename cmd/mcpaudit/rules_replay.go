package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/detect/rules"
	findingwire "github.com/mcpaudit/mcpaudit/detect/wire"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	"github.com/mcpaudit/mcpaudit/internal/app"
)

func rulesReplay(s *surroundings) *cobra.Command {
	var input string
	var only []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "replay", Short: "Run rules over history or a file of events", Args: cobra.NoArgs,
		Long: `Run rules over stored events, or over a file of them (--input) as 'mcpaudit export' and
'mcpaudit redact' write it, one JSON object a line. A replay says what the service says
of the same events, with the same ids.

With --input it needs no service and no store. Without, it opens the store itself; the
store of a running service is its own, so replay what it exports.

Only findings that opened since --since are printed; what detectors have to know from
before, 35 days, is read as well.

Findings are printed as a table on a terminal, and otherwise as one JSON object a
line, each once, as it was in the end.`,
		Example: `  mcpaudit export | mcpaudit rules replay --input - --rules our-rules.yaml --only billing-deletes
  mcpaudit rules replay --input events.jsonl > findings.jsonl
  mcpaudit rules replay --since 7d --store.path ./audit-data`,
	}
	files := rulesFlag(cmd, s)
	cmd.Flags().StringVar(&input, "input", "", "file of events; - is standard input")
	cmd.Flags().StringSliceVar(&only, "only", nil, "run only this rule; may be repeated")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, also on a terminal")
	when := periodFlags(cmd)
	st := s.settings(cmd, "store.path", "store.dsn", "store.engine", "detect.history")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		from, to, err := when.bounds(s.now())
		if err != nil {
			return err
		}
		set, err := app.ReadRules(*files)
		if err != nil {
			return err
		}
		if len(only) > 0 {
			var some rules.Set
			for _, name := range only {
				r, ok := set.Find(name)
				if !ok {
					return noRule(name, set)
				}
				some = append(some, r)
			}
			set = some
		}
		if input == "" {
			cfg, err := st.load()
			if err != nil {
				return err
			}
			return s.replayStore(cmd.Context(), &cfg, set, from, to, s.newFindings(asJSON))
		}
		in := s.stdin
		if input != "-" {
			f, err := os.Open(input)
			if err != nil {
				return fmt.Errorf("replay: %w", err)
			}
			defer f.Close()
			in = f
		}
		out := s.newFindings(asJSON)
		tell := func(c detect.Change) {
			if c.OpenedAt >= from.UnixMicro() && (to.IsZero() || c.OpenedAt < to.UnixMicro()) {
				out.tell(c)
			}
		}
		if err := replayLines(cmd.Context(), in, set, tell); err != nil {
			return errors.Join(err, out.close())
		}
		return out.close()
	}
	return cmd
}

// replayStore replays what a store has.
func (s *surroundings) replayStore(ctx context.Context, cfg *app.Config, set rules.Set, from, to time.Time, out *printedFindings) error {
	if cfg.Store.DSN == "" {
		if _, missing := os.Stat(cfg.Store.Path); missing != nil {
			return fmt.Errorf("replay: there is no store at %s; name one with --store.path, or a file of events with --input", cfg.Store.Path)
		}
	}
	db, err := app.OpenStore(ctx, *cfg, []string{s.engineDir()})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	defer db.Close()
	if to.IsZero() {
		to = s.now()
	}
	if from.IsZero() {
		from = time.UnixMicro(0)
	}
	_, err = live.Replay(ctx, db, live.ReplayConfig{Rules: set.Rules(), From: from, To: to, Warm: cfg.Detect.History, Seed: newSeed(), Now: s.now, Log: s.logger(cfg.Logging)}, out.tell)
	return errors.Join(err, out.close())
}

// newSeed is one that nobody else knows.
func newSeed() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// printedFindings prints each finding once, as it was in the end.
type printedFindings struct {
	s    *surroundings
	open map[string]detect.Finding
	json *bufio.Writer // nil for a table
	t    *table
	err  error
}

func (s *surroundings) newFindings(asJSON bool) *printedFindings {
	f := &printedFindings{s: s, open: map[string]detect.Finding{}}
	if out := s.screen(s.stdout); asJSON || !out.terminal {
		f.json = bufio.NewWriter(s.stdout)
	} else {
		f.t = newTable(out, findingColumns(s)...)
	}
	return f
}

func findingColumns(s *surroundings) []column {
	return []column{{head: "SEVERITY", most: 8}, {head: s.clock().head("STARTED"), most: 24}, {head: "EVENTS", most: 10, right: true}, {head: "RULE", most: 24}, {head: "REASON", most: 300, rest: true}}
}

func (f *printedFindings) tell(c detect.Change) {
	if c.State != detect.Resolved {
		f.open[c.ID] = c.Finding
		return
	}
	delete(f.open, c.ID)
	f.print(&c.Finding)
}

func (f *printedFindings) print(x *detect.Finding) {
	if f.err != nil {
		return
	}
	if f.json == nil {
		f.err = f.t.add(cell{x.Severity.String(), severityLook(x.Severity)}, cell{text: f.s.clock().second(time.UnixMicro(x.StartedAt))},
			cell{text: fmt.Sprint(x.Events)}, cell{text: x.Rule}, cell{text: x.Reason})
		return
	}
	f.err = writeJSON(f.json, findingwire.ToProto(x))
}

// close prints what is open still.
func (f *printedFindings) close() error {
	rest := make([]detect.Finding, 0, len(f.open))
	for _, x := range f.open {
		rest = append(rest, x)
	}
	slices.SortFunc(rest, func(a, b detect.Finding) int {
		return cmp.Or(cmp.Compare(a.StartedAt, b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	for i := range rest {
		f.print(&rest[i])
	}
	if f.json != nil {
		return errors.Join(f.err, f.json.Flush())
	}
	return errors.Join(f.err, f.t.flush())
}

// replayLines runs rules over lines of events. Reading JSON costs more than all
// detectors, so it is done side by side, in chunks that stay in order.
func replayLines(ctx context.Context, in io.Reader, set rules.Set, tell func(detect.Change)) error {
	const atOnce, atOnceBytes = 256, 1 << 20
	type line struct {
		n    int
		text []byte
	}
	type chunk struct {
		lines []line
		done  chan struct{}
		out   []*event.Event
		err   error
	}
	g, ctx := errgroup.WithContext(ctx)
	work, order := make(chan *chunk), make(chan *chunk, 2*runtime.GOMAXPROCS(0))
	// Reading is no part of the group: nothing ends a read that waits for somebody to
	// write, and whoever presses Ctrl-C, or has a mistake in line 1, must not wait too.
	var unread error // set before order is closed
	read := func() error {
		reader := newLineReader(in, maxRawLine)
		for eof := false; !eof; {
			c, size := &chunk{done: make(chan struct{})}, 0
			for len(c.lines) < atOnce && size < atOnceBytes && !eof {
				text, err := reader.next()
				switch {
				case errors.Is(err, io.EOF):
					eof = true
				case err != nil:
					return fmt.Errorf("replay line %d: %w", reader.n, err)
				case len(bytes.TrimSpace(text)) > 0:
					c.lines = append(c.lines, line{reader.n, bytes.Clone(text)})
					size += len(text)
				}
			}
			select {
			case order <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case work <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	go func() {
		unread = read()
		close(work)
		close(order)
	}()
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case c, more := <-work:
					if !more {
						return nil
					}
					for _, l := range c.lines {
						e := &event.Event{}
						if c.err = readReplayed(l.text, e); c.err != nil {
							c.err = fmt.Errorf("replay line %d: %w", l.n, c.err)
							break
						}
						c.out = append(c.out, e)
					}
					c.lines = nil
					close(c.done)
				}
			}
		})
	}
	engine := detect.New(set.Rules(), newSeed(), tell)
	g.Go(func() error {
		for {
			var c *chunk
			var more bool
			select {
			case <-ctx.Done():
				return ctx.Err()
			case c, more = <-order:
			}
			if !more {
				return unread
			}
			select {
			case <-c.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			for _, e := range c.out {
				engine.Add(e)
			}
			if c.err != nil {
				return c.err
			}
		}
	})
	if err := g.Wait(); err != nil {
		return err
	}
	engine.Flush()
	engine.TellOpen()
	return nil
}

// readReplayed reads one event. Raw calls are refused: what they hold is not for
// findings.
func readReplayed(line []byte, e *event.Event) error {
	if err := wire.UnmarshalJSON(line, e); err != nil {
		// Asked only now: a tool may have such a name, and its calls are events.
		if bytes.Contains(line, []byte(`"raw_arguments"`)) || bytes.Contains(line, []byte(`"raw_result"`)) {
			return errors.New("it is a raw call; pass it through 'mcpaudit redact' first")
		}
		return fmt.Errorf("not an event: %w", nameOnly(err))
	}
	return e.Check()
}
