package app

import (
	"context"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// bodies bounds what requests hold that are being read, all of them together, and
	// payerBodies those of one payer: a tenant, or an identity of several.
	bodies       = 8 * maxRequestBody
	payerBodies  = 2 * maxRequestBody
	bodyStep     = 256 << 10       // bytes that are taken at a time
	bodyPatience = 2 * time.Second // for a share
)

// bodyRoom is the memory for the bodies of HTTP requests. A request takes of it what it
// has sent, not what it says it will send.
type bodyRoom struct {
	all    *semaphore.Weighted
	mu     sync.Mutex
	payers map[string]*payerRoom // of those who have requests under way
}

type payerRoom struct {
	room     *bodyRoom
	name     string
	own      *semaphore.Weighted
	requests int // under room.mu
}

func newBodyRoom() *bodyRoom {
	return &bodyRoom{all: semaphore.NewWeighted(bodies), payers: map[string]*payerRoom{}}
}

// of is the share of a payer; leave it when the request has ended.
func (b *bodyRoom) of(name string) *payerRoom {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.payers[name]
	if p == nil {
		p = &payerRoom{room: b, name: name, own: semaphore.NewWeighted(payerBodies)}
		b.payers[name] = p
	}
	p.requests++
	return p
}

func (p *payerRoom) leave() {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.requests--; p.requests == 0 {
		delete(p.room.payers, p.name)
	}
}

// heldBody is a body that takes room as it is read. The room is the request's until it
// has ended: what was read is a message in memory.
type heldBody struct {
	io.ReadCloser
	ctx        context.Context
	room       *payerRoom
	read, held int64
}

func (b *heldBody) Read(p []byte) (int, error) {
	if b.read == b.held {
		if err := b.grow(); err != nil {
			return 0, err
		}
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.held-b.read)])
	b.read += int64(n)
	return n, err
}

func (b *heldBody) grow() error {
	wait, cancel := context.WithTimeout(b.ctx, bodyPatience)
	defer cancel()
	busy := status.Error(codes.Unavailable, "too many requests are being read; try again in a second")
	if b.room.own.Acquire(wait, bodyStep) != nil {
		return busy
	}
	if b.room.room.all.Acquire(wait, bodyStep) != nil {
		b.room.own.Release(bodyStep)
		return busy
	}
	b.held += bodyStep
	return nil
}

func (b *heldBody) release() {
	b.room.own.Release(b.held)
	b.room.room.all.Release(b.held)
	b.room.leave()
}
