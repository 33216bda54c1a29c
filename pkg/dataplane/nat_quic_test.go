package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// quicPair is a fullnat VIP of QUIC over two backends that connection IDs name.
func quicPair(t *testing.T, f family) (*natLab, natService, [2]netip.Addr, [2][]byte) {
	l := newNATLab(t)
	s := natService{name: "h3", mode: model.ModeFullNAT, family: f, address: f.natAddress(50), ports: model.Port(443)}
	backends := [2]netip.Addr{f.host(50, 1), f.host(50, 2)}
	pool := settledPool(s.name, 251, backends[:]...)
	state := forwarding.State{Paths: map[netip.Addr]forwarding.Path{}}
	var ids [2][]byte
	for i, address := range backends {
		id := model.ServerID{Config: 0, ID: fmt.Sprintf("srv%d", i)}
		pool.Backends[i].ServerIDs = []model.ServerID{id}
		ids[i] = cid(id)
		state.Paths[address] = forwarding.Path{Link: loopback, MTU: mtu, Source: balancerMAC(), Destination: mac{0x02, 0, 0, 0, 0x50, byte(i)}}
	}
	state.Pools = []forwarding.Pool{pool}
	state.VIPs = []model.VIP{{
		Name: s.name, Endpoints: []model.Endpoint{{Address: s.address, Ports: s.ports}}, Protocol: model.UDP, QUIC: true, Mode: s.mode,
		Pool: s.name, Tracking: model.TrackingAlways, IdleTimeout: model.DefaultIdleTimeout,
	}}
	if err := l.do(func() error { return l.Apply(state) }); err != nil {
		t.Fatal(err)
	}
	return l, s, backends, ids
}

// TestConnectionIDsOfFullNAT: a client's port that is used again, as behind a network's
// NAT, leads where the connection ID says, not where the former connection was. IDs
// that name nobody leave a connection where it is.
func TestConnectionIDsOfFullNAT(t *testing.T) {
	for _, f := range families() {
		l, s, backends, ids := quicPair(t, f)
		reaches := func(data []byte) (netip.Addr, netip.AddrPort) {
			in := f.packet(udp{from: 40000, to: 443, data: data})
			in.destination = s.address
			verdict, out, err := l.run(ebpf.RunOptions{Data: in.bytes()})
			if err != nil || verdict != xdpTX {
				t.Fatalf("%s: verdict %d, %v", f.name, verdict, err)
			}
			at, length := headerEthernet+16, 4
			if f.ipv6 {
				at, length = headerEthernet+24, 16
			}
			to, _ := netip.AddrFromSlice(out[at : at+length])
			return to, sourceOf(out, f.ipv6)
		}
		var sources [2]netip.AddrPort
		for round := range 2 {
			for i := range backends {
				to, source := reaches(short(0x40, ids[i]))
				if to != backends[i] {
					t.Errorf("%s, round %d: ID of %s led to %s", f.name, round, backends[i], to)
				}
				again, same := reaches(short(0x40, ids[i]))
				if again != to || same != source {
					t.Errorf("%s: the same connection went from %s to %s, then from %s to %s", f.name, source, to, same, again)
				}
				sources[i] = source
			}
		}
		if to, source := reaches(short(0x40, []byte("nobody's"))); to != backends[1] || source != sources[1] {
			t.Errorf("%s: an ID of nobody led from %s to %s", f.name, source, to)
		}
	}
}
