package redact

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// valid is an event that event.Check accepts and that has nothing to redact.
func valid() *event.Event {
	e := event.Random(rand.New(rand.NewPCG(1, 1)))
	for i := range event.Texts {
		*event.Texts[i].Of(e) = "word"
	}
	for i := range event.Lists {
		*event.Lists[i].Of(e) = []string{"word"}
	}
	e.Arguments, e.Removed, e.Labels = `{"a":1}`, []event.Removal{{Path: "$.a", Class: "pii:email"}}, []event.Label{{Key: "k", Value: "v"}}
	e.RemovedCount = 1
	return e
}

// everyText calls do with the name of each text of a fresh event and with it.
func everyText(t *testing.T, do func(name string, e *event.Event, at *string)) {
	t.Helper()
	for i := range event.Texts {
		e := valid()
		do(event.Texts[i].Name, e, event.Texts[i].Of(e))
	}
	for i := range event.Lists {
		e := valid()
		do(event.Lists[i].Name, e, &(*event.Lists[i].Of(e))[0])
	}
	for name, of := range map[string]func(*event.Event) *string{
		"removed.path":  func(e *event.Event) *string { return &e.Removed[0].Path },
		"removed.class": func(e *event.Event) *string { return &e.Removed[0].Class },
		"label key":     func(e *event.Event) *string { return &e.Labels[0].Key },
		"label value":   func(e *event.Event) *string { return &e.Labels[0].Value },
	} {
		e := valid()
		do(name, e, of(e))
	}
	e := valid()
	e.Arguments = `"x"`
	do("arguments", e, &e.Arguments)
}

// untouched are the texts that the second pass leaves alone; lookAt says why.
var untouched = []string{"principal", "on_behalf_of", "emitter_id", "tenant", "redaction_profile", "redaction_profile_version"}

func holds(e *event.Event, secret string) bool {
	row := event.AppendRow(nil, e)
	return strings.Contains(string(row), secret)
}

