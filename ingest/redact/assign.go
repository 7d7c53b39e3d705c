package redact

import "bytes"

// assignment finds the value that text assigns to the name which ends at or
// goes on from i: name, up to 20 further name characters, closing quotes, an
// operator, opening quotes, value. It returns where the name ends and where the
// value starts, and the quote around the value, 0 if none; value is -1 when
// there is none.
//
// It accepts what gitleaks's rules do, and escaped quotes, since arguments often
// hold JSON within JSON.
func assignment(t []byte, i int) (nameEnd, value int, quote byte) {
	j := i
	for j < len(t) && j < i+24 && (isWord(t[j]) || t[j] == '.' || t[j] == '-') {
		j++
	}
	nameEnd = j
	for n := 0; j < len(t) && n < 20 && (t[j] == ' ' || t[j] == '\t'); n++ {
		j++
	}
	for n := 0; j < len(t) && n < 6 && (isSpace(t[j]) || t[j] == '\'' || t[j] == '"' || t[j] == '\\' || t[j] == ']' || t[j] == '`'); n++ {
		j++
	}
	op := j
	switch {
	case j >= len(t):
		return nameEnd, -1, 0
	case t[j] == '=' || t[j] == '>' || t[j] == ',':
		j++
		for j < len(t) && j < op+3 && (t[j] == '>' || t[j] == '=') {
			j++
		}
	case t[j] == ':':
		for j < len(t) && j < op+3 && t[j] == ':' {
			j++
		}
		if j < len(t) && t[j] == '=' {
			j++
		}
	case t[j] == '|' && j+1 < len(t) && t[j+1] == '|', t[j] == '?' && j+1 < len(t) && t[j+1] == '=':
		j += 2
	default:
		return nameEnd, -1, 0
	}
	for n := 0; j < len(t) && n < 6; n++ {
		switch c := t[j]; {
		case c == '\'' || c == '"' || c == '`':
			quote = c
		case c == '\\' && j+1 < len(t) && (t[j+1] == '"' || t[j+1] == '\''):
		case c == ' ' || c == '\t' || c == '=' || c == '\n' || c == '\r':
			if quote != 0 {
				return nameEnd, j, quote
			}
		default:
			return nameEnd, j, quote
		}
		j++
		if quote != 0 {
			break
		}
	}
	if j >= len(t) {
		return nameEnd, -1, 0
	}
	return nameEnd, j, quote
}

func isSpace(b byte) bool { return b == ' ' || b == '\n' || b == '\t' || b == '\r' }

// tryAssign applies an "identifier = value" rule behind its keyword.
func (s *scanner) tryAssign(r *rule, t []byte, end int) {
	_, v, _ := assignment(t, end)
	if v < 0 {
		return
	}
	s.tryValue(r, t, v)
}

// tryValue applies such a rule to the value that starts at v.
func (s *scanner) tryValue(r *rule, t []byte, v int) {
	run := v
	for run < len(t) && run-v <= r.max && !isSpace(t[run]) && t[run] != '"' && t[run] != '\'' && t[run] != '`' {
		run++
	}
	if run-v < r.min {
		return
	}
	hi := min(len(t), v+r.max+2)
	r.compile()
	if !s.spend((hi - v) * regexpCost) {
		return
	}
	m := r.re.FindSubmatchIndex(t[v:hi])
	if m == nil || m[2] < 0 {
		return
	}
	if val := t[v+m[2] : v+m[3]]; r.accepts(val) && !placeholder(val) {
		s.add(v+m[2], v+m[3], r.class)
	}
}

