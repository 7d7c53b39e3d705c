package kafka

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// The partition of a key is that of Kafka's Java client, so that other producers of
// an emitter's events would put them beside these. The hashes are those of
// UtilsTest.testMurmur2 in Kafka's source.
func TestPartitionsAreThoseOfTheJavaClient(t *testing.T) {
	numbers := make([]int, 1000)
	for i := range numbers {
		numbers[i] = i
	}
	for key, hash := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971} {
		want := int(uint32(hash)&0x7fffffff) % len(numbers)
		if got := (kafka.Murmur2Balancer{}).Balance(kafka.Message{Key: []byte(key)}, numbers...); got != want {
			t.Errorf("%q is in %d, want %d", key, got, want)
		}
	}
}

// faulty is a cluster that answers some produce requests with an error: fails says
// with which, given the number of the request and of its records.
func faulty(t *testing.T, fails func(request, records int64) *kerr.Error) *Transport {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "audit"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var requests atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(in kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := in.(*kmsg.ProduceRequest)
		var batch kmsg.RecordBatch
		part := req.Topics[0].Partitions[0]
		if err := batch.ReadFrom(part.Records); err != nil {
			t.Error(err)
			return nil, nil, false
		}
		e := fails(requests.Add(1), int64(batch.NumRecords))
		if e == nil {
			return nil, nil, false
		}
		out := kmsg.NewProduceResponseTopicPartition()
		out.Partition, out.ErrorCode = part.Partition, e.Code
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic, topic.Partitions = req.Topics[0].Topic, []kmsg.ProduceResponseTopicPartition{out}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		resp.Topics = []kmsg.ProduceResponseTopic{topic}
		return resp, nil, true
	})
	to, err := New(Config{Cluster: broker.Config{Brokers: c.ListenAddrs()}, Topic: "audit"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.Close)
	return to
}

func eventsOf(t *testing.T, n int) (events [][]byte) {
	t.Helper()
	for i := range n {
		b, err := proto.Marshal(&pb.Event{EmitterId: "files-1", EmitterSeq: uint64(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, b)
	}
	return events
}

// One message that brokers take for invalid fails its whole batch: the others come.
func TestAnInvalidEventIsFoundAmongOthers(t *testing.T) {
	singles := 0
	to := faulty(t, func(_, records int64) *kerr.Error {
		if records > 1 {
			return kerr.InvalidRecord
		}
		if singles++; singles == 5 {
			return kerr.InvalidRecord
		}
		return nil
	})
	a, err := to.Deliver(t.Context(), eventsOf(t, 8), nil)
	if err != nil || len(a.Refused) != 1 || a.Refused[0].Seq != 5 || !strings.Contains(a.Refused[0].Reason, "invalid") {
		t.Errorf("%v, %+v", err, a)
	}
}

// After an error of the brokers nothing counts as refused: all comes again.
func TestAnErrorRefusesNothing(t *testing.T) {
	to := faulty(t, func(request, records int64) *kerr.Error {
		switch {
		case records > 1:
			return kerr.MessageTooLarge
		case request <= 3:
			return kerr.MessageTooLarge
		}
		return kerr.NotEnoughReplicas
	})
	a, err := to.Deliver(t.Context(), eventsOf(t, 4), nil)
	if !errors.Is(err, kafka.NotEnoughReplicas) || len(a.Refused) != 0 {
		t.Errorf("%v, %+v", err, a)
	}
	if to.size() != leastBytes {
		t.Errorf("the next request may have %d bytes", to.size())
	}
}

// A leader that has moved costs one more request, not a pause and a message.
func TestAMovedLeaderIsFoundAtOnce(t *testing.T) {
	to := faulty(t, func(request, _ int64) *kerr.Error {
		if request == 2 {
			return kerr.NotLeaderForPartition
		}
		return nil
	})
	for range 3 {
		if _, err := to.Deliver(t.Context(), eventsOf(t, 1), nil); err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, x := range []struct {
		is   *kerr.Error
		want string
	}{
		{kerr.TopicAuthorizationFailed, "this client may not write to the topic \"audit\"; grant it the operations Write and Describe"},
		{kerr.ClusterAuthorizationFailed, "is refused by the cluster"},
		{kerr.UnknownTopicOrPartition, "there is no topic \"audit\"; create it"},
		{kerr.UnsupportedCompressionType, "too old"},
	} {
		to := faulty(t, func(int64, int64) *kerr.Error { return x.is })
		if _, err := to.Deliver(t.Context(), eventsOf(t, 1), nil); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v, want %q", err, x.want)
		}
	}
}

// Thousands of emitters that have nothing to say hold no connections.
func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, err := New(Config{Cluster: broker.Config{Brokers: []string{"127.0.0.1:1"}}, Topic: "audit"})
		if err != nil {
			t.Fatal(err)
		}
		if _, fresh, err := to.connected(); !fresh || err != nil {
			t.Fatal(fresh, err)
		}
		to.used()
		time.Sleep(idleAfter - time.Second)
		to.used()
		time.Sleep(idleAfter - time.Second)
		if _, fresh, _ := to.connected(); fresh {
			t.Error("connections ended that were in use")
		}
		time.Sleep(2 * time.Second)
		if _, fresh, _ := to.connected(); !fresh {
			t.Error("connections did not end")
		}
		to.Close()
	})
}

func TestABatchIsOfOneKeyAndNotTooLarge(t *testing.T) {
	of := func(key string, size int) message { return message{key: []byte(key), value: make([]byte, size)} }
	for _, x := range []struct {
		messages []message
		want     int
	}{
		{[]message{of("a", 10), of("a", 10), of("b", 1)}, 2},
		{[]message{of("a", 90), of("a", 10), of("a", 1)}, 2},
		{[]message{of("a", 500), of("a", 1)}, 1},
		{[]message{of("a", 1)}, 1},
	} {
		if n := first(x.messages, 100); n != x.want {
			t.Errorf("%d messages, want %d", n, x.want)
		}
	}
}

// FuzzIdentify has bytes that are no event read: without a panic, and with what the
// decoder of protobuf finds in them.
func FuzzIdentify(f *testing.F) {
	b, err := proto.Marshal(&pb.Event{EventId: "x", EmitterId: "files-1", EmitterSeq: 300, Target: "read"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x1a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := message{value: b}
		ok := m.identify()
		var e pb.Event
		if proto.Unmarshal(b, &e) == nil && !ok {
			t.Errorf("%x is an event", b)
		}
	})
}
