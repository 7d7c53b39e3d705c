package redact

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func canonicalOf(t *testing.T, in string) (string, bool) {
	t.Helper()
	var d document
	if !d.parse([]byte(in)) {
		return "", false
	}
	var c canonicalizer
	c.walk(&d, 0)
	return string(c.json), true
}

// The vectors are those of RFC 8785: section 3.2.2, section 3.2.3 and appendix B.
func TestCanonicalFormIsThatOfRFC8785(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"{\"numbers\": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],\n\"string\": \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\",\n\"literals\": [null, true, false]}",
			"{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"},
		{"{\"\\u20ac\":\"Euro Sign\",\"\\r\":\"Carriage Return\",\"\\ufb33\":\"Hebrew Letter Dalet With Dagesh\",\"1\":\"One\",\"\\ud83d\\ude00\":\"Emoji: Grinning Face\",\"\\u0080\":\"Control\",\"\\u00f6\":\"Latin Small Letter O With Diaeresis\"}",
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"},
		{"0", "0"}, {"-0", "0"}, {"-0.0", "0"}, {"5e-324", "5e-324"}, {"1.7976931348623157e308", "1.7976931348623157e+308"},
		{"9007199254740992", "9007199254740992"}, {"295147905179352830000", "295147905179352830000"}, {"9.999999999999997e22", "9.999999999999997e+22"},
		{"1e23", "1e+23"}, {"999999999999999700000", "999999999999999700000"}, {"1e21", "1e+21"}, {"9.999999999999997e-7", "9.999999999999997e-7"},
		{"0.000001", "0.000001"}, {"333333333.3333332", "333333333.3333332"}, {"1424953923781206.2", "1424953923781206.2"},
		{"1e400", "1e400"}, {`"\ud800x"`, "\"\ufffdx\""}, {`{"a":1,"a":2}`, `{"a":1,"a":2}`},
	} {
		if got, ok := canonicalOf(t, c.in); !ok || got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
		}
	}
}

func TestParserAcceptsWhatJSONIs(t *testing.T) {
	for _, s := range []string{"", " ", "[]", "{}", "[1,]", "[,1]", `{"a":}`, `{"a":1 "b":2}`, "+1", "1.", ".5", "1e", "- 1", "tru", "nul", "NaN", "'a'", `"a`, "\"\t\"", `"\u12"`,
		`"\u12zz"`, "[1 2]", "{1:2}", "[[]", "true false", "1 ", " [ 1 , { \"a\" : [ ] } ] ", `"\ud83d\ude00"`, "\ufeff1", "[1]\x00"} {
		_, ok := canonicalOf(t, s)
		if want := json.Valid([]byte(s)); ok != want {
			t.Errorf("%q: %v, encoding/json says %v", s, ok, want)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,2.50,-0],"a":"\u20ac\n"}`, `{"a":1,"a":{}}`, "[[[[]]]]", "1e999", "\"\xff\"", `"\udc00"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, ok := canonicalOf(t, string(in))
		if !ok {
			return
		}
		if !json.Valid([]byte(got)) {
			t.Fatalf("%q gave %q, which is not JSON", in, got)
		}
		if again, ok := canonicalOf(t, got); !ok || again != got {
			t.Fatalf("not a fixed point: %q, then %q", got, again)
		}
	})
}

func FuzzCall(f *testing.F) {
	for _, s := range []string{`{"password":"x","a":["4111 1111 1111 1111","Dear Mr. Smith"]}`, `{"t":"call +49 30 901820 or a@b.example"}`, "[1", `"[REDACTED:key:password]"`,
		`{"k":"12 Main Street\nApt. 4, Springfield, IL 62704"}`, `{"x":"https://u:p4ssw0rd@h.example/?token=abcdef1234567890"}`} {
		f.Add([]byte(s))
	}
	for _, s := range []string{`{"` + strings.Repeat("日", 30) + `":"gh` + "p_4U3LSowpDx8XvYE7A8GH56oxU5aWnY2mzIbV" + `"}`, `{"n":"password=\"` + strings.Repeat("日本", 150) + `\""}`, `"` + strings.Repeat("é@é.de ", 60) + `"`} {
		f.Add([]byte(s))
	}
	p := DefaultProfile()
	p.MaxString, p.MaxArguments = 100, 1000
	r, err := New(p, testKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rep := r.Call(Call{Arguments: in, Result: in, ErrorMessage: string(in)})
		if rep.Error == "panic" {
			t.Fatalf("panic on %q", in)
		}
		e := valid()
		r.Apply(Call{Arguments: in, Result: in, ErrorMessage: string(in)}, e)
		if err := e.Check(); err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		for _, x := range e.Removed {
			if !utf8.ValidString(x.Path) {
				t.Fatalf("%q: path %q", in, x.Path)
			}
		}
		// As an emitter that does not redact may send it.
		text := event.ClipText(string(in), event.MaxID)
		e = valid()
		e.Arguments, e.Target, e.SessionID, e.ErrorCode, e.Labels = string(in), text, text, text, []event.Label{{Key: event.ClipText(text, event.MaxLabelKey), Value: text}}
		if e.Check() == nil {
			if r.Again(e); e.Check() != nil || e.RedactionError == "panic" {
				t.Fatalf("%q: the second pass: %v, %q", in, e.Check(), e.RedactionError)
			}
			once := *e
			if r.Again(e); !reflect.DeepEqual(once, *e) {
				t.Fatalf("%q: the second pass changes its own work:\n%+v\n%+v", in, once, *e)
			}
		}
		if rep.Arguments == "" {
			return
		}
		if !json.Valid([]byte(rep.Arguments)) || len(rep.Arguments) > p.MaxArguments {
			t.Fatalf("%q gave %q", in, rep.Arguments)
		}
		again := r.Call(Call{Arguments: []byte(rep.Arguments)})
		if again.Arguments != rep.Arguments {
			t.Fatalf("%q: once %q, twice %q", in, rep.Arguments, again.Arguments)
		}
	})
}
