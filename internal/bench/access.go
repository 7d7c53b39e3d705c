package bench

import (
	"context"

	"google.golang.org/grpc"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
)

// Benchmarks that measure the reading of a store alone serve it without a guard: what
// it costs to check a key, and to note the call durably, is not the query's. Without an
// access nothing is read, so these calls get that of a reader who may see everything.

// readsAll are options of such a server. It listens on loopback while a benchmark
// runs, and has events that the benchmark has made.
func readsAll() []grpc.ServerOption {
	access := &auth.Access{
		Identity: auth.Identity{ID: "bench", Kind: "service"},
		Scope:    auth.Scope{Every: true},
		Content:  auth.ContentLookup,
	}
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(auth.With(ctx, access), req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, readingStream{s, auth.With(s.Context(), access)})
		}),
	}
}

type readingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s readingStream) Context() context.Context { return s.ctx }
