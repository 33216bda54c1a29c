package dataplane

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// outerFits wants the outer headers that the candidate's mode has before a packet,
// as it leaves.
func (e *encounter) outerFits(c candidate, outer, inner []byte) error {
	if c.vip.Mode == model.ModeDSRL2 {
		return nil
	}
	protocol := uint8(4)
	if e.ipv6 {
		protocol = 41
	}
	source, err := e.outerSource(c, outer)
	if err != nil {
		return err
	}
	want := e.outerIP(c, source, protocol, len(inner))
	if c.vip.Mode == model.ModeDSRGUE {
		gue := e.gueHeader(c, source, outer, protocol, inner)
		want = append(e.outerIP(c, source, numberUDP, len(gue)+len(inner)), gue...)
		if e.options.GUEChecksum && !e.sumsRight() {
			// It may have been reckoned from those inside.
			copy(want[len(want)-headerGUE+6:], outer[len(outer)-headerGUE+6:][:2])
		}
	}
	return checkBytes(outer, want)
}

// sumsRight reports whether the checksums of a flow's packet are what they should be.
func (e *encounter) sumsRight() bool {
	if !e.carriesFlow() || e.part != whole {
		return true
	}
	body := e.transport()
	return (e.ipv6 || onesSum(e.frame()[e.l3:e.l4]) == math.MaxUint16) &&
		onesSum(pseudoHeader(e.source, e.destination, e.protocol, len(body)), body) == math.MaxUint16
}

// shown is the hash that shows outside, if certain: fragments of one packet look alike.
func (e *encounter) shown() (hash uint64, certain bool) {
	switch {
	case e.part == whole || e.about:
		return e.hash, e.certain
	case e.fragmentHeaders > 1:
		return 0, false
	}
	id := uint32(binary.BigEndian.Uint16(e.frame()[e.l3+4:]))
	if e.ipv6 {
		id = binary.BigEndian.Uint32(e.frame()[e.fragmentAt+4:])
	}
	return fragmentHash(e.source, e.destination, e.protocol, id), true
}

// outerSource is the address that an outer header says it is from, if it may.
func (e *encounter) outerSource(c candidate, outer []byte) (netip.Addr, error) {
	at, spread := 12, e.options.SourceIPv4
	if c.path.Outer.Is6() {
		at, spread = 8, e.options.SourceIPv6
	}
	source, _ := netip.AddrFromSlice(outer[at : at+len(c.path.Outer.AsSlice())])
	want := c.path.Outer
	if spread.IsValid() {
		hash, certain := e.shown()
		want = spreadSource(want, e.options, hash)
		if !certain && spread.Contains(source) {
			want = source
		}
	}
	if source != want {
		return source, fmt.Errorf("the outer source is %v, want %v", source, want)
	}
	return source, nil
}

// outerIP is an outer header before so many bytes of a protocol.
func (e *encounter) outerIP(c candidate, source netip.Addr, protocol uint8, length int) []byte {
	if source.Is6() {
		return ipv6Header(source, c.key.ID.Address, e.tos, 0, 64, protocol, length)
	}
	outer := packet{source: source, destination: c.key.ID.Address, tos: e.tos, ttl: 64, fragment: 0x4000}
	return ipv4Header(outer, nil, protocol, length)
}

// gueHeader is the UDP and GUE header before a packet. Its source port is one of the
// dynamic ports that tells flows apart.
func (e *encounter) gueHeader(c candidate, source netip.Addr, outer []byte, protocol uint8, inner []byte) []byte {
	at := len(outer) - headerGUE
	port := 0xc000 | binary.BigEndian.Uint16(outer[at:])
	if hash, certain := e.shown(); certain {
		port = 0xc000 | uint16(hash&0x3fff)
	}
	to := e.options.GUEPort
	if to == 0 {
		to = DefaultGUEPort
	}
	carried := udp{from: port, to: to, data: slices.Concat([]byte{0, protocol, 0, 0}, inner), unsummed: !e.options.GUEChecksum}
	return carried.bytes(source, c.key.ID.Address)[:headerGUE]
}
