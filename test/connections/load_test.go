package connections_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// dialers is how many connections are opened at once.
	dialers = 32
	// arrival is the time from one new connection to the next during a scenario.
	arrival = 50 * time.Millisecond
)

// load is many connections from the client to one VIP.
type load struct {
	t         *testing.T
	client    *lab.Host
	target    netip.AddrPort
	transport transport
	silence   time.Duration // of an idler
	stall     time.Duration // how long a record may take

	stop    chan struct{} // closed when all connections are to end
	wake    chan struct{} // closed when the idlers are to speak
	dialing chan struct{} // holds a token for each dial
	running sync.WaitGroup

	mu          sync.Mutex // guards connections
	connections []*connection
}

// newLoad has no connections yet. Idlers speak within the VIP's idle timeout.
func newLoad(t *testing.T, client *lab.Host, target netip.AddrPort, kind transport, idleTimeout time.Duration) *load {
	l := &load{
		t: t, client: client, target: target, transport: kind, silence: idleTimeout * 2 / 3, stall: stall,
		stop: make(chan struct{}), wake: make(chan struct{}), dialing: make(chan struct{}, dialers),
	}
	t.Cleanup(l.end)
	return l
}

// begin opens a connection in the background.
func (l *load) begin(k kind) {
	l.mu.Lock()
	number := len(l.connections)
	c := &connection{kind: k, source: l.source(number), v2: number%2 == 1, done: make(chan struct{})}
	l.connections = append(l.connections, c)
	l.mu.Unlock()
	l.running.Go(func() {
		defer close(c.done)
		c.opened = time.Now()
		c.err = c.run(context.Background(), l)
		c.ended = time.Now()
	})
}

// source is the address that the i-th connection comes from.
func (l *load) source(i int) netip.Addr {
	if l.target.Addr().Is4() {
		return netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", 1+i%254))
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:113::%d", 1+i%254))
}

func (l *load) dial(ctx context.Context, c *connection) (net.Conn, error) {
	l.dialing <- struct{}{}
	defer func() { <-l.dialing }()
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	if l.transport == tcp {
		return l.client.Dial(ctx, "tcp", l.target.String(), c.source)
	}
	return l.client.DialQUIC(ctx, l.target, c.source, c.v2)
}

// open opens n connections, a fifth of them idlers, and returns when each has
// got a record.
func (l *load) open(n int) {
	l.t.Helper()
	for i := range n {
		l.begin([]kind{idler, talker, download, talker, download}[i%5])
	}
	l.await(1, func(c *connection) bool { return c.records.Load() == 0 })
}

// welcome opens connections, one after the other, until the load ends: every
// other one is a short visit.
func (l *load) welcome() {
	l.running.Go(func() {
		tick := time.NewTicker(arrival)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				l.begin([]kind{visitor, talker, visitor, download}[i%4])
			}
		}
	})
}

// talked returns when every connection but the silent ones has asked and been
// answered since the call, or is broken.
func (l *load) talked() {
	l.t.Helper()
	// The first answer may be to an earlier question.
	l.await(2, func(c *connection) bool { return c.kind != idler })
}

// await returns when every connection that matters has got that many records
// more, or has ended.
func (l *load) await(more uint64, matters func(*connection) bool) {
	l.t.Helper()
	l.mu.Lock()
	awaited := map[*connection]uint64{}
	for _, c := range l.connections {
		if matters(c) {
			awaited[c] = c.records.Load() + more
		}
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	err := lab.WaitFor(ctx, "all connections have talked", func() error {
		for c, records := range awaited {
			select {
			case <-c.done:
				delete(awaited, c)
			default:
				if c.records.Load() >= records {
					delete(awaited, c)
				}
			}
		}
		if len(awaited) > 0 {
			return fmt.Errorf("%d have not", len(awaited))
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// finish lets everybody speak once more, idlers too, ends all connections and
// says how many there were and which are broken.
func (l *load) finish() (connections int, broken []*connection) {
	l.t.Helper()
	l.talked()
	close(l.wake)
	l.await(1, func(c *connection) bool { return c.kind == idler })
	l.end()
	for _, c := range l.connections {
		if c.broken() {
			broken = append(broken, c)
		}
	}
	return len(l.connections), broken
}

// end ends all connections, and may be called again.
func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.running.Wait()
}
