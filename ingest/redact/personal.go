package redact

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
)

// mailChar marks what the local part of an address is made of in practice.
var mailChar = func() (t [256]bool) {
	for c := range 256 {
		t[c] = isAlnum(byte(c)) || c >= 0x80
	}
	for _, c := range "._%+-'" {
		t[c] = true
	}
	return t
}()

func hostChar(c byte) bool { return isAlnum(c) || c == '-' || c == '.' || c >= 0x80 }

// emails finds e-mail addresses around each '@'.
func (s *scanner) emails(t []byte) {
	for from := 0; ; {
		at := bytes.IndexByte(t[from:], '@')
		if at < 0 {
			return
		}
		at += from
		from = at + 1
		lo := at
		for lo > 0 && mailChar[t[lo-1]] && at-lo < 64 {
			lo--
		}
		for lo < at && (t[lo] == '\'' || t[lo] == '.' || t[lo] == '-') {
			lo++
		}
		hi := at + 1
		for hi < len(t) && hostChar(t[hi]) && hi-at < 254 {
			hi++
		}
		for hi > at+1 && (t[hi-1] == '.' || t[hi-1] == '-') {
			hi--
		}
		dot := bytes.LastIndexByte(t[at+1:hi], '.')
		if lo == at || dot < 1 || !alphabetic(t[at+1+dot+1:hi]) {
			continue
		}
		s.add(lo, hi, "pii:email")
		if !s.quiet {
			s.see("email", lo, hi)
		}
		from = hi
	}
}

// alphabetic reports whether s can be a top-level domain.
func alphabetic(s []byte) bool {
	if len(s) < 2 || len(s) > 24 {
		return false
	}
	for _, c := range s {
		if isDigit(c) {
			return false
		}
	}
	return true
}

// tokens walks over the words of a text once and hands those with digits or
// dots to the readers of numbers, identifiers and file names.
func (s *scanner) tokens(t []byte) {
	for i := 0; i < len(t); {
		c := t[i]
		if !isAlnum(c) {
			if c == '+' || c == '(' {
				if next := s.numbers(t, i); next > i {
					i = next
					continue
				}
			}
			i++
			continue
		}
		lo := i
		var has uint8
		for i < len(t) {
			k := tokenKind[t[i]]
			if k == 0 {
				break
			}
			has |= k
			i++
		}
		if i < len(t) && t[i] == ':' && i-lo <= 4 && has&(hasDot|hasJoint) == 0 {
			if next := s.ipv6(t, lo); next > i {
				i = next
				continue
			}
		}
		if has&hasDigit == 0 {
			if has&hasDot != 0 && !s.quiet {
				s.fileName(t, lo, i)
			}
			continue
		}
		if i-lo == 36 && uuid(t[lo:i]) {
			if !s.quiet {
				s.see("identifier", lo, i)
			}
			continue // one of digits alone is no telephone number
		}
		if !s.quiet && i-lo >= 5 {
			s.identifier(t, lo, i)
			if has&hasDot != 0 {
				s.fileName(t, lo, i)
			}
		}
		if isDigit(t[lo]) {
			if next := s.numbers(t, lo); next > i {
				i = next
				continue
			}
		}
		if has&hasLetter != 0 && i-lo >= 2 {
			s.lettersAndDigits(t, lo, i)
		}
	}
}

func uuid(w []byte) bool {
	for i, c := range w {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !isDigit(c) && (lower(c) < 'a' || lower(c) > 'f') {
			return false
		}
	}
	return true
}

const (
	hasLetter = 1 << iota
	hasDigit
	hasDot
	hasJoint
)

var tokenKind = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case isDigit(byte(c)):
			t[c] = hasDigit
		case isAlnum(byte(c)):
			t[c] = hasLetter
		case c == '_' || c == '-':
			t[c] = hasJoint
		case c == '.':
			t[c] = hasDot
		}
	}
	return t
}()

// lettersAndDigits reads IBANs, which may have spaces, Bitcoin and IPv6-free
// hardware addresses in a word with letters and digits.
func (s *scanner) lettersAndDigits(t []byte, lo, hi int) {
	if hi-lo >= 4 && isDigit(t[lo+2]) && isDigit(t[lo+3]) && !isDigit(t[lo]) && !isDigit(t[lo+1]) {
		if end, n := s.iban(t, lo); n > 0 {
			s.add(lo, end, "pii:iban")
			return
		}
	}
	if n := hi - lo; n >= 26 && n <= 35 && (t[lo] == '1' || t[lo] == '3') && base58Check(t[lo:hi]) {
		s.add(lo, hi, "pii:crypto")
	}
	if t[lo] == '-' || hi-lo < 9 {
		return
	}
	// A hyphenated word may end in a number: SSN-123-45-6789, tel-555-...
	if at := bytes.IndexByte(t[lo:hi], '-'); at > 0 && at+1 < hi-lo && isDigit(t[lo+at+1]) && !isDigit(t[lo+at-1]) {
		s.numbers(t, lo+at+1)
	}
}

