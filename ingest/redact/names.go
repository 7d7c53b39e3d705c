package redact

import (
	"bytes"
	"strings"
	"sync"
)

// personWords introduce a person's name.
var personWords = []string{
	"mr.", "mr ", "mrs.", "mrs ", "ms.", "ms ", "miss ", "dr.", "dr ", "prof.", "professor ", "herr ", "frau ", "dear ", "sir ",
	"madame ", "monsieur ", "señor ", "señora ", "my name is ", "name is ", "name:", "i am called ", "signed,\n", "regards,\n", "sincerely,\n",
	"cheers,\n", "best,\n", "thanks,\n", "yours,\n", "name's ", "named ", "this is ", "hi ", "hello ", "sincerely, ", "regards, ", "attn:", "attn ", "patient ", "client ",
}

// introduced takes the words with capitals behind a word that introduces a name.
func (s *scanner) introduced(t []byte, end int) {
	lo := end
	for lo > 0 && !isSpace(t[lo-1]) && t[lo-1] != '"' && t[lo-1] != '(' && end-lo < 24 {
		lo--
	}
	weak := false // the introduction alone does not make a name
	if w := t[lo:end]; len(w) > 0 {
		// The word must stand alone: "xmr.", "admr ".
		switch lower(w[0]) {
		case 'h', 't', 'p', 'c', 'b', 'n':
			weak = true
		}
	}
	start := lo
	for start > 0 && t[start-1] == ' ' && end-start < 24 {
		start--
		for start > 0 && isAlnum(t[start-1]) && end-start < 24 {
			start--
		}
	}
	intro := t[start:end]
	if containsFold(intro, "name is ") || containsFold(intro, "name:") || containsFold(intro, "name's ") || bytes.HasSuffix(intro, []byte(",\n")) {
		weak = false
	}
	if at := end - 1; at >= 0 && isAlnum(t[at]) {
		return
	}
	i := end
	for i < len(t) && (t[i] == ' ' || t[i] == '\n' && i == end) {
		i++
	}
	if i >= len(t) {
		return
	}
	wEnd := wordEnd(t, i)
	if wEnd == i {
		return
	}
	lowText := !isUpper(t[i]) && t[i] < 0x80
	if lowText && !(hasHonorific(intro) && givenName(t[i:wEnd]) != 0) && !containsFold(intro, "name is ") {
		return
	}
	if !lowText && stopWord(t[i:wEnd]) {
		return
	}
	if weak && givenName(t[i:wEnd]) == 0 && !hasHonorific(intro) {
		return
	}
	if lowText {
		if n := wordEnd(t, min(wEnd+1, len(t))); wEnd < len(t) && t[wEnd] == ' ' && n > wEnd+1 && n == len(bytes.TrimRight(t, " .?!")) {
			wEnd = n
		}
		s.add(i, wEnd, "pii:name")
		return
	}
	s.add(i, s.nameEnd(t, i, wEnd), "pii:name")
}

func hasHonorific(intro []byte) bool {
	for _, w := range []string{"mr", "mrs", "ms", "miss", "dr", "prof", "professor", "herr", "frau", "sir", "madame", "monsieur", "dear", "señor", "señora"} {
		x := bytes.TrimRight(intro, ". \n")
		if len(x) >= len(w) && strings.EqualFold(string(x[len(x)-len(w):]), w) && (len(x) == len(w) || !isAlnum(x[len(x)-len(w)-1])) {
			return true
		}
	}
	return false
}

func containsFold(t []byte, w string) bool {
	for i := 0; i+len(w) <= len(t); i++ {
		k := 0
		for k < len(w) && lower(t[i+k]) == w[k] {
			k++
		}
		if k == len(w) {
			return true
		}
	}
	return false
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80 || c == '-' || c == '\''
}

// wordEnd is the end of the word of letters at i; a hyphen, an apostrophe or an
// English 's at its end does not belong to it.
func wordEnd(t []byte, i int) int {
	j := i
	for j < len(t) && nameByte(t[j]) {
		if t[j] == 0xE2 && j+2 < len(t) && t[j+1] == 0x80 { // a dash or quote, not a letter
			break
		}
		j++
	}
	for j > i && (t[j-1] == '-' || t[j-1] == '\'') {
		j--
	}
	if j-i > 2 && t[j-1] == 's' && t[j-2] == '\'' {
		j -= 2
	}
	return j
}

// nameEnd goes on from a name's first word over surnames and their particles.
func (s *scanner) nameEnd(t []byte, lo, end int) int {
	count := 1
	for count < 4 && end+1 < len(t) {
		i := end
		if t[i] == '.' && end-lo <= 2 { // an initial
			i++
		}
		if i >= len(t) || t[i] != ' ' {
			break
		}
		i++
		next := wordEnd(t, i)
		for next > i && i < len(t) && particle(t[i:next]) && next+1 < len(t) && t[next] == ' ' {
			i = next + 1
			next = wordEnd(t, i)
		}
		if next == i || !isUpper(t[i]) && t[i] < 0xC3 || stopWord(t[i:next]) {
			break
		}
		if next-i > 1 && allUpper(t[i:next]) && !allUpper(t[lo:end]) && !honorTail(t[i:next]) {
			break
		}
		if next < len(t) && (isDigit(t[next]) || t[next] == '_' || t[next] == '@' || t[next] == '/') {
			break
		}
		end = next
		count++
	}
	return end
}

