package notify

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

const (
	lookEvery = 2 * time.Second
	lookRest  = 200 * time.Millisecond // between looks, however often the bell rings
	lookMost  = 500                    // versions, and steps, of one look
	noteEvery = 30 * time.Second       // how far was read is noted, when nothing is queued
	// stepsLate is how late a step may become visible after the time that it has, and
	// how much clocks of instances may differ.
	stepsLate = 2 * time.Minute
	// stepsAgain is how far before the last note steps are looked at again at the start.
	stepsAgain = 10 * time.Minute
)

// reading is how far the planner has come. It belongs to its goroutine.
type reading struct {
	positions map[string]uint64
	noted     time.Time // when that was stored
	dirty     bool      // it is not
	since     time.Time // steps are read from here
	done      map[uuid.UUID]time.Time
	behind    time.Time // since when states lack that were told
}

// behindMost is how long states are waited for that were told and can't be read: on a
// cluster, a replica may have one table's rows before another's, or another replica's.
const behindMost = time.Minute

// read is the planner: it queues what has to be told until the context ends.
func (s *session) read(ctx context.Context) {
	p := &reading{done: map[uuid.UUID]time.Time{}}
	if !s.d.asked(ctx, "reading how far notifications have come", func(ctx context.Context) error { return s.begin(ctx, p) }) {
		return
	}
	for ctx.Err() == nil {
		more := false
		if !s.d.asked(ctx, "reading what was found", func(ctx context.Context) (err error) {
			more, err = s.look(ctx, p)
			return err
		}) {
			return
		}
		if more {
			continue
		}
		pause(ctx, lookRest, nil)
		pause(ctx, lookEvery-lookRest, s.bell)
	}
}

// begin finds out where to read on. When nobody has ever read, it is behind all that was
// told, and that is noted at once: what is told from now on is told, also when this
// process ends before anything happens.
func (s *session) begin(ctx context.Context, p *reading) error {
	at, err := s.d.Store.NotificationsRead(ctx)
	if err != nil {
		return err
	}
	now := s.d.Now()
	if !at.At.IsZero() {
		p.positions, p.noted = at.Seq, now
		if p.since = at.At.Add(-stepsAgain); at.At.After(now) {
			// The clock was ahead, so nobody knows when that was. To read a step again does
			// no harm, not to read one does.
			p.since = now.Add(-lookBack)
		}
		return nil
	}
	last, err := s.d.Feed.Last(ctx)
	if err != nil {
		return err
	}
	if len(last) == 0 {
		last = map[string]uint64{"": 0}
	}
	if err := s.d.Store.AppendNotifications(ctx, readRows(last, now)); err != nil {
		return err
	}
	p.positions, p.noted, p.since = last, now, now.Add(-stepsLate)
	return nil
}

// readRows say how far was read.
func readRows(positions map[string]uint64, at time.Time) []store.Notification {
	var rows []store.Notification
	for _, teller := range slices.Sorted(maps.Keys(positions)) {
		rows = append(rows, store.Notification{At: at, Step: "read", Teller: teller, Seq: positions[teller]})
	}
	return rows
}

// look reads once and queues what has to be told; more says that there may be more. After
// an error nothing has changed but, maybe, the store, where the same rows are one.
func (s *session) look(ctx context.Context, p *reading) (more bool, err error) {
	now := s.d.Now()
	steps, err := s.d.Feed.Steps(ctx, p.since, lookMost)
	if err != nil {
		return false, err
	}
	all := map[string]*happened{}
	var order []string
	touch := func(id string) *happened {
		if all[id] == nil {
			all[id], order = &happened{}, append(order, id)
		}
		return all[id]
	}
	var fresh []Step
	for _, t := range steps {
		if _, known := p.done[t.ID]; !known {
			fresh = append(fresh, t)
			h := touch(t.Finding)
			h.reopened = h.reopened || t.Name == "reopen"
		}
	}
	// While there are more steps than one look reads, versions wait: how far was read
	// then never covers a step that was not.
	next := p.positions
	if len(steps) < lookMost {
		touches, positions, err := s.d.Feed.After(ctx, p.positions, lookMost)
		if err != nil {
			return false, err
		}
		for _, t := range touches {
			h := touch(t.Finding)
			h.news = h.news || t.News
			h.version = max(h.version, t.Version)
		}
		next = positions
	}
	moved := !maps.Equal(next, p.positions)
	queued, err := s.decide(ctx, order, all, now)
	if err == nil {
		err = s.allRead(p, all, queued, now)
	}
	if err != nil {
		return false, err
	}
	rows := queued.rows
	note := (moved || p.dirty) && (len(rows) > 0 || now.Sub(p.noted) >= noteEvery)
	if note && len(steps) < lookMost {
		rows = append(readRows(next, now), rows...)
	}
	if len(rows) > 0 {
		if err := s.hand(ctx, rows, queued); err != nil {
			return false, err
		}
	}
	p.dirty = (moved || p.dirty) && !note
	if note {
		p.noted = now
	}
	p.positions = next
	p.stepsDone(fresh, steps, now)
	return moved || len(steps) == lookMost, nil
}

