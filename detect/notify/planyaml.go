package notify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// A misspelt key in this file is somebody who is not called at night, so nothing in it
// may be ignored.

// atLine is a mistake with its place.
func atLine(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...))
}

// placed is what a part of the file remembers of its place.
type placed interface{ begin(line int) }

// maxDepth bounds how deep the parts of a time interval lie in each other.
const maxDepth = 12

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
	if p, ok := into.Addr().Interface().(*interval); ok {
		return p.decode(where, n)
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
	return decodeScalar(where, n, into.Addr().Interface())
}

func decodeScalar(where string, n *yaml.Node, into any) error {
	switch p := into.(type) {
	case *string:
		*p = n.Value
	case *bool:
		switch n.Value {
		case "true", "false":
			*p = n.Value == "true"
		default:
			return atLine(n.Line, "%s: %q is neither true nor false", where, n.Value)
		}
	case *int:
		v, err := strconv.Atoi(n.Value)
		if err != nil {
			return atLine(n.Line, "%s: %q is not a whole number", where, n.Value)
		}
		*p = v
	case *time.Duration:
		if n.Value == "0" {
			*p = 0
			return nil
		}
		v, err := time.ParseDuration(n.Value)
		if err != nil {
			return atLine(n.Line, "%s: %q is not a duration such as 30s, 5m or 4h", where, n.Value)
		}
		*p = v
	default:
		return atLine(n.Line, "%s has a type that the file doesn't know (%T)", where, p)
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
			return atLine(key.Line, "%s has no key %q; the nearest is %q", where, clip(key.Value, 60), event.Nearest(key.Value, names))
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

// interval is a time interval as Alertmanager's time_intervals have it
// (https://prometheus.io/docs/alerting/latest/configuration/#time_interval), read by
// Alertmanager's own reader.
type interval struct{ timeinterval.TimeInterval }

// intervalKeys are what it may have, and clockKeys what an entry of its times has.
var (
	intervalKeys = []string{"times", "weekdays", "days_of_month", "months", "years", "location"}
	clockKeys    = []string{"start_time", "end_time"}
)

func (i *interval) decode(where string, n *yaml.Node) error {
	plain, err := plainOf(where, n, maxDepth)
	if err != nil {
		return err
	}
	keys, ok := plain.(map[string]any)
	if !ok || len(keys) == 0 {
		return atLine(n.Line, "%s is empty, and would be all of the time; name times, weekdays, days_of_month, months, years or location", where)
	}
	if err := onlyKeys(where, n, intervalKeys); err != nil {
		return err
	}
	for j := 0; j+1 < len(n.Content); j += 2 {
		if n.Content[j].Value != "times" {
			continue
		}
		for _, entry := range n.Content[j+1].Content {
			if err := onlyKeys("times", entry, clockKeys); err != nil {
				return err
			}
		}
	}
	text, err := json.Marshal(plain)
	if err == nil {
		err = json.Unmarshal(text, &i.TimeInterval)
	}
	if err != nil {
		return atLine(n.Line, "%s: %s", where, strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// onlyKeys refuses keys of a mapping that are not among names.
func onlyKeys(where string, n *yaml.Node, names []string) error {
	if n.Kind != yaml.MappingNode {
		return atLine(n.Line, "%s must have keys", where)
	}
	have := map[string]bool{}
	for _, name := range names {
		have[name] = true
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i]; !have[key.Value] {
			return atLine(key.Line, "%s has no key %q; the nearest is %q", where, clip(key.Value, 60), event.Nearest(key.Value, names))
		}
	}
	return nil
}

// plainOf is a node as maps, lists and texts.
func plainOf(where string, n *yaml.Node, depth int) (any, error) {
	if depth == 0 {
		return nil, atLine(n.Line, "%s: its parts lie too deep in each other", where)
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := out[key]; twice {
				return nil, atLine(n.Content[i].Line, "%s of %s is set twice", clip(key, 60), where)
			}
			v, err := plainOf(where, n.Content[i+1], depth-1)
			if err != nil {
				return nil, err
			}
			out[key] = v
		}
		return out, nil
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, c := range n.Content {
			v, err := plainOf(where, c, depth-1)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return nil, atLine(n.Line, "%s has a key without a value", where)
		}
		return n.Value, nil
	}
	return nil, atLine(n.Line, "%s: aliases are not taken; write it out", where)
}
