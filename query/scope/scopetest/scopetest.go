// Package scopetest gives calls an access that no guard has given them: for tests, and
// for benchmarks that serve themselves.
package scopetest

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
)

// Who is the identity of the accesses made here.
const Who = "key:test"

// Every is ctx for every tenant, with all content.
func Every(ctx context.Context) context.Context {
	return With(ctx, Who, auth.ContentLookup, auth.EveryTenant)
}

// Of is ctx for some tenants, with all content.
func Of(ctx context.Context, tenants ...string) context.Context {
	return With(ctx, Who, auth.ContentLookup, tenants...)
}

// With is ctx for an identity, a content level and some tenants; EveryTenant alone is
// every one.
func With(ctx context.Context, id string, c auth.Content, tenants ...string) context.Context {
	a := &auth.Access{Identity: auth.Identity{ID: id, Kind: "service", Method: "api_key", Credential: "test"}, Content: c, Address: "127.0.0.1"}
	if slices.Equal(tenants, []string{auth.EveryTenant}) {
		a.Scope.Every = true
	} else {
		a.Scope.Names = slices.Sorted(slices.Values(tenants))
	}
	return auth.With(ctx, a)
}

// Server are the options of a server all of whose calls are for every tenant.
func Server() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return h(Every(ctx), req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(srv, &stream{s, Every(s.Context())})
		}),
	}
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }
