package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/anchor"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/internal/app"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/export"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

func verifyCommand(s *surroundings) *cobra.Command {
	v := &verification{s: s}
	var since, until string
	cmd := &cobra.Command{
		Use: "verify [BUNDLE]", Short: "Prove that nothing was changed, removed, added or cut off", Args: cobra.MaximumNArgs(1),
		Long: `Compute the log anew from the stored events and compare it with what was signed:
every event is there, once, unchanged and in its place, and no other. What is not
right is named, and the exit status is 1.

  mcpaudit verify              asks the service; the store itself when none answers
  mcpaudit verify DIR          an exported bundle, offline
  mcpaudit verify --event ID   the proof of one event

Trust is in the verifier key (--key), best from another way than the store. Without
it, the keys of your ledger folder are taken, and else those that the store itself
names: then whoever could replace the store's keys is trusted too.

A log whose end was cut off looks like a younger one. What contradicts it are
checkpoints that others have kept: receipts of emitters and wrapped servers
(--receipt), anchors (--anchor), and the service's own memory in your ledger folder,
which is always compared.

Through the service it wants a key of the role auditor for every tenant. With --watch,
what is wrong is written into the log, for which the key needs the role emitter too:

  mcpaudit access create watch --tenant '*' --role auditor --role emitter --emitter 'mcpaudit-verify-*'`,
		Example: `  mcpaudit verify
  mcpaudit verify audit-2026 --key auditor-keys.txt
  mcpaudit verify --since 24h --json
  mcpaudit verify --receipt ~/.local/state/mcpaudit/spool/files/0/receipts.txt
  mcpaudit verify --anchor kafka://broker:9092/mcpaudit-checkpoints
  mcpaudit verify --watch --every 15m`,
	}
	reach := s.serviceFlag(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&v.keys, "key", nil, "verifier key to trust, or a file of them; may be repeated")
	f.StringArrayVar(&v.kept, "receipt", nil, "file of receipts that an emitter has kept; may be repeated")
	f.StringArrayVar(&v.anchors, "anchor", nil, "anchor to compare with: a file, an http(s) URL or kafka://HOST:PORT/TOPIC; may be repeated")
	f.StringVar(&v.event, "event", "", "prove one event, by its id")
	f.StringVar(&since, "since", "", "hash only events that were sealed since then: a duration back from now, a day or a time")
	f.StringVar(&until, "until", "", "hash only events that were sealed before then")
	f.BoolVar(&v.direct, "direct", false, "read the store itself, not through the service; the store of the engine in process belongs to the service while that runs")
	f.BoolVar(&v.asJSON, "json", false, "one JSON object a line: problems, then the summary")
	f.BoolVar(&v.watch, "watch", false, "verify again and again; what is wrong is also an event of kind finding")
	f.DurationVar(&v.every, "every", 10*time.Minute, "pause between verifications with --watch")
	completeWords(cmd, "since", "1h", "24h", "7d", "30d")
	st := s.settings(cmd, "store.path", "store.dsn", "store.engine", "ledger.path")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if v.cfg, err = st.load(); err != nil {
			return err
		}
		p := period{since, until}
		if v.from, v.to, err = p.bounds(s.now()); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		v.reach, v.remote = *reach, cmd.Flags().Changed("service") || s.env("MCPAUDIT_SERVICE") != ""
		given := func(names ...string) string {
			for _, n := range names {
				if cmd.Flags().Changed(n) {
					return "--" + n
				}
			}
			return ""
		}
		if len(args) == 1 {
			if name := given("receipt", "anchor", "event", "since", "until", "direct", "watch", "every", "service"); name != "" {
				return fmt.Errorf("verify: a bundle is verified as it is; leave out %s", name)
			}
			return v.bundle(args[0])
		}
		if v.event != "" {
			if name := given("receipt", "anchor", "since", "until", "direct", "watch"); name != "" {
				return fmt.Errorf("verify: --event proves one event through the service; leave out %s", name)
			}
		}
		if err := v.trust(); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if v.event != "" {
			return v.one(cmd.Context())
		}
		if v.watch {
			return v.again(cmd.Context())
		}
		return v.once(cmd.Context())
	}
	return cmd
}