// iban reads one IBAN at lo, in groups or not; n is its length without spaces,
// 0 when there is none.
func (s *scanner) iban(t []byte, lo int) (end, n int) {
	var buf [34]byte
	i := lo
	want := ibanLength(upper(t[lo]), upper(t[lo+1]))
	if want == 0 {
		return 0, 0
	}
	for i < len(t) && n < want {
		c := upper(t[i])
		if c == ' ' || c == '-' {
			if n%4 != 0 || i+1 >= len(t) || !isAlnum(t[i+1]) {
				return 0, 0
			}
			i++
			continue
		}
		if !isDigit(c) && !isUpper(c) {
			return 0, 0
		}
		buf[n] = c
		n++
		i++
	}
	if n != want || i < len(t) && isAlnum(t[i]) || !mod97(buf[:n]) {
		return 0, 0
	}
	if !s.quiet {
		s.see("account", lo, i)
	}
	return i, n
}

// group is a run of digits within a number, with what stands before it.
type group struct {
	lo, hi int
	sep    byte // ' ', '-', '.', '/', '(' for brackets, 'm' for any other mix, 0 for the first
}

// numbers reads the digits and separators that start at i as cards, social
// security numbers, IP addresses and phone numbers. It returns where it stopped.
func (s *scanner) numbers(t []byte, i int) int {
	start := i
	if i > 0 && (isWord(t[i-1]) || t[i-1] >= 0x80) {
		return i
	}
	if i > 1 && t[i-1] == ':' && isDigit(t[i-2]) { // the seconds of a time, with their fraction
		for i < len(t) && (isDigit(t[i]) || t[i] == '.') {
			i++
		}
		return i
	}
	plus := false
	if t[i] == '+' {
		plus = true
		i++
	}
	bracket := i < len(t) && t[i] == '('
	if bracket {
		i++
	}
	if i >= len(t) || !isDigit(t[i]) {
		return start
	}
	var g [12]group
	n, digits := 0, 0
	sep := byte(0)
	for n < len(g) {
		lo := i
		for i < len(t) && isDigit(t[i]) {
			i++
		}
		g[n] = group{lo, i, sep}
		n++
		digits += i - lo
		if digits > 40 {
			break
		}
		j := i
		sep = 0
		for j < len(t) && j-i < 3 {
			c := t[j]
			if c != ' ' && c != '-' && c != '.' && c != '/' && c != '(' && c != ')' {
				if c == 0xC2 && j+1 < len(t) && t[j+1] == 0xA0 { // no-break space
					j++
					c = ' '
				} else {
					break
				}
			}
			if sep == 0 {
				sep = c
			} else if sep != '(' {
				sep = 'm' // a mix, as in "12 - 7"
			}
			if c == ')' || c == '(' {
				sep = '('
			}
			j++
		}
		if sep == 0 || j >= len(t) || !isDigit(t[j]) {
			break
		}
		i = j
	}
	// What the last digits belong to when letters or a time follow.
	if end := g[n-1].hi; end < len(t) {
		c := t[end]
		switch {
		case (c == 'x' || c == 'X') && end+1 < len(t) && isDigit(t[end+1]): // an extension
		case isWord(c) || c >= 0x80, c == ':' && end+1 < len(t) && isDigit(t[end+1]), c == '%':
			n--
		}
	}
	end := i
	if n > 0 {
		end = max(g[n-1].hi, start+1)
		s.readGroups(t, g[:n], plus, bracket, start)
	}
	return max(end, i)
}

func (s *scanner) readGroups(t []byte, g []group, plus, bracket bool, start int) {
	var buf [48]byte
	for i := 0; i < len(g); {
		took := 0
		switch {
		case len(g)-i >= 4 && s.ipv4(t, g, i):
			took = 4
		default:
			if took = s.card(t, g[i:], buf[:0]); took == 0 {
				if took = s.ssn(t, g[i:], buf[:0]); took == 0 {
					took = s.phone(t, g[i:], plus && i == 0, bracket && i == 0, start)
				}
			}
		}
		i += max(took, 1)
	}
}

