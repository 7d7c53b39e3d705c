package store

import (
	"context"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// startSpan begins the span of a statement, in the trace that ctx belongs to
// (OpenTelemetry semantic conventions for database spans). The statement's text
// has no values in it: those are bound.
func startSpan(ctx context.Context, sql string) (context.Context, trace.Span) {
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/mcpaudit/mcpaudit/ingest/store")
	return tracer.Start(ctx, "SELECT events", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("db.system.name", "clickhouse"), attribute.String("db.query.text", sql)))
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, "the statement failed") // the error itself may quote a value
	}
	span.End()
}

// tracedRows end their span when they are closed.
type tracedRows struct {
	driver.Rows
	span trace.Span
	once sync.Once
}

// Close closes the rows; it may be called again.
func (r *tracedRows) Close() error {
	err := r.Rows.Close()
	r.once.Do(func() { endSpan(r.span, r.Err()) })
	return err
}
