package emit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// service is the transport to the service's gRPC port.
type service struct {
	address string
	client  client.Config
	now     func() time.Time
	conn    *grpc.ClientConn
	ingest  pb.IngestServiceClient
	ledger  pb.LedgerServiceClient
}

func dialService(cfg Config) (*service, error) {
	reached := cfg.Client
	reached.Address = cfg.Address
	if strings.Contains(cfg.Address, "://") {
		return nil, fmt.Errorf("the service's address %q is a URL; its gRPC port is host:port, such as %s, and a Kafka topic is a Transport of package ingest/emit/kafka", cfg.Address, DefaultService)
	}
	if cfg.Dial == nil {
		var err error
		if cfg.Dial, err = reached.DialOptions(); err != nil {
			return nil, err
		}
	}
	conn, err := grpc.NewClient(cfg.Address, cfg.Dial...)
	if err != nil {
		return nil, fmt.Errorf("connect to %q: %w", cfg.Address, err)
	}
	return &service{cfg.Address, reached, cfg.Now, conn, pb.NewIngestServiceClient(conn), pb.NewLedgerServiceClient(conn)}, nil
}

func (s *service) String() string { return s.address }

func (s *service) Ledger() pb.LedgerServiceClient { return s.ledger }

func (s *service) Close() { _ = s.conn.Close() } // it says only that it was closed before

// Deliver is a PublishBatch. The service has committed what it answers for.
func (s *service) Deliver(ctx context.Context, events [][]byte, known *pb.KnownCheckpoint) (Answer, error) {
	var a Answer
	req := &pb.PublishBatchRequest{SentAt: timestamppb.New(s.now()), Known: known}
	for _, e := range events {
		m := &pb.Event{}
		if err := proto.Unmarshal(e, m); err != nil {
			a.Refused = append(a.Refused, Refusal{Reason: "it can't be decoded: " + err.Error()})
			continue
		}
		req.Events = append(req.Events, m)
	}
	s.reconnect(ctx)
	resp, err := s.ingest.PublishBatch(ctx, req)
	if err != nil {
		for _, d := range status.Convert(err).Details() {
			if r, ok := d.(*errdetails.RetryInfo); ok {
				a.Wait = r.GetRetryDelay().AsDuration()
			}
		}
		// An emitter that is refused may be let in later: its key is replaced, or its
		// rights are. Its events wait for that like for a service that is away.
		if what, refused := s.client.Refused(err); refused {
			return a, errors.New(what)
		}
		return a, errors.New(status.Convert(err).Message())
	}
	a.Receipt = resp.GetReceipt()
	for _, r := range a.Receipt.GetRejected() {
		a.Refused = append(a.Refused, Refusal{Seq: r.GetEmitterSeq(), Reason: r.GetReason(), Forbidden: r.GetCode() == pb.Rejection_CODE_FORBIDDEN})
	}
	return a, nil
}

// reconnect has a call try the connection anew, whatever came of the last: how
// long to leave a service alone that is away is for the shipper to say.
func (s *service) reconnect(ctx context.Context) {
	if s.conn.GetState() != connectivity.TransientFailure {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	s.conn.ResetConnectBackoff()
	s.conn.WaitForStateChange(ctx, connectivity.TransientFailure)
}