// stepsDone remembers which steps were dealt with, as long as they are read again.
func (p *reading) stepsDone(fresh, all []Step, now time.Time) {
	for _, t := range fresh {
		p.done[t.ID] = t.At
	}
	if len(all) == lookMost {
		// Of those at the very same time some may be left: it begins there again, unless
		// all that it read were of that time and known.
		if p.since = all[len(all)-1].At; len(fresh) == 0 {
			p.since = p.since.Add(time.Microsecond)
		}
	} else if quiet := now.Add(-stepsLate); quiet.After(p.since) || p.since.After(now) { // or the clock was set back
		p.since = quiet
	}
	for id, at := range p.done {
		if at.Before(p.since) {
			delete(p.done, id)
		}
	}
}

// hand stores rows and gives the lanes what they have to tell.
func (s *session) hand(ctx context.Context, rows []store.Notification, q *queue) error {
	s.handing.Lock()
	defer s.handing.Unlock()
	if err := s.d.Store.AppendNotifications(ctx, rows); err != nil {
		// They may be stored all the same, and then nobody else hands them out.
		for _, l := range s.lanes {
			l.mayLack()
		}
		return err
	}
	count := map[string]int{}
	for i := range q.rows {
		row := &q.rows[i]
		if row.Step != "queued" {
			s.d.Watch.Skipped(row.Receiver, 1)
			continue
		}
		count[row.Receiver]++
		s.lane(row.Receiver).put(queuedOf(row, q.states[row.FindingID.String()]))
	}
	for receiver, n := range count {
		s.d.Watch.Queued(receiver, n)
	}
	return nil
}

// allRead says that what was told could be read, or is not waited for any more: what is
// decided without it is never decided again.
func (s *session) allRead(p *reading, all map[string]*happened, q *queue, now time.Time) error {
	lack := 0
	for id, h := range all {
		if st := q.states[id]; h.version > 0 && (st == nil || st.Finding.Version < h.version) {
			lack++
		}
	}
	if lack == 0 {
		p.behind = time.Time{}
		return nil
	}
	if p.behind.IsZero() {
		p.behind = now
	}
	if now.Sub(p.behind) < behindMost {
		return fmt.Errorf("read %d findings that were told: they can't be read yet", lack)
	}
	s.d.Log.Error("notify: findings that were told can't be read, and nobody is told of them; check that the store has all of its rows", "findings", lack)
	p.behind = time.Time{}
	return nil
}

// happened is what one look saw of a finding.
type happened struct {
	version  uint32
	news     bool // as Touch has it
	reopened bool
}

// queue is what has to be queued, and the findings that it is about.
type queue struct {
	rows   []store.Notification
	states map[string]*State
}

// decide works out what has to be said of findings.
func (s *session) decide(ctx context.Context, order []string, all map[string]*happened, now time.Time) (*queue, error) {
	q := &queue{states: map[string]*State{}}
	if len(order) == 0 {
		return q, nil
	}
	states, err := s.d.Feed.Newest(ctx, order)
	if err != nil {
		return nil, err
	}
	for i := range states {
		q.states[states[i].Finding.ID] = &states[i]
	}
	notified, err := s.d.Store.NotifiedOf(ctx, order, now.Add(-lookBack))
	if err != nil {
		return nil, err
	}
	told := map[string]map[string]*store.Notified{}
	for i := range notified {
		n := &notified[i]
		id := n.FindingID.String()
		if told[id] == nil {
			told[id] = map[string]*store.Notified{}
		}
		told[id][n.Receiver] = n
	}
	for _, id := range order {
		if st := q.states[id]; st != nil {
			q.rows = append(q.rows, s.plan.say(all[id], st, told[id], now)...)
		}
	}
	return q, nil
}

