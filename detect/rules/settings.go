package rules

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/mcpaudit/mcpaudit/detect"
)

// Setting is one setting of a detector, for people.
type Setting struct{ Name, Value, Doc string }

// Settings are the settings of a detector in the order in which it documents them.
func Settings(c detect.Config) []Setting {
	v := reflect.ValueOf(c).Elem()
	var out []Setting
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("key")
		if key == "" {
			continue
		}
		text := fmt.Sprint(v.Field(i).Interface())
		if list, ok := v.Field(i).Interface().([]string); ok {
			text = strings.Join(list, ", ")
		}
		out = append(out, Setting{key, text, f.Tag.Get("doc")})
	}
	return out
}
