package retention

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
)

// A clock that jumped into the future would have everything dropped, lawfully. What
// speaks against a jump is that the log was written to not long ago, and not just
// now: entries of a clock that jumped are as far ahead as the clock itself. So a
// jump has a day to be seen in.
const (
	witnessAge = 20 * time.Hour      // how old an entry must be to say that the clock is right
	witnessEnd = 40 * 24 * time.Hour // and how young
	backwards  = time.Minute         // a clock may be set back by so much
)

// sane refuses to drop anything by a clock that may be wrong, or a ledger that may
// lack a hold. The refusal is itself recorded: a day later, that record is the entry
// that speaks for the clock, and a store that was idle for long is dropped from.
func (s *Server) sane(ctx context.Context, by who) error {
	err := s.trust(ctx)
	if r := (*refusal)(nil); errors.As(err, &r) {
		s.note(ctx, deed{method: "mcpaudit/retention", target: "refused", by: by, err: err})
	}
	return err
}

func (s *Server) trust(ctx context.Context) error {
	now := s.now()
	newest, witness, err := s.store.SealedTimes(ctx, now.Add(-witnessAge))
	if err != nil {
		return err
	}
	if now.Add(backwards).Before(newest) {
		return refuse(codes.FailedPrecondition, "this machine's clock says %s, and the log was written to at %s: the clock is wrong now, or was wrong then. Nothing is dropped; set the clock",
			now.UTC().Format(time.RFC3339), newest.UTC().Format(time.RFC3339))
	}
	if now.Sub(witness) > witnessEnd {
		was := "never before"
		if !witness.IsZero() {
			was = "last at " + witness.UTC().Format(time.RFC3339)
		}
		return refuse(codes.FailedPrecondition, "this machine's clock says %s, and until %v ago the log was written to %s: the clock may have jumped ahead, and would have events dropped before their time. "+
			"Nothing is dropped. If the clock is right, apply again after %s: by then, the record of this refusal speaks for the clock",
			now.UTC().Format(time.RFC3339), witnessAge, was, now.Add(witnessAge).Add(time.Minute).UTC().Format(time.RFC3339))
	}
	gap, err := s.store.Gap(ctx)
	if err != nil {
		return err
	}
	if gap != "" {
		return refuse(codes.FailedPrecondition, "entries of log %q are missing or doubled: one of them may be a hold. Nothing is dropped; see what is wrong with 'mcpaudit verify'", gap)
	}
	return nil
}
