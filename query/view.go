package query

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// view is how one call sees events: which fields it can ask for and by. Which events
// it sees at all is not here: the store is read through a scope.Reader.
type view struct {
	fields *Fields // those that a filter and a group may name
	all    mask    // every field that is shown; nil for all
	mark   string
}

// withoutContent are the fields of events at the content level none.
var (
	withoutContent = ofEvents.Hiding(auth.ContentNone, scope.HiddenFields(auth.ContentNone)...)
	shownOfNone    = allBut(scope.HiddenFields(auth.ContentNone))
)

// view is that of the call. The error is a status.
func (s *Server) view(ctx context.Context) (*view, error) {
	a, err := s.store.Access(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{fields: ofEvents, mark: scope.Mark(a)}
	if len(scope.HiddenFields(a.Content)) > 0 {
		v.fields, v.all = withoutContent, shownOfNone
	}
	return v, nil
}

// filter compiles a filter on the events table. The error is a status.
func (v *view) filter(text string) (condition, error) {
	c, err := v.fields.compile(text)
	if err != nil {
		return c, status.Error(codes.InvalidArgument, err.Error())
	}
	return c, nil
}

// search is a filter and for whom it is: what a page token belongs to.
func (v *view) search(filter string) string { return filter + v.mark }

// hiddenText says why a field can't be asked for.
func hiddenText(name string, level auth.Content) string {
	return fmt.Sprintf("%s has content of calls, which the content level %s does not show", name, level)
}
