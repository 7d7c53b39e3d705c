package notify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// The outbox of a world.

func (w *world) AppendNotifications(_ context.Context, rows []store.Notification) error {
	return w.ask("Append", func() error {
		token := fmt.Sprint(rows)
		if !w.seen[token] {
			w.seen[token] = true
			w.rows = append(w.rows, rows...)
		}
		return nil
	})
}

func (w *world) NotificationsRead(context.Context) (p store.ReadPositions, err error) {
	p.Seq = map[string]uint64{}
	err = w.ask("Read", func() error {
		for _, r := range w.rows {
			if r.Step == "read" {
				p.Seq[r.Teller] = max(p.Seq[r.Teller], r.Seq)
				if r.At.After(p.At) {
					p.At = r.At
				}
			}
		}
		return nil
	})
	return p, err
}

func (w *world) NotifiedOf(_ context.Context, findings []string, since time.Time) (out []store.Notified, err error) {
	err = w.ask("NotifiedOf", func() error {
		type key struct{ receiver, id string }
		of := map[key]*store.Notified{}
		newest := map[key]time.Time{}
		ids, skipped, sent, last := map[string]bool{}, map[string]bool{}, map[key]bool{}, map[key]string{}
		for _, r := range w.rows {
			if r.Step == "read" || r.Step == "failed" || r.What == "test" || r.At.Before(since) || !slices.Contains(findings, r.FindingID.String()) {
				continue
			}
			k := key{r.Receiver, r.FindingID.String()}
			if of[k] == nil {
				of[k] = &store.Notified{Receiver: r.Receiver, FindingID: r.FindingID}
			}
			n := of[k]
			if r.At.After(n.Last) {
				n.Last = r.At
			}
			n.Skipped = n.Skipped || r.Step == "skipped"
			sent[k] = sent[k] || r.Step == "sent"
			if r.Step == "skipped" {
				skipped[r.ID.String()] = true
			}
			if r.Step == "queued" {
				if !ids[r.ID.String()] {
					ids[r.ID.String()] = true
					n.Queued++
				}
				if !r.At.Before(newest[k]) {
					newest[k], n.What, n.Severity, last[k] = r.At, r.What, r.Severity, r.ID.String()
				}
			}
		}
		for k, n := range of {
			n.Skipped = n.Skipped && (n.Queued == 0 || skipped[last[k]] && !sent[k])
			out = append(out, *n)
		}
		return nil
	})
	return out, err
}

func (w *world) deliveries(receiver string, since time.Time) []store.Delivery {
	of := map[uuid.UUID]*store.Delivery{}
	done := map[uuid.UUID]bool{}
	var order []uuid.UUID
	for _, r := range w.rows {
		if r.Receiver != receiver || r.At.Before(since) || r.What == "test" {
			continue
		}
		if of[r.FindingID] == nil {
			of[r.FindingID], order = &store.Delivery{FindingID: r.FindingID}, append(order, r.FindingID)
		}
		d := of[r.FindingID]
		switch r.Step {
		case "sent":
			if !r.At.Before(d.ToldAt) {
				d.Told, d.Severity, d.ToldAt = r.What, r.Severity, r.At
			}
			done[r.ID] = true
		case "skipped":
			done[r.ID] = true
		}
	}
	for _, r := range w.rows {
		if r.Receiver == receiver && r.Step == "queued" && !done[r.ID] && !r.At.Before(since) {
			of[r.FindingID].Waiting = append(of[r.FindingID].Waiting, store.Queued{ID: r.ID, What: r.What, Severity: r.Severity, Version: r.Version, At: r.At})
		}
	}
	var out []store.Delivery
	for _, id := range order {
		out = append(out, *of[id])
	}
	return out
}

func (w *world) Unsent(_ context.Context, receiver string, since time.Time, most int) (out []store.Delivery, err error) {
	err = w.ask("Unsent", func() error {
		turn, place := map[string]int{}, map[uuid.UUID]int{}
		list := slices.DeleteFunc(w.deliveries(receiver, since), func(d store.Delivery) bool { return len(d.Waiting) == 0 })
		worst := func(d store.Delivery) (s detect.Severity) {
			for _, q := range d.Waiting {
				severity, _ := detect.ParseSeverity(q.Severity)
				s = max(s, severity)
			}
			return s
		}
		slices.SortStableFunc(list, func(a, b store.Delivery) int { return int(worst(b)) - int(worst(a)) })
		for _, d := range list {
			tenant := w.states[d.FindingID.String()].Finding.Tenant
			place[d.FindingID] = turn[tenant]
			turn[tenant]++
		}
		slices.SortStableFunc(list, func(a, b store.Delivery) int { return place[a.FindingID] - place[b.FindingID] })
		out = list[:min(len(list), most)]
		return nil
	})
	return out, err
}

func (w *world) ToldOpen(_ context.Context, receiver string, since time.Time, most int) (out []store.Delivery, err error) {
	err = w.ask("ToldOpen", func() error {
		for _, d := range w.deliveries(receiver, since) {
			if d.Told != "" && d.Told != "resolved" && len(out) < most {
				out = append(out, d)
			}
		}
		return nil
	})
	return out, err
}

func (w *world) MessagesSince(_ context.Context, receiver string, since time.Time) (out []time.Time, err error) {
	err = w.ask("MessagesSince", func() error {
		for _, r := range w.rows {
			if r.Receiver == receiver && r.Step == "sent" && r.What != "test" && !r.At.Before(since) && !slices.ContainsFunc(out, r.At.Equal) {
				out = append(out, r.At)
			}
		}
		return nil
	})
	return out, err
}
