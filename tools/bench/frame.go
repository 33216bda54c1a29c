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
)

// newFrame makes a packet in the middle of a flow, flow 0. Its checksums are 0: the
// packet path updates checksums, it does not verify them.
func newFrame(to netip.AddrPort, protocol model.Protocol) []byte {
	b := make([]byte, frameLength)
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	ip := b[ethernetLength:]
	var transport []byte
	if to.Addr().Is4() {
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		copy(ip, []byte{0x45, 0, 0, byte(len(ip)), 0, 0, 0x40, 0, 64, byte(protocol)})
		ip[12] = 0x80 // 128.0.0.0
		copy(ip[16:], to.Addr().AsSlice())
		transport = ip[ipv4Length:]
	} else {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		source := netip.MustParseAddr("2001:2:0:2::").As16()
		copy(ip, []byte{0x60, 0, 0, 0, 0, byte(len(ip) - ipv6Length), byte(protocol), 64})
		copy(ip[8:], source[:])
		copy(ip[24:], to.Addr().AsSlice())
		transport = ip[ipv6Length:]
	}
	binary.BigEndian.PutUint16(transport[2:], to.Port())
	if protocol == model.TCP {
		transport[12], transport[13] = 5<<4, 0x10 // 20 bytes of header; ACK
	} else {
		binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
	}
	return b
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
