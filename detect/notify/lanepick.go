package notify

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// pick is the group whose turn it is: one of the tenant that was heard of least lately,
// and of its groups the one that is due for longest; nil when there is none, and when it
// is worth looking again.
func (l *lane) pick(now time.Time) (due *group, next time.Time) {
	next = now.Add(time.Minute)
	var best, heard time.Time
	muted := map[*Route]bool{}
	for key, g := range l.groups {
		if len(g.entries) == 0 {
			if now.Sub(g.last) > g.route.GroupInterval {
				delete(l.groups, key)
			}
			continue
		}
		quiet, known := muted[g.route]
		if !known {
			quiet = g.route.Muted(now)
			muted[g.route] = quiet
		}
		at := l.dueAt(g, now)
		if quiet {
			for _, e := range g.entries {
				e.held = true
			}
			at = nextMinute(now) // as fine as time intervals are
		} else if !at.After(now) && l.limited(g.route, now) {
			g.late = true
			at = l.sent[len(l.sent)-g.route.Limit].Add(hour)
		}
		if at.After(now) {
			if at.Before(next) {
				next = at
			}
			continue
		}
		turn := l.turns[g.tenant()]
		if due == nil || turn.Before(heard) || turn.Equal(heard) && at.Before(best) {
			due, best, heard = g, at, turn
		}
	}
	return due, next
}

// tenant is that of a group, or of one of its findings when it has those of several: a
// message of such a group has some of each.
func (g *group) tenant() string {
	for _, e := range g.entries {
		return e.about.Tenant
	}
	return ""
}

// dueAt is when a group may be told.
func (l *lane) dueAt(g *group, now time.Time) time.Time {
	at := g.first
	if !l.sender.Groups() {
		at = g.first.Add(g.route.GroupWait)
		if !g.last.IsZero() && g.last.Add(g.route.GroupInterval).After(at) {
			at = g.last.Add(g.route.GroupInterval)
		}
	}
	// All of it may have been refused, one by one.
	first := time.Time{}
	for _, e := range g.entries {
		if !now.Before(e.back.until) {
			return at
		}
		if first.IsZero() || e.back.until.Before(first) {
			first = e.back.until
		}
	}
	if first.After(at) {
		at = first
	}
	return at
}

func nextMinute(now time.Time) time.Time {
	return now.Add(time.Minute - time.Duration(now.UnixNano()%int64(time.Minute)))
}

// limited says whether the receiver was sent as many messages within an hour as a route
// may send. A receiver that groups by itself gets all.
func (l *lane) limited(r *Route, now time.Time) bool {
	old := 0
	for old < len(l.sent) && now.Sub(l.sent[old]) >= hour {
		old++
	}
	l.sent = slices.Delete(l.sent, 0, old)
	return r.Limit > 0 && !l.sender.Groups() && len(l.sent) >= r.Limit
}

// together makes a group that had to wait because of the limit one with all others of its
// route that wait for the same: there is one message left, and it has to say everything.
func (l *lane) together(g *group, now time.Time) *group {
	if !g.late {
		return g
	}
	all := &group{route: g.route, labels: map[string]string{}, first: g.first, entries: map[uuid.UUID]*entry{}, attempt: g.attempt, noted: g.noted}
	n := 0
	for _, o := range l.groups {
		if o.route == g.route && len(o.entries) > 0 && !l.dueAt(o, now).After(now) {
			n++
			for id, e := range o.entries {
				all.entries[id] = e
			}
		}
	}
	if n < 2 {
		return g
	}
	return all
}

