package kafkatest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/segmentio/kafka-go"
)

// send writes one message as a client with that configuration.
func send(ctx context.Context, config broker.Config, topic string) error {
	transport, err := config.Transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	client := kafka.Client{Addr: config.Addr(), Transport: transport}
	answer, err := client.Produce(ctx, &kafka.ProduceRequest{Topic: topic, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(kafka.Record{Time: time.Now(), Value: kafka.NewBytes([]byte("x"))})})
	if err == nil {
		err = answer.Error
	}
	return err
}

func TestAUserIsDeniedATopic(t *testing.T) {
	if _, err := installed(); err != nil {
		t.Skip("kfake asks nobody who it is")
	}
	c := Start(t, 1, Secure(), Property("message.max.bytes", "2000"))
	open, closed := c.NewTopic(1), c.NewTopic(1)
	user := c.Security().SASLOverTLS("SCRAM-SHA-512")
	for _, topic := range []string{open, closed} {
		if err := send(t.Context(), user, topic); err != nil {
			t.Fatal(err)
		}
	}
	c.Deny(closed)
	err := await(func(ctx context.Context) error {
		if err := send(ctx, user, closed); !errors.Is(err, kafka.TopicAuthorizationFailed) {
			return errors.New("it may write still")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := send(t.Context(), user, open); err != nil {
		t.Errorf("to the other topic: %v", err)
	}
	c.Produce(closed, 0, kafka.Message{Value: []byte("by the administration")})
	if n := len(c.ReadAll(closed)); n < 2 {
		t.Errorf("%d messages", n)
	}
}
