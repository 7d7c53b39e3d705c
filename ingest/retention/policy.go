// Package retention ends the life of events: how long they are kept, what is
// dropped when that is over, and what a legal hold keeps.
package retention

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest"
)

// Presets are how many months rules ask for. An event is kept these months and to
// the end of the one in which it turns as old.
var Presets = map[string]int{
	"pci":       12, // PCI DSS 4.0.1, 10.5.1: 12 months, the last three at hand; all are here
	"hipaa":     72, // 45 CFR 164.316(b)(2)(i): six years
	"eu-ai-act": 6,  // Regulation (EU) 2024/1689, articles 19 and 26(6): six months
}

// MaxMonths is the longest retention: a hundred years.
const MaxMonths = 1200

// ParsePolicy reads how long events are kept: months or a preset, and the tenants
// that differ, each as tenant=months or tenant=preset.
func ParsePolicy(usual string, tenants []string) (ingest.Retention, error) {
	var r ingest.Retention
	var err error
	if r.Default, err = months(usual); err != nil {
		return r, fmt.Errorf("retention.default: %w", err)
	}
	for _, t := range tenants {
		at := strings.LastIndexByte(t, '=')
		if at <= 0 {
			return r, fmt.Errorf("retention.tenants: %q is not tenant=months or tenant=preset", t)
		}
		if _, twice := r.Tenants[t[:at]]; twice {
			return r, fmt.Errorf("retention.tenants: %q is named twice", t[:at])
		}
		if r.Tenants == nil {
			r.Tenants = map[string]int{}
		}
		if r.Tenants[t[:at]], err = months(t[at+1:]); err != nil {
			return r, fmt.Errorf("retention.tenants: %s: %w", t[:at], err)
		}
	}
	return r, nil
}

func months(text string) (int, error) {
	if n, ok := Presets[strings.ToLower(text)]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxMonths {
		return 0, fmt.Errorf("%q is neither a number of months from 1 to %d nor one of %s", text, MaxMonths, strings.Join(slices.Sorted(maps.Keys(Presets)), ", "))
	}
	return n, nil
}
