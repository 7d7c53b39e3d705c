package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go"
)

// position is where a partition goes on, and the last message before.
type position struct {
	next  int64  // offset of the next message
	last  int64  // offset of the message that print is of; -1 when there is none
	print string // fingerprint of that message
}

// start is the position before everything.
func start(first int64) position { return position{next: first, last: -1} }

const metadataVersion = "mcpaudit/1"

// metadata is what is committed beside the offset.
func (p position) metadata() string {
	if p.last < 0 {
		return metadataVersion
	}
	return metadataVersion + " " + strconv.FormatInt(p.last, 10) + " " + p.print
}

// readPosition makes a position of a committed offset. Of an offset that somebody
// else has committed there is no fingerprint.
func readPosition(offset int64, metadata string) position {
	p := start(offset)
	words := strings.Fields(metadata)
	if len(words) != 3 || words[0] != metadataVersion {
		return p
	}
	last, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil || last < 0 || last >= offset {
		return p
	}
	p.last, p.print = last, words[2]
	return p
}

// fingerprint tells a message from another one at the same offset: SHA-256 over its
// time, key and value, cut to 64 bits. It can't be read back.
func fingerprint(r *record) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %d ", r.time.UnixMilli(), len(r.key), len(r.value))
	h.Write(r.key)
	h.Write(r.value)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// committedPosition asks the group how far the partition was settled; known is false
// when it was never read.
func (p *partition) committedPosition(ctx context.Context) (at position, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := p.s.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{Addr: p.s.client.Addr, GroupID: p.s.cfg.Group, Topics: map[string][]int{p.s.cfg.Topic: {p.id}}})
	if err == nil {
		err = answer.Error
	}
	if err != nil {
		return at, false, fmt.Errorf("ask for the committed offset: %w", err)
	}
	for _, o := range answer.Topics[p.s.cfg.Topic] {
		if o.Partition != p.id {
			continue
		}
		if o.Error != nil {
			return at, false, fmt.Errorf("ask for the committed offset: %w", o.Error)
		}
		if o.CommittedOffset < 0 {
			return at, false, nil
		}
		return readPosition(o.CommittedOffset, o.Metadata), true, nil
	}
	return at, false, errors.New("ask for the committed offset: the brokers did not say")
}

// ends asks where the partition begins and ends now.
func (p *partition) ends(ctx context.Context) (first, last int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := p.s.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Addr: p.s.client.Addr, Topics: map[string][]kafka.OffsetRequest{
		p.s.cfg.Topic: {kafka.FirstOffsetOf(p.id), kafka.LastOffsetOf(p.id)}}})
	if err != nil {
		return 0, 0, fmt.Errorf("ask where the partition begins and ends: %w", err)
	}
	for _, o := range answer.Topics[p.s.cfg.Topic] {
		if o.Partition == p.id {
			if o.Error != nil {
				return 0, 0, fmt.Errorf("ask where the partition begins and ends: %w", o.Error)
			}
			return o.FirstOffset, o.LastOffset, nil
		}
	}
	return 0, 0, errors.New("ask where the partition begins and ends: the brokers did not say")
}

// moved is why a partition does not go on where it was.
type moved string

const (
	// The topic is another one than was read: all of it is new.
	recreated moved = "recreated"
	// Messages were deleted by the topic's retention before they were read: lost.
	expired moved = "expired"
	// Messages are gone from the midst of the partition: lost.
	compacted moved = "compacted"
)

// check says where to go on from a position, and why elsewhere if so. lost is how
// many messages can't be read any more.
func (p *partition) check(ctx context.Context, at position) (to position, why moved, lost int64, err error) {
	first, last, err := p.ends(ctx)
	if err != nil {
		return at, "", 0, err
	}
	switch {
	case at.next > last:
		return start(first), recreated, 0, nil
	case at.next < first:
		// Of a topic that was made anew and has lost its first messages since then, more
		// is gone than this says.
		return start(first), expired, first - at.next, nil
	case at.last < first:
		return at, "", 0, nil // nothing is left to compare
	}
	got := p.fetch(ctx, at.last, false)
	if got.err != nil {
		return at, "", 0, got.err
	}
	if len(got.records) > 0 && got.records[0].offset == at.last && fingerprint(&got.records[0]) == at.print {
		return at, "", 0, nil
	}
	return start(first), recreated, 0, nil
}
