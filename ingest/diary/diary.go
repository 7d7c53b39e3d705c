// Package diary makes events of what the service itself does and is asked for, in the
// log that it keeps of others.
package diary

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Recorder makes events durable; *ingest.Pipeline is one.
type Recorder interface {
	Submit(ctx context.Context, events []*event.Event, size int) (ingest.Settled, error)
}

// Diary is one part of the service as an emitter: each run has ids of its own, one for
// each tenant, so that its sequences begin anew, and so that one tenant's numbers tell
// nothing of another's. Its methods may be called by many goroutines: entries that come
// while others are written are written together after them.
type Diary struct {
	part, principal string
	record          Recorder
	now             func() time.Time

	mu      sync.Mutex
	series  map[string]*series // by tenant
	waiting []*page            // not known to be stored, in the order in which they were made
	bytes   int                // that they take
	writing *writing
}

// series is a tenant's sequence.
type series struct {
	emitter string
	seq     uint64
}

// page is an entry that waits. Its outcome is set under Diary.mu.
type page struct {
	event *event.Event
	tried bool  // whoever noted it has its answer
	err   error // why it was not stored then
}

// writing is one attempt to store what waits; there is one at a time. When done is
// closed, err says how it went.
type writing struct {
	done chan struct{}
	err  error
}

// New begins the diary of a part of the service, such as "kafka".
func New(part string, record Recorder, now func() time.Time) *Diary {
	return &Diary{part: part, principal: "mcpaudit:" + part, record: record, now: now, series: map[string]*series{}}
}

// of is the series of a tenant. d.mu is held. When there are very many tenants, all
// begin new ones, which are as good.
func (d *Diary) of(tenant string) *series {
	s := d.series[tenant]
	if s == nil {
		if len(d.series) >= mostSeries {
			clear(d.series)
		}
		var noise [6]byte
		rand.Read(noise[:])
		s = &series{emitter: "mcpaudit-" + d.part + "-" + hex.EncodeToString(noise[:])}
		d.series[tenant] = s
	}
	return s
}

// Entry is something that was done, asked for, or that happened.
type Entry struct {
	Kind    string // default admin; auth for who was let in and who was not
	Method  string // such as mcpaudit/dead_letter
	Target  string // what it was done to
	Outcome string // default success
	Words   string // for people, when it is not a success
	Labels  map[string]string
	Request string        // what was asked for, JSON; it is redacted like the arguments of a call
	Started time.Time     // default now
	Took    time.Duration // default: since Started
	Who     Who
}

// Who asked for it. The zero value is the part of the service itself.
type Who struct {
	Tenant                string // whose log it is in; empty for the default tenant
	Principal, Name, Kind string
	AuthMethod            string // api_key, jwt or mtls
	Credential            string // fingerprint
	Address, UserAgent    string
	Decision, Reason      string   // allow or deny, and why
	Required              []string // permissions that were needed
	Status                uint16   // 401 and 403, for those that were refused
	ErrorCode             string
}

// ErrFull is the error of an entry that was not taken at all: too many wait to be stored.
var ErrFull = errors.New("too many entries wait to be stored already")

const (
	mostWaiting = 1000             // bounds what waits to be stored
	mostDenied  = 700              // of it: what strangers were refused must leave room for what was done
	mostBytes   = 32 << 20         // of it, in memory
	mostWritten = 500              // in one request
	mostSeries  = 10_000           // that are remembered
	patience    = 10 * time.Second // for the log to take them
)

