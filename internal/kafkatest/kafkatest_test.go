package kafkatest

import (
	"fmt"
	"os"
	"testing"

	"github.com/segmentio/kafka-go"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func numbered(n int) []kafka.Message {
	out := make([]kafka.Message, n)
	for i := range out {
		out[i] = kafka.Message{Key: fmt.Append(nil, "key ", i%7), Value: fmt.Append(nil, "message ", i),
			Headers: []kafka.Header{{Key: "n", Value: fmt.Append(nil, i)}}}
	}
	return out
}

func TestWhatIsProducedIsRead(t *testing.T) {
	c := Shared(t, 3)
	topic := c.NewTopic(4)
	c.Produce(topic, -1, numbered(5000)...)
	c.Produce(topic, 2, kafka.Message{Value: []byte("to two")})
	seen := map[string]int{}
	for _, m := range c.ReadAll(topic) {
		seen[string(m.Value)]++
		if string(m.Value) == "to two" && m.Partition != 2 {
			t.Errorf("it is in partition %d", m.Partition)
		}
	}
	if len(seen) != 5001 {
		t.Errorf("%d messages", len(seen))
	}
	for v, n := range seen {
		if n != 1 {
			t.Errorf("%q is there %d times", v, n)
		}
	}
}

func TestOffsetsAreCommittedForAGroup(t *testing.T) {
	c := Shared(t, 3)
	topic := c.NewTopic(3)
	if got := c.Committed("readers", topic); len(got) != 0 {
		t.Errorf("a new group has committed %v", got)
	}
	c.SetCommitted("readers", topic, 1, 17)
	if got := c.Committed("readers", topic); len(got) != 1 || got[1] != 17 {
		t.Errorf("committed %v", got)
	}
}
