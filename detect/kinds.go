package detect

// Kind is one kind of detector that rules can use.
type Kind struct {
	Name string
	Does string        // one sentence
	New  func() Config // the shipped settings
}

// Kinds are the detectors.
var Kinds = []Kind{
	{"off_hours", "an identity is active when it never is", func() Config { return DefaultOffHours() }},
	{"call_spike", "calls come far more often than is usual for a principal, a tool or a server", func() Config { c := DefaultCallSpike(); return &c }},
	{"agent_loop", "an agent calls the same tools with the same arguments again and again, or fails again and again", func() Config { return DefaultAgentLoop() }},
	{"scope_violation", "calls were refused for lack of rights, or let through without them", func() Config { return DefaultScopeViolation() }},
	{"toxic_flow", "data goes where text that the agent read told it to send it, or leaves from a private source after it", func() Config { return DefaultToxicFlow() }},
	{"new_for_identity", "an established identity uses servers or tools for the first time", func() Config { return DefaultNewForIdentity() }},
	{"identity_hijack", "two hold one session or credential", func() Config { return DefaultIdentityHijack() }},
	{"auth_bruteforce", "somebody tries credentials until one fits", func() Config { return DefaultAuthBruteforce() }},
	{"data_egress", "an identity takes out far more than it ever does", func() Config { return DefaultDataEgress() }},
	{"argument_attack", "arguments are made to break what a tool does with them", func() Config { return DefaultArgumentAttack() }},
	{"secret_exposure", "secrets are sent to a tool, or handed out by one", func() Config { return DefaultSecretExposure() }},
	{"definition_change", "a tool is no longer what it was, or hides something", func() Config { return DefaultDefinitionChange() }},
	{"emitter_gap", "events that an emitter numbered have not arrived", func() Config { return DefaultEmitterGap() }},
	{"emitter_silent", "a server or an emitter that used to send has gone quiet", func() Config { return DefaultEmitterSilent() }},
	{"log_contradicted", "somebody holds proof that the log is not what it was", func() Config { return DefaultLogContradicted() }},
	{"clock_skew", "an emitter's clock is wrong", func() Config { return DefaultClockSkew() }},
	{"custom", "a condition of your own, counted in a window", func() Config { return DefaultCustom() }},
}

// KindOf finds a kind by its name.
func KindOf(name string) (Kind, bool) {
	for _, k := range Kinds {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}
