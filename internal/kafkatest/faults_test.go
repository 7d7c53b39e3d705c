package kafkatest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

func count(t *testing.T, c *Cluster, topic string, want int) {
	t.Helper()
	if got := len(c.ReadAll(topic)); got != want {
		t.Errorf("%d messages, not %d", got, want)
	}
}

func TestAKilledBrokerComesBackWithItsData(t *testing.T) {
	c := Shared(t, 3)
	c.NeedReal("kill a broker")
	topic := c.NewTopic(1)
	c.Produce(topic, 0, numbered(100)...)
	dead := c.Leader(topic, 0)
	c.Kill(dead)
	if c.Leader(topic, 0) == dead {
		t.Error("a broker that is dead leads a partition")
	}
	c.Produce(topic, 0, numbered(100)...)
	count(t, c, topic, 200)
	c.Restart(dead)
	partition := c.partition(topic, 0)
	if len(partition.Isr) != 3 {
		t.Errorf("in sync are %v", partition.Isr)
	}
	c.Produce(topic, 0, numbered(100)...)
	count(t, c, topic, 300)
}

func TestABrokerStopsInOrder(t *testing.T) {
	c := Shared(t, 3)
	c.NeedReal("stop a broker")
	topic := c.NewTopic(3)
	c.Produce(topic, -1, numbered(99)...)
	c.Stop(2)
	for p := range 3 {
		if c.Leader(topic, p) == 2 {
			t.Errorf("a broker that stopped leads partition %d", p)
		}
	}
	c.Restart(2)
	count(t, c, topic, 99)
}

func TestAFrozenBrokerLosesItsPartitionsAndThaws(t *testing.T) {
	c := Shared(t, 3)
	c.NeedReal("freeze a broker")
	topic := c.NewTopic(1)
	frozen := c.Leader(topic, 0)
	c.Freeze(frozen)
	if c.Leader(topic, 0) == frozen {
		t.Error("a broker that is frozen leads a partition")
	}
	c.Produce(topic, 0, numbered(10)...)
	c.Thaw(frozen)
	count(t, c, topic, 10)
}

func TestWhatATestLeftDeadIsBroughtBack(t *testing.T) {
	c := Shared(t, 3)
	c.NeedReal("kill a broker")
	c.Kill(1)
	again := Shared(t, 3)
	if !again.brokers[1].alive() || len(again.running()) != 3 {
		t.Error("a broker is dead still")
	}
}

func TestALeaderMoves(t *testing.T) {
	c := Shared(t, 3)
	for _, replicas := range []int{3, 1} {
		topic := fmt.Sprintf("moves-%d-%d", replicas, time.Now().UnixNano())
		c.CreateTopic(topic, 2, replicas, map[string]string{"min.insync.replicas": "1"})
		c.Produce(topic, 1, numbered(100)...)
		from := c.Leader(topic, 1)
		to := c.MoveLeader(topic, 1)
		if now := c.Leader(topic, 1); now != to || now == from {
			t.Errorf("of %d replicas: from %d to %d, now %d", replicas, from, to, now)
		}
		c.Produce(topic, 1, numbered(100)...)
		count(t, c, topic, 200)
	}
}

func TestATopicIsDeletedAndMadeAgain(t *testing.T) {
	c := Shared(t, 3)
	topic := c.NewTopic(3)
	c.Produce(topic, -1, numbered(50)...)
	c.DeleteTopic(topic)
	c.CreateTopic(topic, 2, 3, nil)
	count(t, c, topic, 0)
	c.Produce(topic, -1, numbered(20)...)
	count(t, c, topic, 20)
	if first, end := c.Offsets(topic, 1); first != 0 || end == 0 || end > 20 {
		t.Errorf("offsets from %d to %d", first, end)
	}
}

func TestLargeMessagesAreReadWhole(t *testing.T) {
	c := Shared(t, 3)
	topic := c.NewTopic(1)
	large := strings.Repeat("0123456789", 90_000)
	for range 12 {
		c.Produce(topic, 0, kafka.Message{Value: []byte(large)})
	}
	all := c.ReadAll(topic)
	if len(all) != 12 || slices.ContainsFunc(all, func(m kafka.Message) bool { return string(m.Value) != large }) {
		t.Errorf("%d messages", len(all))
	}
}

// The brokers of a test process that is killed are gone with it.
func TestBrokersDieWithTheirTest(t *testing.T) {
	if file := os.Getenv("KAFKATEST_CHILD"); file != "" {
		c := Start(t, 1)
		os.WriteFile(file+".new", []byte(strconv.Itoa(c.brokers[0].cmd.Process.Pid)), 0o600)
		os.Rename(file+".new", file)
		select {}
	}
	if _, err := installed(); err != nil {
		t.Skip("kfake has no processes")
	}
	file := filepath.Join(t.TempDir(), "pid")
	child := exec.Command(os.Args[0], "-test.run=^TestBrokersDieWithTheirTest$")
	child.Env = append(os.Environ(), "KAFKATEST_CHILD="+file, "TMPDIR="+t.TempDir())
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for began := time.Now(); pid == 0; time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil {
			pid, _ = strconv.Atoi(string(text))
		}
		if time.Since(began) > patience {
			t.Fatal("the child's broker did not start")
		}
	}
	child.Process.Kill()
	child.Wait()
	for began := time.Now(); syscall.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(text), ") Z ") {
			break // dead, and not yet collected by whoever adopts it here
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("the broker lives on")
		}
	}
}
