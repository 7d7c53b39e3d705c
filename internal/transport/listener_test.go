package transport

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// from is a listener whose connections come from addresses of the test's choice.
type from struct{ conns chan net.Conn }

func (f from) Accept() (net.Conn, error) {
	c, ok := <-f.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (f from) Close() error   { close(f.conns); return nil }
func (f from) Addr() net.Addr { return textAddr("192.0.2.1:1") }

type addressed struct {
	net.Conn
	address string
}

func (a addressed) RemoteAddr() net.Addr { return textAddr(a.address) }

// visit connects from an address; the far end is the client's.
func visit(t *testing.T, l net.Listener, f from, address string) (near, far net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	f.conns <- addressed{a, address}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, b
}

func open(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond)) // pipes have deadlines
	_, err := c.Read(make([]byte, 1))
	return !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe)
}

func TestAFullListenerLetsGoOfTheQuietestOfWhoHasMost(t *testing.T) {
	f := from{make(chan net.Conn, 1)}
	l := Bound(f, 4)
	good, goodFar := visit(t, l, f, "192.0.2.9:1")
	first, firstFar := visit(t, l, f, "[2001:db8::1]:1") // one /64: one holder
	_, secondFar := visit(t, l, f, "[2001:db8::2]:1")
	_, thirdFar := visit(t, l, f, "[2001:db8::ffff:3]:1")
	go firstFar.Write([]byte("x")) //nolint:errcheck // it is read below
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, newFar := visit(t, l, f, "[::ffff:192.0.2.10]:1")
	if open(secondFar) || !open(firstFar) || !open(thirdFar) || !open(goodFar) || !open(newFar) {
		t.Error("not the quietest connection of the address with most of them was closed")
	}
	// The flood goes on: it displaces itself, and nobody else.
	for range 20 {
		visit(t, l, f, "[2001:db8::4]:1")
	}
	if !open(goodFar) || !open(newFar) || open(firstFar) || open(thirdFar) {
		t.Error("a flood displaced others, or not itself")
	}
	good.Close()
	good.Close()
	if b := l.(*bounded); b.total != 3 || len(b.holders) != 2 {
		t.Errorf("%d connections of %d holders are counted", b.total, len(b.holders))
	}
}
