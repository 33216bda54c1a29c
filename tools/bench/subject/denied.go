package subject

import (
	"math/bits"
	"math/rand/v2"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// denyList has addresses among those that packets come from, but none of these.
func (c *Case) denyList(flows uint64) (model.SourceList, error) {
	sends := map[uint32]bool{}
	for flow := range flows {
		sends[sourceIPv4(flow)] = true
	}
	random := rand.New(rand.NewPCG(1, 2))
	prefixes := make([]netip.Prefix, 0, c.Denied)
	for len(prefixes) < c.Denied {
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
// generate.h.
func sourceIPv4(flow uint64) uint32 {
	low := uint32(flow * 0x6a09e667f3bcc909)
	return (low^low>>16)&^0xc0 | 0x80
}
