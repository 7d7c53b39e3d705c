package detect

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestWrongSettingsAreNamed(t *testing.T) {
	for _, x := range []struct {
		want string
		cfg  func() Config
	}{
		{"step_up: is -1s", func() Config { c := DefaultScopeViolation(); c.StepUp = -time.Second; return c }},
		{"many_denials: is 1, must lie between 2 and 64", func() Config { c := DefaultScopeViolation(); c.ManyDenials = 1; return c }},
		{"probed_tools", func() Config { c := DefaultScopeViolation(); c.ProbedTools = 33; return c }},
		{"policy[1].principal: is empty", func() Config {
			c := DefaultScopeViolation()
			c.Policy = []ToolPolicy{{"*", []string{"a/b"}}, {"", []string{"a/b"}}}
			return c
		}},
		{`policy[0].allow: "read" has no slash`, func() Config {
			c := DefaultScopeViolation()
			c.Policy = []ToolPolicy{{"*", []string{"read"}}}
			return c
		}},
		{"wider_scopes[0]", func() Config { c := DefaultScopeViolation(); c.Wider = []ScopeCover{{Scope: "repo"}}; return c }},
		{"failures", func() Config { c := DefaultAuthBruteforce(); c.Failures = 1; return c }},
		{"window", func() Config { c := DefaultAuthBruteforce(); c.Window = 0; return c }},
		{"settled", func() Config { c := DefaultIdentityHijack(); c.Settled = -1; return c }},
		{"factor: is NaN", func() Config { c := DefaultDataEgress(); c.Factor = math.NaN(); return c }},
		{"min_reads", func() Config { c := DefaultDataEgress(); c.MinReads = 0; return c }},
		{"scan_classes", func() Config { c := DefaultArgumentAttack(); c.ScanClasses = 100; return c }},
		{"usual_rate", func() Config { c := DefaultArgumentAttack(); c.UsualRate = 0; return c }},
		{"usual_share", func() Config { c := DefaultSecretExposure(); c.UsualShare = 2; return c }},
		{"grace", func() Config { c := DefaultEmitterGap(); c.Grace = -1; return c }},
		{"least", func() Config { c := DefaultEmitterSilent(); c.Least = 0; return c }},
		{"behind", func() Config { c := DefaultClockSkew(); c.Behind = 0; return c }},
		{"batch", func() Config { c := DefaultDefinitionChange(); c.Batch = 0; return c }},
		{"max_groups", func() Config { c := DefaultDefinitionChange(); c.MaxGroups = 0; return c }},
	} {
		if err := x.cfg().Validate(); err == nil || !strings.HasPrefix(err.Error(), x.want) {
			t.Errorf("want %q: %v", x.want, err)
		}
	}
}

func TestWordsOfReasons(t *testing.T) {
	for want, got := range map[string]string{
		`"nul\x00inside"`: sayName("nul\x00inside"), `""`: sayName(""),
		"0 ms": saySpan(0), "999 ms": saySpan(999_999), "59 s": saySpan(59_999_999), "1 min 1 s": saySpan(61e6), "2 h": saySpan(7200e6), "1 d 1 h": saySpan(25 * 3600e6),
		"1023 bytes": sayBytes(1023), "1.5 KiB": sayBytes(1536), "200 MiB": sayBytes(200 << 20), "16384 PiB": sayBytes(math.MaxUint64),
		"1 identity": sayCount(1, "identity"), "2 identities": sayCount(2, "identity"), "0 calls": sayCount(0, "call"),
		`"a", "b", "c", "d" and 2 more`: sayNames([]string{"a", "b", "c", "d", "e", "f"}),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if long := sayName(strings.Repeat("\x00", 5000)); len(long) > 130 {
		t.Errorf("%d bytes of a name", len(long))
	}
}
