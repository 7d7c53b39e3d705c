package emit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// spool is a queue of records on disk: segment files that are appended to at
// one end and deleted whole at the other.
//
//	segment  NUMBER.spool   header ‖ record ‖ record …
//	header   "mcpaudit spool 1\n" ‖ one record: next sequence number (8 bytes, LE) ‖ emitter id
//	record   length (4 bytes, LE) ‖ CRC-32C of data (4 bytes, LE) ‖ data
//
// The header keeps the emitter's identity when every record has been delivered
// and deleted. A crash can leave a torn record at the end of the last segment:
// open leaves it out. Normally it was never sent, because records are synced
// first; but a disk that lost what it had synced looks the same, and then its
// number may have been sent with other contents. So the emitter gets a new id and
// a new segment, before the torn end is cut off: no number is used twice.
//
// How far delivery has come is not written down: after a restart the oldest
// segment is sent again, and the service knows its events. General write-ahead
// logs rewrite a segment to drop its front and stop working after a full disk;
// this one deletes whole files and cuts a failed write off again.
//
// One goroutine appends and acknowledges (the emitter's worker); another may
// read at the same time only what was synced.
type spool struct {
	dir      string
	limit    int64
	lock     *os.File
	segments []int64 // numbers, oldest first; the last one is written to
	out      *os.File
	size     int64    // of the last segment, whole records
	total    int64    // of all segments
	start    position // of the last segment's first record
	tail     position

	emitter string
	nextSeq uint64
	cut     bool // open found a torn end; it is left out
}

// position is a place between two records.
type position struct {
	segment int64
	offset  int64
}

const (
	segmentMagic = "mcpaudit spool 1\n"
	segmentSize  = 4 << 20 // a segment that has grown past this, or a quarter of the limit, is closed
	maxRecord    = 8 << 20
	minSpool     = 16 << 10
	lossRoom     = 64 << 10 // beyond the limit, for reports of what was lost to it
)

var (
	errSpoolFull = errors.New("the spool is full")
	errInUse     = errors.New("another process uses it")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// openSpool opens or makes the spool in dir. newID names the emitter of a new
// spool. The folder is locked until close; errInUse says that it already was.
func openSpool(dir string, limit int64, newID func() string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, fmt.Errorf("lock spool %q: %w", dir, err)
	}
	s := &spool{dir: dir, limit: limit, lock: lock}
	if err := s.load(newID); err != nil {
		return nil, fmt.Errorf("open spool %q: %w", dir, errors.Join(err, s.close()))
	}
	return s, nil
}

func (s *spool) load(newID func() string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if number, ok := strings.CutSuffix(e.Name(), ".spool"); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				continue
			}
			s.segments = append(s.segments, n)
		}
	}
	slices.Sort(s.segments)
	// A segment whose header is torn was being made when the machine stopped: it
	// holds nothing, and the one before it has the identity. Should the disk have
	// lost what it held, a new identity keeps its numbers from coming again.
	fresh := len(s.segments) == 0
	for len(s.segments) > 0 {
		err = s.recover(s.segments[len(s.segments)-1])
		if err == nil || !errors.Is(err, errTorn) {
			break
		}
		if err := os.Remove(s.path(s.segments[len(s.segments)-1])); err != nil {
			return err
		}
		fresh = true
		s.segments = s.segments[:len(s.segments)-1]
	}
	if err != nil && !errors.Is(err, errTorn) {
		return err
	}
	for _, n := range s.segments {
		if info, err := os.Stat(s.path(n)); err == nil {
			s.total += info.Size()
		}
	}
	if fresh || s.cut {
		torn, end := s.out, s.size
		s.out = nil
		s.emitter, s.nextSeq = newID(), 1
		if err := s.roll(); err != nil {
			return errors.Join(err, closeFile(torn))
		}
		if torn != nil {
			return errors.Join(torn.Truncate(end), torn.Sync(), torn.Close())
		}
	}
	return nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

var errTorn = errors.New("ends in the middle of a record")

