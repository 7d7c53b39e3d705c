package redact

import (
	"strings"
	"sync"
)

// What a word of a lexicon tells about a text.
type wordKind uint8

const (
	triesRule   wordKind = iota // a rule's keyword
	triesAssign                 // the identifier of an "identifier = value" rule
	secretName                  // part of names such as password, api_key
	memberName                  // part of names that are looked for in JSON alone
	phrase                      // instruction-like words; see phrases.go
	attack                      // part of an attack; see attacks.go
	address                     // "://" or "www."
	place                       // a word of postal addresses
	person                      // a word that introduces a person's name
)

// trigger is what to do when one word of the lexicon is met.
type trigger struct {
	kind  wordKind
	size  int32 // length of the word
	rule  *rule
	heads []head // where rule's expression begins, nil to search around the word
	index int    // into phrases, attacks or placeForms
}

// lexicon is the set of all words together with what each triggers.
type lexicon struct {
	words    *wordSet
	triggers []trigger
	rules    int
}

// secretNames are the parts of names that make "name = value" worth a look; the
// name as a whole is then judged by sensitiveKey.
var secretNames = []string{
	"pass", "pwd", "psw", "secret", "token", "key", "auth", "credential", "creds", "cookie", "license",
	"connection", "conn_str", "cvv", "cvc", "pin", "otp", "ssn", "jwt", "dsn", "psk", "mnemonic", "kennwort",
}

// memberNames are the parts of the other names that sensitiveKey knows. In running
// text they are words as any other; the second pass, which reads arguments before
// it parses them, must not miss a member for them. A test holds both lists against
// sensitiveKey.
var memberNames = []string{
	"card", "cc", "pan", "code", "phrase", "cred", "itin", "cvn", "ccv", "bearer", "national", "tax", "social", "driv", "conn",
}

var commonLexicon = sync.OnceValue(func() *lexicon { return newLexicon(nil) })

// newLexicon builds the set; names are further parts of key names that
// the profile calls sensitive, so that the second pass notices them.
func newLexicon(names []string) *lexicon {
	lx := &lexicon{}
	var list []string
	add := func(word string, t trigger) {
		t.size = int32(len(word))
		list = append(list, word)
		lx.triggers = append(lx.triggers, t)
	}
	for _, set := range [][]ruleSource{gitleaksRules, supplement} {
		for i := range set {
			src := &set[i]
			if i := src.id; src.until == "" && (i == "generic-api-key" || i == "private-key") {
				continue // done by secretNames with sensitiveKey, and by supplement
			}
			r := newRule(src)
			r.index = lx.rules
			lx.rules++
			if src.value != "" {
				for _, k := range src.keywords {
					add(k, trigger{kind: triesAssign, rule: r})
				}
				continue
			}
			heads := anchors(r)
			r.anchored = heads != nil
			for i, k := range src.keywords {
				t := trigger{kind: triesRule, rule: r}
				if heads != nil {
					if t.heads = heads[i]; t.heads == nil {
						continue // no match begins with this keyword
					}
				}
				add(k, t)
			}
		}
	}
	for _, n := range append(names, secretNames...) {
		add(strings.ToLower(n), trigger{kind: secretName})
	}
	for _, n := range memberNames {
		add(n, trigger{kind: memberName})
	}
	for i := range phrases {
		for _, k := range phrases[i].keywords {
			add(k, trigger{kind: phrase, index: i})
		}
	}
	for i := range attacks {
		for _, k := range attacks[i].keywords {
			add(k, trigger{kind: attack, index: i})
		}
	}
	add("://", trigger{kind: address})
	add("www.", trigger{kind: address})
	for i, set := range placeWords {
		for _, w := range set {
			add(w, trigger{kind: place, index: i})
		}
	}
	for _, w := range personWords {
		add(w, trigger{kind: person})
	}
	lx.words = newWordSet(list)
	return lx
}
