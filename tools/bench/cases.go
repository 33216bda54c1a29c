package main

import (
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// XDP verdicts, enum xdp_action in linux/bpf.h.
const (
	verdictPass     = 2
	verdictTX       = 3
	verdictRedirect = 4
)

// testCase is one kind of packet against one desired state.
type testCase struct {
	name     string
	ipv6     bool
	protocol model.Protocol
	mode     model.Mode
	// vips that share one pool; the flows spread over all of them.
	vips int
	// packets are what the flows consist of.
	packets packets
	// floor is the program that does the least such a packet needs, nil if that is nothing.
	floor func(*benchObjects) *ebpf.Program
	// verdict and reason are what becomes of each packet.
	verdict uint32
	reason  string
	// alone: the classic program has no notion of such packets.
	alone bool
	// flows is how many flows take turns, one measurement for each; nil: every packet
	// begins another one.
	flows []uint64
	// room is for how many flows tables are made, 0: for all of them.
	room uint64
	// tracking of the VIPs. inFlux points them at another pool before measuring,
	// so that every packet consults the flow table.
	tracking model.Tracking
	inFlux   bool
	affinity model.Affinity
	// unscreened packets are not looked at for what no host sends.
	unscreened bool
	// denied is how many addresses the VIPs deny, none of which sends any packet; limits
	// let all packets pass.
	denied int
	limits model.Limits
}

// packets says what packets a flow consists of.
type packets int

const (
	requests   packets = iota // of clients to a VIP, in the middle of a flow
	openers                   // those that begin a flow
	replies                   // of backends, to what the VIP has translated
	errorsICMP                // of a router to a VIP, about what a client should have got
	foreign                   // to an address that no VIP has
)

// fresh reports whether every packet begins another flow.
func (c *testCase) fresh() bool { return c.flows == nil }

const (
	backendsPerPool = 100
	port            = 80
	// portBackend is what backends listen on where ports are translated.
	portBackend = 8080
)

func cases() []testCase {
	var all []testCase
	forwarded := testCase{protocol: model.TCP, mode: model.ModeDSRIPIP, vips: 1, floor: floorIPv4,
		tracking: model.TrackingFlux, affinity: model.DefaultAffinity(), verdict: verdictTX, reason: "tx_forwarded",
		flows: []uint64{1, 1_000, 100_000, 1_000_000, 4_000_000}}
	add := func(name string, from testCase, change func(*testCase)) testCase {
		c := from
		c.name = name
		change(&c)
		all = append(all, c)
		return c
	}
	always := func(c *testCase) { c.tracking = model.TrackingAlways }
	begun := func(c *testCase) {
		always(c)
		c.flows, c.packets = nil, openers
	}
	add("tcp4 dsr-ipip", forwarded, func(*testCase) {})
	add("tcp6 dsr-ipip", forwarded, func(c *testCase) { c.ipv6, c.floor = true, floorIPv6 })
	udp := add("udp4 dsr-ipip", forwarded, func(c *testCase) { c.protocol = model.UDP })
	add("tcp4 dsr-l2", forwarded, func(c *testCase) { c.mode, c.floor = model.ModeDSRL2, floorL2 })
	add("tcp4 dsr-gue", forwarded, func(c *testCase) { c.mode = model.ModeDSRGUE })
	add("tcp4 dsr-ipip 10000 vips", forwarded, func(c *testCase) { c.vips = 10_000 })
	add("tcp4 dsr-ipip affinity source", forwarded, func(c *testCase) { c.affinity.Scope = model.AffinitySource })
	add("tcp4 dsr-ipip unscreened", forwarded, func(c *testCase) { c.unscreened = true })
	add("tcp4 dsr-ipip 500000 denied", forwarded, func(c *testCase) { c.denied = 500_000 })
	add("tcp4 dsr-ipip limited", forwarded, func(c *testCase) { c.limits.Packets.Rate = model.MaxLimit })
	add("tcp4 dsr-ipip sources limited", forwarded, func(c *testCase) { c.limits.SourcePackets.Rate = model.MaxLimit })
	add("tcp4 dsr-ipip in flux", forwarded, func(c *testCase) { c.inFlux = true })
	add("tcp4 dsr-ipip tracking always", forwarded, always)
	add("udp4 dsr-ipip tracking always", udp, always)
	add("tcp4 dsr-ipip new flows", forwarded, begun)
	add("tcp4 dsr-ipip new flows, full table", forwarded, func(c *testCase) {
		begun(c)
		c.room = 100_000
	})
	addTranslated(forwarded, add)
	add("icmp4 error dsr-ipip", forwarded, func(c *testCase) { c.packets, c.alone = errorsICMP, true })
	add("tcp4 not ours", forwarded, func(c *testCase) {
		c.packets, c.floor, c.verdict, c.reason = foreign, nil, verdictPass, "pass_not_vip"
		c.flows = []uint64{1, 1_000_000}
	})
	return all
}

// addTranslated adds the cases of VIPs that translate, in both directions.
func addTranslated(forwarded testCase, add func(string, testCase, func(*testCase)) testCase) {
	nat := add("tcp4 nat", forwarded, func(c *testCase) { c.mode, c.floor = model.ModeNAT, floorL2 })
	add("tcp4 nat replies", nat, func(c *testCase) {
		c.packets, c.verdict, c.reason = replies, verdictRedirect, "redirect_reply"
	})
	fullnat := func(c *testCase) {
		c.mode, c.floor, c.tracking = model.ModeFullNAT, floorL2, model.TrackingAlways
	}
	answered := func(c *testCase) { c.packets, c.reason = replies, "tx_reply" }
	tcp4 := add("tcp4 fullnat", forwarded, fullnat)
	add("tcp4 fullnat replies", tcp4, answered)
	add("tcp4 fullnat new flows", tcp4, func(c *testCase) { c.flows, c.packets = nil, openers })
	tcp6 := add("tcp6 fullnat", tcp4, func(c *testCase) { c.ipv6 = true })
	add("tcp6 fullnat replies", tcp6, answered)
	udp4 := add("udp4 fullnat", tcp4, func(c *testCase) { c.protocol = model.UDP })
	add("udp4 fullnat replies", udp4, answered)
}

func floorIPv4(o *benchObjects) *ebpf.Program { return o.FloorIpipIpv4 }
func floorIPv6(o *benchObjects) *ebpf.Program { return o.FloorIpipIpv6 }
func floorL2(o *benchObjects) *ebpf.Program   { return o.FloorL2 }

// translates reports whether backends get packets under other addresses.
func (c *testCase) translates() bool { return c.mode == model.ModeNAT || c.mode == model.ModeFullNAT }

// host returns an address of the networks set aside for benchmarks: 198.18.0.0/15
// (RFC 2544) and 2001:2::/48 (RFC 5180). The last two bytes are n.
func (c *testCase) host(network byte, n int) netip.Addr {
	if c.ipv6 {
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 3: 2, 7: network, 14: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{198, 18 + network, byte(n >> 8), byte(n)})
}

func (c *testCase) vip(n int) netip.Addr { return c.host(0, n) }

// backend is the nth, from 1 on; 0 is the balancer's own address among them.
func (c *testCase) backend(n int) model.BackendID {
	id := model.BackendID{Address: c.host(1, n)}
	if c.translates() {
		id.Port = portBackend
	}
	return id
}

// target is where flow 0 goes to: the first VIP, or, if foreign, an address beside the VIPs.
func (c *testCase) target() netip.AddrPort {
	if c.packets == foreign {
		return netip.AddrPortFrom(c.vip(c.vips), port)
	}
	return netip.AddrPortFrom(c.vip(0), port)
}

// destinations is over how many addresses the flows spread.
func (c *testCase) destinations() uint32 {
	if c.packets == foreign {
		return 1
	}
	return uint32(c.vips)
}
