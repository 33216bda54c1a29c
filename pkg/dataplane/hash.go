package dataplane

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// The twins of bpf/hash.h and bpf/slot.h; tests run both on the same input.

const (
	hashMultiplier0 = 0x6a09e667f3bcc909
	hashMultiplier1 = 0xbb67ae8584caa73b
	hashMultiplier2 = 0x3c6ef372fe94f82b
	hashMultiplier3 = 0xa54ff53a5f1d36f1
)

// Seed keys the flow hash; the whole fleet shares it.
type Seed [2]uint64

// NewSeed reads a seed from 16 bytes, the first word first, little endian.
func NewSeed(b [16]byte) Seed {
	return Seed{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// Flow is a 5-tuple. Both addresses are of one family; ports are in host byte order.
type Flow struct {
	Source, Destination netip.AddrPort
	Protocol            model.Protocol
}

func mix(h, multiplier uint64) uint64 {
	h *= multiplier
	return h ^ h>>32
}

// Hash is the keyed 64-bit hash that the packet path computes of a flow.
func (s Seed) Hash(f Flow) uint64 {
	h := mix(s.foldAddresses(f.Source.Addr(), f.Destination.Addr())^s[0], hashMultiplier0)
	ports := uint64(bits.ReverseBytes16(f.Source.Port())) | uint64(bits.ReverseBytes16(f.Destination.Port()))<<16
	h += (uint64(f.Protocol)<<32 | ports) ^ s[1]
	h = mix(h, hashMultiplier1)
	return mix(h, hashMultiplier2)
}

// AffineHash is the hash of a flow of a VIP with an affinity: its upper half, which
// chooses the slot, is the hash of the client's prefix; its lower half the flow's.
func (s Seed) AffineHash(f Flow, vip string, a model.Affinity) uint64 {
	r := affinityRecord(vip, a)
	hash := s.Hash(f)
	if r == (lbAffinity{}) {
		return hash
	}
	client := xdp.Words(f.Source.Addr())
	if f.Source.Addr().Is4() {
		client[1] &= uint64(r.MaskIpv4)<<32 | mappedIPv4
	} else {
		client[0] &= r.MaskIpv6.Word[0]
		client[1] &= r.MaskIpv6.Word[1]
	}
	h := mix(client[0]^s[1], hashMultiplier3) + client[1]
	h = mix(h^s[0], hashMultiplier0) + uint64(r.Salt)
	return mix(mix(h, hashMultiplier1), hashMultiplier2)&^math.MaxUint32 | hash&math.MaxUint32
}

// mappedIPv4 is what stands before an IPv4 address mapped into IPv6; see bpf/types.h.
const mappedIPv4 = 0xffff0000

func (s Seed) foldAddresses(source, destination netip.Addr) uint64 {
	if source.Is4() {
		a, b := source.As4(), destination.As4()
		return uint64(binary.LittleEndian.Uint32(b[:]))<<32 | uint64(binary.LittleEndian.Uint32(a[:]))
	}
	from, to := xdp.Words(source), xdp.Words(destination)
	a := mix(from[0]^s[0], hashMultiplier2) + from[1]
	b := mix(to[0]^s[1], hashMultiplier3) + to[1]
	return mix(a, hashMultiplier3) + bits.RotateLeft64(mix(b, hashMultiplier2), 17)
}

// Slot is the slot of a hash in a table of that many slots.
func Slot(hash uint64, slots uint32) uint32 {
	return uint32((hash >> 32) * uint64(slots) >> 32)
}

func address(a netip.Addr) lbAddress {
	return lbAddress{Word: xdp.Words(a)}
}
