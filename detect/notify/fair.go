package notify

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
)

// Who is told of several tenants hears of all of them, whatever one of them does: when
// there is not room for all, in a message or in memory, each tenant has its worst finding
// in it before one has its second. package store's Unsent has the same order.

// inOrder is the order in which findings are told: the worst first, and of those that a
// message has room for some of each tenant.
func inOrder(list []*entry) []*entry {
	slices.SortFunc(list, worseFirst)
	if len(list) <= mostAlerts {
		return list
	}
	turn := make(map[uuid.UUID]int, len(list))
	of := map[string]int{}
	for _, e := range list {
		turn[e.finding] = of[e.about.Tenant]
		of[e.about.Tenant]++
	}
	slices.SortStableFunc(list, func(a, b *entry) int { return turn[a.finding] - turn[b.finding] })
	slices.SortFunc(list[:mostAlerts], worseFirst)
	return list
}

// worseFirst is the order of what is told: the worst first, of those the oldest.
func worseFirst(a, b *entry) int {
	if a.about.Severity != b.about.Severity {
		return int(b.about.Severity) - int(a.about.Severity)
	}
	if c := a.since.Compare(b.since); c != 0 {
		return c
	}
	return slices.Compare(a.finding[:], b.finding[:])
}

// makeRoom leaves an entry to the store so that another one can wait here, and says
// whether it has: the least of the tenant that has most of them, when the other's has
// less, or else one of the same tenant that is less severe.
func (l *lane) makeRoom(e *entry) bool {
	tenant := e.about.Tenant
	if bar, ok := l.barred[tenant]; ok && e.about.Severity <= bar {
		return false // most of a flood are not looked for
	}
	count := map[string]int{}
	for _, o := range l.entries {
		count[o.about.Tenant]++
	}
	most := tenant
	for t, n := range count {
		if n > count[most] || n == count[most] && strings.Compare(t, most) < 0 {
			most = t
		}
	}
	bar := detect.Severity(127)
	if most == tenant || count[most] <= count[tenant]+1 {
		most, bar = tenant, e.about.Severity
	}
	var least *entry
	for _, o := range l.entries {
		if o.about.Tenant == most && o.about.Severity < bar && (least == nil || worseFirst(least, o) < 0) {
			least = o
		}
	}
	if least == nil {
		l.barred[tenant] = e.about.Severity
		return false
	}
	delete(l.entries, least.finding)
	l.leave(least)
	l.mayLack()
	return true
}
