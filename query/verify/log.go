package verify

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// walk is the verification of one log: its entries in order, and in chunks of them
// the events.
type walk struct {
	*run
	id     string
	keys   *ledger.Keys
	chain  []string // the log's keys, each of which handed over to the next
	signer int      // which of them signs here
	tree   *ledger.Tree
	clock  int64            // when the entry before was sealed
	laws   map[uint16]*drop // what retention has dropped, by month
	kept   []keptCheckpoint // of this log, by size
	last   string           // the newest checkpoint whose signature is right
	ended  bool             // the numbers of the entries do not ascend by one any more
	asked  int              // how often the laws were read again
	wrong  map[act]bool     // drops that were reported
}

// act is an entry that does something to events.
type act struct {
	log   string
	batch uint64
}

// drop is a month of which retention has dropped events.
type drop struct {
	ledger.Drop
	entry  act
	proofs map[uint64]*ledger.BatchProof // of the batches of which a hold keeps something
}

// log verifies one log.
func (v *run) log(ctx context.Context, l store.LogInfo) error {
	w := &walk{run: v, id: l.ID, tree: ledger.NewTree(), wrong: map[act]bool{}}
	v.summary.Logs++
	if err := w.trust(ctx, l); err != nil {
		return err
	}
	if err := w.checkKept(); err != nil {
		return err
	}
	last, err := v.store.LastEntry(ctx, l.ID)
	if err != nil {
		return err
	}
	end := uint64(0)
	if last != nil {
		end = last.Entry.Batch
	}
	if err := w.readDrops(ctx, end); err != nil {
		return err
	}
	if err := w.entries(ctx, end); err != nil {
		return err
	}
	for _, c := range w.kept {
		if c.Size > w.tree.Size() {
			if err := w.contradiction(c, fmt.Sprintf("the log has %d", w.tree.Size())); err != nil {
				return err
			}
		}
	}
	if w.last != "" {
		v.summary.Newest = append(v.summary.Newest, w.last)
	}
	return w.beyond(ctx, end)
}

// trust finds the keys of the log: those that are trusted, and what they handed
// over to.
func (w *walk) trust(ctx context.Context, l store.LogInfo) error {
	rotations, err := w.store.Rotations(ctx, l.ID)
	if err != nil {
		return err
	}
	trusted := w.opt.Keys
	if len(trusted) == 0 {
		trusted = []string{l.VerifierKey}
	}
	if w.keys, err = ledger.TrustKeys(trusted, rotations); err != nil {
		if len(w.opt.Keys) > 0 {
			return err
		}
		w.keys, _ = ledger.TrustKeys(nil, nil)
		return w.problem(pb.VerifyProblem_CODE_SIGNATURE, l.ID, 0, "the store names no key for log %q that could be read", l.ID)
	}
	w.chain = []string{l.VerifierKey}
	if !w.keys.Logs()[l.ID] {
		return w.problem(pb.VerifyProblem_CODE_SIGNATURE, l.ID, 0, "none of the trusted keys is of log %q; if the log is yours, name its verifier key", l.ID)
	}
	return w.handOvers(l, rotations)
}

