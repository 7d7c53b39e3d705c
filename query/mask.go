package query

import (
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// mask is which top-level fields of Event are wanted; nil is all.
type mask map[protoreflect.Name]bool

// allBut is every field but some; nil when there are none of these.
func allBut(hidden []string) mask {
	if len(hidden) == 0 {
		return nil
	}
	out := mask{}
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := fields.Get(i).Name(); !slices.Contains(hidden, string(name)) {
			out[name] = true
		}
	}
	return out
}

// mask reads a read mask: nothing, and "*", is all that the call may see.
func (v *view) mask(m *fieldmaskpb.FieldMask) (mask, error) {
	if len(m.GetPaths()) == 0 {
		return v.all, nil
	}
	known := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	wanted := mask{}
	for _, path := range m.GetPaths() {
		if path == "*" {
			return v.all, nil
		}
		if v.fields.hidden[path] {
			return nil, status.Errorf(codes.InvalidArgument, "read_mask: %s", hiddenText(path, v.fields.level))
		}
		if known.ByName(protoreflect.Name(path)) == nil {
			names := make([]string, known.Len())
			for i := range names {
				names[i] = string(known.Get(i).Name())
			}
			return nil, status.Errorf(codes.InvalidArgument, "read_mask: there is no field %s; the nearest is %s",
				strconv.Quote(event.ClipText(path, 60)), nearest(path, names))
		}
		wanted[protoreflect.Name(path)] = true
	}
	return wanted, nil
}

// columns are what to select for store.ScanEvent: a column that is not wanted
// is replaced by its type's default, which reads nothing. keep names columns
// that the caller needs all the same.
func (m mask) columns(keep ...string) string {
	if m == nil {
		return store.EventColumns
	}
	var out []string
	for _, c := range event.Columns {
		wanted := m[fieldOf(c.Name)]
		for _, k := range keep {
			wanted = wanted || k == c.Name
		}
		if wanted {
			out = append(out, "`"+c.Name+"`")
		} else {
			out = append(out, "defaultValueOfTypeName('"+strings.ReplaceAll(c.Type, "'", `\'`)+"')")
		}
	}
	return strings.Join(out, ", ")
}

// fieldOf is the field of Event that a column belongs to.
func fieldOf(column string) protoreflect.Name {
	column, _, _ = strings.Cut(column, ".")
	switch {
	case column == "duration_us":
		return "duration"
	case strings.HasPrefix(column, "hint_"):
		return "hints"
	}
	return protoreflect.Name(column)
}

// prune drops the fields that are not wanted and returns the event.
func (m mask) prune(e *pb.Event) *pb.Event {
	if m == nil {
		return e
	}
	r := e.ProtoReflect()
	r.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !m[f.Name()] {
			r.Clear(f)
		}
		return true
	})
	return e
}
