package subject

import (
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Case is one kind of packet against one desired state.
type Case struct {
	IPv6 bool
	// Across: backends are of the other family.
	Across   bool
	Protocol model.Protocol
	Mode     model.Mode
	// VIPs that share one pool; the flows spread over all of them.
	VIPs int
	// Packets are what the flows consist of.
	Packets Packets
	// Reason is under what name Steelyard counts each packet.
	Reason string
	// Room is for how many flows tables are made, 0: for all of them.
	Room uint64
	// Tracking of the VIPs. InFlux points them at another pool before measuring,
	// so that every packet consults the flow table.
	Tracking model.Tracking
	InFlux   bool
	Affinity model.Affinity
	// Unscreened packets are not looked at for what no host sends.
	Unscreened bool
	// Denied is how many addresses the VIPs deny, none of which sends any packet; Limits
	// let all packets pass.
	Denied int
	Limits model.Limits
	// Link is the interface that packets come from and go to. Out is another one, with
	// the router to all clients behind it; empty: there is none.
	Link, Out string
	// Rewrite changes the load balancers' programs before they are loaded; nil: nothing does.
	Rewrite func(*ebpf.CollectionSpec) error
}

// Packets says what packets a flow consists of.
type Packets int

const (
	Requests   Packets = iota // of clients to a VIP, in the middle of a flow
	Openers                   // those that begin a flow
	Replies                   // of backends, to what the VIP has translated
	ErrorsICMP                // of a router to a VIP, about what a client should have got
	Foreign                   // to an address that no VIP has
)

const (
	// BackendsPerPool is how many backends a case has.
	BackendsPerPool = 100
	port            = 80
	// portBackend is what backends listen on where ports are translated.
	portBackend = 8080
)

// Translates reports whether backends get packets under other addresses.
func (c *Case) Translates() bool { return c.Mode == model.ModeNAT || c.Mode == model.ModeFullNAT }

// backendsIPv6 reports the family of the backends.
func (c *Case) backendsIPv6() bool { return c.IPv6 != c.Across }

// host returns an address of the networks set aside for benchmarks: 198.18.0.0/15
// (RFC 2544) and 2001:2::/48 (RFC 5180). The last two bytes are n.
func host(ipv6 bool, network byte, n int) netip.Addr {
	if ipv6 {
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 3: 2, 7: network, 14: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{198, 18 + network, byte(n >> 8), byte(n)})
}

func (c *Case) vip(n int) netip.Addr { return host(c.IPv6, 0, n) }

// backend is the nth, from 1 on; 0 is the balancer's own address among them.
func (c *Case) backend(n int) model.BackendID {
	id := model.BackendID{Address: host(c.backendsIPv6(), 1, n)}
	if c.Translates() {
		id.Port = portBackend
	}
	return id
}

// Target is where flow 0 goes to: the first VIP, or, if foreign, an address beside the VIPs.
func (c *Case) Target() netip.AddrPort {
	if c.Packets == Foreign {
		return netip.AddrPortFrom(c.vip(c.VIPs), port)
	}
	return netip.AddrPortFrom(c.vip(0), port)
}

// destinations is over how many addresses the flows spread.
func (c *Case) destinations() uint32 {
	if c.Packets == Foreign {
		return 1
	}
	return uint32(c.VIPs)
}

// Router is the router to all clients, of a case that has one.
func Router(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr("2001:db8::1")
	}
	return netip.MustParseAddr("203.0.113.1")
}