// named looks at "name = value" where name contains a word such as password or
// key, which stands at lo..hi.
func (s *scanner) named(t []byte, lo, hi int) {
	end, v, quote := assignment(t, hi)
	if v < 0 {
		return
	}
	for lo > 0 && hi-lo < 60 && (isWord(t[lo-1]) || t[lo-1] == '-') {
		lo--
	}
	class := s.r.key(t[lo:end])
	if class == "" {
		return
	}
	if s.inJSON && end < len(t) && t[end] == '"' {
		return // see member
	}
	op := t[end:v]
	comma := bytes.IndexByte(op, ',') >= 0 && !bytes.ContainsAny(op, "=:>")
	if comma && (quote == 0 || bytes.IndexByte(op, ' ') != 1 && len(op) > 4) {
		return // a list, not an assignment
	}
	stop := valueEnd(t, v, quote)
	if !s.spend(2 * (stop - v)) {
		return
	}
	// A double-quoted or bare value is taken whole; what looks like code is not
	// a value.
	val := t[v:stop]
	if class == "key:authorization" && quote == 0 || !plausible(val, class, quote, comma, t, stop) {
		return
	}
	s.add(v, stop, secretOf(class))
}

// member looks at the name of a JSON member, of which a part stands at lo..hi. When
// the name says that the value goes whole, a find makes the second pass parse the
// text: walk sees to the rest.
func (s *scanner) member(t []byte, lo, hi int) {
	const longest = 96
	a, b := lo, hi
	for a > 0 && lo-a < longest && t[a-1] != '"' {
		a--
	}
	for b < len(t) && b-hi < longest && t[b] != '"' {
		b++
	}
	v := skipSpace(t, b+1)
	if v >= len(t) || t[v] != ':' || s.r.key(t[a:b]) == "" {
		return
	}
	if v = skipSpace(t, v+1); v < len(t) && t[v] == '"' {
		v++
	}
	if v < len(t) && !s.r.isMarkAt(t, v) {
		s.add(a, b, "secret:generic")
	}
}

// secretOf names the class of a value found behind a name in running text.
func secretOf(class string) string {
	switch class {
	case "key:password":
		return "secret:password"
	case "key:token":
		return "secret:token"
	case "key:api_key":
		return "secret:api-key"
	case "key:national_id":
		return "pii:national_id"
	case "key:card":
		return "pii:card"
	case "key:cookie":
		return "secret:cookie"
	case "key:pin", "key:cvv":
		return "secret:pin"
	}
	return "secret:generic"
}

// valueEnd is where a value ends: at its quote, or at what ends a bare word. It
// may be of any length: session tokens have kilobytes, and what is left of a
// token behind a mark would never be looked at again.
func valueEnd(t []byte, v int, quote byte) int {
	for i := v; i < len(t); i++ {
		c := t[i]
		switch {
		case quote != 0 && c == quote:
			if t[i-1] == '\\' && i > v {
				return i - 1
			}
			return i
		case c == '\n' || c == '\r':
			return i
		case quote == 0 && (isSpace(c) || c == '"' || c == '\'' || c == ';' || c == '`' || c == '<'):
			return i
		case quote == 0 && (c == '&' || c == ',' || c == ')' || c == '}' || c == ']'):
			return i
		}
	}
	return len(t)
}

// plausible tells a secret from code, a placeholder or a plain word.
func plausible(val []byte, class string, quote byte, comma bool, t []byte, stop int) bool {
	if len(val) < 4 || placeholder(val) {
		return false
	}
	digits, uppers, lowers, others, spaces := 0, 0, 0, 0, 0
	for _, c := range val {
		switch {
		case isDigit(c):
			digits++
		case isUpper(c):
			uppers++
		case c >= 'a' && c <= 'z':
			lowers++
		case c == ' ' || c == '\t':
			spaces++
		default:
			others++
		}
	}
	if quote == 0 {
		// Calls, member accesses, variables, types: password = getPassword(),
		// token: string.
		switch c := val[0]; {
		case c == '$' && !bytes.HasPrefix(val, []byte("$2")) && !bytes.HasPrefix(val, []byte("$1")), c == '(', c == '[', c == '{', c == '%', c == '<', c == '@', c == '*', c == '/' && class != "key:api_key":
			return false
		}
		if bytes.ContainsAny(val, "($[{") || stop < len(t) && t[stop] == '(' || bytes.Contains(val, []byte("://")) {
			return false
		}
		dots := bytes.Count(val, []byte("."))
		if dots > 0 && digits == 0 && others == dots+bytes.Count(val, []byte("_")) {
			return false
		}
		if bytes.HasSuffix(val, []byte(".")) {
			val = val[:len(val)-1]
		}
		switch class {
		case "key:password":
			return len(val) >= 6 && !plainWord(val, lowers)
		}
		return len(val) >= 8 && (digits > 0 && entropy(val) >= 2.5 || uppers > 0 && lowers > 0 && len(val) >= 20 && entropy(val) >= 3.5)
	}
	if spaces > 0 && class != "key:password" || spaces > 3 {
		return false
	}
	switch class {
	case "key:password", "key:pin", "key:cvv":
		if comma {
			return digits > 0
		}
		if plainWord(val, lowers) || val[0] == '#' && digits == 0 || val[0] == '.' && digits == 0 || val[0] == '/' || val[0] == '+' && spaces > 0 ||
			digits == 0 && uppers == 0 && bytes.IndexByte(val, '/') > 0 {
			return false
		}
		return true
	}
	if others > 0 && digits == 0 && uppers == 0 {
		return len(val) >= 16 || others > 1 && !bytes.ContainsAny(val, "/-_. ")
	}
	return len(val) >= 6 && (digits > 0 && entropy(val) >= 2 || len(val) >= 16 && entropy(val) >= 3.5 && uppers > 0)
}