// Note writes an entry, with those before it that could not be stored, and returns
// when they are durable. After an error it is stored with a later one, unless the log
// refuses it for what it is. When too many wait already it is not taken at all before
// others are stored.
func (d *Diary) Note(ctx context.Context, n Entry) error {
	var mine *page // while it has none, there was no room
	for {
		d.mu.Lock()
		most := mostWaiting
		if n.Kind == "auth" {
			most = mostDenied
		}
		if mine == nil && len(d.waiting) < most && d.bytes < mostBytes {
			mine = &page{event: d.next(n)}
			d.waiting, d.bytes = append(d.waiting, mine), d.bytes+mine.event.Size()
		}
		if mine != nil && mine.tried {
			err := mine.err
			d.mu.Unlock()
			return err
		}
		if d.writing == nil { // something waits: mine, or what leaves no room for it
			d.write()
		}
		w := d.writing
		d.mu.Unlock()
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if mine == nil && w.err != nil {
			return errors.Join(ErrFull, w.err)
		}
	}
}

// write stores the first of what waits. d.mu is held. It is no caller's own: one that
// goes away must not take the entries of others with it.
func (d *Diary) write() {
	all := d.waiting[:len(d.waiting):len(d.waiting)]
	batch := all[:min(len(all), mostWritten)]
	copies, size := make([]*event.Event, len(batch)), 0
	for i, p := range batch { // the pipeline makes them its own
		c := *p.event
		c.Labels = slices.Clone(c.Labels)
		copies[i], size = &c, size+c.Size()
	}
	w := &writing{done: make(chan struct{})}
	d.writing = w
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var settled ingest.Settled
		settled, w.err = d.record.Submit(ctx, copies, size)
		d.mu.Lock()
		if w.err == nil {
			for _, r := range settled.Rejected { // it would be again
				batch[r.Index].err = fmt.Errorf("the log refuses entry %d of %s: %w", batch[r.Index].event.EmitterSeq, batch[r.Index].event.EmitterID, r.Reason)
			}
			for _, p := range batch {
				p.tried, d.bytes = true, d.bytes-p.event.Size()
			}
			d.waiting = slices.Clone(d.waiting[len(batch):])
		} else {
			for _, p := range all { // also those that had no place in the request
				if !p.tried {
					p.tried, p.err = true, w.err
				}
			}
		}
		d.writing = nil
		d.mu.Unlock()
		close(w.done)
	}()
}

// Event is an entry that the caller writes himself. Its number is used up.
func (d *Diary) Event(n Entry) *event.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next(n)
}

func (d *Diary) next(n Entry) *event.Event {
	var noise [10]byte
	rand.Read(noise[:])
	now := d.now()
	began := n.Started
	if began.IsZero() {
		began = now
	}
	own := d.of(n.Who.Tenant)
	own.seq++
	e := &event.Event{
		EventID: event.NewID(now, noise), EmitterID: own.emitter, EmitterSeq: own.seq, OccurredAt: began.UnixMicro(), Duration: uint64(max(0, n.Took.Microseconds(), now.Sub(began).Microseconds())),
		Tenant: n.Who.Tenant, Principal: n.Who.Principal, PrincipalName: n.Who.Name, PrincipalKind: n.Who.Kind, AuthMethod: n.Who.AuthMethod, CredentialID: n.Who.Credential,
		ClientIP: n.Who.Address, UserAgent: n.Who.UserAgent, Decision: n.Who.Decision, DecisionReason: n.Who.Reason, ScopesRequired: n.Who.Required,
		HTTPStatus: n.Who.Status, ErrorCode: n.Who.ErrorCode,
		Server: "mcpaudit", Kind: n.Kind, Method: n.Method, Target: n.Target, Outcome: n.Outcome, ErrorMessage: n.Words, Arguments: n.Request,
	}
	if n.Who.Principal == "" && n.Kind != "auth" {
		e.Principal, e.PrincipalKind = d.principal, "service"
	}
	if e.Kind == "" {
		e.Kind = "admin"
	}
	if e.Outcome == "" {
		e.Outcome = "success"
	}
	for k, v := range n.Labels {
		e.Labels = append(e.Labels, event.Label{Key: k, Value: v})
	}
	e.SetDefaults()
	e.SortLabels()
	e.Clip()
	return e
}