// handOvers follows the log's key to what it handed over to, and reports a trusted
// key of the log that it never came to: who has an earlier key could have written the
// log anew without the hand-over.
func (w *walk) handOvers(l store.LogInfo, rotations []string) error {
	for range rotations {
		next := ledger.NextKey(w.chain[len(w.chain)-1], rotations)
		if next == "" || slices.Contains(w.chain, next) {
			break
		}
		w.chain = append(w.chain, next)
	}
	for _, k := range w.opt.Keys {
		k = strings.TrimSpace(k)
		if of, err := ledger.TrustKeys([]string{k}, nil); err != nil || !of.Logs()[l.ID] || slices.Contains(w.chain, k) {
			continue
		}
		if err := w.problem(pb.VerifyProblem_CODE_SIGNATURE, l.ID, 0, "the trusted key %s never signed log %q: the log is another one, or one of before that key", k, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// open opens an entry's checkpoint with the key that signs there: the one that signed
// before it or a later one of the chain, never an earlier one.
func (w *walk) open(signed string) (ledger.Checkpoint, error) {
	for i, k := range w.chain[w.signer:] {
		if !w.keys.Has(k) {
			continue
		}
		one, err := ledger.TrustKeys([]string{k}, nil)
		if err != nil {
			return ledger.Checkpoint{}, err
		}
		c, err := ledger.OpenCheckpoint(signed, one)
		if !errors.Is(err, ledger.ErrSignature) {
			w.signer += i
			return c, err
		}
	}
	return ledger.Checkpoint{}, ledger.ErrSignature
}

// handOver is an entry that says which key comes next. It and what follows is signed
// by that one, or by a later one when several took over at once.
func (w *walk) handOver(e *ledger.Entry) bool {
	old, next, err := ledger.ParseRotation(e.Detail)
	at := slices.Index(w.chain, next)
	if err != nil || at < 1 || w.chain[at-1] != old {
		return false
	}
	w.signer = max(w.signer, at)
	return true
}

// checkKept checks who signed the checkpoints that were kept elsewhere.
func (w *walk) checkKept() error {
	for _, c := range w.run.kept[w.id] {
		if _, err := ledger.OpenCheckpoint(c.signed, w.keys); err != nil {
			if err := w.problem(pb.VerifyProblem_CODE_SIGNATURE, w.id, c.Size, "a checkpoint of %d entries that was kept elsewhere: %v", c.Size, ledger.ErrSignature); err != nil {
				return err
			}
			continue
		}
		w.kept = append(w.kept, c)
	}
	slices.SortFunc(w.kept, func(a, b keptCheckpoint) int {
		if a.Size < b.Size {
			return -1
		}
		if a.Size > b.Size {
			return 1
		}
		return 0
	})
	return nil
}

func (w *walk) contradiction(c keptCheckpoint, instead string) error {
	return w.problem(pb.VerifyProblem_CODE_CONTRADICTION, w.id, c.Size,
		"a checkpoint that was kept elsewhere says that the log had %d entries and root %v; %s: it was cut or rewritten", c.Size, c.Root, instead)
}

// readDrops reads what retention dropped. The entries are verified with all
// others; what they say of earlier batches is needed when those are.
//
// A drop is recorded before it is carried out, at once for the whole month. While
// all events are there that it speaks of, those that it drops and those that it
// keeps, it was not: then the drop before it says what is gone of the month, if
// there is one. In no other case may one be passed over, or who deletes what a hold
// keeps could call upon an older drop that kept less.
func (w *walk) readDrops(ctx context.Context, end uint64) error {
	drops, err := w.recordedDrops(ctx, end)
	if err != nil {
		return err
	}
	w.laws = map[uint16]*drop{}
	for _, d := range slices.Backward(drops) {
		if w.laws[d.Month] != nil {
			continue
		}
		stored, err := w.countBefore(ctx, d)
		if err != nil {
			return err
		}
		if stored == d.Events+d.Kept {
			continue
		}
		w.laws[d.Month] = d
		if d.Kept > 0 {
			if err := w.readProofs(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordedDrops are the lawful drops of events of this log, oldest first: those that
// it has itself and, when nobody writes it any more, those that other logs have. The
// entries of all logs are verified.
func (w *walk) recordedDrops(ctx context.Context, end uint64) ([]*drop, error) {
	rows, err := w.store.Query(ctx, limits, "SELECT log_id, batch, sealed_at, detail FROM ledger WHERE kind = {kind:String} AND (log_id != {id:String} OR batch <= {end:UInt64}) ORDER BY sealed_at, batch",
		store.Named("id", w.id), store.Named("kind", ledger.KindDrop), store.Named("end", end))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var drops []*drop
	for rows.Next() {
		var sealedAt time.Time
		var detail string
		d := &drop{proofs: map[uint64]*ledger.BatchProof{}}
		if err := rows.Scan(&d.entry.log, &d.entry.batch, &sealedAt, &detail); err != nil {
			return nil, err
		}
		if err := ledger.ParseDetail(detail, &d.Drop); err != nil {
			if d.entry.log == w.id { // said of each log once
				if err := w.unlawful(d, "entry %d: %v", d.entry.batch, err); err != nil {
					return nil, err
				}
			}
			continue
		}
		if cmp.Or(d.Log, d.entry.log) != w.id {
			continue
		}
		if int64(d.Month)*86400 > sealedAt.Unix() {
			if err := w.unlawful(d, "entry %d drops the events that expire in %s, before they did", d.entry.batch, monthName(d.Month)); err != nil {
				return nil, err
			}
			continue
		}
		drops = append(drops, d)
	}
	return drops, rows.Err()
}

// unlawful reports that something is wrong with a drop, once.
func (w *walk) unlawful(d *drop, format string, args ...any) error {
	if w.wrong[d.entry] {
		return nil
	}
	w.wrong[d.entry] = true
	return w.problem(pb.VerifyProblem_CODE_RETENTION, d.entry.log, d.entry.batch, format, args...)
}

// countBefore counts the stored events that a drop speaks of.
func (w *walk) countBefore(ctx context.Context, d *drop) (n uint64, err error) {
	rows, err := w.store.Query(ctx, limits, "SELECT count() FROM events WHERE log_id = {id:String} AND expires_month = toDate({month:UInt16}) AND batch < {before:UInt64}",
		store.Named("id", w.id), store.Named("month", d.Month), store.Named("before", d.Before))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			return 0, err
		}
	}
	return n, rows.Err()
}

// readDropsAgain reads what was dropped since the verification began.
func (w *walk) readDropsAgain(ctx context.Context) error {
	w.asked++
	last, err := w.store.LastEntry(ctx, w.id)
	if err != nil || last == nil {
		return err
	}
	return w.readDrops(ctx, last.Entry.Batch)
}

// readProofs reads what a drop has kept.
func (w *walk) readProofs(ctx context.Context, d *drop) error {
	rows, err := w.store.Query(ctx, limits, "SELECT proof FROM kept WHERE log_id = {id:String} AND run = {run:UInt64} ORDER BY batch",
		store.Named("id", w.id), store.Named("run", d.entry.batch))
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []byte
	events := uint64(0)
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		p, rest, err := ledger.ParseBatchProof([]byte(text))
		if err != nil || len(rest) > 0 {
			return w.unlawful(d, "what entry %d has kept for a hold can't be read", d.entry.batch)
		}
		all = append(all, text...)
		events += uint64(len(p.Positions))
		d.proofs[p.Entry.Batch] = p
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if digest := ledger.Leaf(all); hex.EncodeToString(digest[:]) != d.KeptDigest || events != d.Kept {
		return w.unlawful(d, "what entry %d has kept for a hold is not what it says", d.entry.batch)
	}
	return nil
}

// chunkEvents and chunkEntries bound what is verified at a time.
const (
	chunkEvents  = 250_000
	chunkEntries = 20_000
)

// entries verifies the entries up to end, and their events. The engine hashes the
// next chunk while this one is looked at.
func (w *walk) entries(ctx context.Context, end uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var under *chunk // being hashed
	next := &chunk{}
	turn := func() error {
		hashed := under
		under, next = next, &chunk{}
		w.hash(ctx, under)
		if hashed != nil {
			return w.settle(ctx, hashed)
		}
		return nil
	}
	err := w.store.Entries(ctx, w.id, 0, end, func(r store.Sealed) error {
		ok, err := w.entry(r)
		if err != nil || !ok {
			return err
		}
		if next.add(w, r); next.events >= chunkEvents || len(next.entries) >= chunkEntries {
			return turn()
		}
		return nil
	})
	for range 2 {
		if err == nil {
			err = turn()
		}
	}
	if err == nil && w.tree.Size() < end && !w.ended {
		err = w.problem(pb.VerifyProblem_CODE_ENTRY_MISSING, w.id, end, "entries behind %d are missing", w.tree.Size())
	}
	return err
}

// entry verifies one entry, and says whether its events can be verified.
func (w *walk) entry(r store.Sealed) (ok bool, err error) {
	e := r.Entry
	w.summary.Entries++
	if w.ended {
		return false, nil
	}
	switch want := w.tree.Size() + 1; {
	case e.Batch > want:
		w.ended = true // nothing behind it can be compared
		return false, w.problem(pb.VerifyProblem_CODE_ENTRY_MISSING, w.id, want, "entry %d is missing, the next one is %d; what comes behind can't be verified", want, e.Batch)
	case e.Batch < want:
		return false, w.problem(pb.VerifyProblem_CODE_ENTRY_ADDED, w.id, e.Batch, "there is another entry of number %d", e.Batch)
	}
	changed := func(what string, args ...any) error {
		return w.problem(pb.VerifyProblem_CODE_ENTRY_CHANGED, w.id, e.Batch, "entry %d: %s", e.Batch, fmt.Sprintf(what, args...))
	}
	nodes := w.tree.Append(e.Leaf())
	root := w.tree.Root()
	if e.Kind == ledger.KindKey && !w.handOver(e) {
		return false, changed("it hands over from a key that is not the log's")
	}
	claimed, err := w.open(r.Checkpoint)
	switch {
	case errors.Is(err, ledger.ErrSignature) && w.keys.Logs()[w.id]:
		err = w.problem(pb.VerifyProblem_CODE_SIGNATURE, w.id, e.Batch, "the checkpoint of entry %d is not signed by the key that signs there, or that is not trusted", e.Batch)
	case errors.Is(err, ledger.ErrSignature):
		err = nil // said for the whole log
	case err != nil:
		err = changed("its checkpoint can't be read")
	case claimed != (ledger.Checkpoint{LogID: w.id, Size: w.tree.Size(), Root: root}):
		w.ended = true
		err = changed("it, or one before it, is not what was signed; what comes behind can't be verified")
	case !slices.Equal(nodes, r.Nodes):
		err = changed("the nodes that are stored with it are not those of the log's tree")
	default:
		w.last = r.Checkpoint
	}
	if err != nil {
		return false, err
	}
	if e.Format != ledger.Format || e.LogID != w.id {
		return false, changed("it is of log %q and format %d", e.LogID, e.Format)
	}
	if e.SealedAt < w.clock {
		return false, changed("it is back-dated: it was sealed before the one before it")
	}
	w.clock = e.SealedAt
	for len(w.kept) > 0 && w.kept[0].Size <= w.tree.Size() {
		c := w.kept[0]
		w.kept = w.kept[1:]
		if c.Size == w.tree.Size() && c.Root != root || c.Size == 0 && c.Root != ledger.EmptyRoot {
			if err := w.contradiction(c, fmt.Sprintf("with so many entries its root is %v", root)); err != nil {
				return false, err
			}
			continue
		}
		w.summary.Checkpoints++
	}
	switch {
	case !e.HasEvents() && (e.Events != 0 || e.Root != ledger.EmptyRoot):
		return false, changed("it is of kind %q and has events", e.Kind)
	case e.Events > maxBatch:
		return false, changed("it says that it has %d events, which no batch has", e.Events)
	case e.HasEvents() && e.Schema != event.Schema:
		return false, fmt.Errorf("batch %d of log %q is of schema %d, this program knows %d: use a newer mcpaudit", e.Batch, w.id, e.Schema, event.Schema)
	}
	return true, nil
}

// maxBatch is more than any batch has: the service's own limit is 100,000.
const maxBatch = 1 << 20

// beyond looks for events that are in no batch of the ledger. Those of the newest
// batches are sealed in a moment: what was there at first is waited for, not what
// comes all the time.
func (w *walk) beyond(ctx context.Context, end uint64) error {
	if w.ended {
		return nil // said already, and every later batch would be said again
	}
	l, err := w.loose(ctx, end, math.MaxUint64)
	if err != nil || l.events == 0 {
		return err
	}
	upTo := l.last
	for wait := time.Duration(0); l.first > 0 && wait < w.opt.Patience; wait += time.Second {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		last, err := w.store.LastEntry(ctx, w.id)
		if err != nil {
			return err
		}
		if last != nil {
			end = max(end, last.Entry.Batch)
		}
		if l, err = w.loose(ctx, end, upTo); err != nil || l.events == 0 {
			return err
		}
	}
	return w.send(&pb.VerifyProblem{Code: pb.VerifyProblem_CODE_EVENT_ADDED, LogId: w.id, Batch: l.first, EventId: l.id, Message: fmt.Sprintf(
		"%d events are not sealed: they are in batches from %d on, and the log ends at %d. They were added by hand; or the service was killed while it stored them, then it seals them at its next start", l.events, l.first, end)})
}

// looseEvents are events that no entry seals.
type looseEvents struct {
	events, first, last uint64
	id                  string
}

// loose are the events in batches behind end, up to a number, or in none.
func (w *walk) loose(ctx context.Context, end, upTo uint64) (l looseEvents, err error) {
	rows, err := w.store.Query(ctx, limits, "SELECT count(), min(batch), max(batch), toString(any(event_id)) FROM events WHERE log_id = {id:String} AND (batch > {end:UInt64} AND batch <= {to:UInt64} OR batch = 0)",
		store.Named("id", w.id), store.Named("end", end), store.Named("to", upTo))
	if err != nil {
		return l, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&l.events, &l.first, &l.last, &l.id); err != nil {
			return l, err
		}
	}
	return l, rows.Err()
}

func monthName(days uint16) string {
	return time.Unix(int64(days)*86400, 0).UTC().Format("2006-01")
}

// inRange says whether the events of a batch are to be hashed.
func (o Options) inRange(sealedAt int64) bool {
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if !o.From.IsZero() {
		from = o.From.UnixMicro()
	}
	if !o.To.IsZero() {
		to = o.To.UnixMicro()
	}
	return from <= sealedAt && sealedAt < to
}

// list writes a few numbers for people.
func list(numbers []uint32) string {
	const most = 5
	var parts []string
	for _, n := range numbers[:min(len(numbers), most)] {
		parts = append(parts, fmt.Sprint(n))
	}
	if len(numbers) > most {
		parts = append(parts, "…")
	}
	return strings.Join(parts, ", ")
}
