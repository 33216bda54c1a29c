package main

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// XDP verdicts, enum xdp_action in linux/bpf.h.
const (
	verdictPass = 2
	verdictTX   = 3
)

// testCase is one kind of packet against one desired state.
type testCase struct {
	name     string
	ipv6     bool
	protocol model.Protocol
	mode     model.Mode
	// vips that share one pool; the flows spread over all of them.
	vips int
	// foreign packets go to an address that no VIP has.
	foreign bool
	// floor is the program that does the least such a packet needs, nil if that is nothing.
	floor func(*benchObjects) *ebpf.Program
	// verdict and reason are what becomes of each packet.
	verdict uint32
	reason  string
	// flows is how many flows take turns, one measurement for each.
	flows []uint64
	// tracking of the VIPs. inFlux points them at another pool before measuring,
	// so that every packet consults the flow table.
	tracking model.Tracking
	inFlux   bool
	affinity model.Affinity
	// screens drops packets that no host sends; denied is how many addresses are on a
	// list of those that the VIPs deny, none of which sends any packet.
	screens bool
	denied  int
	// limits let all packets pass.
	limits model.Limits
}

const (
	backendsPerPool = 100
	port            = 80
)

func cases() []testCase {
	flows := []uint64{1, 1_000, 100_000, 1_000_000, 4_000_000}
	ipv4 := func(o *benchObjects) *ebpf.Program { return o.FloorIpipIpv4 }
	ipv6 := func(o *benchObjects) *ebpf.Program { return o.FloorIpipIpv6 }
	l2 := func(o *benchObjects) *ebpf.Program { return o.FloorL2 }
	forwarded := testCase{protocol: model.TCP, mode: model.ModeDSRIPIP, vips: 1, floor: ipv4,
		tracking: model.TrackingFlux, verdict: verdictTX, reason: "tx_forwarded", flows: flows, affinity: model.DefaultAffinity()}

	tcp4, tcp6, direct, udp4, many := forwarded, forwarded, forwarded, forwarded, forwarded
	tcp4.name = "tcp4 dsr-ipip"
	tcp6.name, tcp6.ipv6, tcp6.floor = "tcp6 dsr-ipip", true, ipv6
	direct.name, direct.mode, direct.floor = "tcp4 dsr-l2", model.ModeDSRL2, l2
	udp4.name, udp4.protocol = "udp4 dsr-ipip", model.UDP
	many.name, many.vips = "tcp4 dsr-ipip 1000 vips", 1000
	flux, always := forwarded, forwarded
	flux.name, flux.inFlux = "tcp4 dsr-ipip in flux", true
	always.name, always.tracking = "tcp4 dsr-ipip tracking always", model.TrackingAlways
	gue, affine := forwarded, forwarded
	gue.name, gue.mode = "tcp4 dsr-gue", model.ModeDSRGUE
	affine.name, affine.affinity.Scope = "tcp4 dsr-ipip affinity source", model.AffinitySource
	foreign := testCase{affinity: model.DefaultAffinity(), name: "tcp4 not ours", protocol: model.TCP, mode: model.ModeDSRIPIP, vips: 1,
		tracking: model.TrackingFlux, foreign: true, verdict: verdictPass, reason: "pass_not_vip", flows: []uint64{1, 1_000_000}}
	screened4, screened6, few, most := tcp4, tcp6, tcp4, tcp4
	screened4.name, screened4.screens = "tcp4 dsr-ipip screened", true
	screened6.name, screened6.screens = "tcp6 dsr-ipip screened", true
	few.name, few.denied = "tcp4 dsr-ipip 1000 denied", 1000
	most.name, most.denied = "tcp4 dsr-ipip 500000 denied", 500_000
	all, each := tcp4, tcp4
	all.name, all.limits.Packets = "tcp4 dsr-ipip limited", model.Limit{Rate: model.MaxLimit}
	each.name, each.limits.SourcePackets = "tcp4 dsr-ipip sources limited", model.Limit{Rate: model.MaxLimit}
	return []testCase{tcp4, tcp6, direct, udp4, many, flux, always, gue, affine, foreign, screened4, screened6, few, most, all, each}
}

