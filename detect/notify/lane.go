package notify

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

const (
	mostWaiting = 10_000 // findings that a lane holds; the rest is in the store
	mostOpen    = 10_000 // findings that a lane knows to be open at its receiver
	mostAlerts  = 50     // of one message
	readAgain   = 10 * time.Minute
	hour        = time.Hour
)

// lane brings messages to one receiver. What is behind mu is handed over by the planner;
// all else belongs to the lane's goroutine.
type lane struct {
	s      *session
	d      *Deps
	r      *Receiver
	sender Sender

	mu    sync.Mutex
	inbox []*entry
	more  bool      // the store may have what the lane has not
	count int       // findings that wait, inbox included, as of the last turn
	since time.Time // since when the oldest of them does
	wake  chan struct{}

	entries map[uuid.UUID]*entry // by finding
	groups  map[string]*group
	open    map[uuid.UUID]*known       // what the receiver takes to be open
	sent    []time.Time                // of messages within the last hour
	lastRow time.Time                  // of the newest row: the next one is behind it
	load    bool                       // the store is asked for what waits
	loaded  time.Time                  // when that was done last
	refresh time.Time                  // when open findings are sent again
	took    time.Time                  // when the receiver took something last
	lone    time.Time                  // when it was logged last that one finding alone is refused
	turns   map[string]time.Time       // by tenant, when the receiver took something of it last
	forgot  bool                       // open has not all that the receiver takes to be open
	barred  map[string]detect.Severity // by tenant, what there was no room for since the last turn
	back    backoff
}

// entry is a finding of which the receiver has to be told something.
type entry struct {
	finding uuid.UUID
	queued  []store.Queued // oldest first; none for one that is only told again
	since   time.Time
	// The finding, as far as it takes to group it.
	about detect.Finding
	told  detect.Severity // as message.Alert has it
	held  bool            // it has waited for an end of quiet hours
	group *group
	// A receiver that refuses a message of this finding alone is not asked before back
	// again; refused is when it was last.
	back    backoff
	refused time.Time
}

// known is a finding that the receiver takes to be open.
type known struct {
	severity detect.Severity
	told     time.Time // last
	again    time.Time // when it is looked at for being told again
}

// group is what is told together.
type group struct {
	key     string
	route   *Route
	labels  map[string]string
	first   time.Time // of the oldest entry
	last    time.Time // when something of it was sent
	entries map[uuid.UUID]*entry
	attempt uint32
	noted   time.Time // when a failure was recorded last
	late    bool      // it had to wait because of the limit
	most    int       // alerts of the next message, after one that was refused; 0 for all
}

func newLane(s *session, r *Receiver, sender Sender) *lane {
	return &lane{s: s, d: s.d, r: r, sender: sender, wake: make(chan struct{}, 1), load: true,
		entries: map[uuid.UUID]*entry{}, groups: map[string]*group{}, open: map[uuid.UUID]*known{}, barred: map[string]detect.Severity{}, turns: map[string]time.Time{}}
}

// queuedOf is a row that was just queued.
func queuedOf(row *store.Notification, st *State) *entry {
	e := &entry{finding: row.FindingID, since: row.At,
		queued: []store.Queued{{ID: row.ID, What: row.What, Severity: row.Severity, Version: row.Version, At: row.At}}}
	e.describe(&st.Finding)
	return e
}

// describe keeps of a finding what a group may be made of.
func (e *entry) describe(f *detect.Finding) {
	e.about = detect.Finding{ID: f.ID, Version: f.Version, Rule: f.Rule, Detector: f.Detector, Severity: f.Severity,
		Subject: detect.Subject{Tenant: f.Tenant, Principal: f.Principal, Server: f.Server}}
}

// put hands over what has to be told. When too much waits it is left to the store.
func (l *lane) put(e *entry) {
	l.mu.Lock()
	if len(l.inbox) < l.s.room {
		l.inbox = append(l.inbox, e)
	} else {
		l.more = true
	}
	l.mu.Unlock()
	l.ring()
}

// mayLack says that the store may have what was not handed over.
func (l *lane) mayLack() {
	l.mu.Lock()
	l.more = true
	l.mu.Unlock()
	l.ring()
}

func (l *lane) ring() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) waiting() (n int, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count, l.since
}

