package retention_test

import (
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/retention"
)

func TestAPolicyIsReadFromMonthsAndPresets(t *testing.T) {
	r, err := retention.ParsePolicy("pci", []string{"clinic=HIPAA", "lab=3", "a=b=eu-ai-act"})
	if err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]int{"clinic": 72, "lab": 3, "a=b": 6, "anybody": 12} {
		if got := r.Months(tenant); got != want {
			t.Errorf("%s: %d months, want %d", tenant, got, want)
		}
	}
}

func TestABadPolicyIsRefusedByName(t *testing.T) {
	for _, c := range []struct {
		usual   string
		tenants []string
		want    string
	}{
		{"0", nil, `retention.default: "0" is neither a number of months from 1 to 1200 nor one of eu-ai-act, hipaa, pci`},
		{"forever", nil, "retention.default"},
		{"1201", nil, "retention.default"},
		{"12", []string{"clinic"}, `retention.tenants: "clinic" is not tenant=months or tenant=preset`},
		{"12", []string{"=3"}, "is not tenant=months"},
		{"12", []string{"a=3", "a=4"}, `"a" is named twice`},
		{"12", []string{"a=-1"}, `retention.tenants: a: "-1" is neither`},
	} {
		if _, err := retention.ParsePolicy(c.usual, c.tenants); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %q: %v, want %q", c.usual, c.tenants, err, c.want)
		}
	}
}
