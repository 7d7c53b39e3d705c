package detect

import (
	"encoding/binary"
	"strconv"

	"github.com/zeebo/xxh3"
)

// Share is one of several equal parts of the work of a set of rules: which part an
// event belongs to is decided for each rule by the [Scope] of its detector. Engines
// that have all shares of the same rules between them, and that are given the same
// events and the same clock, find what one engine without a share finds. Detectors
// don't know of it.
//
// A rule is in one share for each of the things that its findings are about. What
// bounds a rule, its groups in memory and the findings that it opens for a tenant in
// an hour, bounds each share of it.
//
// The zero value is all of the work.
type Share struct {
	Number int // from 0
	Of     int // how many there are; 0 and 1 are all of the work
}

// String is "3of8": shares are numbered from 0. It is empty for all of the work.
func (s Share) String() string {
	if s.Of <= 1 {
		return ""
	}
	return strconv.Itoa(s.Number) + "of" + strconv.Itoa(s.Of)
}

// Scope says which events a detector must see together to find what it finds.
type Scope uint8

const (
	// ByTenant: identities are compared with each other, or it is about a tool, a
	// server or a credential, which several identities use. The rule's name is part
	// of what is hashed, so that one tenant's rules are spread over the shares.
	ByTenant Scope = iota
	// ByIdentity: each group is of one identity of one tenant, see [Identity].
	ByIdentity
	// ByEmitter: each group is of one emitter, whatever tenants it sends for.
	ByEmitter
)

// scoped is a Config that says its scope; one that does not is ByTenant.
type scoped interface{ Scope() Scope }

func scopeOf(c Config) Scope {
	if s, ok := c.(scoped); ok {
		return s.Scope()
	}
	return ByTenant
}

// Scope is by identity: a run is one agent's.
func (c *AgentLoop) Scope() Scope { return ByIdentity }

// Scope is by identity: each is measured by its own history.
func (c *DataEgress) Scope() Scope { return ByIdentity }

// Scope is by identity: sessions, traces and conversations are looked at as one
// identity's.
func (c *ToxicFlow) Scope() Scope { return ByIdentity }

// Scope is by identity where that is a part of what events are grouped by.
func (c *Custom) Scope() Scope {
	for _, g := range c.GroupBy {
		if g == "principal" {
			return ByIdentity
		}
	}
	return ByTenant
}

// Scope is by tenant: a newcomer is measured by its peers.
func (c *OffHours) Scope() Scope { return ByTenant }

// Scope is by tenant: tools and servers are counted too, and what explains their
// spikes is the principals'.
func (c *CallSpike) Scope() Scope { return ByTenant }

// Scope is by tenant: who is denied may have no name yet, and a tool's hole is
// everybody's.
func (c *ScopeViolation) Scope() Scope { return ByTenant }

// Scope is by tenant: how common a tool is counts.
func (c *NewForIdentity) Scope() Scope { return ByTenant }

// Scope is by tenant: it is about two identities.
func (c *IdentityHijack) Scope() Scope { return ByTenant }

// Scope is by tenant: it is about addresses and credentials, too.
func (c *AuthBruteforce) Scope() Scope { return ByTenant }

// Scope is by tenant: what is usual for a tool is what all do with it.
func (c *ArgumentAttack) Scope() Scope { return ByTenant }

// Scope is by tenant: what is usual for a tool is what all do with it.
func (c *SecretExposure) Scope() Scope { return ByTenant }

// Scope is by tenant: it is about tools.
func (c *DefinitionChange) Scope() Scope { return ByTenant }

// Scope is by tenant: a server is all of its emitters.
func (c *EmitterSilent) Scope() Scope { return ByTenant }

// Scope is by tenant: it is about logs.
func (c *LogContradicted) Scope() Scope { return ByTenant }

// Scope is by emitter: numbers are an emitter's, whatever tenants it sends for.
func (c *EmitterGap) Scope() Scope { return ByEmitter }

// Scope is by emitter: so are clocks.
func (c *ClockSkew) Scope() Scope { return ByEmitter }

// Take makes the engine do a share of the work. It is for an engine that is new.
func (x *Engine) Take(s Share) { x.share = s }

// Holds says whether a finding of a rule is told by this share, by whom or what it is
// about. It is true for exactly one share of as many, also when the rule is not known
// any more and nil.
func (s Share) Holds(rule *Rule, name string, about *Subject) bool {
	if s.Of <= 1 {
		return true
	}
	scope := ByTenant
	if rule != nil {
		scope = scopeOf(rule.With)
	}
	var p parts
	switch scope {
	case ByIdentity:
		p.identity = nameHash(ByIdentity, about.Tenant, about.Principal)
	case ByEmitter:
		p.emitter = nameHash(ByEmitter, about.Emitter)
	case ByTenant:
		p.tenant = nameHash(ByTenant, about.Tenant)
	}
	return s.has(&p, scope, ruleHash(name))
}

// parts are an event's hashes that decide on its share.
type parts struct{ tenant, identity, emitter uint64 }

func partsOf(v *Seen) parts {
	return parts{nameHash(ByTenant, v.Tenant), nameHash(ByIdentity, v.Tenant, Identity(v.Event)), nameHash(ByEmitter, v.EmitterID)}
}

// has says whether the share has an event, for a rule.
func (s Share) has(p *parts, scope Scope, rule uint64) bool {
	h := p.tenant
	switch scope {
	case ByIdentity:
		h = p.identity
	case ByEmitter:
		h = p.emitter
	case ByTenant:
		h = mix(h, rule)
	}
	return h%uint64(s.Of) == uint64(s.Number)
}

// nameHash is XXH3 (64 bits, no seed) over the scope and each name behind its length:
// every instance must come to the same, so it is no secret. It may never change, or a
// store's shares would not be those that they were.
func nameHash(scope Scope, names ...string) uint64 {
	var room [128]byte
	b := append(room[:0], byte(scope))
	for _, n := range names {
		b = binary.AppendUvarint(b, uint64(len(n)))
		b = append(b, n...)
	}
	return xxh3.Hash(b)
}

func ruleHash(name string) uint64 { return xxh3.HashString(name) }
