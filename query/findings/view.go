package findings

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// rank of a severity, as SQL.
func rank(severity string) string {
	return "indexOf(['" + strings.Join(severities, "', '") + "'], " + severity + ")"
}

// severities, the least one first: how a filter compares them.
var severities = []string{"info", "low", "medium", "high", "critical"}

// fields are what a filter may name: the fields of the message Finding.
var fields = query.NewFields(`severity >= "high" AND triage != "closed"`,
	query.Field{Name: "finding_id", SQL: "toString(finding_id)"},
	query.Field{Name: "rule", SQL: "rule"},
	query.Field{Name: "detector", SQL: "detector"},
	query.Field{Name: "severity", SQL: rank("severity"), Kind: query.RankKind, Words: severities},
	query.Field{Name: "score", SQL: "score", Kind: query.DecimalKind},
	query.Field{Name: "reason", SQL: "reason"},
	query.Field{Name: "tenant", SQL: "tenant"},
	query.Field{Name: "principal", SQL: "principal"},
	query.Field{Name: "agent_id", SQL: "agent_id"},
	query.Field{Name: "session_id", SQL: "session_id"},
	query.Field{Name: "trace_id", SQL: "trace_id"},
	query.Field{Name: "server", SQL: "server"},
	query.Field{Name: "target", SQL: "target"},
	query.Field{Name: "emitter_id", SQL: "emitter_id"},
	query.Field{Name: "started_at", SQL: "started_at", Kind: query.TimeKind},
	query.Field{Name: "last_seen_at", SQL: "last_seen_at", Kind: query.TimeKind},
	query.Field{Name: "ended_at", SQL: "ended_at", Kind: query.TimeKind, Known: "state = 'resolved'"},
	query.Field{Name: "opened_at", SQL: "opened_at", Kind: query.TimeKind},
	query.Field{Name: "observed", SQL: "observed"},
	query.Field{Name: "expected", SQL: "expected"},
	query.Field{Name: "workings", SQL: "`workings.name`", Kind: query.ListKind},
	query.Field{Name: "event_count", SQL: "events", Kind: query.NumberKind},
	query.Field{Name: "event_ids", SQL: "arrayMap(x -> toString(x), event_ids)", Kind: query.ListKind},
	query.Field{Name: "state", SQL: "state"},
	query.Field{Name: "version", SQL: "version", Kind: query.NumberKind},
	query.Field{Name: "triage", SQL: "triage"},
	query.Field{Name: "assignee", SQL: "assignee"},
	query.Field{Name: "verdict", SQL: "verdict"},
	query.Field{Name: "suppression_id", SQL: "if(suppression_id = " + noID + ", '', toString(suppression_id))"},
)

// withoutContent are those that a filter may name at the content level none.
var withoutContent = fields.Hiding(auth.ContentNone, scope.HiddenFindingFields(auth.ContentNone)...)

// compile makes a filter a condition on the view, as far as a call may ask. The error is
// a status.
func compile(filter string, a *auth.Access) (sql string, args []any, err error) {
	known := fields
	if len(scope.HiddenFindingFields(a.Content)) > 0 {
		known = withoutContent
	}
	if sql, args, err = known.Compile(filter); err != nil {
		err = status.Error(codes.InvalidArgument, err.Error())
	}
	return sql, args, err
}

// Compile makes a filter, as ListFindingsRequest has it, a condition on the view and
// the values that are bound in it. The error is a *query.FilterError.
func Compile(filter string) (sql string, args []any, err error) { return fields.Compile(filter) }

const noID = "toUUID('00000000-0000-0000-0000-000000000000')"

// suppressionsSQL has a row for each suppression: until is when it ends by itself, or
// when somebody ended it. A row of its end has no other columns.
const suppressionsSQL = `
	SELECT suppression_id AS id, minIf(at, step = 'suppress') AS since, min(if(step = 'suppress', expires_at, at)) AS until,
		anyIf(tenant, step = 'suppress') AS of_tenant, anyIf(rule, step = 'suppress') AS of_rule, anyIf(principal, step = 'suppress') AS of_principal,
		anyIf(server, step = 'suppress') AS of_server, anyIf(target, step = 'suppress') AS of_target, anyIf(severity, step = 'suppress') AS of_severity
	FROM finding_actions WHERE step IN ('suppress', 'end_suppression')
	GROUP BY suppression_id HAVING countIf(step = 'suppress') > 0`

// viewOf is versions of findings, those for which a condition on the table findings
// is true, and what people made of each finding:
//
//   - triage, assignee and verdict by the last step of its kind; steps at the same
//     microsecond by their ids, so that every reader sees the same. One that was
//     closed and then became worse is new: that was not meant;
//   - suppression_id of the suppression under which the whole of it happened: it is no
//     worse than the finding that the suppression was made from, it began
//     while that was in force, and was seen last before it ended. A finding that goes
//     on when a suppression ends is told again; one that was over stays as it was. When
//     it began is by the service's clock: events that say that they are older, as those
//     of an emitter whose clock is behind, don't bring a suppression back.
func viewOf(condition string) string {
	return `(
	SELECT *, multiIf(last_step = 'close' AND ` + rank("severity") + ` <= ` + rank("last_severity") + `, 'closed', last_step = 'acknowledge', 'acknowledged', 'new') AS triage, last_verdict AS verdict, last_assignee AS assignee,
		arrayFirst(x -> x.1 <= opened_at AND opened_at < x.2 AND last_seen_at < x.2 AND (x.3 = '' OR x.3 = server) AND (x.4 = '' OR x.4 = target)
			AND ` + rank("severity") + ` <= ` + rank("x.6") + `, covers).5 AS suppression_id
	FROM (SELECT * FROM findings WHERE ` + condition + `) AS f
	LEFT JOIN (
		SELECT finding_id AS of_finding, argMaxIf(step, (at, action_id), step != 'assign') AS last_step,
			argMaxIf(severity, (at, action_id), step != 'assign') AS last_severity,
			argMaxIf(verdict, (at, action_id), step != 'assign') AS last_verdict, argMaxIf(assignee, (at, action_id), step = 'assign') AS last_assignee
		FROM finding_actions WHERE step IN ('acknowledge', 'assign', 'close', 'reopen') GROUP BY finding_id
	) AS j ON j.of_finding = f.finding_id
	LEFT JOIN (
		SELECT of_tenant, of_rule, of_principal, arraySort(groupArray((since, until, of_server, of_target, id, of_severity))) AS covers
		FROM (` + suppressionsSQL + `) GROUP BY of_tenant, of_rule, of_principal
	) AS c ON c.of_tenant = f.tenant AND c.of_rule = f.rule AND c.of_principal = f.principal
	)`
}

// viewSettings are what the view's meaning depends on, whatever the server's profile
// says: what is not found in a join is empty, not NULL.
const viewSettings = " SETTINGS join_use_nulls = 0"

// stateColumns are the columns of a standing.
const stateColumns = "teller, seq, finding_id, started_at, triage, assignee, verdict, suppression_id"

// hidden leaves out what a suppression covers.
func hidden(showSuppressed bool) string {
	if showSuppressed {
		return ""
	}
	return " AND suppression_id = " + noID
}
