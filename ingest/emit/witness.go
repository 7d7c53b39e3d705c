package emit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// witness checks that the service's log only grows: each receipt's checkpoint must
// be signed by the log's key and extend the one before it. It keeps the newest good
// one of each log in its spool's folder, as receipts.txt (see package notes):
//
//	# service ADDRESS     where the logs behind it answered
//	# key VERIFIER        what the next checkpoint is signed with
//	a checkpoint
//
// The log that answered last comes last. The file is replaced whole, at most once a
// second: what a crash costs is that the last checkpoint in it is an older one.
//
// A witness belongs to who holds the spool's lock, and to one goroutine: of its
// requests one is under way at a time, so a checkpoint that is smaller than the one
// before it was not merely late.
type witness struct {
	dir     string
	address string
	given   []string // configured keys; none: a log's first key is trusted
	service pb.LedgerServiceClient
	log     *slog.Logger
	alarm   func(*contradiction)

	logs  map[string]*seenLog
	last  string // the log that answered last
	dirty bool   // logs are newer than the file
	saved time.Time

	again    time.Time // the service is not asked before
	wait     time.Duration
	doubtful time.Time // when it was last said that receipts are not checked
	bare     bool      // it was said that a receipt has no checkpoint
	unsaved  bool      // the last save failed
}

// seenLog is a log that has acknowledged events.
type seenLog struct {
	service string // address at which it answered last
	key     string // that signed opens with
	trusted []string
	signed  string
	ledger.Checkpoint
}

const (
	receiptsFile = "receipts.txt"
	maxReceipts  = 4 << 20 // bytes of the file
	maxLogs      = 256     // of one service: one for each of its instances
	saveEvery    = time.Second
	askTimeout   = 5 * time.Second
	askSoonest   = time.Second
	askLatest    = 5 * time.Minute
	doubtEvery   = 10 * time.Minute

	serviceLine = "# service "
)

// known is what the next request says to have.
func (w *witness) known() *pb.KnownCheckpoint {
	if s := w.logs[w.last]; s != nil && s.Size > 0 {
		return &pb.KnownCheckpoint{LogId: s.LogID, Size: s.Size}
	}
	return nil
}

// check judges a receipt that answered a request with known. Whatever comes of it,
// the events are stored.
func (w *witness) check(ctx context.Context, r *pb.Receipt, known *pb.KnownCheckpoint) {
	if r.GetCheckpoint() == "" {
		if r.GetStored() > 0 && !w.bare && w.answeredHere() {
			w.bare = true
			w.log.Warn("the audit service stores events and gives no receipts any more; was it replaced by an older version?", "address", w.address)
		}
		return
	}
	w.bare = false
	err := w.judge(ctx, r, known)
	var c *contradiction
	switch {
	case err == nil:
		w.doubtful = time.Time{}
		w.save(false)
	case errors.As(err, &c):
		w.alarm(c)
	case !errors.Is(err, errLater) && time.Since(w.doubtful) > doubtEvery:
		w.doubtful = time.Now()
		w.log.Warn("the audit service's receipts can't be checked now; it is tried again", "address", w.address, "reason", err)
	}
}

func (w *witness) answeredHere() bool {
	for _, s := range w.logs {
		if s.service == w.address {
			return true
		}
	}
	return false
}

// judge says whether a receipt's checkpoint extends what was seen, and keeps it if
// so. The error is a *contradiction, or says why that is not known yet.
func (w *witness) judge(ctx context.Context, r *pb.Receipt, known *pb.KnownCheckpoint) error {
	signed := r.GetCheckpoint()
	claim, err := ledger.PeekCheckpoint(signed)
	if err != nil {
		return &contradiction{Class: "unreadable", seen: signed, words: "the audit service's receipt is no checkpoint of a log"}
	}
	seen := w.logs[claim.LogID]
	if seen == nil {
		return w.meet(ctx, signed, claim)
	}
	_, key, err := openWith(signed, seen.trusted)
	if err != nil {
		if key, err = w.handedOver(ctx, seen, signed, claim); err != nil {
			return err
		}
	}
	if err := w.extends(ctx, seen, signed, claim, r.GetConsistency(), known); err != nil {
		return err
	}
	w.last, w.dirty = claim.LogID, w.dirty || seen.signed != signed || seen.service != w.address
	seen.service, seen.key, seen.signed, seen.Checkpoint = w.address, key, signed, claim
	return nil
}

