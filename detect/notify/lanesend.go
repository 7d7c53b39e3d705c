package notify

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

const (
	sendPatience = 2 * time.Minute // of one message, which may be many requests
	lastWords    = 5 * time.Second // when the service stops
	failureEvery = time.Minute     // a message's failures are recorded at most so often
	mostError    = 300             // bytes
)

// parcel is one message, and what becomes of the entries when it has arrived.
type parcel struct {
	n    *message.Notification
	said []said
	drop []dropped
}

// said is an entry of which the message says something.
type said struct {
	e    *entry
	what message.What
	f    detect.Finding // as it is said; only what a group is made of when it was left out
}

// dropped is an entry of which nothing has to be said any more.
type dropped struct {
	e   *entry
	why string
}

// deliver tells the receiver of a group. It returns when that has arrived and is
// recorded, or when it is known how long to wait.
func (l *lane) deliver(ctx context.Context, g *group) {
	now := l.d.Now()
	p, err := l.pack(ctx, g, l.together(g, now), now)
	if err != nil {
		l.storeFailed(now, err)
		return
	}
	if len(p.said) == 0 {
		l.done(ctx, p, 0, 0)
		return
	}
	g.attempt++
	status, err := l.send(ctx, p.n)
	if err == nil {
		l.sayWorks()
		l.d.Watch.Sent(l.r.Name, len(p.said), l.d.Now().Sub(now))
		attempt := g.attempt
		g.attempt, g.late, g.noted = 0, false, time.Time{}
		if g.most *= 2; g.most >= mostAlerts {
			g.most = 0
		}
		l.took = l.d.Now()
		l.sent = append(l.sent, l.took)
		for i := range p.said {
			l.turns[p.said[i].e.about.Tenant] = l.took
		}
		l.done(ctx, p, attempt, status)
		return
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // the service stops; it is sent at the next start
	}
	l.d.Watch.Failed(l.r.Name)
	l.recordFailure(ctx, g, p, status, err)
	if _, refused := errors.AsType[receiver.Refused](err); refused || errors.Is(err, context.DeadlineExceeded) {
		n := min(len(p.said), mostAlerts)
		g.most = max(n/2, 1)
		switch {
		case refused && n > 1:
			return // at once, with less: what one of them says may be all that it does not take
		case refused && l.refusedOne(p.said[0].e):
			l.back.until = l.d.Now().Add(leastBackoff)
			if l.lone.IsZero() || l.d.Now().Sub(l.lone) >= hour {
				l.lone = l.d.Now()
				l.d.Log.Error("notify: a receiver refuses what it is told of one finding, and takes others; it is tried again, but somebody has to look at what stands between", "receiver", l.r.Name, "finding", p.said[0].e.finding, "status", status, "error", clip(err.Error(), mostError))
			}
			return
		}
	}
	l.sayFailed(&l.back, status, err)
	if e := p.said[0].e; len(p.said) == 1 && !e.back.until.IsZero() && !e.back.until.After(l.back.until) {
		e.back.until = l.back.until.Add(leastBackoff) // the others are tried first
	}
}

// refusedOne makes a finding wait that was refused alone, and says whether the receiver
// takes others. A filter on the way to it may not let pass what one of them quotes, and
// who makes such findings must not silence the others.
func (l *lane) refusedOne(e *entry) (others bool) {
	now := l.d.Now()
	others = l.took.After(e.refused) && now.Sub(l.took) < time.Hour
	most := mostBackoff
	if others {
		most = mostRefused
	}
	e.back.failed(now, refusedBackoff, most)
	e.refused = now
	return others
}

// pack makes a message of a group, out of what the findings are now. A chat gets the
// worst in detail and the number of the others; to a machine each alert matters, and
// what has no room comes next.
func (l *lane) pack(ctx context.Context, g, all *group, now time.Time) (*parcel, error) {
	list := make([]*entry, 0, len(all.entries))
	for _, e := range all.entries {
		if !now.Before(e.back.until) {
			list = append(list, e)
		}
	}
	list = inOrder(list)
	most := mostAlerts
	if g.most > 0 {
		most = g.most
	}
	if l.r.Settings.Kind != receiver.Slack || g.most > 0 {
		list = list[:min(len(list), most)]
	}
	p := &parcel{n: &message.Notification{Receiver: l.r.Name, Group: all.key, Labels: all.labels, At: now}}
	for page := range slices.Chunk(list, lookMost) {
		ids := make([]uuid.UUID, len(page))
		for i := range page {
			ids[i] = page[i].finding
		}
		states, err := newestOf(ctx, l.d.Feed, ids)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			st := states[e.finding]
			what, why := e.what(st, l.forgot)
			switch {
			case e.ahead(st, now):
				e.back.until = now.Add(storeWait)
			case what == "":
				p.drop = append(p.drop, dropped{e, why})
			case len(p.n.Alerts) < mostAlerts:
				p.n.Alerts = append(p.n.Alerts, l.s.plan.alert(l.r, st, what, e.told, l.d))
				p.said = append(p.said, said{e, what, st.Finding})
			default:
				p.n.Left++
				p.said = append(p.said, said{e, what, e.about})
			}
		}
	}
	// The same message has the same name when it is made again, also by another process.
	h := sha256.New()
	for _, s := range p.said {
		id := l.idOf(&s)
		h.Write(id[:])
	}
	p.n.ID = asUUID(h.Sum([]byte(nil))[:16]).String()
	return p, nil
}

