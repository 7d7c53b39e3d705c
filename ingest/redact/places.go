package redact

import (
	"bytes"
	"regexp"
	"sync"
)

// placeWords are words of postal addresses, each with what keeps it from being
// part of a common word, by the form of placeForms that they belong to.
var placeWords = [][]string{
	{" street", " st.", " st,", " st ", " st\n", "avenue", " ave", "boulevard", " blvd", " road", " rd", " lane", " drive", " court", " square",
		"terrace", "parkway", "highway", " circle"},
	{"strasse ", "straße ", "gasse ", "weg ", "platz ", "vej ", "gatan ", "vägen ", "gata ", "straat ", "laan ", "gade ", "utca ", "katu ", "allee ", "steenweg "},
	{"rue ", "calle ", " via ", "rua ", "avenida", "avenue ", "plaza ", "piazza "},
	{"apt.", "apt ", "suite ", "apartment "},
	{"p.o. box", "po box", " box "},
	{"fpo a", "dpo a", "apo a"},
	{"address", "lives at", "live at", "living at", "resid", "office is at", "return to", "sent to", "corner of", "home at", "ship to", "shipped to"},
}

const (
	streetWord = `[\p{L}][\p{L}.'’-]*`
	// A part of an address may be followed by town, country and postal code.
	tailPart = `(?:[\s,>?]*` + streetWord + `(?:[ -]` + streetWord + `){0,4}\s*,?\s*){1,3}\s\d{4,6}(?:-\d{4})?`
)

var placeForms = sync.OnceValue(func() []*regexp.Regexp {
	unit := `(?:(?i:apt|suite|ste|apartment|unit)\.?\s*#?\s*\d{1,5}[A-Za-z]?\b)`
	return []*regexp.Regexp{
		// 12 Long Acre Street, Apt. 4
		regexp.MustCompile(`\b\d{1,6}[A-Za-z]?,?\s+(?:(?:\d{1,5}|` + streetWord + `)\s+){0,4}?(?i:street|avenue|road|boulevard|lane|drive|court|square|terrace|parkway|highway|circle|(?:st|ave|rd|blvd|ln|dr|ct|sq|pkwy|hwy)\b\.?)(?:\s*\d{1,5})?(?:[\s,]*` + unit + `)?`),
		// 44 Hauptstrasse 69, Hauptstrasse 69
		regexp.MustCompile(`(?:\b\d{1,5}\s+)?[\p{L}'’-]{2,}(?i:strasse|straße|str\.|gasse|weg|platz|vej|gatan|vägen|gata|straat|laan|gade|utca|katu|allee|steenweg)\s+\d{1,5}(?:[\s,]*` + unit + `)?`),
		// 36 Rue de Pologne, Via Garibaldi 8
		regexp.MustCompile(`\b(?:\d{1,5},?\s+){1,2}(?i:rue|calle|via|rua|avenida|avenue|plaza|piazza|r\.)\s+` + streetWord + `(?:\s+` + streetWord + `){0,3}(?:\s+\d{1,5})?|\b(?i:rue|calle|via|rua|avenida|plaza|piazza)\s+` + streetWord + `(?:\s+` + streetWord + `){0,3},?\s+\d{1,5}\b`),
		// 92 Eusebio Dávila 57 Apt. 3
		regexp.MustCompile(`(?:\b\d{1,5}\s+(?:` + streetWord + `\s+){0,5}(?:\d{1,5}[A-Za-z.]?[\s,]*)?)?` + `(?:(?i:apt\.?|suite|apartment)\s+#?\d{1,5}[A-Za-z]?\b)`),
		regexp.MustCompile(`(?i)\bp\.?\s?o\.?\s+box\s+\d+|\bunit\s+\d+\s+box\s+\d+`),
		regexp.MustCompile(`(?i)(?:\busn[a-z]\s+[\p{L}-]+\s+|\buscgc\s+[\p{L}-]+\s+)?\b(?:[fd]po|apo)\s+a[aep]\s+\d{5}\b`),
		// What a sentence calls an address, if it has a number in it.
		regexp.MustCompile(`(?i)(?:\baddress\s*:|\baddress\s+(?:is|to|of\s+.{1,30}\s+is)|\baddress\s+to\s+the\s+same|\blives?\s+at|\bliving\s+at|\bresid(?:e|es|ing)\s+(?:at|in)|\boffice\s+is\s+at|\breturn\s+to|\bsent\s+to|\bcorner\s+of|\bhome\s+at|\bship(?:ped)?\s+to)\s*:?\s+((?:[\p{L}\d.'’/-]+[ ,\n]+){0,7}\d[\p{L}\d]*\b(?:[ ,]+(?:apt\.?|suite)\s+\d+)?)`),
	}
})

var placeTail = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\A` + tailPart) })

// places finds postal addresses around the words of addresses in t.
func (s *scanner) places(t []byte) {
	lx := s.r.lexicon
	done := 0
	for _, h := range s.hits {
		end := int(h.end)
		if end < done || lx.triggers[h.word].kind != place {
			continue
		}
		lo, hi := max(done, end-90), min(len(t), end+110)
		for lo < end && lo > 0 && (t[lo]&0xC0 == 0x80 || isAlnum(t[lo-1])) {
			lo++
		}
		for hi < len(t) && t[hi]&0xC0 == 0x80 {
			hi++
		}
		w := t[lo:hi]
		if countDigits(w) == 0 {
			done = max(lo, end)
			continue
		}
		if !s.spend(len(w) * regexpCost * 4) {
			return
		}
		far := end
		i := lx.triggers[h.word].index
		for _, re := range placeForms()[i : i+1] {
			for _, m := range re.FindAllSubmatchIndex(w, 4) {
				a, b := m[0], m[1]
				if len(m) > 2 && m[2] >= 0 {
					a, b = m[2], m[3]
				}
				if i == 0 && !streetLike(w[a:b]) {
					continue
				}
				a, b = lo+a, lo+b
				if tail := placeTail().FindIndex(t[b:min(len(t), b+90)]); tail != nil && i != 6 {
					b += tail[1]
				}
				s.add(a, b, "pii:address")
				far = max(far, b)
			}
		}
		done = far
	}
}

// streetLike keeps "5 way" and "3 drive" out: the name of a street starts with a
// capital, or the whole text has none.
func streetLike(w []byte) bool {
	words := bytes.Fields(w)
	if len(words) < 3 {
		return false
	}
	if !bytes.ContainsFunc(w, func(r rune) bool { return r >= 'A' && r <= 'Z' || r > 0x7f }) {
		return len(words) <= 5
	}
	c := words[1][0]
	return isUpper(c) || c >= 0x80 || isDigit(c)
}
