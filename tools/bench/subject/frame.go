package subject

import (
	"encoding/binary"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// FrameLength of every frame, in bytes; FRAME_LENGTH in generate.h. It holds the
// longest headers, IPv6 and TCP. What the program costs does not depend on it.
const FrameLength = 78

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
	ip := b[EthernetLength:]
	var transport []byte
	if to.Addr().Is4() {
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		transport = putIPv4(ip, byte(protocol), firstClient(), to.Addr())
	} else {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		source := netip.MustParseAddr("2001:2:0:2::").As16()
		copy(ip, []byte{0x60, 0, 0, 0, 0, byte(len(ip) - IPv6Length), byte(protocol), 64})
		copy(ip[8:], source[:])
		copy(ip[24:], to.Addr().AsSlice())
		transport = ip[IPv6Length:]
	}
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

// newError makes a router's "fragmentation needed" about a VIP's packet to the client
// of flow 0.
func newError(vip netip.AddrPort, protocol model.Protocol) []byte {
	b := NewFrame(vip, protocol, false)
	icmp := putIPv4(b[EthernetLength:], 1, netip.MustParseAddr("192.0.2.1"), vip.Addr())
	clear(icmp)
	icmp[0], icmp[1] = 3, 4
	binary.BigEndian.PutUint16(icmp[6:], 1400)
	quoted := putIPv4(icmp[icmpLength:], byte(protocol), vip.Addr(), firstClient())
	binary.BigEndian.PutUint16(quoted, vip.Port())
	return b
}

// firstClient is the IPv4 address of flow 0.
func firstClient() netip.Addr { return netip.AddrFrom4([4]byte{128}) }

// putIPv4 writes the header of a packet that fills a buffer, and returns what is behind it.
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
		return EthernetLength + IPv4Length + icmpLength
	}
	return EthernetLength
}

// FrameWords are a frame as the generator writes it: bytes 0 to 7, then all from 6 on.
func FrameWords(b []byte) [10]uint64 {
	words := [10]uint64{binary.LittleEndian.Uint64(b)}
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
