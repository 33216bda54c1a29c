package main

import (
	"encoding/binary"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// frameLength of every frame, in bytes; FRAME_LENGTH in bench.bpf.c. It holds the
// longest headers, IPv6 and TCP. What the program costs does not depend on it.
const frameLength = 78

const (
	ethernetLength = 14
	ipv4Length     = 20
	ipv6Length     = 40
	icmpLength     = 8
)

// newFrame makes a client's packet of flow 0, that opens it or is from its middle. Its
// checksums are 0: the packet path updates checksums, it does not verify them.
func newFrame(to netip.AddrPort, protocol model.Protocol, opens bool) []byte {
	b := make([]byte, frameLength)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	ip := b[ethernetLength:]
	var transport []byte
	if to.Addr().Is4() {
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		transport = putIPv4(ip, byte(protocol), firstClient(), to.Addr())
	} else {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		source := netip.MustParseAddr("2001:2:0:2::").As16()
		copy(ip, []byte{0x60, 0, 0, 0, 0, byte(len(ip) - ipv6Length), byte(protocol), 64})
		copy(ip[8:], source[:])
		copy(ip[24:], to.Addr().AsSlice())
		transport = ip[ipv6Length:]
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
	b := newFrame(vip, protocol, false)
	icmp := putIPv4(b[ethernetLength:], 1, netip.MustParseAddr("192.0.2.1"), vip.Addr())
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
	return b[ipv4Length:]
}

// frame is what the case's packets are made from.
func (c *testCase) frame() []byte {
	if c.packets == errorsICMP {
		return newError(c.target(), c.protocol)
	}
	return newFrame(c.target(), c.protocol, c.packets == openers)
}

// header is where in the frame the IP header lies that has the flow's addresses.
func (c *testCase) header() uint32 {
	if c.packets == errorsICMP {
		return ethernetLength + ipv4Length + icmpLength
	}
	return ethernetLength
}

// frameWords are a frame as the generator writes it: bytes 0 to 7, then all from 6 on.
func frameWords(b []byte) [10]uint64 {
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
