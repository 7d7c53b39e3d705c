package emit

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// ids names emitters a-1, a-2, … in the order in which they are made.
func ids() func() string {
	n := 0
	return func() string { n++; return fmt.Sprintf("a-%d", n) }
}

func open(t *testing.T, dir string, newID func() string) *spool {
	t.Helper()
	s, err := openSpool(dir, 64<<20, newID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(n int) []byte { return fmt.Appendf(nil, "record %d", n) }

// all reads everything from a position to the end.
func all(t *testing.T, s *spool, from position) []string {
	t.Helper()
	var out []string
	for {
		records, to, err := s.read(from, s.tail, 7, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			out = append(out, string(r))
		}
		if to == s.tail {
			return out
		}
		from = to
	}
}

func TestSpoolKeepsOrderIdentityAndNumberAcrossRestarts(t *testing.T) {
	dir, newID := t.TempDir(), ids()
	s := open(t, dir, newID)
	for n := range 20 {
		if err := s.append([][]byte{record(2 * n), record(2*n + 1)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, newID)
	defer s.close()
	if s.emitter != "a-1" || s.nextSeq != 41 {
		t.Errorf("emitter %s goes on with %d, want a-1 with 41", s.emitter, s.nextSeq)
	}
	got := all(t, s, s.first())
	if len(got) != 40 || got[0] != "record 0" || got[39] != "record 39" {
		t.Errorf("read %d records: %v", len(got), got)
	}
}

// The identity outlives its records: when all are delivered and deleted, the
// sequence goes on.
func TestDeliveredRecordsAreForgottenAndTheSequenceGoesOn(t *testing.T) {
	dir, newID := t.TempDir(), ids()
	s := open(t, dir, newID)
	if err := s.append([][]byte{record(1), record(2), record(3)}, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.renew(); err != nil {
		t.Fatal(err)
	}
	s.close()
	s = open(t, dir, newID)
	defer s.close()
	if got := all(t, s, s.first()); len(got) != 0 {
		t.Errorf("delivered records are there again: %v", got)
	}
	if s.emitter != "a-1" || s.nextSeq != 4 {
		t.Errorf("emitter %s goes on with %d, want a-1 with 4", s.emitter, s.nextSeq)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.spool")); len(files) != 1 {
		t.Errorf("segments left: %v", files)
	}
}

// Wherever the last write was cut off, what is left is whole, and no number is
// given to other contents.
func TestATornEndLosesOnlyWhatWasUnfinished(t *testing.T) {
	dir, newID := t.TempDir(), ids()
	s := open(t, dir, newID)
	if err := s.append([][]byte{record(1), record(2)}, 0); err != nil {
		t.Fatal(err)
	}
	whole := s.size
	if err := s.append([][]byte{record(3)}, 0); err != nil {
		t.Fatal(err)
	}
	file, end := s.path(s.tail.segment), s.size
	s.close()
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := whole + 1; cut < end; cut++ {
		torn := t.TempDir()
		if err := os.WriteFile(filepath.Join(torn, filepath.Base(file)), written[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, torn, func() string { return "another" })
		if got := all(t, s, s.first()); len(got) != 2 || got[1] != "record 2" {
			t.Errorf("cut at %d: read %v", cut, got)
		}
		if s.emitter != "another" || s.nextSeq != 1 {
			t.Errorf("cut at %d: goes on as %s with %d; number 3 may have been sent", cut, s.emitter, s.nextSeq)
		}
		s.close()
	}
}

// A segment that was being made when the machine stopped has a torn header.
func TestATornHeaderLeavesTheSegmentBeforeIt(t *testing.T) {
	dir, newID := t.TempDir(), ids()
	s := open(t, dir, newID)
	if err := s.append([][]byte{record(1)}, 0); err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile(s.path(1))
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	for cut := range s.start.offset {
		if err := os.WriteFile(filepath.Join(dir, "000000000002.spool"), header[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, newID)
		if got := all(t, s, s.first()); len(got) != 1 || got[0] != "record 1" {
			t.Fatalf("header cut at %d: read %v", cut, got)
		}
		s.close()
		os.Remove(s.path(s.tail.segment))
	}
}

func TestAFlippedBitIsNoticed(t *testing.T) {
	dir, newID := t.TempDir(), ids()
	s := open(t, dir, newID)
	if err := s.append([][]byte{record(1), record(2), record(3)}, 0); err != nil {
		t.Fatal(err)
	}
	file, start := s.path(1), s.start.offset
	s.close()
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for at := start; at < int64(len(written)); at++ {
		damaged := bytes.Clone(written)
		damaged[at] ^= 0x10
		other := t.TempDir()
		if err := os.WriteFile(filepath.Join(other, filepath.Base(file)), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, other, newID)
		for i, r := range all(t, s, s.first()) {
			if r != string(record(i+1)) {
				t.Errorf("byte %d flipped: record %d came back as %q", at, i+1, r)
			}
		}
		if s.emitter == "a-1" {
			t.Errorf("byte %d flipped: the emitter goes on as if nothing was lost", at)
		}
		s.close()
	}
}

func TestAFullSpoolTakesNothingAndGoesOnWhenThereIsRoom(t *testing.T) {
	s, err := openSpool(t.TempDir(), 1000, ids())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	stored := 0
	for err == nil && stored < 1000 {
		if err = s.append([][]byte{record(stored)}, 0); err == nil {
			stored++
		}
	}
	if !errors.Is(err, errSpoolFull) || s.total > 1000 {
		t.Fatalf("after %d records and %d bytes: %v", stored, s.total, err)
	}
	if got := all(t, s, s.first()); len(got) != stored {
		t.Errorf("%d records are there, %d were taken", len(got), stored)
	}
	if err := s.renew(); err != nil {
		t.Fatal(err)
	}
	if err := s.append([][]byte{record(stored)}, 0); err != nil {
		t.Errorf("everything was delivered, and still: %v", err)
	}
}

func TestASpoolHasOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, ids())
	if _, err := openSpool(dir, 1<<20, ids()); !errors.Is(err, errInUse) {
		t.Errorf("the second open says %v", err)
	}
	s.close()
	open(t, dir, ids()).close()
}

// Any order of appends, deliveries and restarts gives back what was not
// delivered, in order, at most with records before it that were.
func TestSpoolAgainstAModel(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir, newID := t.TempDir(), ids()
		s := open(t, dir, newID)
		var model []string // everything ever appended
		delivered := 0
		at := s.first()
		for range 120 {
			switch r.IntN(6) {
			case 0, 1, 2: // large ones, so that segments fill
				var batch [][]byte
				for range 1 + r.IntN(4) {
					text := fmt.Sprintf("%d %s", len(model), bytes.Repeat([]byte{'x'}, r.IntN(300_000)))
					batch, model = append(batch, []byte(text)), append(model, text)
				}
				if err := s.append(batch, 0); err != nil {
					model = model[:len(model)-len(batch)]
					if !errors.Is(err, errSpoolFull) {
						t.Fatal(err)
					}
				}
			case 3, 4:
				records, to, err := s.read(at, s.tail, 1+r.IntN(20), 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				for _, got := range records {
					if string(got) != model[delivered] {
						t.Fatalf("seed %d: record %d came back as another", seed, delivered)
					}
					delivered++
				}
				at = to
				if err := s.ack(to); err != nil {
					t.Fatal(err)
				}
				if at.segment < s.segments[0] {
					at = s.first()
				}
			case 5:
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir, newID)
				at = s.first()
				left := all(t, s, at)
				if len(left) < len(model)-delivered {
					t.Fatalf("seed %d: %d records are left, %d were not delivered", seed, len(left), len(model)-delivered)
				}
				delivered = len(model) - len(left) // the first segment comes again
			}
			if s.nextSeq != uint64(len(model))+1 || s.emitter != "a-1" {
				t.Fatalf("seed %d: %s goes on with %d after %d records", seed, s.emitter, s.nextSeq, len(model))
			}
			var size int64
			for _, n := range s.segments {
				info, err := os.Stat(s.path(n))
				if err != nil {
					t.Fatal(err)
				}
				size += info.Size()
			}
			if size != s.total {
				t.Fatalf("seed %d: %d bytes on disk, %d counted", seed, size, s.total)
			}
		}
		s.close()
	}
}
