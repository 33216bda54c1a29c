package subject

import (
	"encoding/binary"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// FrameLength of every frame, in bytes; FRAME_LENGTH in generate.h. It holds the
// longest headers: those of an ICMPv6 error that quotes IPv6 and the ports. What the program
// costs does not depend on it.
const FrameLength = 110

const frameWords = 14

const (
	EthernetLength = 14
	IPv4Length     = 20
	IPv6Length     = 40
	icmpLength     = 8
)

// NewFrame makes a client's packet of flow 0, that opens it or is from its middle. Its
// checksums are 0: the packet path updates checksums, it does not verify them.
func NewFrame(to netip.AddrPort, protocol model.Protocol, opens bool) []byte {
	b := make([]byte, FrameLength)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(b[12:], etherType(to.Addr()))
	transport := putIP(b[EthernetLength:], byte(protocol), firstClient(to.Addr()), to.Addr())
	binary.BigEndian.PutUint16(transport[2:], to.Port())
	switch {
	case protocol == model.UDP:
		binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
	case opens:
		transport[12], transport[13] = 5<<4, 0x02 // 20 bytes of header; SYN
	default:
		transport[12], transport[13] = 5<<4, 0x10 // ACK
	}
	return b
}

// newError makes a router's "fragmentation needed", or "packet too big", about a VIP's packet
// to the client of flow 0.
func newError(vip netip.AddrPort, protocol model.Protocol) []byte {
	b := NewFrame(vip, protocol, false)
	router, icmpProtocol, kind, code := netip.MustParseAddr("192.0.2.1"), byte(1), byte(3), byte(4)
	if vip.Addr().Is6() {
		router, icmpProtocol, kind, code = netip.MustParseAddr("2001:db8::1"), 58, 2, 0
	}
	icmp := putIP(b[EthernetLength:], icmpProtocol, router, vip.Addr())
	clear(icmp)
	icmp[0], icmp[1] = kind, code
	binary.BigEndian.PutUint16(icmp[6:], 1400)
	quoted := putIP(icmp[icmpLength:], byte(protocol), vip.Addr(), firstClient(vip.Addr()))
	binary.BigEndian.PutUint16(quoted, vip.Port())
	return b
}

// firstClient is the address of flow 0 in the family of a VIP.
func firstClient(vip netip.Addr) netip.Addr {
	if vip.Is6() {
		return netip.MustParseAddr("2001:2:0:2::")
	}
	return netip.AddrFrom4([4]byte{128})
}

func etherType(a netip.Addr) uint16 {
	if a.Is6() {
		return 0x86dd
	}
	return 0x0800
}

func ipLength(a netip.Addr) int {
	if a.Is6() {
		return IPv6Length
	}
	return IPv4Length
}

// putIP writes the header of a packet that fills a buffer, and returns what is behind it.
func putIP(b []byte, protocol byte, from, to netip.Addr) []byte {
	if to.Is4() {
		return putIPv4(b, protocol, from, to)
	}
	copy(b, []byte{0x60, 0, 0, 0, 0, byte(len(b) - IPv6Length), protocol, 64})
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return b[IPv6Length:]
}

func putIPv4(b []byte, protocol byte, from, to netip.Addr) []byte {
	copy(b, []byte{0x45, 0, 0, byte(len(b)), 0, 0, 0x40, 0, 64, protocol, 0, 0})
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	return b[IPv4Length:]
}

// Frame is what the case's packets are made from.
func (c *Case) Frame() []byte {
	if c.Packets == ErrorsICMP {
		return newError(c.Target(), c.Protocol)
	}
	return NewFrame(c.Target(), c.Protocol, c.Packets == Openers)
}

// header is where in the frame the IP header lies that has the flow's addresses.
func (c *Case) header() uint32 {
	if c.Packets == ErrorsICMP {
		return uint32(EthernetLength + ipLength(c.vip(0)) + icmpLength)
	}
	return EthernetLength
}

// FrameWords are a frame as the generator writes it: bytes 0 to 7, then all from 6 on.
func FrameWords(b []byte) [frameWords]uint64 {
	words := [frameWords]uint64{binary.LittleEndian.Uint64(b)}
	for i := 1; i < len(words); i++ {
		words[i] = binary.LittleEndian.Uint64(b[8*i-2:])
	}
	return words
}

// addressEnd is an address's last 8 bytes as a word; an IPv4 address has but 4.
func addressEnd(a netip.Addr) uint64 {
	if b := a.AsSlice(); len(b) > 8 {
		return binary.LittleEndian.Uint64(b[8:])
	}
	return uint64(binary.LittleEndian.Uint32(a.AsSlice())) << 32
}
