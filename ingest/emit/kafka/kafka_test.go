package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/emit/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

// ownName is a topic's name that no earlier test has used.
func ownName(begin string) string { return fmt.Sprintf("%s-%x", begin, rand.Uint64()) }

// transport to a topic of a cluster.
func transport(t testing.TB, c *kafkatest.Cluster, topic string, change ...func(*kafka.Config)) *kafka.Transport {
	t.Helper()
	cfg := kafka.Config{Cluster: c.Config(), Topic: topic}
	for _, f := range change {
		f(&cfg)
	}
	to, err := kafka.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// said is what an emitter logged.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

func open(t testing.TB, to emit.Transport, spool string) (*emit.Emitter, *said) {
	t.Helper()
	r, err := redact.New(redact.DefaultProfile(), []byte("a key for tests alone, 32 bytes."))
	if err != nil {
		t.Fatal(err)
	}
	log := &said{}
	e, err := emit.Open(emit.Config{Transport: to, Name: "files", Spool: spool, Linger: time.Millisecond}, r, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return e, log
}

func call(arguments string) emit.Record {
	return emit.Record{
		Event: &event.Event{OccurredAt: time.Now().UnixMicro(), Tenant: "t", Principal: "p", PrincipalKind: "agent",
			Server: "files", Kind: "tool_call", Method: "tools/call", Target: "read", Outcome: "success"},
		Arguments: []byte(arguments),
	}
}

func emitAll(t testing.TB, e *emit.Emitter, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := e.Send(t.Context(), call(fmt.Sprintf(`{"n":%d}`, n))); err != nil {
			t.Fatal(err)
		}
	}
}

// mustClose closes an emitter once n of its spool's events are delivered. Closing
// alone does not wait for a new topic's partitions to have leaders.
func mustClose(t testing.TB, e *emit.Emitter, n int) {
	t.Helper()
	rpctest.Eventually(t, "all are delivered", func() bool { return e.Stats().Acknowledged >= uint64(n) })
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// leave closes an emitter that delivers nothing more.
func leave(t testing.TB, e *emit.Emitter) {
	t.Helper()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Close(gone); err == nil {
		t.Error("closing says that all is delivered")
	}
}

// sequences are the numbers that a topic has of each emitter in the order of their
// first message, and how many messages there are. All of an emitter's are in one
// partition.
func sequences(t testing.TB, c *kafkatest.Cluster, topic string) (of map[string][]uint64, messages int) {
	t.Helper()
	of = map[string][]uint64{}
	known, at := map[string]bool{}, map[string]int{}
	for _, m := range c.ReadAll(topic) {
		var e pb.Event
		if err := proto.Unmarshal(m.Value, &e); err != nil {
			t.Fatal(err)
		}
		id := e.GetEmitterId()
		if h := m.Headers; string(m.Key) != id || len(h) != 1 || h[0].Key != "content-type" || string(h[0].Value) != "application/protobuf" {
			t.Fatalf("message %d of %q has key %q and headers %v", m.Offset, id, m.Key, h)
		}
		if p, ok := at[id]; ok && p != m.Partition {
			t.Errorf("events of %q are in the partitions %d and %d", id, p, m.Partition)
		}
		at[id] = m.Partition
		messages++
		if one := fmt.Sprint(id, e.GetEmitterSeq()); !known[one] {
			known[one] = true
			of[id] = append(of[id], e.GetEmitterSeq())
		}
	}
	return of, messages
}

// wantDense fails the test unless the topic has all numbers of an emitter up to n, in
// order.
func wantDense(t testing.TB, c *kafkatest.Cluster, topic, id string, n int) {
	t.Helper()
	of, _ := sequences(t, c, topic)
	seqs := of[id]
	if len(seqs) != n || !slices.IsSorted(seqs) || n > 0 && (seqs[0] != 1 || seqs[n-1] != uint64(n)) {
		t.Errorf("the topic has %d events of %q, want 1 to %d: %.200s", len(seqs), id, n, fmt.Sprint(seqs))
	}
}

func TestEventsOfAnEmitterAreInOnePartitionInOrder(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	topic := c.NewTopic(6)
	spool := t.TempDir()
	var all []*emit.Emitter
	for range 4 { // processes of one name: each has an id of its own
		e, _ := open(t, transport(t, c, topic), spool)
		all = append(all, e)
	}
	for i, e := range all {
		emitAll(t, e, 0, 3000*(i+1)/4)
	}
	for i, e := range all {
		mustClose(t, e, 3000*(i+1)/4)
		if st := e.Stats(); st.Acknowledged != uint64(3000*(i+1)/4) || st.Pending != 0 || st.Rejected+st.Lost != 0 {
			t.Errorf("%+v", st)
		}
		wantDense(t, c, topic, e.ID(), 3000*(i+1)/4)
	}
}

// Promise 8: the brokers are away, and emitting goes on.
func TestPromise8TheBrokersMayBeAway(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	c.NeedReal("stop a broker")
	topic := c.NewTopic(2)
	e, log := open(t, transport(t, c, topic), t.TempDir())
	emitAll(t, e, 0, 100)
	rpctest.Eventually(t, "some are delivered", func() bool { return e.Stats().Acknowledged == 100 })
	c.Kill(0)
	emitAll(t, e, 100, 500)
	rpctest.Eventually(t, "it is said", func() bool { return log.has("does not take events") })
	if st := e.Stats(); st.Acknowledged != 100 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	c.Restart(0)
	rpctest.Eventually(t, "all are delivered, and it is said", func() bool { return e.Stats().Acknowledged == 500 && log.has("takes events again") })
	mustClose(t, e, 500)
	wantDense(t, c, topic, e.ID(), 500)
}

// A broker that leads the partition dies under load, and another takes over: what
// was acknowledged is there, and all that was emitted comes.
func TestPromise1ABrokerDiesUnderLoad(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	c.NeedReal("kill a broker")
	topic := c.NewTopic(1)
	e, _ := open(t, transport(t, c, topic), t.TempDir())
	const events = 20_000
	emitted := make(chan struct{})
	go func() {
		defer close(emitted)
		for n := range events {
			if err := e.Send(context.Background(), call(fmt.Sprintf(`{"n":%d}`, n))); err != nil {
				t.Error(err)
			}
			if n%100 == 0 {
				time.Sleep(time.Millisecond) // so that there is load on either side of the fault
			}
		}
	}()
	rpctest.Eventually(t, "some are delivered", func() bool { return e.Stats().Acknowledged > 1000 })
	leader := c.Leader(topic, 0)
	c.Kill(leader)
	acknowledged := e.Stats().Acknowledged
	rpctest.Eventually(t, "it goes on with another broker", func() bool { return e.Stats().Acknowledged > acknowledged+1000 })
	c.Restart(leader)
	c.MoveLeader(topic, 0)
	<-emitted
	mustClose(t, e, events)
	if st := e.Stats(); st.Acknowledged != events || st.Rejected+st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	wantDense(t, c, topic, e.ID(), events)
}

// A broker that hangs does not hang the emitter.
func TestAFrozenBrokerIsGivenUp(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	c.NeedReal("freeze a broker")
	topic := c.NewTopic(1)
	to := transport(t, c, topic)
	defer to.Close()
	events := [][]byte{encoded(t, "files-1", 1, "read")}
	rpctest.Eventually(t, "the new topic takes events", func() bool {
		_, err := to.Deliver(t.Context(), events, nil)
		return err == nil
	})
	c.Freeze(0)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := to.Deliver(ctx, events, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen broker answers with %v", err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	c.Thaw(0)
	if _, err := to.Deliver(t.Context(), events, nil); err != nil {
		t.Error(err)
	}
}

func encoded(t testing.TB, id string, seq uint64, target string) []byte {
	t.Helper()
	b, err := proto.Marshal(&pb.Event{EmitterId: id, EmitterSeq: seq, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// forgetful loses the answers to some deliveries.
type forgetful struct {
	emit.Transport
	deliveries atomic.Int64
}

func (f *forgetful) Deliver(ctx context.Context, events [][]byte, known *pb.KnownCheckpoint) (emit.Answer, error) {
	a, err := f.Transport.Deliver(ctx, events, known)
	if err == nil && f.deliveries.Add(1) <= 3 {
		return emit.Answer{}, errors.New("the answer was lost")
	}
	return a, err
}

// Promise 2: what is sent again is the same event again, with the same number.
func TestPromise2ALostAnswerGivesNoNumberTwice(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	topic := c.NewTopic(3)
	e, _ := open(t, &forgetful{Transport: transport(t, c, topic)}, t.TempDir())
	emitAll(t, e, 0, 300)
	rpctest.Eventually(t, "all are delivered", func() bool { return e.Stats().Acknowledged == 300 })
	mustClose(t, e, 300)
	wantDense(t, c, topic, e.ID(), 300)
	if _, messages := sequences(t, c, topic); messages <= 300 {
		t.Errorf("%d messages: nothing was sent twice", messages)
	}
}

// noise is JSON of about so many bytes that hardly compresses.
func noise(n int) string {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	var b strings.Builder
	b.WriteString(`{"n":[0`)
	for b.Len() < n {
		fmt.Fprintf(&b, ",%v", r.Float32())
	}
	return b.String() + "]}"
}

// What the topic does not take for its size is named and left behind; a batch that is
// too large comes in parts.
func TestAnEventThatIsTooLargeHoldsUpNothing(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	topic := ownName("small-messages")
	c.CreateTopic(topic, 1, 1, map[string]string{"max.message.bytes": "4000"})
	spool := t.TempDir()
	e, _ := open(t, nowhere(t, topic), spool)
	for n := range 300 {
		arguments := fmt.Sprintf(`{"n":%d}`, n)
		if n == 100 || n == 250 {
			arguments = noise(14_000 + n)
		}
		if err := e.Send(t.Context(), call(arguments)); err != nil {
			t.Fatal(err)
		}
	}
	rpctest.Eventually(t, "all are in the spool", func() bool { return e.Stats().Pending == 300 })
	id := e.ID()
	leave(t, e)
	e, log := open(t, transport(t, c, topic), spool)
	mustClose(t, e, 300)
	if st := e.Stats(); e.ID() != id || st.Acknowledged != 300 || st.Rejected != 2 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	of, messages := sequences(t, c, topic)
	if got := of[id]; len(got) != 298 || messages != 298 || slices.Contains(got, 101) || slices.Contains(got, 251) || !slices.IsSorted(got) {
		t.Errorf("%d messages, events %v", messages, got)
	}
	for _, want := range []string{"emitter_seq=101", "emitter_seq=251", "raise the topic's max.message.bytes"} {
		if !log.has(want) {
			t.Errorf("the log does not say %q:\n%s", want, &log.text)
		}
	}
}

// nowhere is a transport to brokers that are away.
func nowhere(t testing.TB, topic string) *kafka.Transport {
	t.Helper()
	to, err := kafka.Open("kafka://127.0.0.1:1/"+topic, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// A machine whose clock is off says so in its events, and these come all the same.
func TestAClockThatIsOffLosesNothing(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	c.NeedReal("check times")
	topic := ownName("checked-times")
	c.CreateTopic(topic, 1, 1, map[string]string{"message.timestamp.after.max.ms": "60000"})
	to := transport(t, c, topic, func(cfg *kafka.Config) { cfg.Now = func() time.Time { return time.Now().Add(24 * time.Hour) } })
	e, _ := open(t, to, t.TempDir())
	emitAll(t, e, 0, 100)
	mustClose(t, e, 100)
	wantDense(t, c, topic, e.ID(), 100)
	for _, m := range c.ReadAll(topic) {
		if m.Time.After(time.Now()) {
			t.Fatalf("a message is of %v", m.Time)
		}
	}
}

// Without a topic events wait, the log says what to do, and once it is done they come.
func TestATopicThatIsMissingIsWaitedFor(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	topic := ownName("made-later")
	e, log := open(t, transport(t, c, topic), t.TempDir())
	emitAll(t, e, 0, 50)
	rpctest.Eventually(t, "it is said", func() bool { return log.has(`there is no topic \"`+topic) && log.has("kafka-topics.sh --create") })
	if st := e.Stats(); st.Pending != 50 || st.Rejected != 0 {
		t.Errorf("%+v", st)
	}
	c.CreateTopic(topic, 2, 1, nil)
	mustClose(t, e, 50)
	wantDense(t, c, topic, e.ID(), 50)
	c.DeleteTopic(topic)
	e, _ = open(t, transport(t, c, topic), t.TempDir())
	c.CreateTopic(topic, 5, 1, nil) // another, with more partitions
	emitAll(t, e, 0, 50)
	mustClose(t, e, 50)
	wantDense(t, c, topic, e.ID(), 50)
}

func TestAPlaceThatIsNoneIsRefused(t *testing.T) {
	word := filepath.Join(t.TempDir(), "word")
	if err := os.WriteFile(word, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const scram = "kafkas://a:9093,b:9093/audit?mechanism=SCRAM-SHA-512&user=files"
	for _, x := range []struct {
		url  string
		env  map[string]string
		want string // of the error; empty for none
	}{
		{url: "127.0.0.1:4777", want: "does not begin with kafka://"},
		{url: "kafka://a:9092", want: "no topic"},
		{url: "kafka://a/audit", want: "not HOST:PORT"},
		{url: "kafka://files:secret@a:9092/audit", want: "don't belong into the URL"},
		{url: "kafka://a:9092/audit"},
		{url: scram, want: "SASL needs a password: set MCPAUDIT_KAFKA_PASSWORD, or MCPAUDIT_KAFKA_PASSWORD_FILE"},
		{url: scram, env: map[string]string{broker.PasswordVariable: "secret"}},
		{url: scram, env: map[string]string{broker.PasswordFileVariable: word}},
		{url: scram, env: map[string]string{broker.PasswordFileVariable: empty}, want: "is empty"},
		{url: scram, env: map[string]string{broker.PasswordFileVariable: word + "s"}, want: "no such file"},
	} {
		to, err := kafka.Open(x.url, func(name string) string { return x.env[name] })
		switch {
		case x.want == "" && err != nil, x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s with %v: %v, want %q", x.url, x.env, err, x.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("a secret is in %v", err)
		case err == nil && strings.Contains(to.String()+fmt.Sprint(to), "secret"):
			t.Errorf("a secret is in %v", to)
		}
	}
	if _, err := kafka.New(kafka.Config{}); err == nil {
		t.Error("a topic without a name is taken")
	}
}

// Files of TLS may come and be renewed later; until then events wait.
func TestCertificatesAreReadWhenConnecting(t *testing.T) {
	to, err := kafka.Open("kafkas://127.0.0.1:1/audit?ca="+filepath.Join(t.TempDir(), "ca.pem"), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Deliver(t.Context(), [][]byte{encoded(t, "files-1", 1, "read")}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Bytes that are no event are refused and hold up nothing.
func TestWhatIsNoEventIsRefused(t *testing.T) {
	c := kafkatest.Shared(t, 1)
	topic := c.NewTopic(1)
	to := transport(t, c, topic)
	defer to.Close()
	var a emit.Answer
	rpctest.Eventually(t, "the new topic takes events", func() (done bool) {
		var err error
		a, err = to.Deliver(t.Context(), [][]byte{encoded(t, "a", 1, "x"), []byte("junk"), encoded(t, "", 2, "x"), encoded(t, "b", 1, "x"), encoded(t, "a", 3, "x")}, nil)
		return err == nil
	})
	if len(a.Refused) != 2 || a.Refused[1].Seq != 2 {
		t.Errorf("%+v", a)
	}
	if of, n := sequences(t, c, topic); n != 3 || !slices.Equal(of["a"], []uint64{1, 3}) || !slices.Equal(of["b"], []uint64{1}) {
		t.Errorf("%d messages: %v", n, of)
	}
}

// BenchmarkEmitter is an emitter with a full spool, and brokers on the same machine.
func BenchmarkEmitter(b *testing.B) {
	c := kafkatest.Shared(b, 1)
	topic := c.NewTopic(6)
	spool := b.TempDir()
	arguments := noise(300)
	e, _ := open(b, nowhere(b, topic), spool)
	for range b.N {
		if err := e.Send(b.Context(), call(arguments)); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	leave(b, e)
	b.ResetTimer()
	e, _ = open(b, transport(b, c, topic), spool)
	mustClose(b, e, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
