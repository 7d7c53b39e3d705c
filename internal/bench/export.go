package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/export"
)

// Sealed events to export: exportDistinct are made, and stored again and again under
// new ids.
const (
	exportBatch    = 20_000
	exportDistinct = 100_000
	exportMost     = 1_000_000
	exportBuffer   = 256 << 10 // of a connection, each way: fewer system calls
)

// exported measures exports over gRPC, the client's writing to a file included. The
// limit is reading the same rows' bytes and doing nothing with them.
func exported(ctx context.Context, e Env) ([]Result, error) {
	s, err := emptyStore(ctx, e, "export")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	events := min(e.Events, exportMost) / exportBatch * exportBatch
	if events == 0 {
		return nil, fmt.Errorf("export at least %d events", exportBatch)
	}
	fmt.Fprintf(e.Say, "storing %d sealed events\n", events)
	key, err := sealedEvents(ctx, e, s, events)
	if err != nil {
		return nil, err
	}
	client, stop, err := exportService(s, e, key)
	if err != nil {
		return nil, err
	}
	defer stop()
	limit, err := readRows(ctx, s, events)
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, format := range export.Formats {
		rate, growth, bytes, err := exportOnce(ctx, client, &pb.ExportEventsRequest{Formats: []string{format}}, filepath.Join(e.Dir, "out"), events)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", format, err)
		}
		r := finish(Result{Name: "export " + format, Value: rate, Unit: "events/s", Limit: limit, Of: "reading the same rows' bytes", OK: true})
		if format == "jsonl" {
			r = atLeast(r.Name, rate, r.Unit, limit, r.Of, 200_000)
			results = append(results, r, atMost("export jsonl, memory growth", growth/(1<<20), "MiB, from the first fifth on", 0, "", 64))
			continue
		}
		results = append(results, r, plain("export "+format+", size", float64(bytes)/float64(events), "bytes/event"))
	}
	return bundled(ctx, e, client, key, events, results)
}

// bundled measures a bundle of JSONL, and its verification without a service.
func bundled(ctx context.Context, e Env, client pb.ExportServiceClient, key *ledger.Key, events uint64, results []Result) ([]Result, error) {
	dir := filepath.Join(e.Dir, "bundle")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	rate, _, bytes, err := exportOnce(ctx, client, &pb.ExportEventsRequest{Bundle: true}, dir, events)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	start := time.Now()
	if _, err := export.Verify(os.DirFS(dir), []string{key.Verifier()}, nil); err != nil {
		return nil, err
	}
	return append(results, plain("export bundle", rate, "events/s"), plain("export bundle, size", float64(bytes)/float64(events), "bytes/event"),
		plain("verify bundle", float64(events)/time.Since(start).Seconds(), "events/s")), nil
}

// exportOnce runs one export into files and measures its rate, how much the process
// grew behind its first fifth, and what was written.
func exportOnce(ctx context.Context, client pb.ExportServiceClient, req *pb.ExportEventsRequest, to string, want uint64) (rate, growth float64, bytes uint64, err error) {
	start := time.Now()
	stream, err := client.ExportEvents(ctx, req)
	if err != nil {
		return 0, 0, 0, err
	}
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var early, most float64
	for messages := 0; ; messages++ {
		m, err := stream.Recv()
		if err != nil {
			return 0, 0, 0, err
		}
		if m.GetFinished() {
			if m.GetEvents() != want {
				return 0, 0, 0, fmt.Errorf("%d events were exported, want %d", m.GetEvents(), want)
			}
			break
		}
		if messages%64 == 0 && m.GetEvents() > want/5 {
			most = max(most, residentBytes())
			if early == 0 {
				early = most
			}
		}
		if m.GetFile() == "" {
			continue
		}
		f := files[m.GetFile()]
		if f == nil {
			name := to
			if req.GetBundle() {
				name = filepath.Join(to, m.GetFile())
			}
			if f, err = os.Create(name); err != nil {
				return 0, 0, 0, err
			}
			files[m.GetFile()] = f
		}
		n, err := f.Write(m.GetData())
		if err != nil {
			return 0, 0, 0, err
		}
		bytes += uint64(n)
	}
	return float64(want) / time.Since(start).Seconds(), most - early, bytes, nil
}

