package query

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// An answer has the fields of the mask as they are without one, and no others:
// neither what the search is ordered by nor what a page token is made of.
func TestAMaskIsWhatComesBack(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(30, 1)), 12)...)
	message := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	masked := func(e *pb.Event, paths []string) *pb.Event {
		e = proto.Clone(e).(*pb.Event)
		e.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if !slices.Contains(paths, string(f.Name())) {
				e.ProtoReflect().Clear(f)
			}
			return true
		})
		return e
	}
	check := func(order string, paths ...string) {
		t.Helper()
		all := s.list(t, &pb.ListEventsRequest{OrderBy: order, PageSize: 1000}).GetEvents()
		req := &pb.ListEventsRequest{OrderBy: order, PageSize: 5, ReadMask: &fieldmaskpb.FieldMask{Paths: paths}}
		got := s.pages(t, req, func() {})
		if len(got) != len(all) {
			t.Fatalf("%v by %q: %d events", paths, order, len(got))
		}
		for i := range got {
			if want := masked(all[i], paths); !proto.Equal(got[i], want) {
				t.Errorf("%v by %q, event %d:\n got %v\nwant %v", paths, order, i, got[i], want)
			}
		}
		one, err := s.GetEvent(everyone, &pb.GetEventRequest{EventId: all[3].GetEventId(), ReadMask: req.GetReadMask()})
		if want := masked(all[3], paths); err != nil || !proto.Equal(one.GetEvent(), want) {
			t.Errorf("get %v: %v, %v", paths, one, err)
		}
	}
	for i := range message.Len() {
		if name := string(message.Get(i).Name()); i%9 == 0 || name == "hints" || strings.HasSuffix(name, "marks") || name == "removed" || name == "labels" {
			check("", name)
		}
	}
	for _, order := range orders {
		check(order.name+" desc", "principal", "principal", "outcome")
		check(order.name, "duration")
	}
	// All of them, in two ways.
	for _, paths := range [][]string{{"*"}, {"server", "*"}, {}} {
		resp := s.list(t, &pb.ListEventsRequest{PageSize: 1000, ReadMask: &fieldmaskpb.FieldMask{Paths: paths}})
		want := s.list(t, &pb.ListEventsRequest{PageSize: 1000})
		if !proto.Equal(resp, want) {
			t.Errorf("%v is not everything", paths)
		}
	}
}

func TestABadMaskIsAnInvalidArgument(t *testing.T) {
	s := New(Config{}, broken{errors.New("the store was reached")}, quiet)
	for path, want := range map[string]string{
		"srver":                        `read_mask: there is no field "srver"; the nearest is server`,
		"":                             `read_mask: there is no field ""`,
		"hints.read_only":              `read_mask: there is no field "hints.read_only"; the nearest is hints`,
		"argument_marks.class":         `read_mask: there is no field "argument_marks.class"; the nearest is argument_marks`,
		"eventId":                      `read_mask: there is no field "eventId"; the nearest is event_id`,
		"Server":                       `the nearest is server`,
		"duration_us":                  `the nearest is duration`,
		"server,target":                `read_mask: there is no field "server,target"`,
		"event_id) FROM logs --":       `read_mask: there is no field`,
		"*.*":                          `read_mask: there is no field "*.*"`,
		"nul\x00":                      `read_mask: there is no field "nul\x00"`,
		strings.Repeat("x", 10<<20):    `read_mask: there is no field "xxx`,
		strings.Repeat("server.", 1e6): `read_mask: there is no field "server.`,
	} {
		mask := &fieldmaskpb.FieldMask{Paths: []string{"server", path}}
		_, list := s.ListEvents(everyone, &pb.ListEventsRequest{ReadMask: mask})
		_, get := s.GetEvent(everyone, &pb.GetEventRequest{EventId: "01890a5d-ac96-774b-bcce-b302099a8057", ReadMask: mask})
		watch := s.WatchEvents(&pb.WatchEventsRequest{ReadMask: mask}, &deaf{ctx: everyone})
		for _, err := range []error{list, get, watch} {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), want) || len(err.Error()) > 500 {
				t.Errorf("%.60q: %.300v, want %s", path, err, want)
			}
		}
	}
}