// recover reads the last segment, learns identity and next sequence number, and
// where its whole records end.
func (s *spool) recover(number int64) error {
	f, err := os.OpenFile(s.path(number), os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	r := reader{file: f}
	header, err := r.header()
	if err != nil {
		f.Close()
		return err
	}
	s.nextSeq, s.emitter = header.nextSeq, header.emitter
	s.start = position{number, r.offset}
	for err == nil {
		if _, err = r.next(); err == nil {
			s.nextSeq++
		}
	}
	// Only damage is cut off: what can't be read now may be read next time.
	s.cut = s.cut || errors.Is(err, errTorn)
	if !errors.Is(err, io.EOF) && !errors.Is(err, errTorn) {
		f.Close()
		return err
	}
	s.out, s.size, s.tail = f, r.offset, position{number, r.offset}
	return nil
}

func (s *spool) path(segment int64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%012d.spool", segment))
}

// roll begins a new segment.
func (s *spool) roll() error {
	number := int64(1)
	if n := len(s.segments); n > 0 {
		number = s.segments[n-1] + 1
	}
	f, err := os.OpenFile(s.path(number), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	header := appendRecord([]byte(segmentMagic), append(binary.LittleEndian.AppendUint64(nil, s.nextSeq), s.emitter...))
	if _, err = f.Write(header); err == nil {
		err = errors.Join(f.Sync(), syncFolder(s.dir))
	}
	if err != nil {
		f.Close()
		os.Remove(s.path(number))
		return err
	}
	if s.out != nil {
		s.out.Close()
	}
	s.segments = append(s.segments, number)
	s.out, s.size = f, int64(len(header))
	s.total += s.size
	s.tail = position{number, s.size}
	s.start = s.tail
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func appendRecord(b, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(data, castagnoli))
	return append(b, data...)
}

// segmentMax keeps segments small beside the limit: room comes back a segment at
// a time.
func (s *spool) segmentMax() int64 { return min(segmentSize, s.limit/4) }

// append writes records and syncs them; each uses up one sequence number. After
// an error none of them is in the spool. extra is room beyond the limit.
func (s *spool) append(records [][]byte, extra int64) error {
	var b []byte
	for _, r := range records {
		b = appendRecord(b, r)
	}
	if s.total+int64(len(b)) > s.limit+extra {
		return errSpoolFull
	}
	if s.size > s.segmentMax() {
		if err := s.roll(); err != nil {
			return fmt.Errorf("begin a spool segment: %w", err)
		}
	}
	_, err := s.out.WriteAt(b, s.size)
	if err == nil {
		err = s.out.Sync()
	}
	if err != nil {
		// A disk that is full may have taken a part. Should the cut fail too, the
		// next append writes over it, and open finds a torn record at the worst.
		return fmt.Errorf("write spool: %w", errors.Join(err, s.out.Truncate(s.size)))
	}
	s.size += int64(len(b))
	s.total += int64(len(b))
	s.nextSeq += uint64(len(records))
	s.tail.offset = s.size
	return nil
}

// read returns records from a position on, at most max records and about
// maxBytes, and the position behind them. Nothing to read is no error. errTorn is
// damage in the segment of the position; see skip. After another error the same
// may be read later.
func (s *spool) read(from, tail position, most, maxBytes int) ([][]byte, position, error) {
	var out [][]byte
	size := 0
	for {
		f, err := os.Open(s.path(from.segment))
		if err != nil {
			return nil, from, fmt.Errorf("read spool: %w", err)
		}
		r := reader{file: f, offset: from.offset}
		if from.offset == 0 {
			if _, err := r.header(); err != nil {
				f.Close()
				return nil, from, fmt.Errorf("read spool: %w", err)
			}
		}
		for len(out) < most && size < maxBytes && (from.segment != tail.segment || r.offset < tail.offset) {
			data, err := r.next()
			if errors.Is(err, io.EOF) {
				if from.segment != tail.segment {
					break
				}
				err = errTorn // the file ends before what was written to it
			}
			if err != nil {
				f.Close()
				return out, position{from.segment, r.offset}, fmt.Errorf("read spool segment %d: %w", from.segment, err)
			}
			out, size = append(out, data), size+len(data)
		}
		from.offset = r.offset
		full := len(out) >= most || size >= maxBytes
		f.Close()
		if full || from.segment >= tail.segment {
			return out, from, nil
		}
		from = position{from.segment + 1, 0}
	}
}

// skip gives up the rest of a damaged segment: its file is kept under another name
// for whoever wants to look, and reading goes on behind it. lost is how many
// events the rest had.
func (s *spool) skip(from position) (to position, lost uint64, err error) {
	if from.segment == s.tail.segment {
		if err := s.roll(); err != nil {
			return from, 0, fmt.Errorf("begin a spool segment: %w", err)
		}
	}
	next := slices.Index(s.segments, from.segment) + 1
	to = position{s.segments[next], 0}
	end, err := s.headerOf(to.segment)
	if err != nil {
		return from, 0, err
	}
	if begin, err := s.headerOf(from.segment); err == nil && begin.emitter == end.emitter {
		lost = end.nextSeq - begin.nextSeq - s.count(from)
	}
	damaged := s.path(from.segment)
	if info, err := os.Stat(damaged); err == nil {
		s.total -= info.Size() // it takes no room of the spool's from here on
	}
	if err := os.Rename(damaged, strings.TrimSuffix(damaged, ".spool")+".damaged"); err != nil && !os.IsNotExist(err) {
		return from, 0, fmt.Errorf("put a damaged spool segment aside: %w", err)
	}
	return to, lost, nil
}

// backlog is how many events the spool holds, by the numbers in its headers: what
// is damaged counts until it is given up.
func (s *spool) backlog() (n uint64) {
	var before segmentHeader
	for i, segment := range s.segments {
		h, err := s.headerOf(segment)
		switch {
		case err != nil:
			continue
		case i > 0 && before.emitter == h.emitter:
			n += h.nextSeq - before.nextSeq
		case i > 0: // a new identity: the one before ended without a successor
			n += s.count(position{s.segments[i-1], math.MaxInt64})
		}
		before = h
	}
	if before.emitter == s.emitter {
		n += s.nextSeq - before.nextSeq
	}
	return n
}

func (s *spool) headerOf(segment int64) (segmentHeader, error) {
	f, err := os.Open(s.path(segment))
	if err != nil {
		return segmentHeader{}, fmt.Errorf("read spool: %w", err)
	}
	defer f.Close()
	r := reader{file: f}
	return r.header()
}

// count is how many records lie in a segment before a position.
func (s *spool) count(p position) (n uint64) {
	f, err := os.Open(s.path(p.segment))
	if err != nil {
		return 0
	}
	defer f.Close()
	r := reader{file: f}
	if _, err := r.header(); err != nil {
		return 0
	}
	for r.offset < p.offset {
		if _, err := r.next(); err != nil {
			break
		}
		n++
	}
	return n
}

// ack deletes the segments that lie wholly before a position. When everything
// is delivered and the last segment has grown, a new one begins.
func (s *spool) ack(p position) error {
	for len(s.segments) > 1 && s.segments[0] < p.segment {
		info, err := os.Stat(s.path(s.segments[0]))
		if err == nil {
			err = os.Remove(s.path(s.segments[0]))
		}
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("delete delivered spool segment: %w", err)
		}
		if info != nil {
			s.total -= info.Size()
		}
		s.segments = s.segments[1:]
	}
	if p == s.tail && s.size > s.segmentMax()/4 {
		return s.renew()
	}
	return nil
}

// renew forgets all records, which have been delivered: an empty segment begins
// and the others are deleted. Otherwise the next open would send them again.
func (s *spool) renew() error {
	if s.tail == s.start {
		return nil
	}
	if err := s.roll(); err != nil {
		return fmt.Errorf("begin a spool segment: %w", err)
	}
	return s.ack(s.tail)
}

// first is the position of the oldest record.
func (s *spool) first() position { return position{s.segments[0], 0} }

// close gives the folder free.
func (s *spool) close() error {
	var err error
	if s.out != nil {
		err = s.out.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// reader reads one segment.
type reader struct {
	file   *os.File
	offset int64
}

type segmentHeader struct {
	nextSeq uint64
	emitter string
}

func (r *reader) header() (segmentHeader, error) {
	magic := make([]byte, len(segmentMagic))
	if _, err := r.file.ReadAt(magic, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return segmentHeader{}, errTorn
		}
		return segmentHeader{}, err
	}
	if string(magic) != segmentMagic {
		return segmentHeader{}, errors.New("not a spool segment of this version of mcpaudit")
	}
	r.offset = int64(len(segmentMagic))
	data, err := r.next()
	if err != nil || len(data) < 9 {
		return segmentHeader{}, errTorn
	}
	return segmentHeader{binary.LittleEndian.Uint64(data), string(data[8:])}, nil
}

// next reads the record at offset. io.EOF is the end; errTorn is a record that
// is cut, damaged or larger than any that was written.
func (r *reader) next() ([]byte, error) {
	var head [8]byte
	n, err := r.file.ReadAt(head[:], r.offset)
	if n == 0 && errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if n < len(head) {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, errTorn
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size == 0 || size > maxRecord {
		return nil, errTorn
	}
	data := make([]byte, size)
	if _, err := r.file.ReadAt(data, r.offset+8); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errTorn
		}
		return nil, err
	}
	if crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, errTorn
	}
	r.offset += 8 + int64(size)
	return data, nil
}
