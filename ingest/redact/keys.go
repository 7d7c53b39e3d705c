package redact

import "unsafe"

// sensitiveKey judges the name of a JSON member, a header or a variable. It
// splits names at case changes, digits and punctuation, so apiKey, API_KEY,
// x-api-key and "api key" are one name, and returns the class of what such a
// member holds, such as key:password, or "".
//
// Names that only mention a secret (max_tokens, next_page_token, password_hint,
// token_count, public_key) are not sensitive.
func sensitiveKey(name []byte) string {
	var buf [96]byte
	var word [12]span
	n, w := 0, 0
	if len(name) > 80 {
		name = name[len(name)-80:] // the end of a name says what it is
	}
	open := false
	for i, c := range name {
		lower := c
		switch {
		case c >= 'A' && c <= 'Z':
			lower = c + 'a' - 'A'
			// A new word at fooBar and at the last capital of HTTPServer.
			if i > 0 && (name[i-1] >= 'a' && name[i-1] <= 'z' ||
				name[i-1] >= 'A' && name[i-1] <= 'Z' && i+1 < len(name) && name[i+1] >= 'a' && name[i+1] <= 'z') {
				open = false
			}
		case c >= 'a' && c <= 'z' || c >= 0x80:
		default:
			open = false
			continue
		}
		if !open {
			if w == len(word) {
				copy(word[:], word[1:])
				w--
			}
			word[w] = span{int32(n), int32(n)}
			w++
			open = true
		}
		buf[n] = lower
		n++
		word[w-1].hi = int32(n)
	}
	if w == 0 {
		return ""
	}
	// The words live as long as this call and nothing keeps them.
	return judge(words{unsafe.String(&buf[0], n), word, w})
}

// words are the parts of a name in lower case.
type words struct {
	all  string
	word [12]span
	n    int
}

func (w *words) at(i int) string {
	if i < 0 || i >= w.n {
		return ""
	}
	return w.all[w.word[i].lo:w.word[i].hi]
}

// judge reads the words of a name, last first: the head of an English compound
// is its last word.
func judge(w words) string {
	last := w.n - 1
	switch w.at(last) {
	case "value", "val", "raw", "text", "plain", "plaintext", "base", "b", "enc", "encrypted", "hash", "hashed",
		"hex", "old", "new", "current", "confirm", "confirmation", "repeat", "again", "string", "str", "header", "env", "var":
		// qualifiers that leave the meaning: password_hash, passwordConfirm
		if last > 0 {
			if w.at(last) == "string" || w.at(last) == "str" {
				if p := w.at(last - 1); p == "connection" || p == "conn" {
					return "key:connection_string"
				}
			}
			if c := judgeHead(&w, last-1); c != "" {
				return c
			}
		}
	}
	if c := judgeHead(&w, last); c != "" {
		return c
	}
	// The whole name written as one word.
	switch w.all {
	case "connectionstring", "connstring", "connstr":
		return "key:connection_string"
	case "socialsecuritynumber", "socialsecurity", "nationalid", "taxid", "passportnumber":
		return "key:national_id"
	case "creditcard", "creditcardnumber", "cardnumber", "ccnumber", "debitcard", "cardno":
		return "key:card"
	}
	return ""
}

