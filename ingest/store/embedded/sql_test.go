package embedded

import (
	"strings"
	"testing"
)

func TestCutFormat(t *testing.T) {
	for _, test := range []struct{ sql, head, format string }{
		{"INSERT INTO t FORMAT Native", "INSERT INTO t", "Native"},
		{"INSERT INTO t (a, b) format\n JSONEachRow ;\n", "INSERT INTO t (a, b)", "JSONEachRow"},
		{"INSERT INTO t (a)FORMAT TSV", "INSERT INTO t (a)", "TSV"},
		{"INSERT INTO t VALUES ('FORMAT Native')", "", ""},
		{"INSERT INTO t VALUES ('x FORMAT Native'", "", ""},
		{"INSERT INTO t", "", ""},
		{"INSERT INTO FORMAT", "", ""},
		{"INSERT INTO reFORMAT x", "", ""},
		{"INSERT INTO `FORMAT x", "", ""},
		{"FORMAT Native", "", ""},
		{"FORMATNative", "", ""},
		{"", "", ""},
	} {
		head, format, ok := cutFormat(test.sql)
		if ok != (test.format != "") || ok && (head != test.head || format != test.format) {
			t.Errorf("%q: got %q, %q, %t", test.sql, head, format, ok)
		}
	}
}

func TestKeyword(t *testing.T) {
	for sql, want := range map[string]string{
		"select 1": "SELECT", " -- x\n/* y */ # z\n((WITH a": "WITH", "": "", "/* open": "", "-- x": "", ";; SHOW": "SHOW", "'a'": "",
	} {
		if got := keyword(sql); got != want {
			t.Errorf("%q: got %q, want %q", sql, got, want)
		}
	}
}

func TestSetStatement(t *testing.T) {
	for _, test := range []struct {
		inForce, want, base map[string]string
		sql                 string
	}{
		{nil, nil, nil, ""},
		{map[string]string{"a": "1"}, map[string]string{"a": "1"}, nil, ""},
		{nil, map[string]string{"b": `it's \`, "a": "1"}, nil, `SET a = '1', b = 'it\'s \\'`},
		{map[string]string{"a": "1", "b": "2", "c": "3"}, map[string]string{"a": "9"}, map[string]string{"b": "5"}, "SET a = '9', b = '5', c = DEFAULT"},
	} {
		if got := setStatement(test.inForce, test.want, test.base); got != test.sql {
			t.Errorf("got %s, want %s", got, test.sql)
		}
	}
}

func FuzzCutFormat(f *testing.F) {
	for _, sql := range []string{"INSERT INTO t FORMAT Native", "INSERT INTO t (a)FORMAT x;", "a'FORMAT x", "-- FORMAT x", "\xff FORMAT \xff"} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		head, format, ok := cutFormat(sql)
		if !ok {
			if head != sql || format != "" {
				t.Fatalf("%q: not cut, and yet %q, %q", sql, head, format)
			}
			return
		}
		if !strings.HasPrefix(sql, head) || head == "" || format == "" || strings.ContainsFunc(format, func(r rune) bool { return r > 127 || !isWord(byte(r)) }) {
			t.Fatalf("%q: cut into %q, %q", sql, head, format)
		}
		// What was cut is the clause, spaces and semicolons, nothing else.
		cut := strings.Trim(sql[len(head):], " \t\r\n\f\v;")
		if !strings.EqualFold(cut[:len("FORMAT")], "FORMAT") || !strings.HasSuffix(cut, format) ||
			strings.Trim(cut[len("FORMAT"):len(cut)-len(format)], " \t\r\n\f\v") != "" {
			t.Fatalf("%q: cut %q", sql, cut)
		}
		again, sameFormat, ok := cutFormat(head + " FORMAT " + format)
		if !ok || again != head || sameFormat != format {
			t.Fatalf("%q: put together again it is cut into %q, %q", sql, again, sameFormat)
		}
		keyword(sql)
	})
}

func FuzzQuote(f *testing.F) {
	f.Add(`it's \`)
	f.Fuzz(func(t *testing.T, s string) {
		q := quote(s)
		inner := q[1 : len(q)-1]
		for i := 0; i < len(inner); i++ {
			switch inner[i] {
			case '\\':
				i++ // the escaped byte
				if i == len(inner) {
					t.Fatalf("%q: its closing quote is escaped", q)
				}
			case '\'':
				t.Fatalf("%q: a quote is open to the outside", q)
			}
		}
	})
}