// say is what has to be said of a finding, to all receivers: rows to be queued, or to be
// noted as skipped.
func (p *Plan) say(h *happened, st *State, told map[string]*store.Notified, now time.Time) (rows []store.Notification) {
	routes := p.routesOf(&st.Finding)
	for name := range maps.Keys(told) {
		if !slices.ContainsFunc(routes, func(r *Route) bool { return r.Receiver == name }) {
			if r := p.routeTo(name, &st.Finding); r != nil {
				routes = append(routes, r)
			}
		}
	}
	slices.SortStableFunc(routes, func(a, b *Route) int { return p.place(a) - p.place(b) })
	for _, r := range routes {
		matched := slices.Contains(p.routesOf(&st.Finding), r)
		n := told[r.Receiver]
		step, what, why := next(h, st, n, r, matched)
		if what == message.Acknowledged && !knowsAcknowledged(p.receiver(r.Receiver).Settings.Kind) {
			if n != nil && n.Queued > 0 && !n.Skipped {
				continue
			}
			what = message.Firing
		}
		if step != "" {
			rows = append(rows, rowOf(step, what, r.Receiver, &st.Finding, n, now, why))
		}
	}
	return rows
}

// place is where a route stands in the file.
func (p *Plan) place(r *Route) int {
	return slices.IndexFunc(p.Routes, func(o Route) bool { return o.Receiver == r.Receiver })
}

// next is what has to be said of a finding to one receiver, after what was queued for it
// so far; an empty step is nothing.
//
//	before \ now    open, worse   open     acknowledged   over
//	nothing         firing        -        acknowledged   resolved, unless closed
//	held back       firing        firing   acknowledged   -
//	open            worse         -        acknowledged   resolved
//	acknowledged    worse         -        -              resolved
//	over            firing        firing   -              -
//
// To one who was told nothing, something is said for news alone: that a plan has another
// receiver is none. Where nobody has use for acknowledged, it is firing at first and
// nothing later.
func next(h *happened, st *State, before *store.Notified, r *Route, matched bool) (step string, what message.What, why string) {
	f := &st.Finding
	was := message.What("")
	if before != nil && before.Queued > 0 && !before.Skipped {
		was = message.What(before.What)
	}
	switch was {
	case "":
		held := before != nil && before.Skipped
		switch {
		case !matched || st.Triage == TriageClosed:
			return "", "", ""
		case held && st.over(), !held && !h.news && (!h.reopened || st.History):
			return "", "", ""
		case st.Suppressed && held:
			return "", "", ""
		case st.Suppressed:
			return "skipped", message.Firing, "a suppression covers the finding"
		case st.over() && r.Resolved:
			return "queued", message.Resolved, ""
		case st.Triage == TriageSeen:
			return "queued", message.Acknowledged, ""
		}
		return "queued", message.Firing, ""
	case message.Resolved:
		if !st.over() && !st.Suppressed {
			return "queued", message.Firing, ""
		}
		return "", "", ""
	}
	severity, _ := detect.ParseSeverity(before.Severity)
	switch {
	case st.over():
		if r.Resolved {
			return "queued", message.Resolved, ""
		}
	case f.Severity > severity:
		return "queued", message.Worse, ""
	case st.Triage == TriageSeen && was != message.Acknowledged:
		return "queued", message.Acknowledged, ""
	}
	return "", "", ""
}

// rowOf is a row about a finding. Its time is behind all that the receiver was told of
// the finding, also when the clock was set back: the newest row is what was said last.
func rowOf(step string, what message.What, receiver string, f *detect.Finding, before *store.Notified, now time.Time, why string) store.Notification {
	at, nth := now, uint64(0)
	if before != nil {
		nth = before.Queued
		if !at.After(before.Last) {
			at = before.Last.Add(time.Microsecond)
		}
	}
	return store.Notification{At: at, Step: step, ID: idOf(receiver, f.ID, f.Version, what, nth), Receiver: receiver, What: string(what),
		FindingID: uuid.MustParse(f.ID), Version: f.Version, Tenant: f.Tenant, Rule: f.Rule, Detector: f.Detector,
		Severity: f.Severity.String(), Server: f.Server, Error: why}
}

// idOf names a thing that is said: a UUID of version 8 (RFC 9562, section 5.8). nth is
// how many things were queued for the receiver about the finding before: one that was
// reopened is told again under another id.
func idOf(receiver, finding string, version uint32, what message.What, nth uint64) uuid.UUID {
	h := sha256.Sum256(fmt.Appendf(nil, "mcpaudit notification\x00%q %s %d %s %d", receiver, finding, version, what, nth))
	return asUUID(h[:16])
}

func asUUID(b []byte) (id uuid.UUID) {
	copy(id[:], b)
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