func (s *scanner) ipv4(t []byte, g []group, i int) bool {
	if len(g)-i > 4 && g[i+4].sep == '.' || i > 0 && g[i].sep == '.' {
		return false
	}
	var octet [4]int
	for k := range 4 {
		if k > 0 && g[i+k].sep != '.' || g[i+k].hi-g[i+k].lo > 3 {
			return false
		}
		for _, c := range t[g[i+k].lo:g[i+k].hi] {
			octet[k] = octet[k]*10 + int(c-'0')
		}
		if octet[k] > 255 || g[i+k].hi-g[i+k].lo > 1 && t[g[i+k].lo] == '0' {
			return false
		}
	}
	lo, hi := g[i].lo, g[i+3].hi
	if before(t, lo, "version") || before(t, lo, "v") && lo > 0 && t[lo-1] == 'v' {
		return true // taken, and kept
	}
	// Addresses that are no person's: this host, private, link-local,
	// multicast and reserved networks.
	a, b := octet[0], octet[1]
	private := a == 0 || a == 10 || a == 127 || a == 172 && b >= 16 && b < 32 || a == 192 && b == 168 || a == 169 && b == 254 || a >= 224
	if !private && s.level >= structured {
		s.add(lo, hi, "pii:ip")
	}
	return true
}

// ipv6 reads an IPv6 address at lo and returns its end, or lo.
func (s *scanner) ipv6(t []byte, lo int) int {
	i, colons, double := lo, 0, false
	for i < len(t) && i-lo < 45 && (t[i] == ':' || t[i] == '.' || isDigit(t[i]) || lower(t[i]) >= 'a' && lower(t[i]) <= 'f') {
		if t[i] == ':' {
			colons++
			double = double || t[i-1] == ':'
		}
		i++
	}
	for i > lo && (t[i-1] == '.' || t[i-1] == ':' && t[i-2] != ':') {
		i--
	}
	if colons < 7 && !(double && colons >= 3) || i < len(t) && isWord(t[i]) || lo > 0 && (isWord(t[lo-1]) || t[lo-1] == ':') {
		return lo
	}
	a, err := netip.ParseAddr(string(t[lo:i]))
	if err != nil {
		return lo
	}
	if !a.IsLoopback() && !a.IsPrivate() && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
		s.add(lo, i, "pii:ip")
	}
	return i
}

func (s *scanner) card(t []byte, g []group, buf []byte) int {
	for k := range g {
		if k > 0 && (g[k].sep != g[1].sep || g[k].sep != ' ' && g[k].sep != '-') {
			return 0
		}
		buf = append(buf, t[g[k].lo:g[k].hi]...)
		if len(buf) > 19 {
			return 0
		}
		if len(buf) >= 13 && (k == 0 || k >= 2 && g[0].hi-g[0].lo == 4) && cardNumber(buf) {
			if s.decimal(t, g[0].lo) {
				return 0
			}
			// A longer reading, if there is one, would have a good check
			// digit by chance alone.
			s.add(g[0].lo, g[k].hi, "pii:card")
			if !s.quiet {
				s.see("account", g[0].lo, g[k].hi)
			}
			return k + 1
		}
	}
	return 0
}

// decimal reports whether the digits at lo are the fraction of a number.
func (s *scanner) decimal(t []byte, lo int) bool {
	return lo > 1 && t[lo-1] == '.' && isDigit(t[lo-2])
}

func (s *scanner) ssn(t []byte, g []group, buf []byte) int {
	if len(g) >= 3 && g[0].hi-g[0].lo == 3 && g[1].hi-g[1].lo == 2 && g[2].hi-g[2].lo == 4 && g[1].sep == g[2].sep &&
		(g[1].sep == '-' || g[1].sep == ' ' && s.context(t, g[0].lo, g[2].hi, identityWords)) {
		for k := range 3 {
			buf = append(buf, t[g[k].lo:g[k].hi]...)
		}
		if socialSecurity(buf) || taxpayerID(buf) || s.context(t, g[0].lo, g[2].hi, identityWords) {
			s.add(g[0].lo, g[2].hi, "pii:ssn")
			return 3
		}
	}
	return 0
}

// phone reads as many groups as make a phone number; it returns how many.
func (s *scanner) phone(t []byte, g []group, plus, bracket bool, start int) int {
	most := min(len(g), 7)
	for k := most; k >= 1; k-- {
		digits := 0
		for _, x := range g[:k] {
			digits += x.hi - x.lo
		}
		if digits < 7 || digits > 15 || k > 1 && g[k-1].hi-g[k-1].lo < 2 {
			continue
		}
		lo, hi := g[0].lo, g[k-1].hi
		if plus || bracket {
			lo = start
		}
		if !s.phoneForm(t, g[:k], digits, plus, bracket) {
			if digits > 12 || dateLike(t, g[:k]) || s.decimal(t, g[0].lo) ||
				!s.context(t, lo, hi, phoneWords) || k > 1 && g[k-1].sep == '/' {
				continue
			}
		}
		if s.inURL(lo, hi) {
			return k
		}
		if hi < len(t) && (t[hi] == 'x' || t[hi] == 'X') {
			e := hi + 1
			for e < len(t) && isDigit(t[e]) && e-hi < 7 {
				e++
			}
			hi = e
		}
		s.add(lo, hi, "pii:phone")
		return k
	}
	return 0
}

