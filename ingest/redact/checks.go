package redact

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
)

// luhn is the check digit of ISO/IEC 7812-1, annex B.
func luhn(digits []byte) bool {
	sum, double := 0, false
	for i := len(digits) - 1; i >= 0; i-- {
		d := int(digits[i] - '0')
		if double {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		double = !double
	}
	return sum%10 == 0
}

// cardNumber reports whether digits are a payment card's: length and prefix of
// a known network, and the check digit.
func cardNumber(d []byte) bool {
	n := len(d)
	if n < 13 || n > 19 {
		return false
	}
	p2 := int(d[0]-'0')*10 + int(d[1]-'0')
	p4 := p2*100 + int(d[2]-'0')*10 + int(d[3]-'0')
	ok := false
	switch {
	case d[0] == '4': // Visa
		ok = n == 13 || n == 16 || n == 19
	case p2 >= 51 && p2 <= 55, p4 >= 2221 && p4 <= 2720: // Mastercard
		ok = n == 16
	case p2 == 34 || p2 == 37: // American Express
		ok = n == 15
	case p4 == 6011 || p2 == 65 || p4 >= 6440 && p4 <= 6499 || p2 == 62 || p2 == 60: // Discover, UnionPay, RuPay
		ok = n >= 16
	case p2 == 36 || p2 == 38 || p2 == 39 || p4 >= 3000 && p4 <= 3059: // Diners
		ok = n >= 14
	case p4 >= 3528 && p4 <= 3589: // JCB
		ok = n >= 16
	case p4 == 1800 || p4 == 2131:
		ok = n == 15
	case p2 == 50 || p2 >= 56 && p2 <= 58 || p2 == 61 || p2 == 63 || p2 == 66 || p2 == 67 || p2 == 68 || p2 == 69: // Maestro
		ok = n >= 13
	}
	return ok && luhn(d)
}

// ibanLength gives the length of an IBAN by its country (ISO 13616 registry).
func ibanLength(c0, c1 byte) int {
	const table = "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20YE30"
	for i := 0; i+3 < len(table); i += 4 {
		if table[i] == c0 && table[i+1] == c1 {
			return int(table[i+2]-'0')*10 + int(table[i+3]-'0')
		}
	}
	return 0
}

// mod97 is the check of ISO 7064 over an IBAN in capitals without spaces.
func mod97(s []byte) bool {
	m := 0
	for i := range s {
		c := s[(i+4)%len(s)]
		switch {
		case isDigit(c):
			m = (m*10 + int(c-'0')) % 97
		case isUpper(c):
			m = (m*100 + int(c-'A') + 10) % 97
		default:
			return false
		}
	}
	return m == 1
}

// socialSecurity checks the areas, groups and serials that the SSA never issues.
func socialSecurity(d []byte) bool {
	area := string(d[:3])
	return area != "000" && area != "666" && d[0] != '9' && string(d[3:5]) != "00" && string(d[5:]) != "0000"
}

// taxpayerID checks the ranges of an ITIN: 9xx-50..65, 70..88, 90..92, 94..99.
func taxpayerID(d []byte) bool {
	g := int(d[3]-'0')*10 + int(d[4]-'0')
	return d[0] == '9' && (g >= 50 && g <= 65 || g >= 70 && g <= 88 || g >= 90 && g <= 92 || g >= 94)
}

// base58Check is the checksum of a legacy Bitcoin address.
func base58Check(s []byte) bool {
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	n := new(big.Int)
	for _, c := range s {
		at := bytes.IndexByte([]byte(alphabet), c)
		if at < 0 {
			return false
		}
		n.Mul(n, big.NewInt(58))
		n.Add(n, big.NewInt(int64(at)))
	}
	if n.BitLen() > 25*8 {
		return false
	}
	var raw [25]byte
	n.FillBytes(raw[:])
	sum := sha256.Sum256(raw[:21])
	sum = sha256.Sum256(sum[:])
	return bytes.Equal(sum[:4], raw[21:])
}

// bech32 is the checksum of BIP 173 and BIP 350.
func bech32(s []byte) bool {
	const alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	low := bytes.ToLower(s)
	sep := bytes.LastIndexByte(low, '1')
	if sep < 1 {
		return false
	}
	chk := uint32(1)
	step := func(v uint32) {
		top := chk >> 25
		chk = chk&0x1ffffff<<5 ^ v
		for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				chk ^= g
			}
		}
	}
	for _, c := range low[:sep] {
		step(uint32(c) >> 5)
	}
	step(0)
	for _, c := range low[:sep] {
		step(uint32(c) & 31)
	}
	for _, c := range low[sep+1:] {
		at := bytes.IndexByte([]byte(alphabet), c)
		if at < 0 {
			return false
		}
		step(uint32(at))
	}
	return chk == 1 || chk == 0x2bc830a3
}

// basicPair reports whether a Basic credential (RFC 7617) decodes to user:password.
func basicPair(s []byte) bool {
	var buf [512]byte
	if len(s) > len(buf) {
		return false
	}
	n, err := base64.StdEncoding.Decode(buf[:], s)
	if err != nil {
		n, err = base64.RawStdEncoding.Decode(buf[:], bytes.TrimRight(s, "="))
	}
	if err != nil {
		return false
	}
	for _, c := range buf[:n] {
		if c < 0x20 || c >= 0x7f {
			return false
		}
	}
	return bytes.IndexByte(buf[:n], ':') >= 0
}