// ahead says that the finding can't be read as it was when it was queued: on a cluster,
// the replica that is asked may lag. It is not waited for for ever.
func (e *entry) ahead(st *State, now time.Time) bool {
	n := len(e.queued)
	return n > 0 && now.Sub(e.queued[n-1].At) < readAgain && (st == nil || st.Finding.Version < e.queued[n-1].Version)
}

// what is the thing that has to be said: the newest that was queued. Empty when nothing
// has to, and why. forgot is set when the receiver may have been told what told does not
// say.
func (e *entry) what(st *State, forgot bool) (what message.What, why string) {
	if st == nil {
		return "", "the finding is not in the store any more"
	}
	if len(e.queued) == 0 { // it is told once more
		if st.over() || st.Triage == TriageSeen || st.Suppressed {
			return "", "somebody took it up"
		}
		return message.Firing, ""
	}
	newest := &e.queued[len(e.queued)-1]
	what = message.What(newest.What)
	severity, _ := detect.ParseSeverity(newest.Severity)
	untold := e.told == detect.None && (!forgot || e.queued[0].What == string(message.Firing))
	switch {
	case untold && st.Triage == TriageClosed:
		return "", "somebody closed it before it could be told"
	case untold && st.Suppressed:
		return "", "a suppression covers the finding"
	case untold && e.held && st.over():
		return "", "over before the quiet hours were"
	case e.told == detect.None && what == message.Worse:
		return message.Firing, ""
	case what == message.Worse && e.told >= severity:
		return "", "the receiver was told so with another message"
	}
	return what, ""
}

// idOf names what is said of an entry.
func (l *lane) idOf(s *said) uuid.UUID {
	if n := len(s.e.queued); n > 0 {
		return s.e.queued[n-1].ID
	}
	var told uint64
	if k := l.open[s.e.finding]; k != nil {
		told = uint64(k.told.UnixMicro())
	}
	return idOf(l.r.Name, s.e.finding.String(), s.e.about.Version, "again", told)
}

// send gives a message to the sender. What is under way when the service stops has a few
// seconds left.
func (l *lane) send(ctx context.Context, n *message.Notification) (status int, err error) {
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendPatience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(lastWords, cancel)
		context.AfterFunc(sending, func() { t.Stop() })
	})
	defer stop()
	return l.sender.Send(sending, n)
}

// done records what has arrived and what need not be said any more, and forgets it.
func (l *lane) done(ctx context.Context, p *parcel, attempt uint32, status int) {
	at := l.rowTime()
	var rows []store.Notification
	row := func(step string, id uuid.UUID, what string, f *detect.Finding, finding uuid.UUID, why string) {
		rows = append(rows, store.Notification{At: at, Step: step, ID: id, Receiver: l.r.Name, What: what, FindingID: finding, Version: f.Version,
			Tenant: f.Tenant, Rule: f.Rule, Detector: f.Detector, Severity: f.Severity.String(), Server: f.Server, Error: why})
	}
	skipped := 0
	for i := range p.said {
		s := &p.said[i]
		row("sent", l.idOf(s), string(s.what), &s.f, s.e.finding, "")
		last := &rows[len(rows)-1]
		last.Attempt, last.Status = attempt, uint16(status)
		for _, q := range s.e.queued[:max(len(s.e.queued)-1, 0)] {
			skipped++
			row("skipped", q.ID, q.What, &s.f, s.e.finding, "a later message says more")
		}
	}
	for _, d := range p.drop {
		for _, q := range d.e.queued {
			skipped++
			row("skipped", q.ID, q.What, &d.e.about, d.e.finding, d.why)
		}
	}
	for part := range slices.Chunk(rows, store.MaxNotifications) {
		if !l.record(ctx, part) {
			return // it is sent again at the next start
		}
	}
	if skipped > 0 {
		l.d.Watch.Skipped(l.r.Name, skipped)
	}
	now := l.d.Now() // rows may be ahead of the clock when that was set back
	for i := range p.said {
		s := &p.said[i]
		l.forget(s.e, now)
		if s.what == message.Resolved {
			delete(l.open, s.e.finding)
		} else {
			l.knows(s.e.finding, max(s.f.Severity, s.e.about.Severity), now)
		}
	}
	for _, d := range p.drop {
		l.forget(d.e, time.Time{})
	}
}

