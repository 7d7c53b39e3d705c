package redact

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// namesWords are the words that the judges of names know, read from their source.
func namesWords(t *testing.T) (words []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"": true}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); !ok || !strings.HasPrefix(f.Name.Name, "judge") {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if w, _ := strconv.Unquote(l.Value); !seen[w] && !strings.Contains(w, ":") {
					seen[w] = true
					words = append(words, w)
				}
			}
			return true
		})
	}
	if len(words) < 200 {
		t.Fatalf("only %d words were found", len(words))
	}
	return words
}

// The second pass reads arguments before it parses them. A name that the first
// pass replaces the value of must catch its eye, however it is written.
func TestTheSecondPassSeesEveryNameThatTheFirstOneKnows(t *testing.T) {
	r := newTest(t)
	w := newWorker(r)
	words := namesWords(t)
	tried := 0
	for _, a := range append(words, "") {
		for _, b := range words {
			for _, joint := range []string{"_", " ", "-", ".", "", "Aa"} {
				name := a + joint + b
				switch {
				case a == "":
					name = b
				case joint == "Aa":
					name = a + strings.ToUpper(b[:1]) + b[1:]
				}
				if r.key([]byte(name)) == "" {
					continue
				}
				tried++
				w.reset()
				w.quiet, w.inJSON, w.level = true, true, structured
				if w.scan([]byte(`{"a":1,"` + name + `" : "qqqq"}`)); len(w.finds) == 0 {
					t.Errorf("%q is not noticed", name)
				}
			}
		}
	}
	if tried < 10_000 {
		t.Errorf("only %d names were tried", tried)
	}
}

func TestTheSecondPassReplacesTheMembersThatTheFirstOneDoes(t *testing.T) {
	r := newTest(t)
	for _, name := range []string{"verification_code", "recovery code", "mfa_code", "credit_card", "national_id", "taxId", "bearer", "api key", "private key",
		"password", "gpg.key", "Social-Security-Number", "seed phrase", "totp codes", "driver's license number", "connection string", "cc_number", "cvv", "passport confirm"} {
		for _, value := range []string{`"483920"`, `483920`, `["483920"]`, `{"x":"483920"}`} {
			in := fmt.Sprintf(`{"page_token":"x","a":{%q:%s}}`, name, value)
			first := r.Call(Call{Arguments: []byte(in)}).Arguments
			e := valid()
			e.Arguments = in
			if r.Again(e); e.Arguments != first || strings.Contains(first, "483920") {
				t.Errorf("%s: first %s, second %s", in, first, e.Arguments)
			}
			once := e.Arguments
			if e.Removed = []event.Removal{}; r.Again(e) {
				t.Errorf("a third time it changed %s to %s", once, e.Arguments)
			}
		}
	}
	for _, name := range []string{"page_token", "max_tokens", "postcode", "card_count", "language_code", "taxonomy", "company", "driver", "national_team"} {
		in := fmt.Sprintf(`{%q:"483920"}`, name)
		e := valid()
		if e.Arguments = in; r.Again(e) {
			t.Errorf("%s became %s", in, e.Arguments)
		}
	}
}

// A bracket is no mark: it must not keep a name or a number from being replaced.
func TestABracketHidesNothing(t *testing.T) {
	r := newTest(t)
	for in, secret := range map[string]string{
		`{"last_name":"Quill ["}`: "Quill", `{"account_number":"[12345678]"}`: "12345678", `{"dob":"1970-[03]-04"}`: "1970", `{"phone":"[REDACTED:x] 5550123"}`: "5550123",
	} {
		once := r.Call(Call{Arguments: []byte(in)}).Arguments
		if strings.Contains(once, secret) {
			t.Errorf("%s became %s", in, once)
		}
		if twice := r.Call(Call{Arguments: []byte(once)}).Arguments; twice != once {
			t.Errorf("%s, then %s", once, twice)
		}
	}
}
