package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const originPrefix = "mcpaudit/"

// Origin is the first line of a log's checkpoints and the name of its keys.
func Origin(logID string) string { return originPrefix + logID }

// MaxCheckpoint is the length of a signed checkpoint in bytes, at most.
const MaxCheckpoint = 4096

// Checkpoint is what is said about a whole log: so many entries, this root (C2SP
// tlog-checkpoint).
type Checkpoint struct {
	LogID string
	Size  uint64
	Root  Hash
}

// text is the body of the note. There are no extension lines.
func (c Checkpoint) text() string {
	return Origin(c.LogID) + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Sign makes a signed note of a checkpoint.
func (c Checkpoint) Sign(k *Key) (string, error) {
	if k.LogID() != c.LogID {
		return "", fmt.Errorf("sign checkpoint of log %q: the key is that of log %q", c.LogID, k.LogID())
	}
	b, err := note.Sign(&note.Note{Text: c.text()}, k.signer)
	if err != nil {
		return "", fmt.Errorf("sign checkpoint of log %q: %w", c.LogID, err)
	}
	return string(b), nil
}

// OpenCheckpoint reads a signed checkpoint. The error wraps ErrSignature when it is
// not signed by one of the keys.
func OpenCheckpoint(signed string, keys *Keys) (Checkpoint, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("read checkpoint: it has %d bytes, more than %d", len(signed), MaxCheckpoint)
	}
	text, err := keys.open(signed)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return parseCheckpoint(text)
}

// PeekCheckpoint reads a signed checkpoint without looking at who signed it. What
// it says is a claim.
func PeekCheckpoint(signed string) (Checkpoint, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("read checkpoint: it has %d bytes, more than %d", len(signed), MaxCheckpoint)
	}
	text, _, ok := strings.Cut(signed, "\n\n")
	if !ok {
		return Checkpoint{}, errors.New("read checkpoint: it is not a signed note")
	}
	return parseCheckpoint(text + "\n")
}

// parseCheckpoint reads a note's text. One checkpoint has one text.
func parseCheckpoint(text string) (Checkpoint, error) {
	bad := errors.New("read checkpoint: it is not one of an mcpaudit log")
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, bad
	}
	id, ok := strings.CutPrefix(lines[0], originPrefix)
	size, err := strconv.ParseUint(lines[1], 10, 64)
	root, err2 := base64.StdEncoding.DecodeString(lines[2])
	if !ok || id == "" || err != nil || err2 != nil || len(root) != len(Hash{}) {
		return Checkpoint{}, bad
	}
	c := Checkpoint{id, size, Hash(root)}
	if c.text() != text {
		return Checkpoint{}, bad
	}
	return c, nil
}
