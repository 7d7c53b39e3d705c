package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	batchEvents = 2000
	batchBytes  = 2 << 20
	// linger is how long a batch that is not full waits for more: what comes
	// slowly through a pipe is stored all the same.
	linger      = 500 * time.Millisecond
	answerIn    = time.Minute // one batch
	firstRetry  = 200 * time.Millisecond
	maxRetry    = 30 * time.Second
	reportEvery = 10 * time.Second       // where there is no terminal
	redrawEvery = 200 * time.Millisecond // where there is one
)

// send has items stored, batch after batch, until there are no more.
func (im *importer) send(ctx context.Context, items <-chan item, room *semaphore.Weighted) error {
	var held []item // the one that did not fit into the last batch
	for {
		batch, more, err := gather(ctx, items, held)
		if err != nil {
			return fmt.Errorf("import: interrupted; run the same command again to go on")
		}
		held = nil
		if n := len(batch); n > 1 && batchSize(batch) > batchBytes {
			batch, held = batch[:n-1], batch[n-1:]
		}
		if len(batch) > 0 {
			if err := im.store(ctx, batch); err != nil {
				return err
			}
			for _, it := range batch {
				room.Release(it.weight())
			}
		}
		if !more && len(held) == 0 {
			return nil
		}
	}
}

func batchSize(batch []item) int {
	n := 0
	for _, it := range batch {
		n += it.size + 8 // and its tag and length
	}
	return n
}

// gather fills a batch: until it is full or there are no more items, and not for
// long. Its last item may make it too large.
func gather(ctx context.Context, items <-chan item, held []item) (batch []item, more bool, err error) {
	batch = append(batch, held...)
	size := batchSize(batch)
	var late <-chan time.Time
	if len(batch) > 0 {
		late = time.After(linger)
	}
	for len(batch) < batchEvents && size <= batchBytes {
		select {
		case it, ok := <-items:
			if !ok {
				return batch, false, nil
			}
			if late == nil {
				late = time.After(linger)
			}
			batch = append(batch, it)
			size += it.size + 8
		case <-late:
			return batch, true, nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	return batch, true, nil
}

// store has one batch stored, however often it must be sent.
func (im *importer) store(ctx context.Context, batch []item) error {
	req := &pb.PublishBatchRequest{}
	for _, it := range batch {
		req.Events = append(req.Events, it.event)
	}
	first, last := batch[0], batch[len(batch)-1]
	lines := fmt.Sprintf("line %d of %s to line %d of %s", first.line, first.file, last.line, last.file)
	giveUp, wait := im.s.now().Add(im.patience), firstRetry
	for {
		receipt, asked, err := im.publish(ctx, req)
		im.reached = im.reached || !unreachable(err)
		if err == nil {
			return im.settle(ctx, batch, receipt)
		}
		if ctx.Err() != nil {
			return errors.New("import: interrupted; run the same command again to go on")
		}
		switch code := status.Code(err); {
		case code != codes.Unavailable && code != codes.ResourceExhausted && code != codes.DeadlineExceeded, !im.reached && unreachable(err):
			return im.explain(err)
		case im.s.now().After(giveUp):
			return fmt.Errorf("import: the service has taken nothing for %s, the last time because: %s; %s are not stored. Run the same command again to go on",
				lengthText(im.patience), printable(status.Convert(err).Message(), 300), lines)
		}
		delay := asked
		if delay == 0 {
			delay = wait + rand.N(wait/2)
			wait = min(2*wait, maxRetry)
		}
		im.progress.say(fmt.Sprintf("the service does not take events now (%s); trying again in %s",
			printable(status.Convert(err).Message(), 200), took(delay)))
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// lastAnswer is how long an interrupted import waits for the answer that is under
// way, so that what it reports is true.
const lastAnswer = 2 * time.Second

// publish sends a batch once. asked is how long the service wants to be left
// alone, 0 when it did not say.
func (im *importer) publish(ctx context.Context, req *pb.PublishBatchRequest) (receipt *pb.Receipt, asked time.Duration, err error) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerIn)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastAnswer, cancel) })()
	resp, err := im.ingest.PublishBatch(call, req)
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			asked = min(max(r.GetRetryDelay().AsDuration(), 0), maxRetry)
		}
	}
	return resp.GetReceipt(), asked, err
}

