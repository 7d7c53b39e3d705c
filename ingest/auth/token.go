package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// maxToken bounds a token, in bytes. A token travels in a header, and these have a
// bound of about this size nearly everywhere.
const maxToken = 8 << 10

// algorithms are those that can be allowed: every one with a public key, by RFC 7518,
// section 3.1 and RFC 8037, section 3.1. Those with a shared secret and none are not
// there, so that no setting can let them in.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// TokenDeps are what tokens need.
type TokenDeps struct {
	Client *http.Client // towards issuers; nil for one with the system's authorities
	Now    func() time.Time
	Log    *slog.Logger // for issuers that do not answer; nil for none
}

// Tokens prove who calls by a JSON Web Token (RFC 7519) of an issuer that is trusted:
// an access token (RFC 9068) or an ID token. The rules of RFC 8725 hold. Any number of
// goroutines may use them.
type Tokens struct {
	issuers map[string]*tokenIssuer
	now     func() time.Time
}

type tokenIssuer struct {
	Issuer
	allowed []jose.SignatureAlgorithm
	rules   []TokenRule
	keys    *keySet
}

// NewTokens takes the tokens of issuers, with the rules that give them roles. It asks
// nobody anything: keys are fetched when the first token of an issuer comes.
func NewTokens(issuers []Issuer, rules []TokenRule, d TokenDeps) *Tokens {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{issuers: map[string]*tokenIssuer{}, now: d.Now}
	for _, i := range issuers {
		of := &tokenIssuer{Issuer: i, keys: &keySet{issuer: i.Issuer, client: issuerClient(d.Client, i.Roots), now: d.Now, log: d.Log}}
		for _, name := range i.Algorithms {
			if slices.Contains(algorithms, name) {
				of.allowed = append(of.allowed, jose.SignatureAlgorithm(name))
			}
		}
		for _, r := range rules {
			if r.Issuer == i.Issuer {
				of.rules = append(of.rules, r)
			}
		}
		t.issuers[i.Issuer] = of
	}
	return t
}

// Identify says whose a token is and what its issuer's rules give them. It waits for an
// issuer's keys when they are not known, as long as ctx and about ten seconds; the
// identity is the issuer, "#" and the subject, which is unique with an issuer and never
// given to somebody else (OpenID Connect Core 1.0, section 2).
//
// The error is a *[Refusal]. CantBeChecked says that the issuer does not answer and the
// caller may try again; all others say that this token will not be taken.
func (t *Tokens) Identify(ctx context.Context, token string) (*Identity, error) {
	p, problem := parseToken(token)
	if problem != nil {
		return nil, problem
	}
	issuer := t.issuers[p.claims.text("iss")]
	if issuer == nil {
		return nil, p.refuse(WrongIssuer, "the token is of an issuer whose tokens are not taken here")
	}
	if !slices.Contains(issuer.allowed, jose.SignatureAlgorithm(p.algorithm)) {
		return nil, p.refuse(WrongAlgorithm, "the token is signed with an algorithm that is not taken of its issuer")
	}
	jws, err := jose.ParseSignedCompact(token, issuer.allowed)
	if err != nil {
		return nil, p.refuse(Malformed, "the token is not a signed JSON Web Token")
	}
	switch reason := issuer.keys.verify(ctx, jws, p.keyID, p.algorithm); reason {
	case "":
	case Unknown:
		return nil, p.refuse(Unknown, "the token does not name a key that its issuer has; if the issuer took it into use a moment ago, try again in 10 seconds")
	case CantBeChecked:
		return nil, p.refuse(CantBeChecked, "the keys of the token's issuer can't be fetched at the moment; try again in 10 seconds")
	default:
		return nil, p.refuse(reason, "the token's signature is not its issuer's")
	}
	if id := p.claims.text("jti"); id != "" {
		p.credential = fingerprint(id)
	}
	if problem := p.check(issuer, t.now()); problem != nil {
		return nil, problem
	}
	grants, misnamed := p.claims.grants(issuer.rules)
	switch {
	case len(grants) == 0 && misnamed:
		return nil, p.refuse(NoGrant, "the token is genuine, and what it has for a tenant's name is not one that a token can name")
	case len(grants) == 0:
		return nil, p.refuse(NoGrant, "the token is genuine, and nobody has given its claims a role here; an administrator can, in the access file")
	}
	id := &Identity{ID: issuer.Issuer.Issuer + "#" + p.claims.text("sub"), Name: p.claims.name(), Kind: "human",
		Method: "jwt", Credential: p.credential, Grants: grants}
	if p.claims.isService() {
		id.Kind = "service"
	}
	return id, nil
}

