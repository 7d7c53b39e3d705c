package transport

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// MaxConnections is how many connections one listener holds.
const MaxConnections = 10_000

// Bound is a listener with at most most connections, shared among addresses. It always
// accepts: when it is full, a connection that has long been quiet is closed, of the
// address that has most of them. Who sends nothing keeps nobody out by that, and whoever
// is in the middle of something is closed last. (golang.org/x/net's LimitListener lets
// newcomers wait, so that one address with silent connections keeps all others out.)
// IPv6 addresses count by their /64: a machine has all of that.
func Bound(l net.Listener, most int) net.Listener {
	return &bounded{Listener: l, most: most, holders: map[netip.Prefix]map[*boundedConn]bool{}}
}

type bounded struct {
	net.Listener
	most int

	mu      sync.Mutex
	total   int
	holders map[netip.Prefix]map[*boundedConn]bool // none is empty
}

// boundedConn is a connection that counts until it is closed.
type boundedConn struct {
	net.Conn
	from   *bounded
	holder netip.Prefix
	heard  atomic.Int64 // when it last sent something, Unix nanoseconds
	once   sync.Once
}

func (b *bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &boundedConn{Conn: conn, from: b, holder: holder(conn.RemoteAddr())}
	c.heard.Store(time.Now().UnixNano())
	if victim := b.admit(c); victim != nil {
		_ = victim.Conn.Close() // its user learns it, and closes it once more
	}
	return c, nil
}

// looked is how many connections are compared for the one that goes: a flood of
// newcomers must not cost a walk over all of them each.
const looked = 100

// admit counts a connection, and says which one goes for it.
func (b *bounded) admit(c *boundedConn) (victim *boundedConn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total >= b.most {
		var largest map[*boundedConn]bool
		for _, conns := range b.holders {
			if len(conns) > len(largest) {
				largest = conns
			}
		}
		n := 0
		for v := range largest { // in random order
			if victim == nil || v.heard.Load() < victim.heard.Load() {
				victim = v
			}
			if n++; n == looked {
				break
			}
		}
		b.forget(victim)
	}
	if b.holders[c.holder] == nil {
		b.holders[c.holder] = map[*boundedConn]bool{}
	}
	b.holders[c.holder][c] = true
	b.total++
	return victim
}

// forget stops counting a connection. mu is held.
func (b *bounded) forget(c *boundedConn) {
	conns := b.holders[c.holder]
	if !conns[c] {
		return
	}
	delete(conns, c)
	b.total--
	if len(conns) == 0 {
		delete(b.holders, c.holder)
	}
}

func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *boundedConn) Close() error {
	c.once.Do(func() {
		c.from.mu.Lock()
		defer c.from.mu.Unlock()
		c.from.forget(c)
	})
	return c.Conn.Close()
}

// holder is whom a connection counts for.
func holder(a net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := at.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // bits are within the address
	return p
}