// meet takes up a log that has not answered before. Another one beside those that
// were seen is an instance that was added; one instead of them is a contradiction.
func (w *witness) meet(ctx context.Context, signed string, claim ledger.Checkpoint) error {
	stranger := &contradiction{Class: "other_log", LogID: claim.LogID, seen: signed, Seen: claim}
	if len(w.given) > 0 && len(w.base(claim.LogID, "")) == 0 {
		stranger.words = fmt.Sprintf("the audit service acknowledges events in the log %q; the key that this emitter was given is of another log", claim.LogID)
		return stranger
	}
	if len(w.logs) == maxLogs {
		return fmt.Errorf("receipts of %d logs are kept, and %q is one more", maxLogs, claim.LogID)
	}
	listed, err := w.list(ctx)
	base := w.base(claim.LogID, "")
	if err != nil { // without the list, a configured key alone can say who signed
		if _, _, bad := openWith(signed, base); len(w.given) == 0 || bad != nil {
			return err
		}
	}
	l := listed[claim.LogID]
	if err == nil && l == nil {
		w.later() // it is not asked on every batch
		stranger.words = fmt.Sprintf("the audit service acknowledges events in the log %q, and does not list that log", claim.LogID)
		return stranger
	}
	if len(w.given) == 0 {
		base = []string{l.GetVerifierKey()}
	}
	trusted := reach(base, l.GetRotations())
	_, key, err := openWith(signed, trusted)
	if err != nil {
		w.later()
		return wrongKey(l, nil, signed, claim)
	}
	w.logs[claim.LogID] = &seenLog{service: w.address, key: key, trusted: trusted, signed: signed, Checkpoint: claim}
	w.last, w.dirty = claim.LogID, true
	return nil
}

// handedOver finds the key of a checkpoint that no key known so far has signed:
// one of them must have handed over to it.
func (w *witness) handedOver(ctx context.Context, seen *seenLog, signed string, claim ledger.Checkpoint) (key string, err error) {
	listed, err := w.list(ctx)
	if err != nil {
		return "", err
	}
	trusted := reach(w.base(seen.LogID, seen.key), listed[seen.LogID].GetRotations())
	_, key, err = openWith(signed, trusted)
	if err != nil {
		w.later()
		return "", wrongKey(listed[seen.LogID], seen, signed, claim)
	}
	seen.trusted = trusted
	return key, nil
}

// reach are the keys that trust in some leads to by statements of rotation.
func reach(base, rotations []string) []string {
	keys, err := ledger.TrustKeys(base, rotations)
	if err != nil {
		return base
	}
	out := slices.Clone(base)
	for _, r := range rotations {
		if old, next, err := ledger.ParseRotation(r); err == nil && keys.Has(next) {
			out = append(out, next, old)
		}
	}
	slices.Reverse(out) // the newest is the likeliest
	return out
}

