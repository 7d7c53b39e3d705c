package detect

import (
	"fmt"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/interpreter"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Expressions are written in the Common Expression Language (cel.dev) over the
// fields of an event, under the names that they have in its JSON:
//
//	server == "billing" && outcome == "denied" && "admin" in scopes_granted
//	target.startsWith("delete_") && !hints.read_only && duration > duration("5s")
//	labels["team"] == "search" || signals.exists(s, s.startsWith("secret:"))

// maxCost bounds the evaluation of one expression for one event, in CEL's units of
// about one step: an expression that searches long texts must not stop the rest.
const maxCost = 100_000

// maxExpression bounds an expression's length in bytes.
const maxExpression = 4096

// Expression is a compiled condition on an event.
type Expression struct {
	source  string
	program cel.Program
}

// variable is one field that expressions may use.
type variable struct {
	name string
	typ  *cel.Type
	of   func(*event.Event) any
}

var variables = func() []variable {
	out := []variable{
		{"kind", cel.StringType, func(e *event.Event) any { return e.Kind }},
		{"decision", cel.StringType, func(e *event.Event) any { return e.Decision }},
		{"outcome", cel.StringType, func(e *event.Event) any { return e.Outcome }},
		{"principal_kind", cel.StringType, func(e *event.Event) any { return e.PrincipalKind }},
		{"transport", cel.StringType, func(e *event.Event) any { return e.Transport }},
		{"arguments", cel.StringType, func(e *event.Event) any { return e.Arguments }},
		{"occurred_at", cel.TimestampType, func(e *event.Event) any { return time.UnixMicro(e.OccurredAt).UTC() }},
		{"duration", cel.DurationType, func(e *event.Event) any { return time.Duration(e.Duration) * time.Microsecond }},
		{"attempt", cel.IntType, func(e *event.Event) any { return int64(e.Attempt) }},
		{"http_status", cel.IntType, func(e *event.Event) any { return int64(e.HTTPStatus) }},
		{"request_bytes", cel.IntType, func(e *event.Event) any { return int64(e.RequestBytes) }},
		{"response_bytes", cel.IntType, func(e *event.Event) any { return int64(e.ResponseBytes) }},
		{"truncated", cel.BoolType, func(e *event.Event) any { return e.Truncated }},
		{"labels", cel.MapType(cel.StringType, cel.StringType), func(e *event.Event) any {
			m := make(map[string]string, len(e.Labels))
			for _, l := range e.Labels {
				m[l.Key] = l.Value
			}
			return m
		}},
		{"hints", cel.MapType(cel.StringType, cel.BoolType), func(e *event.Event) any {
			return map[string]bool{"read_only": e.Hints.ReadOnly, "destructive": e.Hints.Destructive, "idempotent": e.Hints.Idempotent, "open_world": e.Hints.OpenWorld}
		}},
	}
	for _, t := range event.Texts {
		out = append(out, variable{t.Name, cel.StringType, func(e *event.Event) any { return *t.Of(e) }})
	}
	for _, l := range event.Lists {
		out = append(out, variable{l.Name, cel.ListType(cel.StringType), func(e *event.Event) any { return *l.Of(e) }})
	}
	return out
}()

// environment is made once: it takes milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{cel.DefaultUTCTimeZone(true)}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.typ))
	}
	return cel.NewEnv(options...)
})

var fieldOf = func() map[string]func(*event.Event) any {
	m := map[string]func(*event.Event) any{}
	for _, v := range variables {
		m[v.name] = v.of
	}
	return m
}()

// Compile reads a condition. The error says where it is wrong and what is.
func Compile(source string) (*Expression, error) {
	if len(source) > maxExpression {
		return nil, fmt.Errorf("an expression has at most %d bytes, this one %d", maxExpression, len(source))
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("set up expressions: %w", err)
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, expressionError(source, issues)
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("the expression %q gives %s; it must be a condition, true or false", source, ast.OutputType())
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, fmt.Errorf("the expression %q: %w", source, err)
	}
	return &Expression{source, program}, nil
}

func expressionError(source string, issues *cel.Issues) error {
	first := issues.Errors()[0]
	names := make([]string, len(variables))
	for i, v := range variables {
		names[i] = v.name
	}
	return fmt.Errorf("expression, line %d, character %d of %q: %s%s", first.Location.Line(), first.Location.Column()+1, source, first.Message, hint(first.Message, names))
}

// Matches says whether the condition holds. One that can't be evaluated, because it
// divides by zero, asks for a label that is not there or takes too long, does not.
func (x *Expression) Matches(e *event.Event) bool {
	out, _, err := x.program.Eval(fields{e})
	if err != nil {
		return false
	}
	yes, ok := out.Value().(bool)
	return ok && yes
}

// fields gives an expression the fields that it asks for.
type fields struct{ e *event.Event }

var _ interpreter.Activation = fields{}

func (f fields) ResolveName(name string) (any, bool) {
	of := fieldOf[name]
	if of == nil {
		return nil, false
	}
	return of(f.e), true
}

func (f fields) Parent() interpreter.Activation { return nil }