// forget takes out an entry that was dealt with, at the time when something was sent.
func (l *lane) forget(e *entry, at time.Time) {
	delete(l.entries, e.finding)
	l.leave(e)
	if !at.IsZero() && len(e.group.entries) == 0 {
		e.group.last, e.group.late = at, false
	}
}

// record stores rows, for as long as it takes: what was sent must not be sent again. When
// the service stops meanwhile it tries once more, for a few seconds.
func (l *lane) record(ctx context.Context, rows []store.Notification) bool {
	for failed := false; ; failed = true {
		last := ctx.Err() != nil
		patience := 30 * time.Second
		if last {
			patience = lastWords
		}
		noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		err := l.d.Store.AppendNotifications(noting, rows)
		cancel()
		if err == nil {
			return true
		}
		l.d.Watch.StoreFailed()
		if last {
			l.d.Log.Error("notify: it could not be recorded what was sent; it is sent again at the next start", "receiver", l.r.Name, "error", err)
			return false
		}
		if !failed {
			l.d.Log.Warn("notify: what was sent can't be recorded; nothing else is sent until it is", "receiver", l.r.Name, "error", err)
		}
		pause(ctx, storeWait, nil)
	}
}

// recordFailure notes that a message has not arrived, once a minute at most and once for
// all that was in it. If that fails it is left: the next one is noted.
func (l *lane) recordFailure(ctx context.Context, g *group, p *parcel, status int, why error) {
	now := l.d.Now()
	if !g.noted.IsZero() && now.Sub(g.noted) < failureEvery {
		return
	}
	s := &p.said[0]
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	err := l.d.Store.AppendNotifications(noting, []store.Notification{{At: l.rowTime(), Step: "failed", ID: l.idOf(s), Receiver: l.r.Name, What: string(s.what),
		FindingID: s.e.finding, Version: s.f.Version, Tenant: s.f.Tenant, Rule: s.f.Rule, Detector: s.f.Detector, Severity: s.f.Severity.String(), Server: s.f.Server,
		Attempt: g.attempt, Status: uint16(status), Error: shown(why)}})
	if err != nil {
		l.d.Watch.StoreFailed()
		return
	}
	g.noted = now
}

// shown is why a message has not arrived, as the finding's tenant may read it: without
// the host of the receiver, which is the operator's. The log has it.
func shown(err error) string {
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "tell "); ok {
		if _, why, ok := strings.Cut(rest, ": "); ok {
			text = why
		}
	}
	return clip(text, mostError)
}

// sayFailed makes the lane wait, and logs the first failure of a row and the first that
// time alone does not mend.
func (l *lane) sayFailed(b *backoff, status int, err error) {
	first, now := b.failures == 0, l.d.Now()
	var wait time.Duration
	if later, ok := errors.AsType[receiver.Later](err); ok {
		b.failures++
		wait = later.After
		b.until = now.Add(wait)
	} else if _, refused := errors.AsType[receiver.Refused](err); refused {
		wait = b.failed(now, refusedBackoff, mostBackoff)
		if !b.refused {
			b.refused = true
			l.d.Log.Error("notify: a receiver refuses what it is told; it is tried again, but somebody has to look at its settings", "receiver", l.r.Name, "status", status, "error", clip(err.Error(), mostError))
			return
		}
	} else {
		wait = b.failed(now, leastBackoff, mostBackoff)
	}
	if first {
		l.d.Log.Warn("notify: a receiver could not be told; it is tried again until it can", "receiver", l.r.Name, "status", status, "error", clip(err.Error(), mostError), "wait", wait)
	}
}

// sayWorks ends a row of failures.
func (l *lane) sayWorks() {
	if l.back.failures > 0 {
		l.d.Log.Info("notify: the receiver is told again", "receiver", l.r.Name, "failures", l.back.failures)
	}
	l.back = backoff{}
}