// settle counts what became of a batch and reports what was refused.
func (im *importer) settle(ctx context.Context, batch []item, r *pb.Receipt) error {
	for _, rejected := range r.GetRejected() {
		if int(rejected.GetIndex()) < len(batch) {
			it := batch[rejected.GetIndex()]
			im.progress.notTaken(it.file, it.line, errors.New(printable(rejected.GetReason(), 300)))
		}
	}
	im.progress.stored(r)
	if im.strict && len(r.GetRejected()) > 0 {
		return fmt.Errorf("import: %w", errStopped)
	}
	if int(r.GetDuplicates()) == len(batch) {
		return im.checkSame(ctx, batch[len(batch)/2])
	}
	return nil
}

// checkSame makes sure that what the service took for stored already is the same
// event, not another one of the same number: lines were moved in the file, or an
// emitter has counted from 1 again. Their ids are different then.
func (im *importer) checkSame(ctx context.Context, it item) error {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	_, err := im.query.GetEvent(ctx, &pb.GetEventRequest{EventId: it.event.GetEventId(), ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"event_id"}}})
	if status.Code(err) != codes.NotFound {
		return nil //nolint:nilerr // a service that answers no queries can't be asked
	}
	return fmt.Errorf("import: line %d of %s was not stored: the service has another event of emitter %s with number %d. If lines were added or moved in the file, import it with another --emitter; if the events bring their own numbers, two emitters have one id",
		it.line, it.file, printable(it.event.GetEmitterId(), 300), it.event.GetEmitterSeq())
}

// progress counts, and says from time to time how far the import is. Reader and
// sender share it.
type progress struct {
	s     *surroundings
	err   screen
	size  int64 // bytes to read; 0 when that is not known
	start time.Time

	mu    sync.Mutex
	n     tally
	bytes int64
	said  time.Time // when the progress was said last
	drawn bool      // a line of progress stands on the terminal
}

func newProgress(s *surroundings, size int64) *progress {
	now := s.now()
	return &progress{s: s, err: s.screen(s.stderr), size: size, start: now, said: now}
}

func (p *progress) line() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n.Lines++
}

func (p *progress) read(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
}

// notTaken reports one line.
func (p *progress) notTaken(file string, line int, reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n.NotTaken++
	p.clear()
	fmt.Fprintf(p.err, "mcpaudit: import %s, line %d: %v\n", printable(file, 1000), line, reason)
}

// say reports what else a person should know.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.err, "mcpaudit: import: %s\n", text)
}

// stored counts a receipt, and says how far the import is when it is time to.
func (p *progress) stored(r *pb.Receipt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n.Stored += uint64(r.GetStored())
	p.n.Before += uint64(r.GetDuplicates())
	now, every := p.s.now(), reportEvery
	if p.err.terminal {
		every = redrawEvery
	}
	if now.Sub(p.said) < every {
		return
	}
	p.said = now
	p.clear()
	text := "mcpaudit: import: " + p.text(now.Sub(p.start))
	if !p.err.terminal {
		fmt.Fprintln(p.err, text)
		return
	}
	fmt.Fprint(p.err, printable(text, max(p.err.width-1, 20)))
	p.drawn = true
}

func (p *progress) text(elapsed time.Duration) string {
	text := p.n.String()
	if seconds := elapsed.Seconds(); seconds > 0 {
		text += fmt.Sprintf(", %.0f a second", float64(p.n.Stored+p.n.Before)/seconds)
	}
	if p.size > 0 && p.bytes > 0 {
		share := min(float64(p.bytes)/float64(p.size), 1)
		text = fmt.Sprintf("%3.0f %%, ", 100*share) + text
		if share > 0.01 {
			text += ", about " + roughly(time.Duration(float64(elapsed)*(1-share)/share)) + " left"
		}
	}
	return text
}

// clear takes a line of progress off the terminal.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.drawn = false
	}
}

// finish is what became of all lines.
func (p *progress) finish() tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	return p.n
}
