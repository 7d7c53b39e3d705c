package push

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
)

// maxPaths is how many places of an object a change names.
const maxPaths = 12

// plain is a value as its JSON has it: maps, lists, texts, json.Number, bools and nil.
func plain(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decode(text)
}

// decode reads one JSON value; numbers stay as they are written.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("there is more behind the JSON value")
	}
	return v, nil
}

// encode is JSON without the escapes for HTML.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// bare leaves out what means the same as not being there: null, and with it "", false, 0
// and what is empty, in objects, never in lists. Grafana writes such fields or leaves
// them out, from version to version.
func bare(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if x = bare(x); !nothing(x) {
				out[k] = x
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = bare(v[i])
		}
		return out
	}
	return v
}

func nothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0s"
	case bool:
		return !v
	case json.Number:
		return sameNumber(v, "0")
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// differences are the paths at which two values are not the same, in order. A field that
// is null is one that is not there.
func differences(want, have any) []string {
	var out []string
	compare("", want, have, &out)
	sort.Strings(out)
	return out
}

// compare keeps more than it shows, so that the first ones in order are shown.
func compare(at string, want, have any, out *[]string) {
	if len(*out) > 100*maxPaths {
		return
	}
	differ := func() {
		if at == "" {
			at = "."
		}
		*out = append(*out, strings.TrimPrefix(at, "."))
	}
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			differ()
			return
		}
		for k := range w {
			if h[k] == nil && w[k] == nil {
				continue
			}
			compare(at+"."+k, w[k], h[k], out)
		}
		for k := range h {
			if _, known := w[k]; !known && h[k] != nil {
				*out = append(*out, strings.TrimPrefix(at+"."+k, "."))
			}
		}
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			differ()
			return
		}
		for i := range w {
			compare(fmt.Sprintf("%s[%d]", at, i), w[i], h[i], out)
		}
	case json.Number:
		h, ok := have.(json.Number)
		if !ok || !sameNumber(w, h) {
			differ()
		}
	default:
		if want != have { // texts, bools and nil; maps and lists of have are not equal to them
			differ()
		}
	}
}

func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, err := a.Float64()
	y, err2 := b.Float64()
	return err == nil && err2 == nil && x == y && math.Abs(x) < 1<<53 // as Grafana itself compares; larger ones by their digits
}

// lacking are the paths of what is wanted and not there so; what else is there is well.
func lacking(want, have map[string]any) []string {
	seen := map[string]any{}
	for k, v := range have {
		if _, wanted := want[k]; wanted {
			seen[k] = v
		}
	}
	return differences(want, seen)
}

// under puts paths below another.
func under(parent string, paths []string) []string {
	out := slices.Clone(paths)
	for i := range out {
		out[i] = parent + "." + out[i]
	}
	return out
}

// few cuts a list of paths to what is shown.
func few(paths []string) []string {
	if len(paths) <= maxPaths {
		return paths
	}
	more := fmt.Sprintf("and %d more", len(paths)-maxPaths)
	return append(slices.Clone(paths[:maxPaths]), more)
}
