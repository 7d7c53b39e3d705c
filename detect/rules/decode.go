package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// decodeFile reads a file's one document. It is strict: the YAML library's own
// check of known fields has neither the nearest name nor our types.
func decodeFile(f File, into *document) error {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(f.Text))
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // empty, or comments alone
		}
		return fmt.Errorf("%s: %s", f.Name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: has more than one document; rules after '---' would be ignored", f.Name)
	}
	return decode(f.Name, "the file", doc.Content[0], reflect.ValueOf(into).Elem())
}

// decode reads a node into a value: structs by the key tags of their fields. where
// is the way to the node, for messages.
func decode(file, where string, n *yaml.Node, into reflect.Value) error {
	at := fmt.Sprintf("%s:%d: ", file, n.Line)
	if n.Kind == yaml.AliasNode {
		return fmt.Errorf("%s%s: aliases are not taken; write it out", at, where)
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return fmt.Errorf("%s%s has no value; leave it out for its default", at, where)
	}
	if into.Type() == reflect.TypeFor[*yaml.Node]() {
		into.Set(reflect.ValueOf(n))
		return nil
	}
	switch into.Kind() {
	case reflect.Struct:
		return decodeStruct(file, where, n, into)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return fmt.Errorf("%s%s takes a list", at, where)
		}
		list := reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content))
		for i, c := range n.Content {
			if err := decode(file, fmt.Sprintf("%s, entry %d", where, i+1), c, list.Index(i)); err != nil {
				return err
			}
		}
		into.Set(list)
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("%s%s takes a single value", at, where)
	}
	if err := decodeScalar(n.Value, into); err != nil {
		return fmt.Errorf("%s%s: %q is not %w", at, where, n.Value, err)
	}
	return nil
}

func decodeStruct(file, where string, n *yaml.Node, into reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: %s must have keys", file, n.Line, where)
	}
	fields := map[string]reflect.Value{}
	var names []string
	for i := range into.NumField() {
		if key := into.Type().Field(i).Tag.Get("key"); key != "" {
			fields[key] = into.Field(i)
			names = append(names, key)
		}
	}
	d, isRule := into.Addr().Interface().(*ruleDoc)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := fields[key.Value]
		switch {
		case !known:
			return fmt.Errorf("%s:%d: %s has no key %q; the nearest is %q", file, key.Line, where, key.Value, event.Nearest(key.Value, names))
		case seen[key.Value]:
			return fmt.Errorf("%s:%d: %s of %s is set twice", file, key.Line, key.Value, where)
		}
		seen[key.Value] = true
		if err := decode(file, key.Value, value, field); err != nil {
			return err
		}
		if isRule && field.Kind() == reflect.String && field.Len() == 0 {
			return fmt.Errorf("%s:%d: %s is empty; leave it out for its default", file, value.Line, key.Value)
		}
	}
	if isRule {
		d.line, d.given = n.Line, seen
	}
	return nil
}

func decodeScalar(text string, into reflect.Value) error {
	switch p := into.Addr().Interface().(type) {
	case *string:
		*p = text
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("true or false")
		}
		*p = b
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return errors.New("a whole number")
		}
		*p = v
	case *float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || v != v {
			return errors.New("a number")
		}
		*p = v
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("a duration such as 90s, 10m or 2h")
		}
		*p = v
	default:
		return fmt.Errorf("of a type that rules can have (%T)", p)
	}
	return nil
}