// host returns an address of the networks set aside for benchmarks: 198.18.0.0/15
// (RFC 2544) and 2001:2::/48 (RFC 5180). The last two bytes are n.
func (c *testCase) host(network byte, n int) netip.Addr {
	if c.ipv6 {
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 3: 2, 7: network, 14: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{198, 18 + network, byte(n >> 8), byte(n)})
}

func (c *testCase) vip(n int) netip.Addr     { return c.host(0, n) }
func (c *testCase) backend(n int) netip.Addr { return c.host(1, n) }

// target is where flow 0 goes to: the first VIP, or, if foreign, an address beside the VIPs.
func (c *testCase) target() netip.AddrPort {
	if c.foreign {
		return netip.AddrPortFrom(c.vip(c.vips), port)
	}
	return netip.AddrPortFrom(c.vip(0), port)
}

// destinations is over how many addresses the flows spread.
func (c *testCase) destinations() uint32 {
	if c.foreign {
		return 1
	}
	return uint32(c.vips)
}

// denyList has addresses among those that packets come from, but none of these.
func (c *testCase) denyList() (model.SourceList, error) {
	sends := map[uint32]bool{}
	for flow := range slices.Max(c.flows) {
		sends[sourceIPv4(flow)] = true
	}
	random := rand.New(rand.NewPCG(1, 2))
	prefixes := make([]netip.Prefix, 0, c.denied)
	for len(prefixes) < c.denied {
		source := random.Uint32()&^(1<<30) | 1<<31
		if wire := bits.ReverseBytes32(source); !sends[wire] {
			sends[wire] = true
			prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(source >> 24), byte(source >> 16), byte(source >> 8), byte(source)}), 32))
		}
	}
	return model.NewSourceList("denied", prefixes)
}

// sourceIPv4 is the source address of a flow as it lies on the wire; write_flow() in
// bench.bpf.c.
func sourceIPv4(flow uint64) uint32 {
	low := uint32(flow * 0x6a09e667f3bcc909)
	return (low^low>>16)&^0xc0 | 0x80
}

// state is what the reconciler would give the data plane: one pool, all backends
// healthy and reached through one interface.
func (c *testCase) state(name string, link int) (forwarding.State, error) {
	pool := model.Pool{Name: name, TableSize: model.DefaultTableSize, OnAllDown: model.OnAllDownDrop}
	paths := map[netip.Addr]forwarding.Path{}
	for i := range backendsPerPool {
		address := c.backend(1 + i)
		pool.Backends = append(pool.Backends, model.Backend{
			BackendID: model.BackendID{Address: address}, Weight: model.DefaultWeight, State: model.Enabled})
		paths[address] = forwarding.Path{Link: link, OnLink: true, Outer: c.backend(0), MTU: 1500,
			Source: [6]byte{2, 0, 0, 0, 1, 0}, Destination: [6]byte{2, 0, 0, 0, 1, byte(1 + i)}}
	}
	desired := model.State{Pools: []model.Pool{pool}}
	if c.denied > 0 {
		list, err := c.denyList()
		if err != nil {
			return forwarding.State{}, err
		}
		desired.SourceLists, desired.Sources.Deny = []model.SourceList{list}, list.Name
	}
	for i := range c.vips {
		desired.VIPs = append(desired.VIPs, model.VIP{Name: fmt.Sprintf("bench-%d", i), Endpoints: []model.Endpoint{{Address: c.vip(i), Ports: model.Port(port)}},
			Protocol: c.protocol, Mode: c.mode, Pool: pool.Name,
			Tracking: c.tracking, IdleTimeout: model.DefaultIdleTimeout, Affinity: c.affinity, Fragments: model.FragmentsFollow, Limits: c.limits})
	}
	desired.Sort()
	if err := desired.Validate(); err != nil {
		return forwarding.State{}, err
	}
	up := func(*model.Pool, model.BackendID) (model.Health, time.Time) { return model.HealthUp, time.Time{} }
	state, err := forwarding.Build(desired, up, time.Time{}, forwarding.State{})
	state.Paths = paths
	return state, err
}
