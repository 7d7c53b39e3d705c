package transport

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// Headers puts on every answer what keeps browsers from doing anything with it but
// showing it to who asked: no script, no frame, no other type, no copy. There are no
// headers of CORS: pages of other origins read nothing.
func Headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000") // RFC 6797, section 6.1
		}
		if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
			// It may have had a length too, which nobody tells us here. A proxy that
			// believed the length takes what we took for the next request for the rest of
			// this one, or the other way round: there is no next one (RFC 9112, section 6.1).
			h.Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// Hosts are the names under which an HTTP listener answers. A web page whose own name
// was bound to this machine's address (DNS rebinding) would otherwise call the service
// with its visitor's browser, and with the certificate that this holds.
type Hosts struct {
	Listen string        // the listener's address
	Names  []string      // that the operator gave, such as a proxy's in front
	Certs  *Certificates // for whose names it answers as well; nil for none
}

// Answers says whether a request's Host is one of ours: loopback, the host that is
// listened on, a name of the operator or the certificate. A listener that others reach
// also answers to IP addresses, as health checks use them: no name leads there, so that
// none can have been bound to it.
func (h Hosts) Answers(requested string) bool {
	own, _, err := net.SplitHostPort(h.Listen)
	if err != nil {
		own = h.Listen
	}
	name, _, err := net.SplitHostPort(requested)
	if err != nil {
		name = requested
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	ip, local := net.ParseIP(name), net.ParseIP(own)
	switch {
	case name == "":
		return false
	case name == "localhost" || ip != nil && ip.IsLoopback() || strings.EqualFold(name, own):
		return true
	case slices.ContainsFunc(h.Names, func(n string) bool { return strings.EqualFold(n, name) }):
		return true
	case h.Certs != nil && h.Certs.Names(name):
		return true
	}
	return ip != nil && own != "localhost" && (local == nil || !local.IsLoopback())
}

// Refuse answers requests for other hosts with 421, and what browsers send on behalf of
// other sites with 403.
func (h Hosts) Refuse(next http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.Answers(r.Host) {
			http.Error(w, "this address answers to its own names alone, such as localhost or those of its certificate; add others to listen.names", http.StatusMisdirectedRequest)
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			http.Error(w, "requests from other web sites are not answered", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	}))
}
