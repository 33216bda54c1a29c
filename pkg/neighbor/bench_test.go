package neighbor

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

const manyAddresses = 10_000

// benchmarkState has ten thousand addresses behind one gateway.
func benchmarkState(b *testing.B) *state {
	l := newLab(b)
	l.balancer.route("198.18.0.0/15", "10.0.1.254")
	r := l.newResolver(b)
	b.Cleanup(r.Close)
	s := newState(r.kernel)
	addr := netip.MustParseAddr("198.18.0.1")
	var addrs []netip.Addr
	for range manyAddresses {
		addrs = append(addrs, addr)
		addr = addr.Next()
	}
	s.want(addrs)
	if _, err := s.settle(); err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkResync10k(b *testing.B) {
	s := benchmarkState(b)
	for b.Loop() {
		s.resync()
		if _, err := s.settle(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNeighbourMoves10k is the worst event: the gateway of all addresses
// gets another MAC each time.
func BenchmarkNeighbourMoves10k(b *testing.B) {
	s := benchmarkState(b)
	mac := []byte{2, 0, 0, 0, 0, 0}
	for b.Loop() {
		mac[5] ^= 1
		for key, e := range s.entries {
			e.observe(netlink.NUD_REACHABLE, mac)
			s.todo.touched[key] = struct{}{}
		}
		if changed, err := s.settle(); err != nil || !changed {
			b.Fatal(changed, err)
		}
	}
}
