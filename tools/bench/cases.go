package main

import (
	"slices"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

// XDP verdicts, enum xdp_action in linux/bpf.h.
const (
	verdictPass     = 2
	verdictTX       = 3
	verdictRedirect = 4
)

// testCase is one kind of packet against one desired state.
type testCase struct {
	subject.Case
	name string
	// floor is the program that does the least such a packet needs, nil if that is nothing.
	floor func(*benchObjects) *ebpf.Program
	// verdict is what the program says of each packet.
	verdict uint32
	// alone: the classic program has no notion of such packets.
	alone bool
	// flows is how many flows take turns, one measurement for each; nil: every packet
	// begins another one.
	flows []uint64
}

// fresh reports whether every packet begins another flow.
func (c *testCase) fresh() bool { return c.flows == nil }

// fewest is the least number of flows, 0 if every packet begins another.
func (c *testCase) fewest() uint64 {
	if c.fresh() {
		return 0
	}
	return slices.Min(c.flows)
}

func cases() []testCase {
	var all []testCase
	// Test runs see packets come from the loopback interface.
	forwarded := testCase{floor: floorIPv4, verdict: verdictTX, flows: []uint64{1, 1_000, 100_000, 1_000_000, 4_000_000},
		Case: subject.Case{Protocol: model.TCP, Mode: model.ModeDSRIPIP, VIPs: 1, Tracking: model.TrackingFlux,
			Affinity: model.DefaultAffinity(), Reason: "tx_forwarded", Link: "lo", Out: wayOut}}
	add := func(name string, from testCase, change func(*testCase)) testCase {
		c := from
		c.name = name
		change(&c)
		all = append(all, c)
		return c
	}
	always := func(c *testCase) { c.Tracking = model.TrackingAlways }
	begun := func(c *testCase) {
		always(c)
		c.flows, c.Packets = nil, subject.Openers
	}
	add("tcp4 dsr-ipip", forwarded, func(*testCase) {})
	add("tcp6 dsr-ipip", forwarded, func(c *testCase) { c.IPv6, c.floor = true, floorIPv6 })
	udp := add("udp4 dsr-ipip", forwarded, func(c *testCase) { c.Protocol = model.UDP })
	add("tcp4 dsr-l2", forwarded, func(c *testCase) { c.Mode, c.floor = model.ModeDSRL2, floorL2 })
	add("tcp4 dsr-gue", forwarded, func(c *testCase) { c.Mode = model.ModeDSRGUE })
	add("tcp4 dsr-ipip 10000 vips", forwarded, func(c *testCase) { c.VIPs = 10_000 })
	add("tcp4 dsr-ipip affinity source", forwarded, func(c *testCase) { c.Affinity.Scope = model.AffinitySource })
	add("tcp4 dsr-ipip unscreened", forwarded, func(c *testCase) { c.Unscreened = true })
	add("tcp4 dsr-ipip 500000 denied", forwarded, func(c *testCase) { c.Denied = 500_000 })
	add("tcp4 dsr-ipip limited", forwarded, func(c *testCase) { c.Limits.Packets.Rate = model.MaxLimit })
	add("tcp4 dsr-ipip sources limited", forwarded, func(c *testCase) { c.Limits.SourcePackets.Rate = model.MaxLimit })
	add("tcp4 dsr-ipip in flux", forwarded, func(c *testCase) { c.InFlux = true })
	add("tcp4 dsr-ipip tracking always", forwarded, always)
	add("udp4 dsr-ipip tracking always", udp, always)
	add("tcp4 dsr-ipip new flows", forwarded, begun)
	add("tcp4 dsr-ipip new flows, full table", forwarded, func(c *testCase) {
		begun(c)
		c.Room = 100_000
	})
	addTranslated(forwarded, add)
	icmp := add("icmp4 error dsr-ipip", forwarded, func(c *testCase) { c.Packets, c.alone = subject.ErrorsICMP, true })
	add("icmp6 error dsr-ipip", icmp, func(c *testCase) { c.IPv6, c.floor = true, floorIPv6 })
	add("tcp4 not ours", forwarded, func(c *testCase) {
		c.Packets, c.floor, c.verdict, c.Reason = subject.Foreign, nil, verdictPass, "pass_not_vip"
		c.flows = []uint64{1, 1_000_000}
	})
	return all
}

// addTranslated adds the cases of VIPs that translate, in both directions.
func addTranslated(forwarded testCase, add func(string, testCase, func(*testCase)) testCase) {
	nat := add("tcp4 nat", forwarded, func(c *testCase) { c.Mode, c.floor = model.ModeNAT, floorL2 })
	add("tcp4 nat replies", nat, func(c *testCase) {
		c.Packets, c.verdict, c.Reason = subject.Replies, verdictRedirect, "redirect_reply"
	})
	fullnat := func(c *testCase) {
		c.Mode, c.floor, c.Tracking = model.ModeFullNAT, floorL2, model.TrackingAlways
	}
	answered := func(c *testCase) { c.Packets, c.Reason = subject.Replies, "tx_reply" }
	tcp4 := add("tcp4 fullnat", forwarded, fullnat)
	add("tcp4 fullnat replies", tcp4, answered)
	add("tcp4 fullnat new flows", tcp4, func(c *testCase) { c.flows, c.Packets = nil, subject.Openers })
	// Without a floor: what turns IPv4 into IPv6 writes other bytes than any program there.
	add("tcp4 fullnat to IPv6", tcp4, func(c *testCase) { c.Across, c.alone, c.floor = true, true, nil })
	tcp6 := add("tcp6 fullnat", tcp4, func(c *testCase) { c.IPv6 = true })
	add("tcp6 fullnat replies", tcp6, answered)
	udp4 := add("udp4 fullnat", tcp4, func(c *testCase) { c.Protocol = model.UDP })
	add("udp4 fullnat replies", udp4, answered)
}

func floorIPv4(o *benchObjects) *ebpf.Program { return o.FloorIpipIpv4 }
func floorIPv6(o *benchObjects) *ebpf.Program { return o.FloorIpipIpv6 }
func floorL2(o *benchObjects) *ebpf.Program   { return o.FloorL2 }