// run brings messages until the context ends.
func (l *lane) run(ctx context.Context) {
	defer l.d.Watch.Waiting(l.r.Name, 0, 0) // from here on it is somebody else's affair
	for ctx.Err() == nil {
		if l.load || l.d.Now().Sub(l.loaded) >= readAgain {
			if !l.loaded.IsZero() && !l.load {
				// Only to be sure: what is held here is told all the same.
				if err := l.fill(ctx); err != nil && ctx.Err() == nil {
					l.loaded = l.d.Now()
					l.storeFailed(l.loaded, err)
				}
			} else if !l.d.asked(ctx, "reading what "+l.r.Name+" has to be told", l.fill) {
				return
			}
		}
		l.take()
		now := l.d.Now()
		g, next := l.pick(now)
		switch {
		case now.Before(l.back.until):
			next = l.back.until
		case l.sender.Refresh() > 0 && !now.Before(l.refresh):
			l.renew(ctx)
			continue
		case g != nil:
			l.deliver(ctx, g)
			continue
		case l.again(ctx, now):
			continue
		}
		if r := l.sender.Refresh(); r > 0 && l.refresh.Before(next) && !now.Before(l.back.until) {
			next = l.refresh
		}
		pause(ctx, min(max(next.Sub(now), time.Millisecond), time.Minute), l.wake)
	}
}

// fill reads what waits in the store, what the receiver takes to be open, and how much it
// was sent of late. It can be called at any time.
func (l *lane) fill(ctx context.Context) error {
	l.s.handing.RLock()
	defer l.s.handing.RUnlock()
	now := l.d.Now()
	first := l.loaded.IsZero()
	if first {
		open, err := l.d.Store.ToldOpen(ctx, l.r.Name, now.Add(-lookBack), mostOpen)
		if err != nil {
			return err
		}
		sent, err := l.d.Store.MessagesSince(ctx, l.r.Name, now.Add(-hour))
		if err != nil {
			return err
		}
		// What is in the future was recorded when the clock was ahead: to count it would
		// silence the lane until then.
		l.sent = slices.DeleteFunc(sent, func(at time.Time) bool { return at.After(now) })
		l.forgot = len(open) == mostOpen
		for i := range open {
			severity, _ := detect.ParseSeverity(open[i].Severity)
			told := open[i].ToldAt
			l.follows(told)
			if told.After(now) {
				told = now
			}
			l.knows(open[i].FindingID, severity, told)
		}
	}
	rows, err := l.d.Store.Unsent(ctx, l.r.Name, now.Add(-lookBack), l.s.room)
	if err != nil {
		return err
	}
	fresh, err := l.described(ctx, rows)
	if err != nil {
		return err
	}
	l.take() // nothing is handed over now
	l.load, l.loaded = false, now
	for _, e := range fresh {
		l.add(e)
	}
	l.mu.Lock()
	l.more = len(rows) == l.s.room
	l.mu.Unlock()
	return nil
}