// Promise 3, whatever field it is in. A field that is added to the record and
// forgotten here fails this.
func TestPromise3ASecretIsTakenOutOfEveryText(t *testing.T) {
	r := newTest(t)
	for _, secret := range []string{fakes["github"], fakes["aws"], fakes["slack"]} {
		everyText(t, func(name string, e *event.Event, at *string) {
			if slices.Contains(untouched, name) {
				return
			}
			*at = secret
			if name == "arguments" {
				*at = `{"x":["` + secret + `"]}`
			}
			if !r.Again(e) {
				t.Errorf("%s: it says that nothing changed", name)
			}
			if holds(e, secret) {
				t.Errorf("%s: the secret is still there", name)
			}
			if e.RemovedCount != 2 || e.RedactionError != "word" && name != "redaction_error" {
				t.Errorf("%s: count %d, error %q", name, e.RemovedCount, e.RedactionError)
			}
			if err := e.Check(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			once := *e
			if r.Again(e) || !reflect.DeepEqual(*e, once) {
				t.Errorf("%s: a second time it changed again", name)
			}
		})
	}
}

func TestThePrincipalIsLeftAsItIs(t *testing.T) {
	r := newTest(t)
	e := valid()
	e.Principal, e.OnBehalfOf = "https://issuer.example|anna@example.org", []string{"bob@example.org"}
	if r.Again(e) || e.Principal != "https://issuer.example|anna@example.org" || e.OnBehalfOf[0] != "bob@example.org" {
		t.Errorf("%q %q", e.Principal, e.OnBehalfOf)
	}
}

// Events that had one session must be seen to have one, though its id was a
// secret.
func TestASecretUsedAsAKeyOfCorrelationBecomesAPseudonym(t *testing.T) {
	r := newTest(t)
	a, b, c := valid(), valid(), valid()
	a.SessionID, b.SessionID, c.SessionID = fakes["jwt"], fakes["jwt"], strings.Replace(fakes["jwt"], "doz", "dor", 1)
	for _, e := range []*event.Event{a, b, c} {
		r.Again(e)
	}
	if a.SessionID != b.SessionID || a.SessionID == c.SessionID || !strings.HasPrefix(a.SessionID, "[SECRET:jwt:") {
		t.Errorf("%q %q %q", a.SessionID, b.SessionID, c.SessionID)
	}
}

func TestWordsThatPeersChoose(t *testing.T) {
	r := newTest(t)
	for _, c := range []struct {
		of     func(*event.Event) *string
		in     string
		leaves string // "" is the same as in
	}{
		{func(e *event.Event) *string { return &e.Method }, "x/bob@example.com", "x/[PII:email:"},
		{func(e *event.Event) *string { return &e.ClientVersion }, "bob@example.com", "[PII:email:"},
		{func(e *event.Event) *string { return &e.ClientVersion }, "120.8.8.4", ""},
		{func(e *event.Event) *string { return &e.ServerVersion }, "2026.11.20.1-rc+4930901820", ""},
		{func(e *event.Event) *string { return &e.Server }, "mcp.example.com:8443", ""},
		{func(e *event.Event) *string { return &e.Model }, "claude-opus-4-20250514", ""},
		{func(e *event.Event) *string { return &e.RequestID }, "4111111111111111", ""},
		{func(e *event.Event) *string { return &e.TraceID }, "4bf92f3577b34da6a3ce929d0e0e4736", ""},
		{func(e *event.Event) *string { return &e.SessionID }, "01890a5d-ac96-774b-bcce-b302099a8057", ""},
		{func(e *event.Event) *string { return &e.ErrorCode }, "-32601", ""},
		{func(e *event.Event) *string { return &e.ErrorCode }, "ERR_NOT_FOUND", ""},
		{func(e *event.Event) *string { return &e.ErrorCode }, `{"who":"Dear Mr. Zebulon Quartermain"}`, `{"who":"Dear [PII:name:`},
		{func(e *event.Event) *string { return &e.ErrorCode }, strings.Repeat("日", 80), strings.Repeat("日", 20) + "…"},
	} {
		e := valid()
		*c.of(e) = c.in
		changed := r.Again(e)
		got := *c.of(e)
		if c.leaves == "" && (got != c.in || changed) || c.leaves != "" && !strings.HasPrefix(got, c.leaves) {
			t.Errorf("%q became %q", c.in, got)
		}
		if err := e.Check(); err != nil {
			t.Errorf("%q: %v", c.in, err)
		}
	}
}

// What is skipped for its form can't hold a secret, whatever word that makes a
// rule look stands in it.
func TestWhatIsSkippedHoldsNoSecret(t *testing.T) {
	r := newTest(t)
	rnd := rand.New(rand.NewPCG(9, 9))
	fill := func(s []byte, of string) []byte {
		for i := range s {
			if s[i] == 0 {
				s[i] = of[rnd.IntN(len(of))]
			}
		}
		return s
	}
	skipped := 0
	for _, tr := range commonLexicon().triggers {
		if tr.rule == nil || tr.rule.class[0] != 's' {
			continue
		}
		for _, word := range tr.rule.keywords {
			for _, size := range []int{wordLength - 1, wordLength, 32, 36} {
				for at := 0; at+len(word) <= size; at++ {
					for _, of := range []string{"0123456789abcdef", "abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnopqrstuvwxyz"} {
						s := make([]byte, size)
						if size == 36 {
							s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
						}
						copy(s[at:], word)
						if s = fill(s, of); !harmless(string(s)) && (size > wordLength || !isPlainWord(string(s))) {
							continue
						}
						skipped++
						w := newWorker(r)
						w.reset()
						w.quiet, w.level = true, secretsOnly
						if w.scan(s); len(w.finds) > 0 {
							t.Errorf("%s in %q would be skipped", w.finds[0].class, s)
						}
					}
				}
			}
		}
	}
	if skipped < 1000 {
		t.Errorf("only %d texts were tried", skipped)
	}
}

// Promise 3: what could not be looked at to the end is not passed on, wherever
// the pass stopped.
func TestPromise3OverBudgetNothingUnreadIsPassedOn(t *testing.T) {
	gh := fakes["github"]
	costly := strings.Repeat("sk-sk-", 330)
	t.Run("in the arguments", func(t *testing.T) {
		r := newTest(t)
		everyText(t, func(name string, e *event.Event, at *string) {
			if slices.Contains(untouched, name) || name == "arguments" {
				return
			}
			*at = "x " + gh
			e.Arguments = `{"a":"` + strings.Repeat("sk-", 330_000) + `"}`
			if r.Again(e); e.Arguments != "" || e.RedactionError != "over_budget" || holds(e, gh) {
				t.Errorf("%s: %d bytes of arguments, error %q, the secret is there: %v", name, len(e.Arguments), e.RedactionError, holds(e, gh))
			}
		})
	})
	t.Run("in a text", func(t *testing.T) {
		r := newTest(t, func(p *Profile) { p.Budget = 20_000 })
		for i := range textFields {
			e := valid()
			for k := range event.Texts {
				if !slices.Contains(untouched, event.Texts[k].Name) {
					*event.Texts[k].Of(e) = "x " + gh
				}
			}
			e.Labels, e.Signals = []event.Label{{Key: gh, Value: gh}}, []string{gh, "kept"}
			*textOf[i](e) = costly
			if changed := r.Again(e); !changed || e.RedactionError != "over_budget" || holds(e, gh) || holds(e, "sk-sk") {
				t.Errorf("%s: changed %v, error %q: %+v", textFields[i].name, changed, e.RedactionError, e)
			}
		}
	})
}

// panicking is a redactor whose look at one kind of secret panics.
func panicking(t *testing.T) *Redactor {
	r := newTest(t)
	r.lexicon = newLexicon(nil)
	for i := range r.lexicon.triggers {
		if rl := r.lexicon.triggers[i].rule; rl != nil && rl.class == "secret:npm" || rl != nil && strings.Contains(rl.class, "npm") {
			src := *rl.ruleSource
			src.valid = func([]byte) bool { panic("with the content: " + fakes["npm"]) }
			rl.ruleSource = &src
		}
	}
	return r
}

func TestPromise3APanicPassesNothingUnreadOn(t *testing.T) {
	r := panicking(t)
	gh, bomb := fakes["github"], fakes["npm"]
	everyText(t, func(name string, e *event.Event, at *string) {
		if slices.Contains(untouched, name) {
			return
		}
		e.Labels = append(e.Labels, event.Label{Key: "z", Value: gh})
		e.ErrorMessage, e.SessionID = gh, gh
		if at == &e.Labels[0].Key || name == "label key" {
			at = &e.Labels[0].Key
		} else if name == "label value" {
			at = &e.Labels[0].Value
		}
		*at = bomb
		if name == "arguments" {
			*at = `["` + bomb + `"]`
		}
		if changed := r.Again(e); !changed || e.RedactionError != "panic" || holds(e, gh) || holds(e, bomb) {
			t.Errorf("%s: changed %v, error %q: %+v", name, changed, e.RedactionError, e)
		}
		if err := e.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	if rep := r.Call(Call{Arguments: mustJSON(bomb), ErrorMessage: gh}); rep.Error != "panic" || rep.Arguments != "" || rep.ErrorMessage != "" {
		t.Errorf("Call: %+v", rep)
	}
	if text, removed := r.Text("x " + bomb); text != "" || len(removed) != 1 || removed[0].Class != "panic" {
		t.Errorf("Text: %q %v", text, removed)
	}
	if _, signals := r.Definition("Reads "+bomb, nil); !slices.Equal(signals, []string{"panic"}) {
		t.Errorf("Definition: %v", signals)
	}
	if rep := r.Call(Call{Arguments: mustJSON(gh)}); rep.Arguments == "" || rep.Error != "" {
		t.Errorf("the call after it: %+v", rep)
	}
}

// Anybody can choose the name of a member, the text behind a password and the
// length of a message. Half a rune would make an event that nobody can encode.
func TestWhatIsCutIsCutBetweenRunes(t *testing.T) {
	r := newTest(t, func(p *Profile) { p.MaxString, p.MaxArguments = 200, 2000 })
	for _, c := range []Call{
		{Arguments: mustJSON(map[string]any{strings.Repeat("日", 30): fakes["github"]})},
		{Arguments: mustJSON(map[string]any{"x" + strings.Repeat("日", 30): map[string]any{strings.Repeat("é", 60): map[string]any{strings.Repeat("日", 40): map[string]any{strings.Repeat("日", 40): fakes["aws"]}}}})},
		{Arguments: mustJSON(map[string]any{"n": `password="` + strings.Repeat("日本", 300) + `"`})},
		{Arguments: mustJSON(map[string]any{"n": "password=" + strings.Repeat("日本", 300)})},
		{Arguments: mustJSON(map[string]any{"n": strings.Repeat("日", 300) + "@" + strings.Repeat("日", 300) + ".de"})},
		{Arguments: mustJSON(map[string]any{"n": "https://h.example/" + strings.Repeat("日", 3000)})},
		{ErrorMessage: strings.Repeat("日", 9000)}, {ErrorMessage: strings.Repeat("日", maxMessage)},
		{ErrorMessage: "x" + strings.Repeat("日 4111 1111 1111 1111 ", 900)},
	} {
		e := valid()
		r.Apply(c, e)
		if !utf8.ValidString(e.Arguments) || !utf8.ValidString(e.ErrorMessage) {
			t.Errorf("%.60s: arguments %q, message %q", c.Arguments, e.Arguments, e.ErrorMessage)
		}
		if err := e.Check(); err != nil {
			t.Errorf("%.60s: %v: %q", c.Arguments, err, e.Removed)
		}
		// The same from an emitter that does not redact.
		e = valid()
		if e.Arguments, e.ErrorMessage = string(c.Arguments), event.ClipText(c.ErrorMessage, event.MaxText); e.Check() == nil {
			if r.Again(e); e.Check() != nil {
				t.Errorf("%.60s: Again: %v", c.Arguments, e.Check())
			}
		}
	}
}

func TestTextsThatGrowStayWithinTheirLimits(t *testing.T) {
	r := newTest(t)
	for i := range textFields {
		e := valid()
		s := textOf[i](e)
		*s = strings.Repeat("a@b.de ", 300)
		e.Clip()
		if r.Again(e); e.Check() != nil {
			t.Errorf("%s: %v", textFields[i].name, e.Check())
		}
		once := *s
		if r.Again(e) {
			t.Errorf("%s: not settled: %q, then %q", textFields[i].name, once, *s)
		}
	}
}

// A long value goes whole: its rest would not be known as a secret any more.
func TestLongValuesBehindANameAreRemovedWhole(t *testing.T) {
	r := newTest(t, func(p *Profile) { p.MaxString = 16384 })
	opaque := func(n int) string {
		rnd := rand.New(rand.NewPCG(7, uint64(n)))
		var b strings.Builder
		for b.Len() < n {
			b.WriteByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/+"[rnd.IntN(64)])
		}
		return b.String()
	}
	for _, n := range []int{400, 900, 1500, 9000} {
		secret := opaque(n)
		for _, text := range []string{
			"export AWS_SESSION_TOKEN=" + secret, "export AWS_SESSION_TOKEN=" + secret + "\nls", `refresh_token: "` + secret + `"`, `{"refresh_token":"` + secret + `"}`,
			"password='" + secret + "' next", "Authorization: Bearer " + secret, "Cookie: sid=" + secret, "https://app:" + secret[:190] + "@h.example/",
			"-----BEGIN " + "PRIVATE KEY-----\n" + secret, "-----BEGIN " + "PRIVATE KEY-----\n" + opaque(30000) + secret + "\n-----END PRIVATE KEY-----",
		} {
			tail := secret[len(secret)-40:]
			if strings.HasPrefix(text, "https") {
				tail = secret[150:190]
			}
			rep := r.Call(Call{Arguments: mustJSON(map[string]any{"text": text}), ErrorMessage: text})
			if strings.Contains(rep.Arguments, tail) || strings.Contains(rep.ErrorMessage, tail) {
				t.Errorf("%d bytes: %.40q came through Call", n, text)
			}
			e := valid()
			e.Arguments = string(mustJSON(map[string]any{"text": text}))
			if e.DecisionReason = event.ClipText(text, event.MaxText); len(text) > event.MaxText {
				tail = secret[200:240]
			}
			if r.Again(e); holds(e, tail) {
				t.Errorf("%d bytes: %.40q came through Again", n, text)
			}
		}
	}
}

// A message is cut after it was redacted, not before.
func TestASecretAtTheCutOfAMessageIsNotCutInTwo(t *testing.T) {
	r := newTest(t)
	pem := "-----BEGIN " + "PRIVATE KEY-----\n" + strings.Repeat("MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn\n", 240) + "-----END PRIVATE KEY-----\n"
	for fill := range 60 {
		msg := pem + strings.Repeat("x", 8192-len(pem)-fill) + " " + fakes["github"]
		if got := r.Call(Call{ErrorMessage: msg}).ErrorMessage; strings.Contains(got, fakes["github"][:12]) {
			t.Fatalf("%d: %q", fill, got)
		}
	}
	for _, size := range []int{maxMessage - 30, maxMessage - 10} {
		msg := "-----BEGIN " + "PRIVATE KEY-----\n" + strings.Repeat("MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn\n", size/32-3) + "-----END PRIVATE KEY-----\n"
		msg += strings.Repeat("x", size-len(msg)) + " " + fakes["github"]
		if got := r.Call(Call{ErrorMessage: msg}).ErrorMessage; strings.Contains(got, fakes["github"][:12]) || !json.Valid(mustJSON(got)) {
			t.Errorf("%d: %q", size, got)
		}
	}
}

// Nobody who holds the same lists may see them change.
func TestSharedListsAreNotWrittenTo(t *testing.T) {
	r := newTest(t)
	e := valid()
	gh := fakes["github"]
	signals, labels, removed := []string{gh}, []event.Label{{Key: gh, Value: gh}}, []event.Removal{{Path: gh, Class: gh}}
	e.Signals, e.Labels, e.Removed = signals, labels, removed
	if r.Again(e); signals[0] != gh || labels[0].Key != gh || removed[0].Path != gh || holds(e, gh) {
		t.Errorf("%v %v %v", signals, labels, removed)
	}
}

// What an honest document repeats costs what its length does, not more the more
// often a keyword stands in it.
func TestManyKeywordsCostWhatTheirTextDoes(t *testing.T) {
	r := newTest(t)
	for _, text := range []string{
		strings.Repeat("curl ", 400), strings.Repeat("aws ", 20_000), strings.Repeat("bearer ", 20_000), strings.Repeat("basic ", 20_000), strings.Repeat("fb=", 20_000),
		strings.Repeat("curl -s https://api.example.com/v1/items | jq .\n", 1000),
		strings.Repeat("a://x ", 20_000) + strings.Repeat("+4930901820 ", 10_000),
	} {
		rep := r.Call(Call{Arguments: mustJSON(map[string]any{"text": text, "key": "x " + fakes["github"]}), ErrorMessage: "no"})
		if rep.Error != "" || strings.Contains(rep.Arguments, fakes["github"]) || !slices.Contains(rep.Signals, "secret:github-pat") {
			t.Errorf("%.12q, %d bytes: %q, signals %v", text, len(text), rep.Error, rep.Signals)
		}
	}
}

// Keywords that stand close together are looked at together, and none is missed.
func TestEachOfManySecretsInOneTextIsFound(t *testing.T) {
	r := newTest(t, func(p *Profile) { p.MaxString = 16384 })
	aws := func(n int) string {
		return strings.Repeat("wJalrXUtnFEMI/K7MDENG+bPxRfiCY"+string(rune('a'+n%26)), 2)[:40]
	}
	var b strings.Builder
	var all []string
	for n := range 60 {
		s := aws(n)
		all = append(all, s)
		b.WriteString("aws_secret_access_key = " + s + "\nfb aws aws ")
	}
	for n := range 60 {
		s := "Zx9" + string(rune('a'+n%26)) + "Qw8Er7Ty" + string(rune('A'+n%26))
		all = append(all, s)
		b.WriteString("curl -u user" + string(rune('a'+n%26)) + ":" + s + " https://h.example/\n")
	}
	rep := r.Call(Call{Arguments: mustJSON(map[string]any{"text": b.String()})})
	for i, s := range all {
		if strings.Contains(rep.Arguments, s) {
			t.Errorf("secret %d came through: %.80q", i, rep.Arguments[max(0, strings.Index(rep.Arguments, s)-40):])
		}
	}
}

// Parsing is work as well: values of two bytes take a hundred in memory.
func TestPromise8WhatIsParsedIsBounded(t *testing.T) {
	r := newTest(t)
	many := []byte("[" + strings.Repeat("1,", 10<<20) + "1]")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rep := r.Call(Call{Arguments: many, Result: many})
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 400<<20 {
		t.Errorf("it took %d bytes of memory", took)
	}
	if rep.Error != "over_budget" || rep.ArgumentsDigest == (event.Digest{}) || rep.ResultDigest != rep.ArgumentsDigest ||
		!slices.Contains(rep.Signals, "over_budget") || !slices.Contains(rep.Signals, "result:over_budget") {
		t.Errorf("%+v", rep)
	}
	if again := r.Call(Call{Arguments: many}); again.ArgumentsDigest != rep.ArgumentsDigest {
		t.Error("equal calls have different digests")
	}
	// The arguments cost too much, the result does not: it is read.
	rep = r.Call(Call{Arguments: many, Result: mustJSON("x " + fakes["github"])})
	if rep.ResultDigest == (event.Digest{}) || !slices.Contains(rep.Signals, "result:secret:github-pat") {
		t.Errorf("%+v", rep)
	}
}

func TestOneHugeCallDoesNotPinItsMemory(t *testing.T) {
	w := newWorker(newTest(t))
	for _, b := range []*[]byte{&w.out, &w.a, &w.b, &w.flat, &w.buf, &w.short, &w.canon.json, &w.canon.shape, &w.doc.arena} {
		if *b = make([]byte, 0, maxRetained+1); w.kept() {
			t.Error("a worker with a huge buffer goes back into the pool")
		}
		if *b = nil; !w.kept() {
			t.Error("a small worker does not go back into the pool")
		}
	}
}
