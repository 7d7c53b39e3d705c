package auth

// Reason is why a credential was refused. Reasons are few: they go into metrics.
type Reason string

// The reasons.
const (
	NoCredential   Reason = "no_credential"
	Malformed      Reason = "malformed" // not a key, token or certificate at all, or far too large
	Unknown        Reason = "unknown"   // a key that was never made or has another secret; a token's key that its issuer does not have
	Expired        Reason = "expired"
	NotYetValid    Reason = "not_yet_valid"
	Revoked        Reason = "revoked"
	WrongIssuer    Reason = "wrong_issuer"
	WrongAudience  Reason = "wrong_audience"
	WrongAlgorithm Reason = "wrong_algorithm"
	WrongSignature Reason = "wrong_signature"
	NoGrant        Reason = "no_grant"        // genuine, and nobody has given it a role here
	BadCertificate Reason = "bad_certificate" // the connection was refused
	Forbidden      Reason = "forbidden"       // known, and without the right
	CantBeChecked  Reason = "cant_be_checked" // the issuer does not answer; the caller may try again
)

// Refusal is the error of a credential that is not taken. Its text is for the caller
// and tells nothing about other credentials.
type Refusal struct {
	Reason Reason
	Text   string // lower case, with what to do next
	// Claimed is who it says it is, for the log alone: not proved by anything. A key's
	// public id, a token's issuer and subject, a certificate's name; clipped.
	Claimed string
	// Credential is the fingerprint of what was shown, when there was anything.
	Credential string
}

func (r *Refusal) Error() string { return r.Text }
