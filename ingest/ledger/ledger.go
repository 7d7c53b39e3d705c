// Package ledger makes the log of events provable: what was acknowledged can be
// shown to be there, unchanged and in its place, with a public key alone.
//
// An event's leaf is the hash of its row ([event.AppendRow]). The leaves of a batch
// make a Merkle tree, whose root is in the batch's [Entry]; the entries of a log make
// a second tree, whose root is in a signed [Checkpoint]. So a proof leads from an
// event to its batch, from the batch to the log, and from an earlier checkpoint to
// a later one.
//
// Trees and proofs are those of RFC 6962 (github.com/transparency-dev/merkle),
// checkpoints those of C2SP tlog-checkpoint, signed notes those of C2SP signed-note
// (golang.org/x/mod/sumdb/note), keys Ed25519. FORMAT.md draws the bytes.
//
// The package is pure: no I/O, no clock, no logging. Everything that it reads may
// come from an enemy: each value has one encoding, sizes are checked before
// anything is allocated, and what is not exactly what was made is an error.
//
// [event.AppendRow]: https://pkg.go.dev/github.com/mcpaudit/mcpaudit/ingest/event#AppendRow
package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Drop is the detail of an entry of KindDrop: what retention removed lawfully.
type Drop struct {
	// Log is the id of the log whose events are dropped, when that is not the entry's
	// own: one that nobody writes any more. Before is a number of that log then.
	Log    string `json:"log,omitempty"`
	Month  uint16 `json:"month"`  // expires_month of the events, days since 1970-01-01
	Before uint64 `json:"before"` // batches of the month from this number on are not concerned
	Events uint64 `json:"events"` // events that are dropped
	Kept   uint64 `json:"kept"`   // events that a hold keeps
	// KeptDigest is the leaf hash over the kept batches' proofs, in order: what must
	// still be there.
	KeptDigest string   `json:"kept_digest,omitempty"`
	Holds      []string `json:"holds,omitempty"` // ids of the holds that keep them
	By         string   `json:"by"`              // who asked, or "schedule"
}

// Hold is the detail of entries of KindHold and KindRelease.
type Hold struct {
	ID     string `json:"id"`
	Filter string `json:"filter,omitempty"`
	Reason string `json:"reason,omitempty"`
	Owner  string `json:"owner"` // who answers for it; for a release, who released it
}

// Detail is the text of a Drop or a Hold.
func Detail(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // their fields are texts and numbers
		return err.Error()
	}
	return string(b)
}

// ParseDetail reads a detail strictly into v.
func ParseDetail(text string, v any) error {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("read detail of a ledger entry: %w", err)
	}
	if d.More() {
		return errors.New("read detail of a ledger entry: there is more behind it")
	}
	return nil
}