func allUpper(w []byte) bool {
	for _, c := range w {
		if c >= 'a' && c <= 'z' {
			return false
		}
	}
	return true
}

func honorTail(w []byte) bool {
	switch string(w) {
	case "MD", "PhD", "DVM", "DDS", "Jr", "Sr", "II", "III", "IV":
		return true
	}
	return false
}

func particle(w []byte) bool {
	switch string(w) {
	case "van", "der", "den", "de", "von", "di", "da", "la", "le", "del", "du", "bin", "al", "el", "dos", "ter", "ten", "zu":
		return true
	}
	return false
}

// names finds given names of the lexicon, written with a capital, and what
// follows them as a surname. In a sentence without any capital it takes
// unmistakable names as they are.
func (s *scanner) names(t []byte) {
	if len(t) < 3 {
		return
	}
	anyUpper := false
	for _, c := range t {
		if isUpper(c) {
			anyUpper = true
			break
		}
	}
	if !anyUpper && bytes.Count(t[:min(len(t), 400)], []byte(" ")) < 3 {
		return
	}
	for i := 0; i < len(t); {
		c := t[i]
		if !nameByte(c) || c == '-' || c == '\'' {
			i++
			if isDigit(c) || c == '_' || c == '@' || c == '/' || c == '.' && i < len(t) && t[i] != ' ' || c == '=' || c == '\\' {
				for i < len(t) && (isWord(t[i]) || t[i] == '-') { // part of an identifier, a path or a host
					i++
				}
			}
			continue
		}
		end := wordEnd(t, i)
		if end <= i {
			i++
			continue
		}
		after := byte(' ')
		if end < len(t) {
			after = t[end]
		}
		if end-i < 3 || end-i > 14 || after == '_' || after == '@' || after == '/' || after == '=' || after == '(' || isDigit(after) ||
			after == '.' && end+1 < len(t) && isAlnum(t[end+1]) || after == ':' && end+1 < len(t) && t[end+1] == '/' {
			i = end
			continue
		}
		if !isUpper(c) && anyUpper {
			i = end
			continue
		}
		kind := givenName(t[i:end])
		if allUpper(t[i:end]) {
			kind = 0 // an airport, an acronym, a constant
		}
		if kind == 0 || kind == 2 && !anyUpper {
			i = end
			continue
		}
		last := end
		if anyUpper {
			last = s.nameEnd(t, i, end)
			if kind == 2 && (last == end || !surname(t, end, last)) {
				i = end
				continue
			}
		}
		s.add(i, last, "pii:name")
		i = last
	}
}

// surname reports whether the words of t[end:last] hold a frequent surname.
func surname(t []byte, end, last int) bool {
	for _, w := range bytes.Fields(t[end:last]) {
		if lexiconOf(w)&4 != 0 {
			return true
		}
	}
	return false
}

// givenName is 1 for a given name, 2 for one that is also a common word.
func givenName(w []byte) uint8 { return lexiconOf(w) & 3 }

func lexiconOf(w []byte) uint8 {
	var buf [16]byte
	if len(w) > len(buf) || len(w) < 2 {
		return 0
	}
	for i, c := range w {
		buf[i] = lower(c)
	}
	return nameLexicon()[string(buf[:len(w)])]
}

// stopWord reports whether a word with a capital is none of a name.
func stopWord(w []byte) bool {
	var buf [12]byte
	if len(w) > len(buf) {
		return false
	}
	for i, c := range w {
		buf[i] = lower(c)
	}
	_, ok := stopWords()[string(buf[:len(w)])]
	return ok
}

var stopWords = sync.OnceValue(func() map[string]struct{} {
	m := map[string]struct{}{}
	for _, w := range strings.Fields(stopWordList) {
		m[w] = struct{}{}
	}
	return m
})

// nameLexicon holds 1 for given names, 2 for those that are common words or
// places as well, plus 4 for surnames.
var nameLexicon = sync.OnceValue(func() map[string]uint8 {
	m := map[string]uint8{}
	for _, w := range strings.Fields(givenNames) {
		m[w] = 1
	}
	for _, w := range strings.Fields(doubtfulNames) {
		m[w] = 2
	}
	for _, w := range strings.Fields(surnames) {
		m[w] |= 4
	}
	return m
})

const stopWordList = `the a an and or of in on at to for from with by as is are was were be been has have had will would can could
may might shall should must do does did not no yes if then else when where who what which why how this that these those it its i
we you he she they me us him her them my our your his their there here all any some each every both few more most other such
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september october
november december team sir madam all everyone customer user admin support sales hr it ceo cto api url id http https json sql
street avenue road st ave rd inc ltd llc corp company bank university school department office city state county apt suite unit
please thanks thank regards best sincerely hello hi dear hey re fwd subject date phone email address name age male female said says
meeting report project agenda notes reminder update review call invoice order ticket issue account card number password
hotel restaurant airport hospital museum park church center centre group club association foundation`
