package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth/authtest"
)

// reasonOf is why a token was refused, "" when it was not.
func reasonOf(t testing.TB, tokens *Tokens, token string) Reason {
	t.Helper()
	id, err := tokens.Identify(t.Context(), token)
	if err == nil {
		if id == nil || id.ID == "" || len(id.Grants) == 0 {
			t.Fatalf("a token was taken, and its identity is %+v", id)
		}
		return ""
	}
	var r *Refusal
	if !errors.As(err, &r) || id != nil || r.Text == "" {
		t.Fatalf("the error is %#v with identity %v, not a refusal alone", err, id)
	}
	if len(r.Claimed) > maxClaimed || !printable(r.Claimed) {
		t.Fatalf("the refusal claims %q", r.Claimed)
	}
	return r.Reason
}

func TestTokensOfEveryKindOfKeyAreTaken(t *testing.T) {
	for _, key := range []testKey{rsaKey(), ecKey(), edKey()} {
		c, p := newTestClock(), newProvider(t, rsaKey(), ecKey(), edKey())
		id, err := p.tokens(c).Identify(t.Context(), key.Token(t, p.claims(c, map[string]any{"jti": "t-1"})))
		if err != nil {
			t.Fatalf("%s: %v", key.Algorithm, err)
		}
		sum := sha256.Sum256([]byte("t-1"))
		want := &Identity{ID: p.URL + "#u-17", Name: "ada@example.com", Kind: "human", Method: "jwt", Credential: fmt.Sprintf("token-%x", sum[:8]),
			Grants: []Grant{{Role: Analyst, Tenant: "acme"}, {Role: Exporter, Tenant: "acme"}}}
		if !reflect.DeepEqual(id, want) {
			t.Errorf("%s: got %+v, want %+v", key.Algorithm, id, want)
		}
	}
}

