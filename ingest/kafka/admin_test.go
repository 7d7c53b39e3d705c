package kafka_test

import (
	"testing"

	client "github.com/segmentio/kafka-go"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/mcpaudit/mcpaudit/ingest/kafka"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

// What kafka-go has no request for, or none that is as short.

func admin(t *testing.T, c *kafkatest.Cluster) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// deleteRecords deletes what lies before an offset, as a topic's retention does.
func deleteRecords(t *testing.T, c *kafkatest.Cluster, topic string, partition int32, before int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: before}}}}
	req.TimeoutMillis = 20000
	answer, err := req.RequestWith(t.Context(), admin(t, c))
	if err == nil {
		err = kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// setMaxMessage lets a topic take messages of so many bytes.
func setMaxMessage(t *testing.T, c *kafkatest.Cluster, topic, bytes string) {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: topic,
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "max.message.bytes", Value: &bytes}}}}
	answer, err := req.RequestWith(t.Context(), admin(t, c))
	if err == nil {
		err = kerr.ErrorForCode(answer.Resources[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// committed is what a group has committed of partition 0, with its metadata.
func committed(t *testing.T, c *kafkatest.Cluster, cfg kafka.Config) client.OffsetFetchPartition {
	t.Helper()
	k := &client.Client{Addr: c.Config().Addr()}
	answer, err := k.OffsetFetch(t.Context(), &client.OffsetFetchRequest{GroupID: cfg.Group, Topics: map[string][]int{cfg.Topic: {0}}})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Topics[cfg.Topic][0]
}

// restore commits that again.
func restore(t *testing.T, c *kafkatest.Cluster, cfg kafka.Config, p client.OffsetFetchPartition) {
	t.Helper()
	k := &client.Client{Addr: c.Config().Addr()}
	eventually(t, "the offset is committed", func() bool {
		answer, err := k.OffsetCommit(t.Context(), &client.OffsetCommitRequest{GroupID: cfg.Group, GenerationID: -1,
			Topics: map[string][]client.OffsetCommit{cfg.Topic: {{Partition: 0, Offset: p.CommittedOffset, Metadata: p.Metadata}}}})
		return err == nil && answer.Topics[cfg.Topic][0].Error == nil
	})
}
