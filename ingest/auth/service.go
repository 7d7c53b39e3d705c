package auth

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Defaults of keys.
const (
	DefaultKeyLife    = 90 * 24 * time.Hour
	DefaultKeyOverlap = 24 * time.Hour
)

// Pseudonyms says what stands in events in place of a value; *redact.Redactor does.
type Pseudonyms interface {
	Pseudonym(class, value string) string
	Classes() []string // that have pseudonyms
}

// Server implements mcpaudit.v1.AccessService. A guard is in front of it.
type Server struct {
	pb.UnimplementedAccessServiceServer
	keys *Keyring
	// pseudonyms is nil when this instance does not have the key that emitters
	// redact with.
	pseudonyms Pseudonyms
	now        func() time.Time
	log        *slog.Logger
}

// NewServer makes the service.
func NewServer(keys *Keyring, p Pseudonyms, now func() time.Time, log *slog.Logger) *Server {
	return &Server{keys: keys, pseudonyms: p, now: now, log: log}
}

// checked checks a request and says who sends it.
func checked(ctx context.Context, req proto.Message) (*Access, error) {
	a, ok := From(ctx)
	if !ok {
		return nil, status.Error(codes.Internal, "the call came past the guard")
	}
	if err := protovalidate.Validate(req); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return a, nil
}

// WhoAmI returns the caller's identity.
func (s *Server) WhoAmI(ctx context.Context, req *pb.WhoAmIRequest) (*pb.WhoAmIResponse, error) {
	a, err := checked(ctx, req)
	if err != nil {
		return nil, err
	}
	return &pb.WhoAmIResponse{Identity: a.ID, Name: a.Name, Method: a.Method, Rights: rights(a.Grants)}, nil
}

// CreateKey makes a key.
func (s *Server) CreateKey(ctx context.Context, req *pb.CreateKeyRequest) (*pb.CreateKeyResponse, error) {
	a, err := checked(ctx, req)
	if err != nil {
		return nil, err
	}
	tenant := cmp.Or(req.GetTenant(), DefaultTenant)
	if !a.Scope.Has(tenant) && !a.Scope.Every {
		return nil, status.Errorf(codes.PermissionDenied, "tenant: you administer %s alone", a.Scope)
	}
	if !slices.Contains(req.GetRoles(), string(Emitter)) && len(req.GetServers())+len(req.GetEmitters()) > 0 {
		return nil, status.Error(codes.InvalidArgument, "servers and emitters bind the role emitter, which this key does not have")
	}
	var grants []Grant
	for _, r := range req.GetRoles() {
		g := Grant{Role: Role(r), Tenant: tenant}
		if g.Role == Emitter {
			g.Servers, g.Emitters = req.GetServers(), req.GetEmitters()
		} else {
			g.Content = Content(req.GetContent())
		}
		grants = append(grants, g)
	}
	k, text, err := s.keys.Make(ctx, req.GetName(), grants, a.ID, life(req.GetLifetime()))
	if err != nil {
		return nil, s.status(err)
	}
	a.About(k.IdentityOf())
	return &pb.CreateKeyResponse{Key: s.message(&k), Text: text.Reveal()}, nil
}

// ListKeys lists keys by when they were made. The token is the id of the last one of
// the page before.
func (s *Server) ListKeys(ctx context.Context, req *pb.ListKeysRequest) (*pb.ListKeysResponse, error) {
	a, err := checked(ctx, req)
	if err != nil {
		return nil, err
	}
	keys := s.keys.List(a.Scope)
	if t := req.GetPageToken(); t != "" {
		at := slices.IndexFunc(keys, func(k Key) bool { return k.ID == t })
		if at < 0 {
			return nil, status.Error(codes.InvalidArgument, "page_token: is not one that this method gave; start without one")
		}
		keys = keys[at+1:]
	}
	resp := &pb.ListKeysResponse{}
	if size := int(cmp.Or(req.GetPageSize(), 100)); len(keys) > size {
		keys = keys[:size]
		resp.NextPageToken = keys[size-1].ID
	}
	for i := range keys {
		resp.Keys = append(resp.Keys, s.message(&keys[i]))
	}
	return resp, nil
}

