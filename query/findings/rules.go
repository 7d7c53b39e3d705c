package findings

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/detect/rules"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Ruler has the rules of the detectors that run.
type Ruler interface {
	// Rules are those in force, by name.
	Rules() rules.Set
	// Reload reads the rule files again and returns when their rules are in force, and
	// the names of those that are new, that differ and that are gone. After an error
	// the rules are those of before. The error is a BadRules when people may read it.
	Reload(ctx context.Context) (added, changed, removed []string, err error)
}

// BadRules says what is wrong with rule files: file, line, and the nearest valid name.
// Its text is shown to who asked.
type BadRules struct{ Err error }

func (b BadRules) Error() string { return b.Err.Error() }

func (b BadRules) Unwrap() error { return b.Err }

// RuleServer implements mcpaudit.v1.RuleService.
type RuleServer struct {
	pb.UnimplementedRuleServiceServer
	ruler Ruler
	diary *diary // nil when this process writes no log
	log   *slog.Logger
	turn  turn
}

// NewRules makes the service. Without a recorder it only lists.
func NewRules(rules Ruler, r Recorder, now func() time.Time, log *slog.Logger) *RuleServer {
	s := &RuleServer{ruler: rules, log: log, turn: newTurn()}
	if r != nil {
		s.diary = newDiary("mcpaudit-rules", r, now, log)
	}
	return s
}

// ListRules returns the rules in force, by name. They are the same for all tenants; where
// on the service's machine their files lie is only for who sees every tenant.
func (s *RuleServer) ListRules(ctx context.Context, req *pb.ListRulesRequest) (*pb.ListRulesResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	who, err := scope.Access(ctx, s.log)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListRulesResponse{}
	for _, r := range s.ruler.Rules() {
		source := r.Source
		if !who.Scope.Every {
			source = filepath.Base(source)
		}
		resp.Rules = append(resp.Rules, &pb.Rule{Name: r.Name, Title: r.Title, Detector: r.Detector, Severity: r.Severity.String(),
			References: r.References, Runbook: r.Runbook, Source: source})
	}
	return resp, nil
}

// ReloadRules puts what the rule files say now in force. The log is looked at first
// and told afterwards, when it is known what changed: what it can't take then, it gets
// with the next reload. Rules that don't change are worth an event as well: somebody
// has asked.
func (s *RuleServer) ReloadRules(ctx context.Context, req *pb.ReloadRulesRequest) (*pb.ReloadRulesResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	who, err := scope.Whole(ctx, s.log)
	if err != nil {
		return nil, err
	}
	if s.diary == nil {
		return nil, errNoLog
	}
	end, err := s.turn.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := s.diary.open(ctx); err != nil {
		return nil, err
	}
	added, changed, removed, err := s.ruler.Reload(ctx)
	w := deed{method: "rules/reload", target: "rules", who: who, labels: map[string]string{
		"added": someNames(added), "changed": someNames(changed), "removed": someNames(removed)}}
	var bad BadRules
	switch {
	case errors.As(err, &bad):
		w.failure = "the rule files can't be used: " + bad.Error()
		s.diary.note(ctx, w)
		return nil, status.Error(codes.FailedPrecondition, "the rules stay as they are: "+event.ClipText(bad.Error(), event.MaxText))
	case err != nil:
		s.log.Error("reload rules", "error", err)
		w.failure = "the rules could not be put in force; the service's log says why"
		s.diary.note(ctx, w)
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, status.Error(codes.Unavailable, "the rules stay as they are: they could not be put in force; the service's log says why")
	}
	s.diary.note(ctx, w)
	return &pb.ReloadRulesResponse{Added: added, Changed: changed, Removed: removed}, nil
}

// someNames are names as a label has room for, and how many more there are.
func someNames(names []string) string {
	const room = event.MaxText - 32
	text := ""
	for i, n := range names {
		if len(text)+len(n)+2 > room {
			return text + " and " + strconv.Itoa(len(names)-i) + " more"
		}
		if i > 0 {
			text += ", "
		}
		text += n
	}
	return text
}
