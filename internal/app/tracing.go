package app

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// tracing makes spans of the service's own work and sends them to an
// OpenTelemetry collector over gRPC, when the environment names one
// (OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT; headers,
// certificates, sampling and the rest are the standard's variables as well). A
// collector that is away costs spans, nothing else.
type tracing struct {
	sdk *sdktrace.TracerProvider // nil without a collector
}

func newTracing(ctx context.Context, d Deps) (*tracing, error) {
	if d.Env == nil || d.Env("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && d.Env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return &tracing{}, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up traces from the OTEL_ variables: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "mcpaudit"), attribute.String("service.version", d.Version)),
		resource.WithFromEnv(), resource.WithHost())
	if err != nil {
		return nil, fmt.Errorf("set up traces from the OTEL_ variables: %w", err)
	}
	return &tracing{sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}, nil
}

// options make a span of each RPC, also of those that come as HTTP/JSON, in the
// caller's trace (W3C Trace Context).
func (t *tracing) options() []grpc.ServerOption {
	if t.sdk == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.sdk), otelgrpc.WithPropagators(propagation.TraceContext{})))}
}

func (t *tracing) stop() {
	if t.sdk == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = t.sdk.Shutdown(ctx) // what was not sent is spans, not events
}