// again looks for open findings of which the receiver has to be told once more because
// nobody has taken them up, and makes them wait; false when there are none.
func (l *lane) again(ctx context.Context, now time.Time) bool {
	if l.sender.Groups() || l.sender.Refresh() > 0 {
		return false // it tells again by itself
	}
	least := time.Duration(0)
	for i := range l.s.plan.Routes {
		r := &l.s.plan.Routes[i]
		if r.Receiver == l.r.Name && r.RepeatInterval > 0 && (least == 0 || r.RepeatInterval < least) {
			least = r.RepeatInterval
		}
	}
	if least == 0 {
		return false
	}
	var ids []uuid.UUID
	for id, k := range l.open {
		if k.again.IsZero() {
			k.again = k.told.Add(least)
		}
		if l.entries[id] == nil && !now.Before(k.again) && len(ids) < lookMost {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return false
	}
	states, err := newestOf(ctx, l.d.Feed, ids)
	if err != nil {
		l.storeFailed(now, err)
		return false
	}
	for _, id := range ids {
		l.tellAgain(id, states[id], now, least)
	}
	return true
}

func (l *lane) tellAgain(id uuid.UUID, st *State, now time.Time, least time.Duration) {
	k := l.open[id]
	if st == nil || st.over() {
		delete(l.open, id) // the planner says that it is over, where that is said
		return
	}
	k.again = now.Add(least)
	route := l.s.plan.routeTo(l.r.Name, &st.Finding)
	if route.RepeatInterval == 0 || st.Triage == TriageSeen || st.Suppressed || now.Sub(k.told) < route.RepeatInterval {
		return
	}
	e := &entry{finding: id, since: now, told: k.severity}
	e.describe(&st.Finding)
	l.add(e)
}

// renew sends what is open once more, to a receiver that forgets what it does not hear
// of. What is new comes in between: with thousands that are open, or a receiver that is
// slow, this takes longer than the time after which it is due again.
func (l *lane) renew(ctx context.Context) {
	now := l.d.Now()
	l.refresh = now.Add(l.sender.Refresh())
	var ids []uuid.UUID
	for id := range l.open {
		ids = append(ids, id)
	}
	for page := range slices.Chunk(ids, mostAlerts) {
		if ctx.Err() != nil {
			return
		}
		l.take()
		if g, _ := l.pick(l.d.Now()); g != nil {
			l.deliver(ctx, g)
		}
		if l.d.Now().Before(l.back.until) || ctx.Err() != nil {
			return
		}
		page = slices.DeleteFunc(page, func(id uuid.UUID) bool { return l.open[id] == nil }) // over by now
		if len(page) == 0 {
			continue
		}
		states, err := newestOf(ctx, l.d.Feed, page)
		if err != nil {
			l.storeFailed(now, err)
			return
		}
		n := &message.Notification{ID: uuid.NewString(), Receiver: l.r.Name, Labels: map[string]string{}, At: now}
		for _, id := range page {
			st := states[id]
			if st == nil || st.over() {
				delete(l.open, id) // if it has to be said, that waits already or soon will
				continue
			}
			// At the severity that it knows: what is worse is a message of its own.
			told := *st
			told.Finding.Severity = l.open[id].severity
			n.Alerts = append(n.Alerts, l.s.plan.alert(l.r, &told, message.Firing, told.Finding.Severity, l.d))
		}
		if len(n.Alerts) == 0 {
			continue
		}
		status, err := l.send(ctx, n)
		if err != nil {
			l.d.Watch.Failed(l.r.Name)
			l.sayFailed(&l.back, status, err)
			return
		}
		l.sayWorks()
	}
}

// storeFailed makes the lane wait for the store.
func (l *lane) storeFailed(now time.Time, err error) {
	l.d.Watch.StoreFailed()
	l.d.Log.Warn("notify: the store does not answer; it is asked again", "receiver", l.r.Name, "error", err)
	l.back.until = now.Add(storeWait)
}

// newestOf is the state of findings, by their ids.
func newestOf(ctx context.Context, feed Feed, ids []uuid.UUID) (map[uuid.UUID]*State, error) {
	texts := make([]string, len(ids))
	for i := range ids {
		texts[i] = ids[i].String()
	}
	states, err := feed.Newest(ctx, texts)
	if err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID]*State, len(states))
	for i := range states {
		id, err := uuid.Parse(states[i].Finding.ID)
		if err != nil {
			return nil, err
		}
		out[id] = &states[i]
	}
	return out, nil
}
