package event

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"
)

// ID is a UUID; an event's is version 7 (RFC 9562, section 5.7): 48 bits of
// Unix milliseconds, then random bits, so ids sort by the time they were made.
type ID [16]byte

// NewID makes a version 7 id from a time and ten random bytes. The caller
// brings both: this package has neither clock nor randomness.
func NewID(at time.Time, random [10]byte) ID {
	var id ID
	ms := uint64(at.UnixMilli())
	binary.BigEndian.PutUint64(id[:8], ms<<16)
	copy(id[6:], random[:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

var errID = errors.New("not a UUID of the form 01890a5d-ac96-774b-bcce-b302099a8057")

// ParseID reads the 36-character form, in either case.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, errID
	}
	at := 0
	for i := 0; i < 36; {
		if s[i] == '-' {
			i++
			continue
		}
		hi, lo := unhex[s[i]], unhex[s[i+1]]
		if hi|lo > 15 {
			return ID{}, errID
		}
		id[at] = hi<<4 | lo
		at++
		i += 2
	}
	return id, nil
}

// unhex maps a hex digit to its value and anything else to 255.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, c := range []byte("0123456789abcdef") {
		t[c] = byte(i)
	}
	for i, c := range []byte("ABCDEF") {
		t[c] = byte(10 + i)
	}
	return t
}()

// String is the lower-case 36-character form.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// Version is the UUID version, 7 for an event's id.
func (id ID) Version() int { return int(id[6] >> 4) }

// Time is when a version 7 id was made, to the millisecond.
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC()
}

// Digest is a keyed digest cut to 128 bits. The zero Digest means "none".
type Digest [16]byte

// String is 32 lower-case hex digits, or the empty string for none.
func (d Digest) String() string {
	if d == (Digest{}) {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// ParseDigest reads what String writes.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if s == "" {
		return d, nil
	}
	if len(s) != 32 {
		return d, errors.New("not a digest of 32 hex digits")
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, errors.New("not a digest of 32 hex digits")
	}
	return d, nil
}
