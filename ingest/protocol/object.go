// Package protocol reads what MCP messages say, as far as an audit needs it: what
// a method is called on, who the peers say they are, what came of it, which
// tools a list defines. It covers the revisions up to 2025-11-25, with sessions,
// and 2026-07-28, without.
//
// Reading is tolerant: a part of an unexpected form is left out, never an error,
// because what a hostile or broken peer sends is audited all the same.
package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Object is a JSON object whose parts are read one by one. Names are compared
// exactly and the last of two equal ones counts, as in JavaScript and Python:
// encoding/json's structs also take "NAME" for "name", so a client could show
// the audit another call than the server.
type Object map[string]json.RawMessage

// ReadObject reads an object. The error has the place of what is wrong and none
// of its text.
func ReadObject(raw []byte) (Object, error) {
	var o Object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, place(err)
	}
	if o == nil {
		return nil, errors.New("null is no object")
	}
	return o, nil
}

// ReadList reads a list; errors are as in ReadObject.
func ReadList(raw []byte) ([]json.RawMessage, error) {
	var l []json.RawMessage
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, place(err)
	}
	return l, nil
}

// place keeps the place of a JSON error and drops its words: they may quote the
// message.
func place(err error) error {
	var s *json.SyntaxError
	if errors.As(err, &s) {
		return fmt.Errorf("malformed JSON at byte %d", s.Offset)
	}
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return fmt.Errorf("a value of the wrong type at byte %d", t.Offset)
	}
	return errors.New("malformed JSON")
}

// Text is a part that is a string, "" when it is none.
func (o Object) Text(name string) string {
	var s string
	if raw, ok := o[name]; ok && json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// Bool is a part that is true or false; ok says whether it is.
func (o Object) Bool(name string) (value, ok bool) {
	raw, found := o[name]
	if !found || string(raw) == "null" || json.Unmarshal(raw, &value) != nil {
		return false, false
	}
	return value, true
}

// Object is a part that is an object, nil when it is none.
func (o Object) Object(name string) Object {
	inner, err := ReadObject(o[name])
	if err != nil {
		return nil
	}
	return inner
}

// List is a part that is a list, nil when it is none.
func (o Object) List(name string) []json.RawMessage {
	l, err := ReadList(o[name])
	if err != nil {
		return nil
	}
	return l
}

// has says whether a part is there and not null.
func (o Object) has(name string) bool {
	raw, ok := o[name]
	return ok && string(raw) != "null"
}