// extends says whether a checkpoint is of the log that was seen, later or at the
// same time.
func (w *witness) extends(ctx context.Context, seen *seenLog, signed string, c ledger.Checkpoint, proof [][]byte, known *pb.KnownCheckpoint) error {
	found := contradiction{LogID: c.LogID, kept: seen.signed, Kept: seen.Checkpoint, keptKey: seen.key, seen: signed, Seen: c}
	switch {
	case c.Size == seen.Size && c.Root == seen.Root:
		return nil
	case c.Size == seen.Size:
		found.Class, found.words = "forked", fmt.Sprintf("the audit log %q was rewritten: two different logs of %d entries are signed", c.LogID, c.Size)
		return &found
	case c.Size < seen.Size:
		found.Class, found.words = "cut", fmt.Sprintf("the audit log %q was cut: it had %d entries when it acknowledged events before, and has %d now", c.LogID, seen.Size, c.Size)
		return &found
	}
	asked := known.GetLogId() == c.LogID && known.GetSize() == seen.Size
	if asked && proves(seen.Checkpoint, c, proof) {
		return nil
	}
	again, err := ask(w, ctx, func(ctx context.Context) (*pb.GetConsistencyProofResponse, error) {
		return w.service.GetConsistencyProof(ctx, &pb.GetConsistencyProofRequest{LogId: c.LogID, FromSize: seen.Size, ToSize: c.Size})
	})
	if err == nil && proves(seen.Checkpoint, c, again.GetHashes()) {
		if asked && len(proof) > 0 {
			w.log.Warn("a receipt's proof was wrong; asked again, the audit service proved that its log only grew", "log", c.LogID, "from", seen.Size, "to", c.Size)
		}
		return nil
	}
	if err != nil && !answered(err) {
		return err
	}
	w.later()
	found.Class, found.proof = "rewritten", again.GetHashes()
	found.words = fmt.Sprintf("the audit log %q was rewritten: the service can't prove that its %d entries begin with the %d that it had before", c.LogID, c.Size, seen.Size)
	return &found
}

// proves says whether a proof leads from one checkpoint to a later one.
func proves(from, to ledger.Checkpoint, proof [][]byte) bool {
	const longest = 2 * 64 // no tree is higher
	if len(proof) > longest {
		return false
	}
	hashes := make([]ledger.Hash, len(proof))
	for i, h := range proof {
		if len(h) != len(ledger.Hash{}) {
			return false
		}
		hashes[i] = ledger.Hash(h)
	}
	return ledger.CheckConsistency(from.Size, to.Size, from.Root, to.Root, hashes) == nil
}

// list asks for the service's logs. Those that were seen there must be among them,
// and not be shorter than they were.
func (w *witness) list(ctx context.Context) (map[string]*pb.Log, error) {
	resp, err := ask(w, ctx, func(ctx context.Context) (*pb.ListLogsResponse, error) {
		return w.service.ListLogs(ctx, &pb.ListLogsRequest{})
	})
	if err != nil {
		return nil, err
	}
	listed := map[string]*pb.Log{}
	for _, l := range resp.GetLogs() {
		listed[l.GetLogId()] = l
	}
	for id, s := range w.logs {
		l := listed[id]
		if s.service != w.address || l != nil && l.GetSize() >= s.Size {
			continue
		}
		c := &contradiction{Class: "cut", LogID: id, kept: s.signed, Kept: s.Checkpoint, keptKey: s.key,
			words: fmt.Sprintf("the audit log %q was cut: it had %d entries when it acknowledged events before, and is listed with %d now", id, s.Size, l.GetSize())}
		if l == nil {
			c.Class, c.words = "gone", fmt.Sprintf("the audit log %q, which had %d entries when it acknowledged events before, is gone: the service does not list it any more", id, s.Size)
		}
		w.alarm(c)
	}
	return listed, nil
}

// errLater means that the service was asked a moment ago, and is asked again later.
var errLater = errors.New("it was asked a moment ago")

// ask asks the ledger's service, unless it failed to answer a moment ago.
func ask[T any](w *witness, ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	if time.Now().Before(w.again) {
		var none T
		return none, errLater
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := call(ctx)
	if err != nil && !answered(err) {
		w.later()
	} else {
		w.wait, w.again = askSoonest, time.Time{}
	}
	return answer, err
}

func (w *witness) later() {
	w.again = time.Now().Add(w.wait)
	w.wait = min(2*w.wait, askLatest)
}

// answered says that an error is the service's word on the log, not on itself.
func answered(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.InvalidArgument, codes.OutOfRange, codes.FailedPrecondition, codes.DataLoss:
		return true
	}
	return false
}