// readRows reads the bytes of all rows, a span at a time.
func readRows(ctx context.Context, s *store.Store, events uint64) (float64, error) {
	const at = 3 // batches at a time
	start := time.Now()
	n := uint64(0)
	for batch := uint64(1); batch <= events/exportBatch; batch += at {
		rows, err := s.Query(ctx, store.Limits{}, "SELECT "+store.RowSQL+" FROM events WHERE log_id = 'bench' AND batch BETWEEN {from:UInt64} AND {to:UInt64} SETTINGS max_threads = 1",
			store.Named("from", batch), store.Named("to", batch+at-1))
		if err != nil {
			return 0, err
		}
		var row string
		for rows.Next() {
			if err := rows.Scan(&row); err != nil {
				return 0, errors.Join(err, rows.Close())
			}
			n++
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return 0, err
		}
	}
	if n != events {
		return 0, fmt.Errorf("%d rows were read, want %d", n, events)
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// sealedEvents stores and seals batches as the service does.
func sealedEvents(ctx context.Context, e Env, s *store.Store, events uint64) (*ledger.Key, error) {
	key, _, err := ledger.NewKey(rand.Reader, "bench")
	if err != nil {
		return nil, err
	}
	if err := s.StartLog(ctx, store.LogInfo{ID: "bench", VerifierKey: key.Verifier(), StartedAt: e.Now()}); err != nil {
		return nil, err
	}
	t, err := newTraffic(1, e.Now())
	if err != nil {
		return nil, err
	}
	made := make([]*event.Event, min(events, exportDistinct))
	for i := range made {
		made[i] = t.next()
	}
	tree := ledger.NewTree()
	for from := uint64(0); from < events; from += exportBatch {
		if err := sealBatch(ctx, s, key, tree, t, made, from); err != nil {
			return nil, err
		}
	}
	return key, s.Merge(ctx)
}

func sealBatch(ctx context.Context, s *store.Store, key *ledger.Key, tree *ledger.Tree, t *traffic, made []*event.Event, from uint64) error {
	batch := tree.Size() + 1
	events := make([]*event.Event, exportBatch)
	leaves := make([]ledger.Hash, exportBatch)
	for i := range events {
		ev := *made[(from+uint64(i))%uint64(len(made))]
		t.at = t.at.Add(5 * time.Millisecond)
		ev.EventID, ev.OccurredAt, ev.ReceivedAt, ev.EmitterID, ev.EmitterSeq = t.id(t.at), t.at.UnixMicro(), t.at.UnixMicro()+900, "bench", from+uint64(i)+1
		ev.LogID, ev.Batch, ev.Leaf, ev.ExpiresMonth = "bench", batch, uint32(i), 20819
		events[i], leaves[i] = &ev, ledger.Leaf(event.AppendRow(nil, &ev))
	}
	if err := s.Append(ctx, store.Batch{Events: events, Token: fmt.Sprint("export ", batch)}); err != nil {
		return err
	}
	entry := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: "bench", Batch: batch, SealedAt: t.at.UnixMicro(), Schema: event.Schema,
		Events: exportBatch, Root: ledger.Root(leaves), ExpiresMonth: 20819}
	nodes := tree.Append(entry.Leaf())
	signed, err := ledger.Checkpoint{LogID: "bench", Size: tree.Size(), Root: tree.Root()}.Sign(key)
	if err != nil {
		return err
	}
	return s.Seal(ctx, []store.Sealed{{Entry: entry, Nodes: nodes, Checkpoint: signed}})
}

// exportService serves exports of a store over gRPC in this process.
func exportService(s *store.Store, e Env, key *ledger.Key) (pb.ExportServiceClient, func(), error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	server := grpc.NewServer(append(readsAll(), grpc.WriteBufferSize(exportBuffer))...)
	pb.RegisterExportServiceServer(server, export.New(export.Config{Version: "bench", Sign: key.SignText, TokenKey: []byte("bench"), Now: e.Now}, s, e.Log))
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithReadBufferSize(exportBuffer))
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return pb.NewExportServiceClient(conn), func() { conn.Close(); server.Stop() }, nil
}