// plainWord reports whether val is a word that documentation and code put where
// a password goes.
func plainWord(val []byte, lowers int) bool {
	var buf [16]byte
	if len(val) > len(buf) {
		return false
	}
	for i, c := range val {
		buf[i] = lower(c)
	}
	switch string(buf[:len(val)]) {
	case "password", "string", "true", "false", "null", "none", "undefined", "required", "optional", "hidden",
		"input", "text", "self", "this", "value", "default", "field", "username", "email", "user", "object",
		"boolean", "number", "nil", "empty", "unset", "reset", "changed", "forgot", "change", "update", "write",
		"read", "admin", "login", "varchar", "char", "bytes", "const", "public", "private", "static", "type",
		"name", "label", "invalid", "incorrect", "expired", "missing", "wrong", "secure", "redacted", "example":
		return true
	}
	return false
}

// placeholder reports whether val stands for a value that is not there.
func placeholder(val []byte) bool {
	if len(val) == 0 {
		return true
	}
	same := true
	for _, c := range val {
		if c != val[0] {
			same = false
			break
		}
	}
	if same && len(val) < 30 {
		return true
	}
	switch {
	case bytes.HasPrefix(val, []byte("${")), bytes.HasPrefix(val, []byte("{{")), bytes.HasPrefix(val, []byte("<")) && val[len(val)-1] == '>',
		bytes.HasPrefix(val, []byte("$(")), bytes.HasPrefix(val, []byte("%(")), bytes.HasPrefix(val, []byte("[REDACTED")),
		bytes.HasPrefix(val, []byte("#{")), bytes.HasPrefix(val, []byte("***")), bytes.HasPrefix(val, []byte("...")):
		return !bytes.HasPrefix(val, []byte("${{ secrets.pypi-"))
	}
	if val[0] == '$' && len(val) > 1 { // $VARIABLE
		for _, c := range val[1:] {
			if !isWord(c) {
				return false
			}
		}
		return countDigits(val) == 0
	}
	if val[0] == '%' && val[len(val)-1] == '%' && len(val) > 2 {
		return true
	}
	var buf [40]byte
	if len(val) > len(buf) {
		return false
	}
	for i, c := range val {
		buf[i] = lower(c)
	}
	low := buf[:len(val)]
	for _, w := range placeholderWords {
		if bytes.Contains(low, w) {
			return true
		}
	}
	return false
}

var placeholderWords = [][]byte{
	[]byte("xxxxxx"), []byte("your_"), []byte("your-"), []byte("yourpass"), []byte("changeme"), []byte("<your"), []byte("placeholder"),
	[]byte("****"), []byte("_here"), []byte("-here"), []byte("goes here"), []byte("redacted"),
}

func notPlaceholder(val []byte) bool { return !placeholder(val) && len(val) >= 3 }
