package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
)

// Kill ends a broker with SIGKILL and waits until the process is gone. The others
// take its partitions over after about three seconds. Of three brokers one may be
// away: with two, the cluster has lost the majority of its controllers.
func (c *Cluster) Kill(i int) {
	c.t.Helper()
	c.NeedReal("kill a broker")
	c.brokers[i].kill()
	c.forget()
}

// Stop ends a broker in order: it hands its partitions over first.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	c.NeedReal("stop a broker")
	if err := c.brokers[i].stop(); err != nil {
		c.t.Fatal(err)
	}
	c.forget()
}

// Restart starts a broker again on its data and port, after Kill or Stop, and waits
// until all running brokers answer and no replica on them is behind.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	c.NeedReal("restart a broker")
	if err := c.brokers[i].start(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.waitForAll(); err != nil {
		c.t.Fatal(err)
	}
	c.forget()
}

// Freeze stops a broker's process where it is (SIGSTOP): its connections stay open
// and nothing answers, as behind a broken network.
func (c *Cluster) Freeze(i int) {
	c.t.Helper()
	c.NeedReal("freeze a broker")
	if err := c.brokers[i].signal(syscall.SIGSTOP, true); err != nil {
		c.t.Fatal(err)
	}
	c.forget()
}

// Thaw lets a frozen broker run on (SIGCONT) and waits as Restart does.
func (c *Cluster) Thaw(i int) {
	c.t.Helper()
	c.NeedReal("freeze a broker")
	if err := c.brokers[i].signal(syscall.SIGCONT, false); err != nil {
		c.t.Fatal(err)
	}
	if err := c.waitForAll(); err != nil {
		c.t.Fatal(err)
	}
	c.forget()
}

// forget lets go of connections, of which some lead to a broker that is gone.
func (c *cluster) forget() { c.client.Transport.(*kafka.Transport).CloseIdleConnections() }

// heal brings back what an earlier test killed or froze.
func (c *Cluster) heal() {
	c.t.Helper()
	whole := true
	for i, b := range c.brokers {
		if b.alive() {
			continue
		}
		whole = false
		if b.isFrozen() {
			c.Thaw(i)
		} else if err := b.start(); err != nil {
			c.t.Fatal(err)
		}
	}
	if whole {
		return
	}
	if err := c.waitForAll(); err != nil {
		c.t.Fatal(err)
	}
	c.forget()
}

func (b *process) stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.running() {
		return nil
	}
	b.ordered = true
	b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.ended:
		return nil
	case <-time.After(stopTime):
		_ = b.cmd.Process.Kill() // it may have ended
		<-b.ended
		return fmt.Errorf("stop broker %d: it still ran after %v, and was killed; %s", b.node, stopTime, b.lastWords())
	}
}

func (b *process) signal(s syscall.Signal, freeze bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.running() {
		return fmt.Errorf("send %v to broker %d: it does not run", s, b.node)
	}
	b.frozen = freeze
	if err := b.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %v to broker %d: %w", s, b.node, err)
	}
	return nil
}

func (b *process) isFrozen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running() && b.frozen
}

// waitForAll waits until every broker that runs answers and knows all the others that
// run, and all their replicas are in sync.
func (c *cluster) waitForAll() error {
	return await(func(ctx context.Context) error {
		var live []*process
		for _, b := range c.brokers {
			if b.alive() {
				live = append(live, b)
			} else if !b.isFrozen() && b.failed() {
				return fmt.Errorf("start broker %d: %w; %s", b.node, errEnded, b.lastWords())
			}
		}
		for _, b := range live {
			if err := b.whole(ctx, live); err != nil {
				return fmt.Errorf("wait for broker %d: %w; %s", b.node, err, b.lastWords())
			}
		}
		return nil
	})
}

// whole says what a broker lacks until it knows that all of live are there and in sync.
func (b *process) whole(ctx context.Context, live []*process) error {
	partitions, brokers, err := b.metadata(ctx)
	if err != nil {
		return err
	}
	if len(brokers) != len(live) {
		return fmt.Errorf("it knows %d brokers of %d", len(brokers), len(live))
	}
	known := map[int]bool{}
	for _, other := range brokers {
		known[other.ID] = true
	}
	for _, p := range partitions {
		in := map[int]bool{}
		for _, r := range p.Isr {
			in[r.ID] = true
		}
		for _, r := range p.Replicas {
			if known[r.ID] && !in[r.ID] {
				return fmt.Errorf("broker %d's replica of %s/%d is not in sync", r.ID, p.Topic, p.ID)
			}
		}
	}
	return nil
}

// waitForGroups waits until groups can be used: their topic is made when the first one
// asks for its coordinator, and that takes as long as the start of a broker. Java's
// hashes of these names fall into different partitions of that topic.
func (c *cluster) waitForGroups() error {
	return await(func(ctx context.Context) error {
		for _, name := range []string{"a", "b", "c", "d"} {
			answer, err := c.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: name, Topics: map[string][]int{"none": {0}}})
			if err == nil {
				err = answer.Error
			}
			if err != nil {
				return fmt.Errorf("wait for the coordinator of groups: %w", err)
			}
		}
		return nil
	})
}

// metadata asks this one broker, for all topics or those named.
func (b *process) metadata(ctx context.Context, topics ...string) ([]kafka.Partition, []kafka.Broker, error) {
	return metadata(ctx, b.address(plain), topics...)
}

func metadata(ctx context.Context, address string, topics ...string) ([]kafka.Partition, []kafka.Broker, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	conn := kafka.NewConn(raw, "", 0)
	defer func() { _ = conn.Close() }() // all answers were read
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, nil, err
	}
	brokers, err := conn.Brokers()
	if err != nil {
		return nil, nil, err
	}
	partitions, err := conn.ReadPartitions(topics...)
	if err != nil {
		return nil, nil, err
	}
	var problems []error
	for _, p := range partitions {
		if p.Error != nil {
			problems = append(problems, fmt.Errorf("%s/%d: %w", p.Topic, p.ID, p.Error))
		}
	}
	return partitions, brokers, errors.Join(problems...)
}