// verification is what a command verifies, against what.
type verification struct {
	s             *surroundings
	cfg           app.Config
	reach         client.Config
	remote        bool // a service was named: what lies in the own ledger folder is not its
	keys          []string
	kept, anchors []string
	event         string
	from, to      time.Time
	direct        bool
	asJSON        bool
	watch         bool
	every         time.Duration

	trusted []string
	found   []*pb.VerifyProblem
}

// trust makes the keys of --key and, without it, of the ledger folder.
func (v *verification) trust() error {
	for _, k := range v.keys {
		if _, err := ledger.TrustKeys([]string{k}, nil); err == nil {
			v.trusted = append(v.trusted, k)
			continue
		}
		keys, err := app.VerifierKeys(k)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--key %s is neither a verifier key (mcpaudit/<log>+<hash>+<key>) nor a file of them", printable(k, 100))
		}
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			return fmt.Errorf("--key %s has no verifier key in it", printable(k, 100))
		}
		v.trusted = append(v.trusted, keys...)
	}
	if len(v.keys) > 0 || v.remote {
		return nil
	}
	keys, err := app.VerifierKeys(v.cfg.VerifierFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	v.trusted = keys
	return err
}

// checkpoints are those that were kept elsewhere.
func (v *verification) checkpoints(ctx context.Context) ([]string, error) {
	places := append(append([]string{}, v.kept...), v.anchors...)
	if !v.remote {
		own, err := v.cfg.Memories()
		if err != nil {
			return nil, fmt.Errorf("find the service's memory: %w", err)
		}
		places = append(places, own...)
	}
	seen := map[string]bool{}
	var all []string
	for _, p := range places {
		if err := anchor.Each(ctx, p, func(signed string) error {
			if !seen[signed] {
				seen[signed] = true
				all = append(all, signed)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// once verifies and reports.
func (v *verification) once(ctx context.Context) error {
	v.found = nil
	kept, err := v.checkpoints(ctx)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	start := v.s.now()
	progress := newStatusLine(v.s, "verify", v.asJSON)
	summary, err := v.store(ctx, kept, progress)
	progress.clear()
	if err != nil {
		return err
	}
	if err := v.print(summary, v.s.now().Sub(start)); err != nil {
		return err
	}
	if summary.GetProblems() > 0 {
		return exitStatus(1)
	}
	return nil
}

// store verifies through the service, or itself when there is none.
func (v *verification) store(ctx context.Context, kept []string, progress *statusLine) (*pb.VerifySummary, error) {
	r := &found{v: v, progress: progress}
	if !v.direct {
		summary, err := v.through(ctx, kept, r)
		if err == nil || v.remote || !errors.Is(err, errNoService) {
			return summary, err
		}
		if v.cfg.Store.DSN == "" {
			if _, missing := os.Stat(v.cfg.Store.Path); missing != nil {
				return nil, fmt.Errorf("verify: no service answers at %s, and there is no store at %s; start 'mcpaudit serve', or name a store with --store.path", v.reach.Address, v.cfg.Store.Path)
			}
		}
		fmt.Fprintf(v.s.stderr, "mcpaudit: verify: no service answers at %s; reading the store itself\n", v.reach.Address)
	}
	db, err := app.OpenStore(ctx, v.cfg, []string{v.s.engineDir()})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	defer db.Close()
	return verify.Run(ctx, db, verify.Options{Keys: v.trusted, Checkpoints: kept, From: v.from, To: v.to}, r)
}

// errNoService means that nobody answers at the service's address.
var errNoService = errors.New("no service answers")

// through asks the service. The error is the connection's own when none answers.
func (v *verification) through(ctx context.Context, kept []string, r *found) (*pb.VerifySummary, error) {
	c, err := dial("verify", v.reach, "")
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	first := kept[:min(len(kept), checkpointsAtOnce)]
	req := &pb.VerifyStoreRequest{Checkpoints: first, VerifierKeys: v.trusted}
	if !v.from.IsZero() {
		req.StartTime = timestamppb.New(v.from)
	}
	if !v.to.IsZero() {
		req.EndTime = timestamppb.New(v.to)
	}
	sum, err := v.ask(ctx, c, req, r)
	// More checkpoints than a request has room for: the log is followed again for
	// them, and no event is hashed again.
	for rest := kept[len(first):]; err == nil && len(rest) > 0; {
		first = rest[:min(len(rest), checkpointsAtOnce)]
		rest = rest[len(first):]
		never := timestamppb.New(time.Unix(0, 0))
		var more *pb.VerifySummary
		if more, err = v.ask(ctx, c, &pb.VerifyStoreRequest{Checkpoints: first, VerifierKeys: v.trusted, StartTime: never, EndTime: never}, r); err == nil {
			sum.Checkpoints += more.GetCheckpoints()
			sum.Problems += more.GetProblems()
		}
	}
	return sum, err
}

// checkpointsAtOnce is how many checkpoints, of some 200 bytes, a request has room
// for.
const checkpointsAtOnce = 10_000

// ask has the service verify once.
func (v *verification) ask(ctx context.Context, c *service, req *pb.VerifyStoreRequest, r *found) (*pb.VerifySummary, error) {
	stream, err := pb.NewLedgerServiceClient(c.conn).VerifyStore(ctx, req)
	for {
		var resp *pb.VerifyStoreResponse
		if err == nil {
			resp, err = stream.Recv()
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("verify: the service ended without a summary; verify again")
		case err != nil && unreachable(err) && !v.remote:
			return nil, errNoService
		case err != nil:
			return nil, c.explain(err)
		}
		switch step := resp.GetStep().(type) {
		case *pb.VerifyStoreResponse_Progress:
			err = r.Progress(step.Progress.GetEvents(), step.Progress.GetEventsTotal())
		case *pb.VerifyStoreResponse_Problem:
			err = r.Problem(step.Problem)
		case *pb.VerifyStoreResponse_Summary:
			return step.Summary, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// found hears what a verification finds.
type found struct {
	v        *verification
	progress *statusLine
}

func (f *found) Problem(p *pb.VerifyProblem) error {
	f.progress.clear()
	f.v.found = append(f.v.found, p)
	if f.v.asJSON {
		return writeJSON(f.v.s.stdout, p)
	}
	code := strings.ToLower(strings.TrimPrefix(p.GetCode().String(), "CODE_"))
	where := "log " + p.GetLogId()
	if p.GetEventId() != "" {
		where += ", event " + p.GetEventId()
	}
	out := f.v.s.screen(f.v.s.stdout)
	return writeLine(out, out.paint(alarm, strings.ReplaceAll(code, "_", " ")), ": ", printable(p.GetMessage(), 1000), " (", printable(where, 400), ")")
}

func (f *found) Progress(events, total uint64) error {
	f.progress.at(events, total)
	return nil
}

func (v *verification) print(sum *pb.VerifySummary, took time.Duration) error {
	if v.asJSON {
		return writeJSON(v.s.stdout, sum)
	}
	out := v.s.screen(v.s.stdout)
	lines := []string{fmt.Sprintf("%s hashed and %s of %s followed in %s", count(sum.GetEvents(), "event"), entries(sum.GetEntries()), count(uint64(sum.GetLogs()), "log"), took.Round(time.Millisecond))}
	if n := sum.GetDropped(); n > 0 {
		lines = append(lines, fmt.Sprintf("%s were dropped by retention, lawfully", count(n, "event")))
	}
	if n := sum.GetCheckpoints(); n > 0 {
		lines = append(lines, fmt.Sprintf("the log agrees with %s kept elsewhere", count(n, "checkpoint")))
	}
	for _, signed := range sum.GetNewest() {
		if c, err := ledger.PeekCheckpoint(signed); err == nil {
			lines = append(lines, fmt.Sprintf("proven up to entry %d of log %s, root %s", c.Size, c.LogID, c.Root))
		}
	}
	switch {
	case sum.GetProblems() > 0:
		lines = append(lines, out.paint(alarm, fmt.Sprintf("NOT VERIFIED: %s", count(sum.GetProblems(), "problem"))))
	default:
		lines = append(lines, out.paint(green, "verified")+v.caveats("the store"))
	}
	return writeLine(out, strings.Join(lines, "\n"))
}

// caveats are what a good result does not say.
func (v *verification) caveats(whose string) string {
	text := ""
	if !v.from.IsZero() || !v.to.IsZero() {
		text = ", of the events only those that were sealed"
		if !v.from.IsZero() {
			text += " from " + v.from.UTC().Format(time.RFC3339) + " on"
		}
		if !v.to.IsZero() {
			text += " before " + v.to.UTC().Format(time.RFC3339)
		}
	}
	if len(v.trusted) == 0 {
		text += ", with the keys that " + whose + " itself names; --key says which to trust"
	}
	return text
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// one proves one event.
func (v *verification) one(ctx context.Context) error {
	c, err := dial("verify event", v.reach, "")
	if err != nil {
		return err
	}
	defer c.conn.Close()
	p, err := pb.NewLedgerServiceClient(c.conn).GetEventProof(ctx, &pb.GetEventProofRequest{EventId: v.event})
	if err != nil {
		return c.explain(err)
	}
	e, at, err := verify.Event(p, v.trusted)
	if err == nil && e.EventID.String() != strings.ToLower(v.event) {
		err = fmt.Errorf("the service proved event %s instead", e.EventID)
	}
	if err != nil {
		return fmt.Errorf("verify event %s: %w", printable(v.event, 60), err)
	}
	if v.asJSON {
		return writeJSON(v.s.stdout, p)
	}
	out := v.s.screen(v.s.stdout)
	return writeLine(out, fmt.Sprintf("event %s is event %d of batch %d, which is in log %s of %d entries, root %s\n%s", e.EventID, e.Leaf, e.Batch, at.LogID, at.Size, at.Root, out.paint(green, "verified")+v.caveats("the service")))
}

// bundle verifies an export, offline.
func (v *verification) bundle(dir string) error {
	v.remote = true // it may come from anywhere: the own ledger folder says nothing of it
	if err := v.trust(); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("verify: %s is not a folder; a bundle is what 'mcpaudit export --bundle' made", dir)
	}
	line := newStatusLine(v.s, "verify", v.asJSON)
	report, err := export.Verify(os.DirFS(dir), v.trusted, func(events uint64) { line.at(events, 0) })
	line.clear()
	out := v.s.screen(v.s.stdout)
	if v.asJSON {
		return v.bundleJSON(dir, report, err)
	}
	if err != nil {
		var bad *export.BundleError
		if !errors.As(err, &bad) {
			return fmt.Errorf("verify %s: %w", dir, err)
		}
		if err := writeLine(out, out.paint(alarm, "NOT VERIFIED"), ": ", printable(err.Error(), 2000)); err != nil {
			return err
		}
		return exitStatus(1)
	}
	for _, sentence := range report.Proven {
		if err := writeLine(out, printable(sentence, 4000)); err != nil {
			return err
		}
	}
	return writeLine(out, out.paint(green, "verified"), v.caveats("the bundle"))
}

// bundleJSON is what became of a bundle as one JSON object.
func (v *verification) bundleJSON(dir string, report *export.Report, wrong error) error {
	answer := struct {
		Bundle   string   `json:"bundle"`
		Verified bool     `json:"verified"`
		Problem  string   `json:"problem,omitempty"`
		SignedBy string   `json:"signed_by,omitempty"`
		OwnKeys  bool     `json:"own_keys,omitempty"`
		Proven   []string `json:"proven,omitempty"`
	}{Bundle: dir, Verified: wrong == nil}
	if wrong != nil {
		answer.Problem = wrong.Error()
	} else {
		answer.SignedBy, answer.OwnKeys, answer.Proven = report.SignedBy, report.OwnKeys, report.Proven
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("verify %s: %w", dir, err)
	}
	if err := writeLine(v.s.stdout, string(visible(text))); err != nil || wrong == nil {
		return err
	}
	return exitStatus(1)
}
