package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// The access file decides who gets in, so nothing in it may be ignored: a misspelt
// "servers" would bind an emitter to nothing. The YAML library's own check of known
// keys has neither the nearest name nor messages for people.

// atLine is a mistake with its place.
func atLine(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...))
}

// placed is what a part of the file remembers of its place. begin also sets what
// holds when nothing is said.
type placed interface{ begin(line int) }

// decodeYAML reads a text's one document into a struct by the key tags of its
// fields. An empty text leaves it as it is.
func decodeYAML(text []byte, into any) error {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("the file has more than one document; what stands after '---' would be ignored")
	}
	return decodeNode("the file", doc.Content[0], reflect.ValueOf(into).Elem())
}

// decodeNode reads a node into a value. where names the node in messages.
func decodeNode(where string, n *yaml.Node, into reflect.Value) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return atLine(n.Line, "%s: aliases are not taken; write it out", where)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return atLine(n.Line, "%s has no value; leave the key out, or give it one", where)
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		return decodeNode(where, n, into.Elem())
	case reflect.Struct:
		return decodeMapping(where, n, into)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return atLine(n.Line, "%s takes a list", where)
		}
		into.Set(reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			if err := decodeNode(fmt.Sprintf("%s, entry %d", where, i+1), c, into.Index(i)); err != nil {
				return err
			}
		}
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		return atLine(n.Line, "%s takes a single value", where)
	}
	switch p := into.Addr().Interface().(type) {
	case *string:
		*p = n.Value
	case *time.Duration:
		v, err := time.ParseDuration(n.Value)
		if err != nil {
			return atLine(n.Line, "%s: %q is not a duration such as 30s or 2m", where, n.Value)
		}
		*p = v
	default:
		return atLine(n.Line, "%s has a type that the access file doesn't know (%T)", where, p)
	}
	return nil
}

func decodeMapping(where string, n *yaml.Node, into reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return atLine(n.Line, "%s must have keys", where)
	}
	if p, ok := into.Addr().Interface().(placed); ok {
		p.begin(n.Line)
	}
	fields := map[string]reflect.Value{}
	var names []string
	for i := range into.NumField() {
		if key := into.Type().Field(i).Tag.Get("key"); key != "" {
			fields[key] = into.Field(i)
			names = append(names, key)
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := fields[key.Value]
		switch {
		case !known:
			return atLine(key.Line, "%s has no key %q; the nearest is %q", where, key.Value, event.Nearest(key.Value, names))
		case seen[key.Value]:
			return atLine(key.Line, "%s of %s is set twice", key.Value, where)
		}
		seen[key.Value] = true
		if err := decodeNode(key.Value, value, field); err != nil {
			return err
		}
	}
	return nil
}