// inURL reports whether lo..hi lies in a URL. URLs are in the order in which they
// begin, and one that begins within another ends no earlier.
func (s *scanner) inURL(lo, hi int) bool {
	i, _ := slices.BinarySearchFunc(s.inURLs, lo+1, func(u span, lo int) int { return cmp.Compare(int(u.lo), lo) })
	return i > 0 && hi <= int(s.inURLs[i-1].hi)
}

// phoneForm reports whether groups have the form of a phone number without help
// from the words around it.
func (s *scanner) phoneForm(t []byte, g []group, digits int, plus, bracket bool) bool {
	k := len(g)
	size := func(i int) int { return g[i].hi - g[i].lo }
	if plus {
		return digits >= 8 && t[g[0].lo] != '0'
	}
	if k == 1 {
		return false
	}
	for i := 1; i < k; i++ {
		if g[i].sep == '/' || g[i].sep == 'm' {
			return false
		}
		if g[i].sep == '.' && size(i) < 2 {
			return false
		}
	}
	if bracket && digits >= 9 && size(0) >= 2 && size(0) <= 5 {
		return true
	}
	// North America: 3-3-4, with or without the country's 1.
	a := 0
	if size(0) == 1 && t[g[0].lo] == '1' || size(0) == 3 && k >= 4 && string(t[g[0].lo:g[0].hi]) == "001" {
		a = 1
	}
	if k-a == 3 && size(a) == 3 && size(a+1) == 3 && size(a+2) == 4 && digits-size(0)*a == 10 {
		return !(g[a+1].sep == ' ' && s.decimal(t, g[0].lo))
	}
	if bracket && digits >= 7 && k >= 2 {
		return size(0) >= 2
	}
	// National numbers start with a trunk 0.
	if t[g[0].lo] == '0' && size(0) >= 2 && size(0) <= 5 && digits >= 8 && digits <= 12 && !dateLike(t, g) {
		for i := 1; i < k; i++ {
			if size(i) < 2 {
				return false
			}
		}
		return k >= 3 || g[1].sep != '.'
	}
	return false
}

// dateLike reports whether groups can be a date: 2024-05-12, 5/12/2024.
func dateLike(t []byte, g []group) bool {
	if len(g) < 3 {
		return len(g) == 1 && g[0].hi-g[0].lo == 8 && (t[g[0].lo] == '1' || t[g[0].lo] == '2') && (t[g[0].lo+1] == '9' || t[g[0].lo+1] == '0')
	}
	a, b, c := g[0].hi-g[0].lo, g[1].hi-g[1].lo, g[2].hi-g[2].lo
	two := func(x group) int {
		v := 0
		for _, d := range t[x.lo:x.hi] {
			v = v*10 + int(d-'0')
		}
		return v
	}
	if a == 4 && b <= 2 && c <= 2 && (t[g[0].lo] == '1' || t[g[0].lo] == '2') {
		return two(g[1]) <= 12 && two(g[2]) <= 31
	}
	if a <= 2 && b <= 2 && (c == 4 || c == 2) && len(g) == 3 {
		return two(g[0]) <= 31 && two(g[1]) <= 31 && (two(g[0]) <= 12 || two(g[1]) <= 12)
	}
	return false
}

var (
	phoneWords = newWordSet([]string{"phone", "tel:", "tel.", "tel ", "telefon", "mobile", "mobil", "cell", "fax", "call", "reach",
		"whatsapp", "sms", "dial", "hotline", "office", "answering", "text me", "ring ", "handy"})
	identityWords = newWordSet([]string{"ssn", "social security", "itin", "taxpayer"})
)

// context reports whether one of words stands on the same line, up to 36 bytes
// before lo or 12 behind hi.
func (s *scanner) context(t []byte, lo, hi int, words *wordSet) bool {
	a := t[max(0, lo-36):lo]
	if nl := bytes.LastIndexByte(a, '\n'); nl >= 0 {
		a = a[nl:]
	}
	b := t[hi:min(len(t), hi+12)]
	if nl := bytes.IndexByte(b, '\n'); nl >= 0 {
		b = b[:nl]
	}
	return words.contains(a) || words.contains(b)
}

// before reports whether word stands right before lo, a space apart or not.
func before(t []byte, lo int, word string) bool {
	if lo > 0 && t[lo-1] == ' ' {
		lo--
	}
	if lo < len(word) {
		return false
	}
	for i := range len(word) {
		if lower(t[lo-len(word)+i]) != word[i] {
			return false
		}
	}
	return true
}
