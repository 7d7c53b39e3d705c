package auth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Stream guards methods with a stream of requests or answers.
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c, err := g.let(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if c.rule.Open {
		return handler(srv, ss)
	}
	ctx, cancel := context.WithCancel(With(ss.Context(), c.access))
	defer cancel() // a handler that was given up ends
	s := &stream{ServerStream: ss, ctx: ctx, call: c, one: !info.IsClientStream, done: func() {}}
	if s.one {
		err = s.watched(func() error { return handler(srv, s) })
	} else {
		err = handler(srv, s)
	}
	if request, began := s.finish(); began { // otherwise nothing was asked for
		if noted := c.end(ss.Context(), request, err); noted != nil {
			return noted
		}
	}
	return err
}

// stream is a stream of a call that was let in.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	call *call
	one  bool // one request, and then answers

	mu      sync.Mutex
	began   bool
	over    bool // nobody waits for the handler any more
	request any
	done    func()
	sending atomic.Pointer[time.Time] // since when an answer waits to be read
}

func (s *stream) Context() context.Context { return s.ctx }

// watched runs a handler until it ends, or until its client has taken none of an answer
// for so long that it holds what others wait for. The handler ends then as well: its
// stream is over when this returns, which fails what it sends.
func (s *stream) watched(handler func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- handler() }()
	tick := time.NewTicker(s.call.g.stall / 10)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
		}
		if err := s.call.again(s.ctx); err != nil { // also while there is nothing to send
			return err
		}
		if since := s.sending.Load(); since != nil && time.Since(*since) > s.call.g.stall {
			return status.Errorf(codes.DeadlineExceeded, "nothing was read of the answer for %v; call again", s.call.g.stall)
		}
	}
}

// RecvMsg reads a request. One goroutine calls it.
func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if s.one && !s.begun() {
		done, err := s.call.begin(s.ctx, m)
		if err != nil {
			return err
		}
		return s.start(m, done)
	}
	return s.call.again(s.ctx)
}

func (s *stream) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// start takes over the place of a call that begins. One that was given up meanwhile
// gives it back: that it began is in the log, and it shows nothing.
func (s *stream) start(request any, done func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		done()
		return status.Error(codes.Canceled, "the call was given up before it began")
	}
	s.began, s.request, s.done = true, request, done
	return nil
}

// finish gives the place back, and says what was asked for. Nothing begins after it.
func (s *stream) finish() (request any, began bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.done()
	return s.request, s.began
}

// SendMsg sends an answer. One goroutine calls it, which may be another one.
func (s *stream) SendMsg(m any) error {
	if s.one {
		if err := s.call.again(s.ctx); err != nil {
			return err
		}
		s.call.count(m)
		now := time.Now() // of this machine: how long a client takes is no matter of the log's clock
		s.sending.Store(&now)
		defer s.sending.Store(nil)
	}
	return s.ServerStream.SendMsg(m)
}

// again looks once more at the credential of a stream that has lived on it for a
// while: it may have expired or been revoked, or its rights may have changed.
func (c *call) again(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.g.d.Now()
	if now.Sub(c.checked).Abs() < recheck {
		return nil
	}
	fresh, err := c.g.admit(ctx, c.method, c.rule, c.g.d.Caller(ctx), c.header) // whom certificates prove may have changed
	if err != nil {
		return err
	}
	c.checked = now
	if !sameAccess(fresh.access, c.access) {
		return status.Error(codes.Unauthenticated, "what this credential may do has changed; call again")
	}
	return nil
}