func judgeHead(name *words, i int) string {
	before := name.at(i - 1)
	switch w := name.at(i); w {
	case "password", "passwd", "passwort", "pwd", "passphrase", "passcode", "pass", "passwords", "kennwort", "psw", "userpass":
		if w == "pass" && (before == "boarding" || before == "first" || before == "second" || before == "by") {
			return ""
		}
		switch before {
		case "forgot", "forgotten", "show", "hide", "toggle", "edit", "add", "reset":
			return "" // what is done to a password
		}
		return "key:password"
	case "secret", "secrets":
		return "key:secret"
	case "token", "tokens", "jwt", "bearer":
		switch before {
		case "page", "next", "continuation", "cursor", "sync", "resume", "pagination", "max", "min", "total", "num",
			"prompt", "completion", "input", "output", "cached", "reasoning", "stop", "eos", "bos", "pad", "mask",
			"start", "end", "unk", "special", "progress", "cancel", "cancellation", "count", "public", "of", "by",
			"change", "delta", "previous", "prev", "last", "first", "new", "used", "remaining", "budget", "thinking":
			return ""
		}
		if w == "tokens" {
			switch before {
			case "access", "api", "auth", "refresh", "bearer", "session", "secret", "security":
			default:
				return ""
			}
		}
		return "key:token"
	case "key", "keys":
		switch before {
		case "api", "private", "secret", "access", "encryption", "signing", "ssh", "master", "shared", "account",
			"storage", "auth", "service", "function", "stream", "license", "licence", "webhook", "hmac", "aes", "rsa",
			"gpg", "pgp", "deploy", "bot", "admin", "root", "consumer", "integration", "write", "session", "host",
			"app", "application", "client", "subscription", "insert", "device", "preshared", "authentication",
			"authorization", "cert", "certificate", "tls", "ssl", "seed", "recovery", "crypto", "cipher", "decryption":
			return "key:api_key"
		}
		return ""
	case "apikey", "apikeys", "accesskey", "secretkey", "privatekey", "authkey", "presharedkey", "psk":
		return "key:api_key"
	case "authorization", "authentication", "auth", "authz":
		return "key:authorization"
	case "cookie", "cookies":
		return "key:cookie"
	case "credential", "credentials", "creds", "cred":
		return "key:credential"
	case "ssn", "ssns", "itin":
		return "key:national_id"
	case "security", "number", "no", "num", "id", "license", "licence":
		if w != "id" && (w == "security" && before == "social" || before == "security" && name.at(i-2) == "social") {
			return "key:national_id"
		}
		switch before {
		case "card", "pan":
			if w == "number" || w == "no" || w == "num" {
				return "key:card"
			}
		case "cc":
			return "key:card"
		case "national", "tax", "passport", "taxpayer":
			return "key:national_id"
		case "license", "licence":
			if p := name.at(i - 2); p == "driver" || p == "drivers" || p == "driving" || p == "s" {
				return "key:national_id"
			}
		case "driver", "drivers", "driving":
			if w == "license" || w == "licence" {
				return "key:national_id"
			}
		case "pin", "security", "verification":
			if before == "pin" && w != "id" {
				return "key:pin"
			}
		}
		return ""
	case "passport":
		return "key:national_id"
	case "card":
		if before == "credit" || before == "debit" {
			return "key:card"
		}
		return ""
	case "creditcard", "cardnumber", "debitcard":
		return "key:card"
	case "cvv", "cvc", "cvn", "ccv":
		return "key:cvv"
	case "pin":
		if i == 0 || before == "card" || before == "atm" || before == "user" || before == "account" || before == "sim" {
			return "key:pin"
		}
		return ""
	case "code", "codes", "phrase", "otp", "totp", "mnemonic":
		switch before {
		case "pin", "mfa", "otp", "totp", "recovery", "backup", "seed", "security", "verification", "auth":
			return "key:pin"
		}
		if w == "otp" || w == "totp" || w == "mnemonic" {
			return "key:pin"
		}
		return ""
	case "dsn":
		return "key:connection_string"
	default:
		return judgeCompound(w)
	}
}

// judgeCompound looks at names written without any separator.
func judgeCompound(w string) string {
	end := func(s string) bool { return len(w) >= len(s) && w[len(w)-len(s):] == s }
	switch {
	case end("password"), end("passwd"), end("passphrase"):
		return "key:password"
	case end("apikey"), end("secretkey"), end("accesskey"), end("privatekey"), end("signingkey"), end("encryptionkey"):
		return "key:api_key"
	case end("clientsecret"), end("appsecret"), end("apisecret"), end("sharedsecret"), end("consumersecret"), end("jwtsecret"), end("keysecret"):
		return "key:secret"
	case end("accesstoken"), end("authtoken"), end("refreshtoken"), end("apitoken"), end("sessiontoken"),
		end("bearertoken"), end("idtoken"), end("securitytoken"), end("usertoken"), end("bottoken"), end("oauthtoken"):
		return "key:token"
	case w == "sessionkey", w == "sessioncookie":
		return "key:token"
	}
	return ""
}

// personalKey judges names of members that hold personal data as free text,
// which no pattern recognises: {"last_name": "Quill"}.
func personalKey(name []byte) string {
	if len(name) < 3 || len(name) > 32 {
		return ""
	}
	var buf [32]byte
	n := 0
	for _, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c >= 'a' && c <= 'z' {
			buf[n] = c
			n++
		}
	}
	switch string(buf[:n]) {
	case "firstname", "lastname", "fullname", "middlename", "givenname", "familyname", "surname", "maidenname",
		"customername", "patientname", "employeename", "contactname", "personname", "holdername", "cardholder",
		"cardholdername", "accountholder", "recipientname", "sendername", "passengername":
		return "pii:name"
	case "dob", "dateofbirth", "birthdate", "birthday":
		return "pii:birth_date"
	case "street", "streetaddress", "address", "addressline", "homeaddress", "postaladdress", "mailingaddress",
		"billingaddress", "shippingaddress", "streetname":
		return "pii:address"
	case "phone", "phonenumber", "mobile", "mobilenumber", "telephone", "cellphone", "fax", "phoneno", "homephone", "workphone":
		return "pii:phone"
	case "accountnumber", "bankaccount", "bankaccountnumber", "routingnumber", "accountno":
		return "pii:account"
	case "email", "emailaddress":
		return "pii:email"
	case "iban":
		return "pii:iban"
	}
	return ""
}