func TestHostileTokensAreRefused(t *testing.T) {
	c := newTestClock()
	p := newProvider(t, rsaKey(), ecKey(), edKey())
	tokens := p.tokens(c)
	attacker := authtest.NewEC("ec-1")
	var asked atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer trap.Close()
	jwk := func(k testKey) string {
		key := k.Public()
		text, err := json.Marshal(&key)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	with := func(changes map[string]any) string { return ecKey().Token(t, p.claims(c, changes)) }
	claims := func(changes map[string]any) string {
		text, err := json.Marshal(p.claims(c, changes))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	headed := func(header string) string { return ecKey().Sign(t, header, claims(nil)) }
	mac := func(secret []byte, header string) string {
		text := authtest.Base64(header) + "." + authtest.Base64(claims(nil))
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	der, err := x509.MarshalPKIXPublicKey(rsaKey().Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good := with(nil)
	parts := strings.Split(good, ".")
	other := strings.Split(with(map[string]any{"sub": "u-18"}), ".")
	in := func(d time.Duration) int64 { return c.now().Add(d).Unix() }
	insert := func(member string) string {
		return ecKey().Sign(t, ecKey().Header(), strings.TrimSuffix(claims(nil), "}")+","+member+"}")
	}
	writer := func(org any) string {
		return with(map[string]any{"groups": nil, "realm_access": map[string]any{"roles": []string{"writer"}}, "org": org})
	}

	for _, tt := range []struct {
		name, token string
		want        Reason
	}{
		{"a good one, so that the others fail for their reason", good, ""},
		{"a good one with a list of audiences", with(map[string]any{"aud": []string{"other", "mcpaudit"}}), ""},
		{"a good one without a type", headed(`{"alg":"ES256","kid":"ec-1"}`), ""},
		{"a good one that expired within the tolerance", with(map[string]any{"exp": in(-29 * time.Second)}), ""},
		{"a good one with a fraction in its date", with(map[string]any{"exp": float64(in(time.Hour)) + 0.5}), ""},
		{"a good one with a tenant of its own", writer("acme-7"), ""},

		{"nothing", "", NoCredential},
		{"an opaque token", "ya29.a0AfH6SMB", Malformed},
		{"expired", with(map[string]any{"exp": in(-31 * time.Second)}), Expired},
		{"expires at this moment, tolerance and all", with(map[string]any{"exp": in(-30 * time.Second)}), Expired},
		{"expired with the epoch", with(map[string]any{"exp": 0}), Expired},
		{"never expires", with(map[string]any{"exp": nil}), Malformed},
		{"expires never, by null", insert2(t, claims(map[string]any{"exp": nil}), `"exp":null`), Malformed},
		{"expiry is a text", with(map[string]any{"exp": "9999999999"}), Malformed},
		{"expiry is beyond every date", insert2(t, claims(map[string]any{"exp": nil}), `"exp":1e30`), Malformed},
		{"expiry is beyond every number", insert2(t, claims(map[string]any{"exp": nil}), `"exp":1e999`), Malformed},
		{"expiry is negative", with(map[string]any{"exp": -1}), Malformed},
		{"not yet valid", with(map[string]any{"nbf": in(31 * time.Second)}), NotYetValid},
		{"not before is a list", with(map[string]any{"nbf": []int{1}}), Malformed},
		{"made in the future", with(map[string]any{"iat": in(time.Minute)}), NotYetValid},
		{"made at no time", with(map[string]any{"iat": "today"}), Malformed},
		{"another issuer", with(map[string]any{"iss": "https://login.example.org"}), WrongIssuer},
		{"the issuer with a slash behind it", with(map[string]any{"iss": p.URL + "/"}), WrongIssuer},
		{"the issuer in capitals", with(map[string]any{"iss": strings.ToUpper(p.URL)}), WrongIssuer},
		{"no issuer", with(map[string]any{"iss": nil}), WrongIssuer},
		{"a list of issuers", with(map[string]any{"iss": []string{p.URL}}), WrongIssuer},
		{"another audience", with(map[string]any{"aud": "grafana"}), WrongAudience},
		{"a list of other audiences", with(map[string]any{"aud": []string{"grafana", "mcpaudit-2"}}), WrongAudience},
		{"audiences that are not all texts", with(map[string]any{"aud": []any{"mcpaudit", 1}}), WrongAudience},
		{"an object for an audience", with(map[string]any{"aud": map[string]any{"mcpaudit": true}}), WrongAudience},
		{"no audience", with(map[string]any{"aud": nil}), WrongAudience},

		{"alg none", authtest.Base64(`{"alg":"none"}`) + "." + parts[1] + ".", WrongAlgorithm},
		{"alg None", authtest.Base64(`{"alg":"None"}`) + "." + parts[1] + ".", WrongAlgorithm},
		{"alg NONE", authtest.Base64(`{"alg":"NONE"}`) + "." + parts[1] + ".", WrongAlgorithm},
		{"alg nOnE with a key and a signature", authtest.Base64(`{"alg":"nOnE","kid":"ec-1"}`) + "." + parts[1] + "." + parts[2], WrongAlgorithm},
		{"alg none with a space", authtest.Base64(`{"alg":"none "}`) + "." + parts[1] + ".", WrongAlgorithm},
		{"alg empty", authtest.Base64(`{"alg":"","kid":"ec-1"}`) + "." + parts[1] + "." + parts[2], WrongAlgorithm},
		{"alg null", authtest.Base64(`{"alg":null,"kid":"ec-1"}`) + "." + parts[1] + "." + parts[2], WrongAlgorithm},
		{"alg a list", authtest.Base64(`{"alg":["ES256"],"kid":"ec-1"}`) + "." + parts[1] + "." + parts[2], WrongAlgorithm},
		{"alg under another name", authtest.Base64(`{"ALG":"ES256","kid":"ec-1"}`) + "." + parts[1] + "." + parts[2], WrongAlgorithm},
		{"HS256 with the RSA key's PEM", mac(public, `{"alg":"HS256","kid":"rsa-1"}`), WrongAlgorithm},
		{"HS256 with the RSA key's DER", mac(der, `{"alg":"HS256","kid":"rsa-1"}`), WrongAlgorithm},
		{"RS256 in the header of that MAC", mac(public, `{"alg":"RS256","kid":"rsa-1"}`), WrongSignature},
		{"ES256 with the RSA key's id", headed(`{"alg":"ES256","kid":"rsa-1"}`), Unknown},
		{"RS256 with the EC key's id", rsaKey().Sign(t, `{"alg":"RS256","kid":"ec-1"}`, claims(nil)), Unknown},
		{"PS256 with a key that is for RS256", headed(`{"alg":"PS256","kid":"rsa-1"}`), Unknown},

		{"a foreign key's id", headed(`{"alg":"ES256","kid":"ec-9"}`), Unknown},
		{"a key's id that is a path", headed(`{"alg":"ES256","kid":"../../dev/null"}`), Unknown},
		{"a key's id that is SQL", headed(`{"alg":"ES256","kid":"x' UNION SELECT 'key'--"}`), Unknown},
		{"a key's id that is a number", headed(`{"alg":"ES256","kid":1}`), Malformed},
		{"an attacker's key with a genuine id", attacker.Sign(t, attacker.Header(), claims(nil)), WrongSignature},
		{"an attacker's key and an empty id", attacker.Sign(t, `{"alg":"ES256","kid":""}`, claims(nil)), WrongSignature},
		{"jwk of an attacker", attacker.Sign(t, `{"alg":"ES256","kid":"ec-1","jwk":`+jwk(attacker)+`}`, claims(nil)), WrongSignature},
		{"jwk of an attacker without an id", attacker.Sign(t, `{"alg":"ES256","jwk":`+jwk(attacker)+`}`, claims(nil)), WrongSignature},
		{"jwk with a secret", attacker.Sign(t, `{"alg":"ES256","kid":"ec-1","jwk":{"kty":"oct","k":"c2VjcmV0"}}`, claims(nil)), Malformed},
		{"jku of an attacker", attacker.Sign(t, `{"alg":"ES256","kid":"ec-1","jku":"`+trap.URL+`"}`, claims(nil)), WrongSignature},
		{"jku of an attacker with a foreign id", attacker.Sign(t, `{"alg":"ES256","kid":"evil","jku":"`+trap.URL+`"}`, claims(nil)), Unknown},
		{"x5u of an attacker", attacker.Sign(t, `{"alg":"ES256","kid":"ec-1","x5u":"`+trap.URL+`"}`, claims(nil)), WrongSignature},
		{"crit", headed(`{"alg":"ES256","kid":"ec-1","crit":["exp"],"exp":1}`), Malformed},
		{"crit that is empty", headed(`{"alg":"ES256","kid":"ec-1","crit":[]}`), Malformed},
		{"a payload that is not base64", headed(`{"alg":"ES256","kid":"ec-1","b64":false}`), Malformed},
		{"compressed", headed(`{"alg":"ES256","kid":"ec-1","zip":"DEF"}`), Malformed},
		{"a nested token", ecKey().Sign(t, `{"alg":"ES256","kid":"ec-1","cty":"JWT"}`, good), Malformed},
		{"a nested token by its media type", ecKey().Sign(t, `{"alg":"ES256","kid":"ec-1","cty":"application/jwt"}`, claims(nil)), Malformed},
		{"a nested token that does not say so", ecKey().Sign(t, ecKey().Header(), `"`+good+`"`), Malformed},
		{"a logout token", headed(`{"alg":"ES256","kid":"ec-1","typ":"logout+jwt"}`), Malformed},
		{"a DPoP proof", headed(`{"alg":"ES256","kid":"ec-1","typ":"dpop+jwt"}`), Malformed},
		{"a type that is no text", headed(`{"alg":"ES256","kid":"ec-1","typ":["JWT"]}`), Malformed},
		{"an event", with(map[string]any{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}), Malformed},
		{"a token that is bound to a key", with(map[string]any{"cnf": map[string]any{"jkt": "x"}}), Malformed},

		{"a byte more than 8 KiB", good + strings.Repeat("A", maxToken+1-len(good)), Malformed},
		{"10 MiB", strings.Repeat("A", 10<<20), Malformed},
		{"10 MiB of dots", strings.Repeat(".", 10<<20), Malformed},
		{"8 KiB of dots", strings.Repeat(".", maxToken), Malformed},
		{"claims in deep lists", insert(`"x":` + strings.Repeat("[", 2500) + strings.Repeat("]", 2500)), ""},
		{"claims in deep lists that do not end", insert(`"x":` + strings.Repeat("[", 5000)), Malformed},
		{"claims in deep objects", insert(`"realm_access":` + strings.Repeat(`{"roles":`, 500) + `"writer"` + strings.Repeat("}", 500)), ""},
		{"a claim twice", insert(`"sub":"root"`), Malformed},
		{"a claim twice, once escaped", insert(`"\u0073ub":"root"`), Malformed},
		{"a nested claim twice", insert(`"x":{"a":1,"a":2}`), Malformed},
		{"an algorithm twice", headed(`{"alg":"none","alg":"ES256","kid":"ec-1"}`), Malformed},
		{"a claim under a name in capitals", insert2(t, claims(map[string]any{"sub": nil}), `"SUB":"u-17"`), Malformed},

		{"JSON serialisation", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, Malformed},
		{"JSON serialisation with two signatures", `{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"},{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`, Malformed},
		{"an encrypted token's five parts", good + ".AA.AA", Malformed},
		{"two tokens", good + "," + good, Malformed},
		{"garbage behind it", good + "!", Malformed},
		{"padding behind it", good + "=", Malformed},
		{"a NUL behind it", good + "\x00", Malformed},
		{"white space before it", " " + good, Malformed},
		{"white space behind it", good + " ", Malformed},
		{"a line break in it", good[:20] + "\n" + good[20:], Malformed},
		{"a line break behind it", good + "\r\n", Malformed},
		{"bytes that are not UTF-8 around the dots", "\xff." + parts[1] + "." + parts[2], Malformed},
		{"claims that are not UTF-8", insert("\"x\":\"\xff\""), Malformed},
		{"a header that is not UTF-8", headed("{\"alg\":\"ES256\",\"kid\":\"ec-1\",\"x\":\"\xff\"}"), Malformed},
		{"something behind the claims", ecKey().Sign(t, ecKey().Header(), claims(nil)+"{}"), Malformed},
		{"something behind the header", headed(`{"alg":"ES256","kid":"ec-1"}x`), Malformed},
		{"claims that are null", ecKey().Sign(t, ecKey().Header(), `null`), Malformed},
		{"claims that are a list", ecKey().Sign(t, ecKey().Header(), `[]`), Malformed},
		{"no claims", ecKey().Sign(t, ecKey().Header(), ``), Malformed},
		{"a header that is null", headed(`null`), Malformed},

		{"no subject", with(map[string]any{"sub": nil}), Malformed},
		{"an empty subject", with(map[string]any{"sub": ""}), Malformed},
		{"a subject that is a number", with(map[string]any{"sub": 17}), Malformed},
		{"the longest subject", with(map[string]any{"sub": strings.Repeat("s", 256)}), ""},
		{"a subject that is too long", with(map[string]any{"sub": strings.Repeat("s", 257)}), Malformed},
		{"a subject with a control character", with(map[string]any{"sub": "u\n17"}), Malformed},
		{"a subject with a NUL", with(map[string]any{"sub": "u-17\x00admin"}), Malformed},
		{"a subject with half a character", insert2(t, claims(map[string]any{"sub": nil}), `"sub":"u\ud800"`), Malformed},
		{"a subject that is written backwards", with(map[string]any{"sub": "u\u202e17"}), Malformed},
		{"a subject with a space that is not seen", with(map[string]any{"sub": "u-17\u200b"}), Malformed},

		{"every tenant", writer("*"), NoGrant},
		{"the operator's tenant", writer("default"), NoGrant},
		{"no tenant", writer(nil), NoGrant},
		{"an empty tenant", writer(""), NoGrant},
		{"a tenant that is a path", writer("../acme"), NoGrant},
		{"a tenant that is SQL", writer("acme' OR '1'='1"), NoGrant},
		{"a tenant with a line break", writer("acme\n"), NoGrant},
		{"a tenant that is a number", writer(7), NoGrant},
		{"good tenants and every one", writer([]string{"acme", "*"}), NoGrant},
		{"no group", with(map[string]any{"groups": nil}), NoGrant},
		{"another group", with(map[string]any{"groups": []string{"SOC", "soc ", "so"}}), NoGrant},
		{"groups in a text", with(map[string]any{"groups": "soc,dev"}), NoGrant},
		{"groups in an object", with(map[string]any{"groups": map[string]any{"soc": true}}), NoGrant},

		{"the signature stripped", parts[0] + "." + parts[1] + ".", WrongSignature},
		{"the signature stripped, and its dot", parts[0] + "." + parts[1], Malformed},
		{"the signature of another token", parts[0] + "." + parts[1] + "." + other[2], WrongSignature},
		{"the claims of another token", parts[0] + "." + other[1] + "." + parts[2], WrongSignature},
		{"a signature of zeros", parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), WrongSignature},
		{"another spelling of the signature's last character", parts[0] + "." + parts[1] + "." + respell(parts[2]), Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := reasonOf(t, tokens, tt.token); got != tt.want {
				t.Errorf("refused for %q, want %q", got, tt.want)
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("an attacker's address in a header was asked %d times", n)
	}
	if n := p.Sets.Load(); n > 2 {
		t.Errorf("the provider was asked for its keys %d times", n)
	}
}

// insert2 signs claims with a member put in as it is.
func insert2(t testing.TB, claims, member string) string {
	t.Helper()
	return ecKey().Sign(t, ecKey().Header(), strings.TrimSuffix(claims, "}")+","+member+"}")
}

// respell sets the bits of a base64 text's last character that stand for nothing.
func respell(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s[:len(s)-1] + string(alphabet[strings.IndexByte(alphabet, s[len(s)-1])|1])
}

func TestAnIssuersAlgorithmsAreItsOwn(t *testing.T) {
	c, p := newTestClock(), newProvider(t, rsaKey(), ecKey())
	trust := p.trust()
	trust.Algorithms = []string{"RS256"}
	tokens := NewTokens([]Issuer{trust}, p.rules(), TokenDeps{Now: c.now})
	if got := reasonOf(t, tokens, ecKey().Token(t, p.claims(c, nil))); got != WrongAlgorithm {
		t.Errorf("a token with ES256 was refused for %q", got)
	}
	if got := reasonOf(t, tokens, rsaKey().Token(t, p.claims(c, nil))); got != "" {
		t.Errorf("a token with RS256 was refused for %q", got)
	}
}

func TestARefusalTellsWhatWasClaimedAndShown(t *testing.T) {
	c, p := newTestClock(), newProvider(t, ecKey())
	token := ecKey().Token(t, p.claims(c, map[string]any{"iss": "https://evil.example", "sub": "a\nb" + strings.Repeat("ü", 500)}))
	_, err := p.tokens(c).Identify(t.Context(), token)
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.Claimed, "https://evil.example#abü") || len(r.Claimed) > maxClaimed {
		t.Errorf("claimed is %q", r.Claimed)
	}
	if sum := sha256.Sum256([]byte(token)); r.Credential != fmt.Sprintf("token-%x", sum[:8]) {
		t.Errorf("credential is %q", r.Credential)
	}
	if strings.Contains(r.Text, "evil") {
		t.Errorf("the text %q repeats what was sent", r.Text)
	}
}

func TestPeopleAndProgramsAreToldApart(t *testing.T) {
	for name, tt := range map[string]struct {
		claims claims
		want   bool
	}{
		"RFC 9068":                      {claims{"sub": "crm", "client_id": "crm"}, true},
		"Okta":                          {claims{"sub": "0oa1", "cid": "0oa1"}, true},
		"Auth0":                         {claims{"sub": "crm@clients", "azp": "crm"}, true},
		"Entra ID":                      {claims{"sub": "9f", "azp": "crm", "idtyp": "app"}, true},
		"Keycloak":                      {claims{"sub": "9f", "azp": "crm", "preferred_username": "service-account-crm"}, true},
		"a client and no human sign":    {claims{"sub": "9f", "appid": "crm", "scope": "read"}, true},
		"a name":                        {claims{"sub": "9f", "azp": "web", "name": "Ada"}, false},
		"a login":                       {claims{"sub": "9f", "azp": "web", "auth_time": 1}, false},
		"an OpenID scope":               {claims{"sub": "9f", "azp": "web", "scope": "openid read"}, false},
		"no client":                     {claims{"sub": "9f"}, false},
		"somebody named like a service": {claims{"sub": "9f", "azp": "web", "preferred_username": "service-account-crm"}, false},
	} {
		if got := tt.claims.isService(); got != tt.want {
			t.Errorf("%s: service is %v", name, got)
		}
	}
}

func TestClaimsAreFoundWhereRulesSay(t *testing.T) {
	c := claims{"groups": []any{"a", "b"}, "realm_access": map[string]any{"roles": []any{"r"}}, "scope": "x y",
		"https://example.com/roles": "u", "mixed": []any{"a", 1.0}, "flag": true}
	for path, want := range map[string][]string{
		"groups": {"a", "b"}, "realm_access.roles": {"r"}, "scope": {"x", "y"}, "https://example.com/roles": {"u"},
		"mixed": nil, "flag": nil, "nowhere": nil, "groups.a": nil, "realm_access": nil, "": nil, ".": nil, "realm_access.": nil,
	} {
		if got := c.values(path); !reflect.DeepEqual(got, want) {
			t.Errorf("%q has %q, want %q", path, got, want)
		}
	}
}

func TestATokenNamesItsTenants(t *testing.T) {
	rules := []TokenRule{{Claim: "groups", Value: "g", TenantClaim: "org", Grants: []Grant{{Role: Analyst}, {Role: Exporter}}}}
	got, _ := claims{"groups": "g", "org": []any{"a", "b"}}.grants(rules)
	want := []Grant{{Role: Analyst, Tenant: "a"}, {Role: Exporter, Tenant: "a"}, {Role: Analyst, Tenant: "b"}, {Role: Exporter, Tenant: "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if rules[0].Grants[0].Tenant != "" {
		t.Error("the rule itself was changed")
	}
	many := make([]any, maxTenants+1)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	if got, misnamed := (claims{"groups": "g", "org": many}).grants(rules); got != nil || !misnamed {
		t.Errorf("%d tenants gave %d grants", len(many), len(got))
	}
}

// FuzzIdentify looks for tokens that crash, or that are taken without being one that
// the issuer's key has signed.
func FuzzIdentify(f *testing.F) {
	c := newTestClock()
	// The same key in each of the processes that fuzz.
	key := testKey{ID: "ed-1", Algorithm: "EdDSA", Private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	const issuer = "https://login.example.com"
	nowhere := &http.Client{Transport: refusing{}}
	tokens := NewTokens([]Issuer{{Issuer: issuer, Audience: "mcpaudit", Algorithms: algorithms}},
		[]TokenRule{{Issuer: issuer, Claim: "groups", Value: "soc", Grants: []Grant{{Role: Analyst, Tenant: "acme"}}}}, TokenDeps{Client: nowhere, Now: c.now})
	of := tokens.issuers[issuer]
	of.keys.keys, of.keys.fetched, of.keys.ended = append(of.keys.keys, key.Public()), c.now(), c.now()
	payload := fmt.Sprintf(`{"iss":%q,"aud":"mcpaudit","sub":"u","exp":%d,"groups":["soc"]}`, issuer, c.now().Add(time.Hour).Unix())
	good := key.Sign(f, key.Header(), payload)
	if _, err := tokens.Identify(f.Context(), good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(key.Sign(f, `{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":""}}`, payload))
	f.Add(key.Sign(f, `{"alg":"none"}`, payload))
	f.Add(key.Sign(f, `{"alg":"ES256","x5c":["AA=="],"kid":"ed-1"}`, `{"iss":"`+issuer+`","exp":1e999}`))
	f.Add("..")
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := tokens.Identify(context.Background(), token)
		if err == nil {
			if token != good {
				t.Fatalf("took %q as %+v", token, id)
			}
			return
		}
		var r *Refusal
		if !errors.As(err, &r) || r.Reason == "" || r.Text == "" || !printable(r.Claimed) || len(r.Claimed) > maxClaimed {
			t.Fatalf("refused with %#v", err)
		}
	})
}

// refusing is a network without anybody in it.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("there is nobody")
}

func TestANameIsForPeopleToRead(t *testing.T) {
	for want, c := range map[string]claims{
		"ada":                         {"preferred_username": "ada", "email": "a@example.com", "sub": "1"},
		"a@example.com":               {"preferred_username": " \n", "email": "a@example.com", "sub": "1"},
		"Ada L.":                      {"name": "\x1b\u202eAda L.\r\n", "email": 7.0},
		"u-17":                        {"sub": "u-17"},
		strings.Repeat("ü", 62) + "…": {"name": strings.Repeat("ü", 9000)},
		"":                            {},
	} {
		if got := c.name(); got != want {
			t.Errorf("%v is called %q, want %q", c, got, want)
		}
	}
}
