package live

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// splitQuiet is for how long those that split the work otherwise must have saved
// nothing to be taken for gone: several times what lies between two snapshots.
const splitQuiet = 10 * time.Minute

// OtherSplit means that the store's detectors were at work lately, split into another
// number of shares. Two numbers at a time would tell everything twice.
type OtherSplit struct {
	Shares, Ours int
	SavedAt      time.Time // when one of them was at work last
}

func (e *OtherSplit) Error() string {
	return fmt.Sprintf("the detectors of this store were at work with detect.shards = %d until %s, and it is %d here; give all instances that detect the same number. "+
		"To change it, stop them all: %s after that, those with the new one begin, and learn again from what is stored",
		e.Shares, e.SavedAt.UTC().Format(time.DateTime+" UTC"), e.Ours, splitQuiet)
}

// otherSplit finds the newest snapshots of those that did the work before, when they
// had split it into another number of shares; nil when nobody had, or when this share
// has newer ones. The error is an *OtherSplit when they may still be at work.
func (r *Runner) otherSplit(ctx context.Context, own []store.Snapshot) (heads []store.Snapshot, err error) {
	names, err := r.d.Store.SnapshotNames(ctx, r.cfg.Name)
	if err != nil {
		return nil, err
	}
	ours := max(r.cfg.Share.Of, 1)
	all, newest, shares := map[int][]store.Snapshot{}, time.Time{}, 0
	for _, name := range names {
		of, ok := sharesOf(r.cfg.Name, name)
		if !ok || of == ours {
			continue
		}
		saved, err := r.d.Store.Snapshots(ctx, name)
		if err != nil {
			return nil, err
		}
		if len(saved) == 0 {
			continue
		}
		all[of] = append(all[of], saved[0])
		if saved[0].WrittenAt.After(newest) {
			newest, shares = saved[0].WrittenAt, of
		}
	}
	if shares == 0 || len(own) > 0 && own[0].WrittenAt.After(newest) {
		return nil, nil
	}
	if r.d.Now().Sub(newest) < splitQuiet {
		return nil, &OtherSplit{Shares: shares, Ours: ours, SavedAt: newest}
	}
	if len(all[shares]) < shares {
		// One of them never came to save anything: what it would have told is unknown,
		// and is told as history is.
		return []store.Snapshot{}, nil
	}
	r.d.Log.Info("the work was split otherwise; the detectors learn again", "shares", ours, "before", shares)
	return all[shares], nil
}

// sharesOf reads from the name of a reader's snapshots into how many shares the work
// was split.
func sharesOf(reader, name string) (of int, ok bool) {
	if name == reader {
		return 1, true
	}
	share, ok := strings.CutPrefix(name, reader+"-")
	if !ok {
		return 0, false
	}
	var number int
	if n, err := fmt.Sscanf(share, "%dof%d", &number, &of); n != 2 || err != nil || number < 0 || number >= of || (detect.Share{Number: number, Of: of}).String() != share {
		return 0, false
	}
	return of, true
}

// holds says whether an open finding is this runner's to end. What it told itself is;
// what another one of the same split told is not; and what was told when the work was
// split otherwise is that share's which would find it now.
func (r *Runner) holds(f *store.Finding) bool {
	if f.Teller == r.cfg.teller() {
		return true
	}
	if of, ok := sharesOf(r.cfg.Name, f.Teller); ok && of == r.cfg.Share.Of {
		return false
	}
	var rule *detect.Rule
	for i := range r.rules {
		if r.rules[i].Name == f.Rule {
			rule = &r.rules[i]
		}
	}
	return r.cfg.Share.Holds(rule, f.Rule, &detect.Subject{Tenant: f.Tenant, Principal: f.Principal, Emitter: f.EmitterID})
}