// check looks at what a token says of itself, once its signature was found good.
func (p *parsedToken) check(issuer *tokenIssuer, now time.Time) *Refusal {
	c := p.claims
	if !slices.Contains(c.values("aud"), issuer.Audience) {
		return p.refuse(WrongAudience, "the token is for another service; ask its issuer for one for this service")
	}
	expires, given, ok := c.date("exp")
	if !given || !ok {
		return p.refuse(Malformed, "the token does not say when it expires (exp)")
	}
	starts, _, ok := c.date("nbf")
	if !ok {
		return p.refuse(Malformed, "the token's nbf is not a date")
	}
	made, _, ok := c.date("iat")
	if !ok {
		return p.refuse(Malformed, "the token's iat is not a date")
	}
	switch tolerance := issuer.ClockTolerance; {
	case !now.Before(expires.Add(tolerance)):
		return p.refuse(Expired, "the token has expired; get a new one")
	case starts.After(now.Add(tolerance)):
		return p.refuse(NotYetValid, "the token is not valid yet; check the clocks")
	case made.After(now.Add(tolerance)):
		return p.refuse(NotYetValid, "the token was made in the future; check the clocks")
	}
	if sub := c.text("sub"); sub == "" || len(sub) > maxSubject || !printable(sub) {
		return p.refuse(Malformed, "the token's subject (sub) is missing, too long, or has characters that can't be seen")
	}
	if _, event := c["events"]; event {
		return p.refuse(Malformed, "the token tells of an event and proves nobody (RFC 8417, section 4.5)")
	}
	if _, bound := c["cnf"]; bound {
		return p.refuse(Malformed, "the token is bound to a key of its holder (cnf), and whether that is the caller's is not checked here; ask its issuer for a bearer token")
	}
	return nil
}

// parsedToken is a token whose form is right, and of which nothing is proved.
type parsedToken struct {
	algorithm, keyID    string
	claims              claims
	claimed, credential string
}

func (p *parsedToken) refuse(reason Reason, text string) *Refusal {
	return &Refusal{Reason: reason, Text: text, Claimed: p.claimed, Credential: p.credential}
}

// fingerprint of a token or of its id (jti).
func fingerprint(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "token-" + hex.EncodeToString(sum[:8])
}

// parseToken takes a token apart: exactly one JWS in compact serialisation (RFC 7515,
// section 7.1). Everything has one form, so that no two texts are one token: strict
// base64url, and JSON in which no object has a name twice, with names compared as they
// are written. Where header or claims have a name twice neither wins, the token is
// refused. What a header says of where keys are (jku, x5u) or what they are (jwk, x5c)
// is not looked at.
func parseToken(token string) (*parsedToken, *Refusal) {
	p := &parsedToken{}
	malformed := func(text string) (*parsedToken, *Refusal) { return nil, p.refuse(Malformed, text) }
	if token == "" {
		return nil, p.refuse(NoCredential, "there is no token")
	}
	if len(token) > maxToken {
		return malformed("the token has more than 8 KiB; ask its issuer for one with fewer claims")
	}
	p.credential = fingerprint(token)
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return malformed("the credential is neither an API key nor a signed JSON Web Token, three parts with dots between")
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		// The decoder passes over line breaks, which are not base64url.
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return malformed("a part of the token is not base64url")
		}
	}
	var header map[string]any
	if !decodeObject(raw[0], &header) {
		return malformed("the token's header is not a JSON object with each name once")
	}
	algorithm, isText := header["alg"].(string)
	if !isText || !slices.Contains(algorithms, algorithm) {
		return nil, p.refuse(WrongAlgorithm, "the token is not signed with an algorithm that is taken")
	}
	p.algorithm = algorithm
	if problem := p.readHeader(header); problem != "" {
		return malformed(problem)
	}
	if !decodeObject(raw[1], (*map[string]any)(&p.claims)) {
		return malformed("the token's claims are not a JSON object with each name once")
	}
	if iss, sub := p.claims.text("iss"), p.claims.text("sub"); iss != "" || sub != "" {
		p.claimed = clean(iss+"#"+sub, maxClaimed)
	}
	return p, nil
}

// readHeader names what is wrong with a header's fields.
func (p *parsedToken) readHeader(header map[string]any) (problem string) {
	for _, name := range []string{"crit", "b64", "zip", "enc"} {
		if _, there := header[name]; there {
			return "the token's header asks for what is not done here (" + name + ")"
		}
	}
	for _, name := range []string{"typ", "cty", "kid"} {
		v, there := header[name]
		s, isText := v.(string)
		if there && !isText {
			return "the token's " + name + " is not a text"
		}
		// A media type may leave "application/" away (RFC 7515, section 4.1.9).
		media := strings.TrimPrefix(strings.ToLower(s), "application/")
		switch {
		case name == "typ" && there && media != "jwt" && media != "at+jwt":
			return "the token is of a type (typ) that proves nobody; send an access token"
		case name == "cty" && media == "jwt":
			return "the token has another token in it"
		case name == "kid":
			p.keyID = s
		}
	}
	return ""
}

// decodeObject reads a text that is one JSON object and nothing else.
func decodeObject(text []byte, into *map[string]any) bool {
	if !utf8.Valid(text) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.SetNumberType(json.UnmarshalJSONNumber)
	if err := d.Decode(into); err != nil || *into == nil {
		return false
	}
	return errors.Is(d.Decode(new(json.RawMessage)), io.EOF)
}
