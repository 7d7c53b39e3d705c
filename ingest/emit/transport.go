package emit

import (
	"context"
	"time"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Transport is the way by which events leave: to the service itself, which is
// what [Config].Address names, or to what the service reads from. Package
// ingest/emit/kafka is one to a Kafka topic.
//
// A transport connects when it is first used, and connects again by itself. An
// emitter uses one from two goroutines: its own spool's, and one that delivers
// what other processes left behind.
type Transport interface {
	// Deliver hands over events, each an encoded mcpaudit.v1.Event, oldest first;
	// at most about 2000, or 2 MiB and one more. known is the newest checkpoint
	// that the sender has seen, for a service that proves what came since.
	//
	// Without an error every event is durable at the far end, so that the spool
	// may forget it, or is named as refused in the answer; if any is forbidden the
	// spool forgets none. After an error it is not known which of them arrived: all
	// are delivered again, however often it takes, and (emitter_id, emitter_seq) is
	// what the far end knows them by.
	// Deliver tries once, or a few times at once; who calls it waits in between.
	// It returns when ctx has ended.
	Deliver(ctx context.Context, events [][]byte, known *pb.KnownCheckpoint) (Answer, error)
	// Ledger is asked what a receipt proves. It is nil for a transport that gives
	// no receipts.
	Ledger() pb.LedgerServiceClient
	// String names the far end for people, without what is secret.
	String() string
	// Close lets go of connections. It may be called again, and the transport be
	// used again: an emitter that could not be opened is opened anew.
	Close()
}

// Answer is what came of a delivery.
type Answer struct {
	// Refused are the events that were not taken and never will be, or not before
	// somebody changes what the emitter may write.
	Refused []Refusal
	// Receipt is what the service says to have stored, nil when there is none.
	Receipt *pb.Receipt
	// Wait is how long the far end asks to be left alone after an error, 0 when it
	// does not say.
	Wait time.Duration
}

// Refusal is why an event was refused.
type Refusal struct {
	Seq    uint64 // its emitter_seq, 0 when that can't be read
	Reason string
	// Forbidden is set when the event is good, and the emitter's credential is not for
	// it. That is a mistake in a setting here or in a grant there, so nothing is given up
	// for it: the delivery counts as failed, and is made again.
	Forbidden bool
}