// RotateKey makes a key in place of another.
func (s *Server) RotateKey(ctx context.Context, req *pb.RotateKeyRequest) (*pb.RotateKeyResponse, error) {
	a, err := checked(ctx, req)
	if err != nil {
		return nil, err
	}
	overlap := DefaultKeyOverlap
	if req.GetOverlap() != nil {
		overlap = req.GetOverlap().AsDuration()
	}
	k, text, err := s.keys.Rotate(ctx, req.GetKeyId(), a.Scope, a.ID, life(req.GetLifetime()), overlap)
	if err != nil {
		return nil, s.status(err)
	}
	a.About(k.IdentityOf())
	return &pb.RotateKeyResponse{Key: s.message(&k), Text: text.Reveal()}, nil
}

// RevokeKey ends a key.
func (s *Server) RevokeKey(ctx context.Context, req *pb.RevokeKeyRequest) (*pb.RevokeKeyResponse, error) {
	a, err := checked(ctx, req)
	if err != nil {
		return nil, err
	}
	k, err := s.keys.Revoke(ctx, req.GetKeyId(), a.Scope, a.ID, req.GetReason())
	if err != nil {
		return nil, s.status(err)
	}
	a.About(k.IdentityOf())
	return &pb.RevokeKeyResponse{Key: s.message(&k)}, nil
}

// LookUpPseudonym says what stands in place of a value.
func (s *Server) LookUpPseudonym(ctx context.Context, req *pb.LookUpPseudonymRequest) (*pb.LookUpPseudonymResponse, error) {
	a, err := checked(ctx, req)
	switch {
	case err != nil:
		return nil, err
	case !a.Content.AtLeast(ContentLookup):
		return nil, status.Error(codes.PermissionDenied, "this credential's content level is below lookup")
	case s.pseudonyms == nil:
		return nil, status.Error(codes.FailedPrecondition, "this instance does not have the key that emitters redact with; give it one with redact.key_file")
	}
	classes := s.pseudonyms.Classes()
	if c := req.GetClass(); c != "" {
		i := slices.IndexFunc(classes, func(have string) bool { return have == c || have == "pii:"+c })
		if i < 0 {
			return nil, status.Errorf(codes.InvalidArgument, "class: values of class %q have no pseudonyms; use %s", c, list(classes))
		}
		classes = classes[i : i+1]
	}
	a.About(req.GetClass())
	resp := &pb.LookUpPseudonymResponse{}
	for _, c := range classes {
		resp.Pseudonyms = append(resp.Pseudonyms, s.pseudonyms.Pseudonym(c, req.GetValue()))
	}
	return resp, nil
}

func (s *Server) status(err error) error {
	var stored *StoreError
	switch {
	case errors.As(err, &stored):
		s.log.Error("change API keys", "error", err)
		return status.Error(codes.Unavailable, "the store did not confirm the change; 'mcpaudit access list' says whether it counts")
	case errors.Is(err, ErrNoKey):
		return status.Error(codes.NotFound, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

func life(d *durationpb.Duration) time.Duration {
	if d == nil {
		return DefaultKeyLife
	}
	return d.AsDuration()
}

func (s *Server) message(k *Key) *pb.Key {
	m := &pb.Key{
		KeyId: k.ID, Name: k.Name, Rights: rights(k.Grants), MadeAt: timestamppb.New(k.MadeAt), MadeBy: k.MadeBy,
		ExpiresAt: timestamppb.New(k.ExpiresAt), State: "active", Successor: k.Successor,
	}
	switch {
	case k.Revoked:
		m.State = "revoked"
	case !s.now().Before(k.ExpiresAt):
		m.State = "expired"
	}
	return m
}

func rights(grants []Grant) (out []*pb.Right) {
	for _, g := range grants {
		r := &pb.Right{Role: string(g.Role), Tenant: g.Tenant, Servers: g.Servers, Emitters: g.Emitters}
		if g.Role.Allows(Read) || g.Role.Allows(Export) {
			r.Content = string(g.content())
		}
		out = append(out, r)
	}
	return out
}
