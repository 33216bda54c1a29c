package main

import (
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

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
			address := netip.AddrFrom4([4]byte{byte(source >> 24), byte(source >> 16), byte(source >> 8), byte(source)})
			prefixes = append(prefixes, netip.PrefixFrom(address, 32))
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
