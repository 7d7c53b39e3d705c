package detect

import (
	"fmt"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// ToolPolicy allows some principals some tools. In patterns * stands for any run of
// characters and ? for one; others stand for themselves.
type ToolPolicy struct {
	Principal string   `key:"principal" doc:"pattern of the principals that it is for, such as https://issuer.example#ci-*"`
	Allow     []string `key:"allow" doc:"patterns SERVER/TOOL of what they may call, such as files/read_*; a resource's URI stands for the tool"`
}

// ScopeCover says that one scope grants what others do, where their names don't.
type ScopeCover struct {
	Scope  string   `key:"scope" doc:"the wider scope, such as repo"`
	Covers []string `key:"covers" doc:"the scopes that it grants as well, such as repo:status"`
}

func (p *ToolPolicy) validate(at string) error {
	if p.Principal == "" {
		return fmt.Errorf("%s.principal: is empty; write a pattern such as * or team-a-*", at)
	}
	if len(p.Allow) == 0 {
		return fmt.Errorf("%s.allow: is empty; write patterns SERVER/TOOL, such as files/read_*", at)
	}
	for _, a := range p.Allow {
		if _, _, ok := strings.Cut(a, "/"); !ok {
			return fmt.Errorf("%s.allow: %q has no slash; write SERVER/TOOL, such as files/read_* or files/*", at, a)
		}
	}
	return nil
}

// outsidePolicy reports whether some policy is for the identity and none of those
// that are allows the call.
func outsidePolicy(policies []ToolPolicy, who string, e *event.Event) bool {
	under := false
	for i := range policies {
		if !globMatch(policies[i].Principal, who) {
			continue
		}
		under = true
		for _, a := range policies[i].Allow {
			server, tool, _ := strings.Cut(a, "/")
			if globMatch(server, e.Server) && globMatch(tool, e.Target) {
				return false
			}
		}
	}
	return under
}

// globMatch matches bytes with * and ?, in time at most len(pattern)·len(s): a
// hostile name can't make it run away.
func globMatch(pattern, s string) bool {
	star, from := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0: // let the last star take one byte more
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// lackingScopes are the required scopes that nothing granted covers. Scopes are
// compared as they are written (RFC 6749, section 3.3: case-sensitive); besides, *
// covers all, and one that ends in :*, .* or /* covers what begins with the rest.
func lackingScopes(required, granted []string, wider []ScopeCover) (lacking []string) {
next:
	for _, r := range required {
		for _, g := range granted {
			if scopeCovers(g, r, wider) {
				continue next
			}
		}
		if r != "" {
			lacking = append(lacking, r)
		}
	}
	return lacking
}

func scopeCovers(granted, required string, wider []ScopeCover) bool {
	if granted == required || granted == "*" {
		return true
	}
	if n := len(granted) - 1; n > 0 && granted[n] == '*' && strings.IndexByte(":./", granted[n-1]) >= 0 && strings.HasPrefix(required, granted[:n]) {
		return true
	}
	for i := range wider {
		if wider[i].Scope != granted {
			continue
		}
		for _, c := range wider[i].Covers {
			if c == required {
				return true
			}
		}
	}
	return false
}
