package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

// CreateTopic makes a topic and waits until every running broker knows it and each of
// its partitions has a leader. configs may be nil.
func (c *Cluster) CreateTopic(name string, partitions, replication int, configs map[string]string) {
	c.t.Helper()
	topic := kafka.TopicConfig{Topic: name, NumPartitions: partitions, ReplicationFactor: replication}
	for key, value := range configs {
		topic.ConfigEntries = append(topic.ConfigEntries, kafka.ConfigEntry{ConfigName: key, ConfigValue: value})
	}
	err := await(func(ctx context.Context) error {
		answer, err := c.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}})
		if err != nil {
			return err
		}
		if err := answer.Errors[name]; err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			return err
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("create topic %q: %v", name, err)
	}
	err = c.everywhere(name, func(found []kafka.Partition) error {
		if len(found) != partitions {
			return fmt.Errorf("%d of %d partitions", len(found), partitions)
		}
		for _, p := range found {
			// A partition without a leader has none, or one with no address.
			if p.Leader.Host == "" || len(p.Isr) < len(p.Replicas) {
				return fmt.Errorf("partition %d has the leader %d, and %d of %d replicas in sync", p.ID, p.Leader.ID, len(p.Isr), len(p.Replicas))
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("wait for topic %q: %v", name, err)
	}
}

// NewTopic makes a topic with a name of its own, replicated three times or as often
// as there are brokers, and returns its name.
func (c *Cluster) NewTopic(partitions int) string {
	c.t.Helper()
	c.mu.Lock()
	c.topics++
	n := c.topics
	c.mu.Unlock()
	name := fmt.Sprintf("%.80s-%d", regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(c.t.Name(), "-"), n)
	c.CreateTopic(name, partitions, min(3, c.size()), nil)
	return name
}

// DeleteTopic deletes a topic and waits until no running broker knows it.
func (c *Cluster) DeleteTopic(name string) {
	c.t.Helper()
	err := await(func(ctx context.Context) error {
		answer, err := c.client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{name}})
		if err != nil {
			return err
		}
		if err := answer.Errors[name]; !errors.Is(err, kafka.UnknownTopicOrPartition) {
			return err
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("delete topic %q: %v", name, err)
	}
	err = await(func(ctx context.Context) error {
		for _, address := range c.running() {
			_, _, err := metadata(ctx, address, name)
			if !errors.Is(err, kafka.UnknownTopicOrPartition) {
				return errors.Join(fmt.Errorf("%s knows it still", address), err)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("wait until topic %q is gone: %v", name, err)
	}
	c.forget()
}

// running are the addresses of the brokers that can answer.
func (c *cluster) running() []string {
	if c.fake != nil {
		return c.addresses()
	}
	var out []string
	for _, b := range c.brokers {
		if b.alive() {
			out = append(out, b.address(plain))
		}
	}
	return out
}

// everywhere waits until what each running broker knows of a topic is right.
func (c *cluster) everywhere(topic string, right func([]kafka.Partition) error) error {
	return await(func(ctx context.Context) error {
		for _, address := range c.running() {
			found, _, err := metadata(ctx, address, topic)
			if err == nil {
				err = right(found)
			}
			if err != nil {
				return fmt.Errorf("ask %s: %w", address, err)
			}
		}
		return nil
	})
}

// Leader is the broker that leads a partition, once all running ones agree on one
// that runs.
func (c *Cluster) Leader(topic string, partition int) int {
	c.t.Helper()
	return c.partition(topic, partition).Leader.ID
}

// partition is what all running brokers agree on.
func (c *Cluster) partition(topic string, number int) kafka.Partition {
	c.t.Helper()
	var agreed kafka.Partition
	var leaders []int
	err := await(func(ctx context.Context) error {
		leaders = leaders[:0]
		return c.eachView(ctx, topic, number, func(p kafka.Partition) error {
			if p.Leader.Host == "" || c.fake == nil && !c.brokers[p.Leader.ID].alive() {
				return fmt.Errorf("broker %d leads it, and does not run", p.Leader.ID)
			}
			if leaders = append(leaders, p.Leader.ID); leaders[0] != p.Leader.ID {
				return fmt.Errorf("brokers disagree on its leader: %d, %d", leaders[0], p.Leader.ID)
			}
			agreed = p
			return nil
		})
	})
	if err != nil {
		c.t.Fatalf("find the leader of %s/%d: %v", topic, number, err)
	}
	return agreed
}

// eachView shows what each running broker knows of one partition.
func (c *cluster) eachView(ctx context.Context, topic string, number int, see func(kafka.Partition) error) error {
	for _, address := range c.running() {
		found, _, err := metadata(ctx, address, topic)
		if err != nil {
			return fmt.Errorf("ask %s: %w", address, err)
		}
		i := slices.IndexFunc(found, func(p kafka.Partition) bool { return p.ID == number })
		if i < 0 {
			return fmt.Errorf("%s knows %d partitions, and not this one", address, len(found))
		}
		if err := see(found[i]); err != nil {
			return err
		}
	}
	return nil
}

// MoveLeader gives a partition to another broker that has it in sync, or that has no
// copy of it yet when there is only one, waits until all brokers know, and returns
// that broker.
func (c *Cluster) MoveLeader(topic string, partition int) int {
	c.t.Helper()
	p := c.partition(topic, partition)
	from, to := p.Leader.ID, -1
	if c.fake != nil {
		to = (from + 1) % c.size()
		if err := c.fake.MoveTopicPartition(topic, int32(partition), int32(to)); err != nil {
			c.t.Fatalf("move %s/%d to broker %d: %v", topic, partition, to, err)
		}
		c.forget()
		return to
	}
	replicas := []int{}
	for _, r := range p.Isr {
		if r.ID != from && c.brokers[r.ID].alive() && to < 0 {
			to = r.ID
		}
	}
	if to >= 0 { // the new leader first, the others as they were
		replicas = append(replicas, to)
		for _, r := range p.Replicas {
			if r.ID != to {
				replicas = append(replicas, r.ID)
			}
		}
	} else if len(p.Replicas) == 1 {
		for i, b := range c.brokers {
			if i != from && b.alive() {
				to, replicas = i, []int{i}
			}
		}
	}
	if to < 0 {
		c.t.Fatalf("move %s/%d: no broker but its leader has it in sync", topic, partition)
	}
	if err := c.reassign(topic, partition, to, replicas); err != nil {
		c.t.Fatalf("move %s/%d to broker %d: %v", topic, partition, to, err)
	}
	c.forget()
	return to
}

// reassign gives a partition its replicas, the first of which then leads.
func (c *cluster) reassign(topic string, partition, to int, replicas []int) error {
	return await(func(ctx context.Context) error {
		answer, err := c.client.AlterPartitionReassignments(ctx, &kafka.AlterPartitionReassignmentsRequest{Topic: topic, Timeout: 10 * time.Second,
			Assignments: []kafka.AlterPartitionReassignmentsRequestAssignment{{Topic: topic, PartitionID: partition, BrokerIDs: replicas}}})
		if err != nil {
			return err
		}
		for _, r := range answer.PartitionResults {
			if answer.Error == nil {
				answer.Error = r.Error
			}
		}
		if answer.Error != nil {
			return answer.Error
		}
		elected, err := c.client.ElectLeaders(ctx, &kafka.ElectLeadersRequest{Topic: topic, Partitions: []int{partition}, Timeout: 10 * time.Second})
		if err != nil {
			return err
		}
		// An election that is not needed is an error too: who leads is what counts.
		leads := func(p kafka.Partition) error {
			if p.Leader.ID != to || len(p.Replicas) != len(replicas) {
				return errors.Join(fmt.Errorf("broker %d leads it still", p.Leader.ID), elected.Error)
			}
			return nil
		}
		return c.eachView(ctx, topic, partition, leads)
	})
}
