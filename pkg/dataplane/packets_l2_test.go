package dataplane

import (
	"encoding/hex"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// literalRows are written down byte by byte, as a reference for the builders.
func literalRows(l *lab) []row {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
		if err != nil {
			panic(err)
		}
		return b
	}
	near, tunnel := l.at(ipv4(), portL2), l.at(ipv6(), portTunnel6)
	return []row{{
		name: "literal/dsr-l2 ipv4 udp",
		in: unhex(`020000000002 020000000001 0800
			4500 0020 0001 0000 4011 7cc3 cb007107 c0000201
			1f90 0050 000c 0d18 68656c6f`),
		out: unhex(`0200000e1050 020000000002 0800
			4500 0020 0001 0000 3f11 7dc3 cb007107 c0000201
			1f90 0050 000c 0d18 68656c6f`),
		reason: "tx_forwarded", vip: near.vip(model.UDP), backend: near.key(), size: 32,
	}, {
		name: "literal/dsr-ipip ipv6 in ipv6 udp",
		in: unhex(`020000000002 020000000001 86dd
			60000000 000c 11 40 20010db8000c00000000000000000007 20010db8000000000000000000000001
			1f90 0052 000c af99 68656c6f`),
		out: unhex(`020000101052 020000000002 86dd
			60000000 0034 29 40 20010db8000b00000000000000000001 20010db8000b00820000000000000016
			60000000 000c 11 3f 20010db8000c00000000000000000007 20010db8000000000000000000000001
			1f90 0052 000c af99 68656c6f`),
		reason: "tx_forwarded", vip: tunnel.vip(model.UDP), backend: tunnel.key(), size: 52,
	}}
}

// l2Rows are good packets to VIPs of mode dsr-l2.
func l2Rows(l *lab, f family) []row {
	near := l.at(f, portL2)
	syn := tcp{from: 40000, to: portL2, seq: 1000, flags: flagSYN, options: []byte{2, 4, 5, 0xb4}}
	ack := tcp{from: 40000, to: portL2, seq: 1001, ack: 77, flags: flagACK}
	data := ack
	data.flags, data.data = flagACK|flagPSH, text(33)
	synAck := ack
	synAck.flags = flagSYN | flagACK
	fin := ack
	fin.flags |= flagFIN
	rst := tcp{from: 40000, to: portL2, seq: 1001, flags: flagRST}
	rows := []row{
		near.forwards("l2/tcp syn", f.packet(syn)),
		near.forwards("l2/tcp ack", f.packet(ack)),
		near.forwards("l2/tcp data", f.packet(data)),
		near.forwards("l2/tcp syn ack", f.packet(synAck)),
		near.forwards("l2/tcp fin", f.packet(fin)),
		near.forwards("l2/tcp rst", f.packet(rst)),
		near.forwards("l2/tcp no flags", f.packet(tcp{from: 1, to: portL2})),
		near.forwards("l2/tcp longest options", f.packet(tcp{from: 1, to: portL2, flags: flagACK, options: make([]byte, 40)})),
		near.forwards("l2/tcp source port 0", f.packet(tcp{to: portL2, flags: flagSYN})),
		near.forwards("l2/tcp source port 65535", f.packet(tcp{from: 65535, to: portL2, flags: flagSYN})),
		near.forwards("l2/udp", f.packet(udp{from: 20053, to: portL2, data: text(100)})),
		near.forwards("l2/udp odd length", f.packet(udp{from: 20053, to: portL2, data: text(101)})),
		near.forwards("l2/udp empty", f.packet(udp{from: 20053, to: portL2})),
		near.forwards("l2/udp 1 byte", f.packet(udp{from: 20053, to: portL2, data: text(1)})),
		near.forwards("l2/udp 11 bytes", f.packet(udp{from: 20053, to: portL2, data: text(11)})),
	}
	rows = append(rows, fieldRows(l, f, portL2, "l2")...)
	out := l.at(f, portOut)
	rows = append(rows,
		out.forwards("l2/other interface tcp", f.packet(tcp{from: 9, to: portOut, flags: flagSYN})),
		out.forwards("l2/other interface udp", f.packet(udp{from: 9, to: portOut, data: text(9)})),
	)
	if !f.ipv6 {
		rows = append(rows, near.forwards("l2/udp without checksum", f.packet(udp{from: 20053, to: portL2, data: text(20), unsummed: true})))
	}
	return rows
}

// fieldRows vary the fields of the IP header, for any mode.
func fieldRows(l *lab, f family, port uint16, mode string) []row {
	s := l.at(f, port)
	vary := func(name string, change func(*packet)) row {
		p := f.packet(udp{from: 7, to: port, data: text(40)})
		change(&p)
		return s.forwards(mode+"/"+name, p)
	}
	rows := []row{
		vary("ttl 2", func(p *packet) { p.ttl = 2 }),
		vary("ttl 255", func(p *packet) { p.ttl = 255 }),
		vary("tos cs6", func(p *packet) { p.tos = 0xc0 }),
		vary("tos all ones", func(p *packet) { p.tos = 0xff }),
		vary("tos af41", func(p *packet) { p.tos = 0x88 }),
		vary("ecn ect0", func(p *packet) { p.tos = 0x02 }),
		vary("ecn ce", func(p *packet) { p.tos = 0x03 }),
		vary("ethernet padding", func(p *packet) { p.payload, p.padding = udp{from: 7, to: port, data: text(2)}, 16 }),
	}
	if f.ipv6 {
		return append(rows, vary("flow label", func(p *packet) { p.label = 0xfedcb }))
	}
	return append(rows,
		vary("don't fragment", func(p *packet) { p.fragment = 0x4000 }),
		vary("identification", func(p *packet) { p.id = 0xbeef }),
		vary("reserved flag", func(p *packet) { p.fragment = 0x8000 }),
		vary("options 4 bytes", func(p *packet) { p.options = []byte{1, 1, 1, 0} }),
		vary("options 40 bytes", func(p *packet) { p.options = append(make([]byte, 0, 40), recordRoute()...) }),
	)
}

// recordRoute is an IPv4 option that fills the header (RFC 791, section 3.1).
func recordRoute() []byte {
	b := make([]byte, 40)
	b[0], b[1], b[2] = 7, 39, 4
	return b
}