// described makes entries of what waits in the store.
func (l *lane) described(ctx context.Context, rows []store.Delivery) (out []*entry, err error) {
	for page := range slices.Chunk(rows, lookMost) {
		ids := make([]uuid.UUID, len(page))
		for i := range page {
			ids[i] = page[i].FindingID
		}
		states, err := newestOf(ctx, l.d.Feed, ids)
		if err != nil {
			return nil, err
		}
		for i := range page {
			e := &entry{finding: page[i].FindingID, queued: page[i].Waiting, since: page[i].Waiting[0].At}
			if st := states[e.finding]; st != nil {
				e.describe(&st.Finding)
			}
			switch page[i].Told {
			case "firing", "worse", "acknowledged":
				e.told, _ = detect.ParseSeverity(page[i].Severity)
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// take makes what the planner has handed over the lane's own, and says how much waits.
func (l *lane) take() {
	l.mu.Lock()
	inbox := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	clear(l.barred)
	for _, e := range inbox {
		if k := l.open[e.finding]; k != nil {
			e.told = k.severity
		}
		l.add(e)
	}
	now := l.d.Now()
	var since time.Time
	for _, e := range l.entries {
		if since.IsZero() || e.since.Before(since) {
			since = e.since
		}
	}
	l.mu.Lock()
	l.count, l.since = len(l.entries), since
	if l.more && len(l.entries) <= l.s.room/2 {
		l.load = true
	}
	l.mu.Unlock()
	oldest := time.Duration(0)
	if !since.IsZero() {
		oldest = max(now.Sub(since), 0)
	}
	l.d.Watch.Waiting(l.r.Name, len(l.entries), oldest)
}

// add makes an entry wait, together with what waits of the same finding already.
func (l *lane) add(e *entry) {
	if old := l.entries[e.finding]; old != nil {
		for _, q := range e.queued {
			if !slices.ContainsFunc(old.queued, func(o store.Queued) bool { return o.ID == q.ID }) {
				old.queued = append(old.queued, q)
			}
		}
		slices.SortStableFunc(old.queued, func(a, b store.Queued) int { return a.At.Compare(b.At) })
		old.back.until = time.Time{} // it is another message now
		if e.about.Version > old.about.Version {
			old.about = e.about
			l.leave(old)
			l.join(old)
		}
		return
	}
	if len(l.entries) >= l.s.room && !l.makeRoom(e) {
		l.mayLack()
		return
	}
	l.entries[e.finding] = e
	l.join(e)
}

// join puts an entry into its group.
func (l *lane) join(e *entry) {
	route := l.s.plan.routeTo(l.r.Name, &e.about)
	key, full, labels := "", strconv.Itoa(l.s.plan.index(route)), map[string]string{}
	if !l.sender.Groups() {
		var parts []string
		for _, by := range route.GroupBy {
			v := clip(valueOf(by, &e.about), mostShort)
			labels[by] = v
			parts = append(parts, by+"="+v)
			full += "\x00" + v // which no value has: names that look like others' keys join nobody
		}
		key = strings.Join(parts, ", ")
	}
	g := l.groups[full]
	if g == nil {
		g = &group{key: key, route: route, labels: labels, entries: map[uuid.UUID]*entry{}}
		l.groups[full] = g
	}
	if len(g.entries) == 0 {
		g.first = l.d.Now()
	}
	g.entries[e.finding], e.group = e, g
}

// leave takes an entry out of its group.
func (l *lane) leave(e *entry) {
	delete(e.group.entries, e.finding)
}

func valueOf(by string, f *detect.Finding) string {
	switch by {
	case "rule":
		return f.Rule
	case "detector":
		return f.Detector
	case "tenant":
		return f.Tenant
	case "principal":
		return f.Principal
	case "server":
		return f.Server
	}
	return f.Severity.String()
}

// index is the number of a route in the file.
func (p *Plan) index(r *Route) int {
	for i := range p.Routes {
		if r == &p.Routes[i] {
			return i
		}
	}
	return -1
}

// knows notes that the receiver takes a finding to be open. Beyond mostOpen the one that
// was told longest ago is forgotten: it is not sent again, and a message that it is
// over says all of it.
func (l *lane) knows(id uuid.UUID, severity detect.Severity, told time.Time) {
	if _, ok := l.open[id]; !ok && len(l.open) >= mostOpen {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(l.open)), func(a, b uuid.UUID) int { return l.open[a].told.Compare(l.open[b].told) })
		delete(l.open, oldest)
		l.forgot = true
	}
	l.open[id] = &known{severity: severity, told: told}
}

// follows makes the next row come behind a time.
func (l *lane) follows(at time.Time) {
	if at.After(l.lastRow) {
		l.lastRow = at
	}
}

// rowTime is the time of the next row: later than that of each before, also when the
// clock was set back.
func (l *lane) rowTime() time.Time {
	at := l.d.Now()
	if !at.After(l.lastRow) {
		at = l.lastRow.Add(time.Microsecond)
	}
	l.lastRow = at
	return at
}

// backoff is how long to wait after failures in a row.
type backoff struct {
	failures int
	until    time.Time
	refused  bool // it was logged that somebody has to look
}

const (
	leastBackoff   = time.Second
	refusedBackoff = time.Minute
	mostBackoff    = 10 * time.Minute
	mostRefused    = 6 * time.Hour // of a single finding, by a receiver that takes others
)

// failed makes the wait longer: it doubles from least to most, give or take a fifth, so
// that not all who wait come back at once.
func (b *backoff) failed(now time.Time, least, most time.Duration) time.Duration {
	wait := min(least<<min(b.failures, 12), most)
	wait = time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
	b.failures++
	b.until = now.Add(wait)
	return wait
}
