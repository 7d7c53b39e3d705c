package store

import (
	"reflect"
	"testing"
	"time"
)

// A key's rows are read as they were written, each once however often it was sent.
func TestKeysAreReadAsTheyWereWritten(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 20, 9, 0, 0, 123456000, time.UTC)
	made := KeyChange{KeyID: "a1", Change: "made", At: at, By: "key:boss", ExpiresAt: at.AddDate(0, 3, 0), Hash: [32]byte{0, 1, 255, '\n', '\\', '\''}, Name: "Möhre 'n' Co",
		Roles: []string{"emitter", "analyst"}, Tenant: "acme", Servers: []string{"crm*"}, Emitters: []string{"a", "b*"}, Content: "none"}
	plain := KeyChange{KeyID: "a0", Change: "made", At: at, By: "bootstrap", ExpiresAt: at.AddDate(1, 0, 0), Hash: [32]byte{9}, Name: "x", Roles: []string{"admin"}, Tenant: "*", Servers: []string{}, Emitters: []string{}}
	revoked := KeyChange{KeyID: "a1", Change: "revoked", At: at.Add(time.Hour), By: "key:boss", ExpiresAt: at.Add(time.Hour), Note: "lost", Roles: []string{}, Servers: []string{}, Emitters: []string{}}
	for range 2 {
		if err := s.AppendKeys(t.Context(), made, plain); err != nil {
			t.Fatal(err)
		}
		if err := s.AppendKeys(t.Context(), revoked); err != nil {
			t.Fatal(err)
		}
	}
	var got []KeyChange
	if err := s.Keys(t.Context(), func(k KeyChange) error { got = append(got, k); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []KeyChange{plain, made, revoked}; !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v\nwant\n%+v", got, want)
	}
	if n, err := s.KeyRows(t.Context()); err != nil || n != 3 {
		t.Errorf("%d rows, %v", n, err)
	}
}
