package findings

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// maxSuppressions is how many are listed: the newest.
const maxSuppressions = 10_000

// narrow says whether a finding is about something that a suppression can name. A gap
// in the events of one emitter, for one, is not: usual for it would be usual for all.
func narrow(f *pb.Finding) bool {
	return f.GetPrincipal() != "" || f.GetServer() != "" || f.GetTarget() != ""
}

// suppressing is the suppression of what a finding's rule finds of its identity, at
// the server and the target that it was about.
func suppressing(f *pb.Finding, req *pb.TriageFindingRequest, who *auth.Access, at time.Time) taking {
	expires := at.Add(time.Duration(req.GetSuppressDays()) * 24 * time.Hour)
	return taking{
		deed: deed{method: "findings/suppress", target: f.GetFindingId(), tenant: f.GetTenant(), who: who, note: req.GetNote(), labels: map[string]string{
			"rule": f.GetRule(), "severity": f.GetSeverity(), "principal": f.GetPrincipal(), "server": f.GetServer(), "target": f.GetTarget(), "expires_at": expires.Format(time.RFC3339),
		}},
		action: store.FindingAction{FindingID: uuid.MustParse(f.GetFindingId()), Tenant: f.GetTenant(), At: at, By: scope.By(who), Step: "suppress",
			Severity: f.GetSeverity(), Note: req.GetNote(), Rule: f.GetRule(), Principal: f.GetPrincipal(), Server: f.GetServer(), Target: f.GetTarget(), ExpiresAt: expires},
	}
}

// suppressed is a step that made a suppression, as the API has it.
func suppressed(a *store.FindingAction) *pb.Suppression {
	return &pb.Suppression{SuppressionId: a.SuppressionID.String(), Tenant: a.Tenant, Rule: a.Rule, Principal: a.Principal, Server: a.Server, Target: a.Target,
		Severity: a.Severity, ExpiresAt: timestamppb.New(a.ExpiresAt), FindingId: a.FindingID.String(), Note: a.Note, By: a.By, At: timestamppb.New(a.At)}
}

// ListSuppressions returns the suppressions, those that have ended too, newest first;
// at most 10,000.
func (s *Server) ListSuppressions(ctx context.Context, req *pb.ListSuppressionsRequest) (*pb.ListSuppressionsResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	list, err := s.suppressions(ctx, "1")
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &pb.ListSuppressionsResponse{Suppressions: list}, nil
}

// suppressions reads those for which a condition on their rows is true.
func (s *Server) suppressions(ctx context.Context, condition string, args ...any) (out []*pb.Suppression, err error) {
	size := 0
	err = s.scan(ctx, func(rows driver.Rows) error {
		var a store.FindingAction
		var ends uint64
		var ended time.Time
		if err := rows.Scan(&a.SuppressionID, &a.FindingID, &a.Tenant, &a.Rule, &a.Principal, &a.Server, &a.Target, &a.Severity, &a.Note, &a.By, &a.At, &a.ExpiresAt, &ends, &ended); err != nil {
			return err
		}
		x := suppressed(&a)
		if ends > 0 {
			x.EndedAt = timestamppb.New(ended)
		}
		if size += 300 + len(a.Note) + len(a.Principal) + len(a.Target) + len(a.By); size <= maxAnswer {
			out = append(out, x)
		}
		return nil
	}, "SELECT suppression_id, anyIf(finding_id, made), anyIf(tenant, made), anyIf(rule, made), anyIf(principal, made), anyIf(server, made), anyIf(target, made), "+
		"anyIf(severity, made), anyIf(note, made), anyIf(`by`, made), minIf(at, made) AS since, anyIf(expires_at, made), countIf(NOT made), minIf(at, NOT made)"+`
		FROM (SELECT *, step = 'suppress' AS made FROM finding_actions WHERE step IN ('suppress', 'end_suppression') AND `+condition+`)
		GROUP BY suppression_id HAVING countIf(made) > 0 ORDER BY since DESC, suppression_id DESC LIMIT {most:UInt32}`,
		append(args, store.Named("most", maxSuppressions))...)
	return out, err
}

// EndSuppression lets what a suppression covers be told again from now on. It is a
// step like those of findings; see [Server.TriageFinding].
func (s *Server) EndSuppression(ctx context.Context, req *pb.EndSuppressionRequest) (*pb.EndSuppressionResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	who, err := s.store.Access(ctx)
	if err != nil {
		return nil, err
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	id := strings.ToLower(req.GetSuppressionId())
	read := func() (*pb.Suppression, error) {
		list, err := s.suppressions(ctx, "suppression_id = toUUID({id:String})", store.Named("id", id))
		if err != nil {
			return nil, s.status(ctx, err)
		}
		if len(list) == 0 {
			return nil, status.Errorf(codes.NotFound, "there is no suppression %s", id)
		}
		return list[0], nil
	}
	x, err := read()
	if err != nil {
		return nil, err
	}
	at := s.now().UTC().Truncate(time.Microsecond)
	switch expires := x.GetExpiresAt().AsTime(); {
	case x.GetEndedAt() != nil:
		return nil, status.Errorf(codes.FailedPrecondition, "suppression %s was ended at %s", id, x.GetEndedAt().AsTime().Format("2006-01-02 15:04:05 UTC"))
	case !expires.After(at):
		return nil, status.Errorf(codes.FailedPrecondition, "suppression %s expired at %s", id, expires.Format("2006-01-02 15:04:05 UTC"))
	case at.Before(x.GetAt().AsTime()): // a clock went back: it covers nothing
		at = x.GetAt().AsTime()
	}
	err = s.take(ctx, []taking{{
		deed: deed{method: "findings/end_suppression", target: x.GetFindingId(), tenant: x.GetTenant(), who: who, labels: map[string]string{
			"suppression": id, "rule": x.GetRule(), "principal": x.GetPrincipal(), "server": x.GetServer(), "target": x.GetTarget(),
			"made_by": x.GetBy(), "days_left": strconv.Itoa(int(x.GetExpiresAt().AsTime().Sub(at).Hours() / 24)),
		}},
		action: store.FindingAction{Tenant: x.GetTenant(), At: at, By: scope.By(who), Step: "end_suppression", SuppressionID: uuid.MustParse(id)},
	}})
	if err != nil {
		return nil, err
	}
	if x, err = read(); err != nil {
		return nil, err
	}
	return &pb.EndSuppressionResponse{Suppression: x}, nil
}
