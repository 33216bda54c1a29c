package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// foreignRows are packets that are not for a VIP, or not for what it serves.
func foreignRows(l *lab, f family) []row {
	rows := append(notIPRows(f), foreignAddressRows(f)...)
	rows = append(rows, otherOnVIPRows(f)...)
	return append(rows, wideRows(l, f)...)
}

// notIPRows carry anything but IP.
func notIPRows(f family) []row {
	frame := func(etherType uint16, body []byte) []byte {
		broadcast := mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		from := clientMAC()
		return slices.Concat(broadcast[:], from[:], binary.BigEndian.AppendUint16(nil, etherType), body)
	}
	if f.ipv6 {
		return nil
	}
	from, vip := clientMAC(), f.vip.As4()
	arp := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, from[:], f.client.AsSlice(), make([]byte, 6), vip[:])
	return []row{
		untouched(f, "foreign/arp for the VIP", "pass_not_ip", frame(etherARP, arp)),
		malformed(f, "foreign/lldp", "pass_not_ip", frame(etherLLDP, []byte{2, 7, 4, 2, 0, 0, 0, 0, 1, 4, 2, 5, 'e', 6, 2, 0, 120, 0, 0})),
		malformed(f, "foreign/802.3 length", "pass_not_ip", frame(38, make([]byte, 46))),
		malformed(f, "foreign/unknown ethertype", "pass_not_ip", frame(0xfffe, make([]byte, 100))),
		malformed(f, "foreign/ethernet header alone", "pass_not_ip", frame(0xfffe, nil)),
		malformed(f, "foreign/ethertype 0", "pass_not_ip", frame(0, nil)),
	}
}

// foreignAddressRows are for an address that is no VIP.
func foreignAddressRows(f family) []row {
	var rows []row
	add := func(name string, carried payload, change func(*packet)) {
		p := f.foreignPacket(carried)
		change(&p)
		rows = append(rows, untouched(f, "foreign/"+name, "pass_not_vip", p.bytes()))
	}
	same := func(*packet) {}
	everybody := netip.MustParseAddr("255.255.255.255")
	if f.ipv6 {
		everybody = netip.MustParseAddr("ff02::1")
	}
	data := udp{from: 4000, to: portL2, data: text(1000)}
	add("tcp", tcp{from: 4000, to: portL2, flags: flagSYN}, same)
	add("udp", data, same)
	add("ping", f.echoRequest(1, 56), same)
	add("ttl 0", data, func(p *packet) { p.ttl = 0 })
	add("ttl 1", data, func(p *packet) { p.ttl = 1 })
	add("ping with ttl 1", f.echoRequest(1, 56), func(p *packet) { p.ttl = 1 })
	add("to everybody", data, func(p *packet) { p.destination = everybody })
	add("from the VIP", tcp{from: portL2, to: 4000, flags: flagSYN | flagACK}, func(p *packet) { p.source = f.vip })
	add("jumbo", udp{from: 4000, to: portL2, data: text(8000)}, same)
	add("padding", tcp{from: 4000, to: portL2}, func(p *packet) { p.padding = 6 })
	if f.ipv6 {
		add("extension headers", data, func(p *packet) { p.extensions = []extension{hopByHop(1), destinationOptions(2)} })
		add("nine extension headers", data, func(p *packet) { p.extensions = slices.Repeat([]extension{destinationOptions(1)}, 9) })
		return rows
	}
	add("options", data, func(p *packet) { p.options = recordRoute() })
	return rows
}

// otherOnVIPRows are for a VIP's address, but not for its endpoint.
func otherOnVIPRows(f family) []row {
	var rows []row
	add := func(name string, carried payload) {
		r := untouched(f, "not the endpoint/"+name, "pass_not_vip", f.packet(carried).bytes())
		// What these carry is not what they are called.
		_, r.rough = carried.(raw)
		rows = append(rows, r)
	}
	add("other port tcp", tcp{from: 4000, to: portNone, flags: flagSYN})
	add("other port udp", udp{from: 4000, to: portNone})
	add("port 0", tcp{from: 4000, flags: flagSYN})
	add("port with its bytes exchanged", tcp{from: 4000, to: portL2 << 8, flags: flagSYN})
	add("source port of a VIP", tcp{from: portL2, to: 4000, flags: flagSYN})
	add("other protocol", udp{from: 4000, to: portTCPOnly})
	for name, number := range map[string]uint8{
		"ipip": 4, "ipv6 inside": 41, "gre": 47, "esp": 50, "ospf": 89, "sctp": 132, "udp-lite": 136, "reserved": 255,
	} {
		add(name, raw{number, text(40)})
		add(name+" empty", raw{number, nil})
	}
	if f.ipv6 {
		add("no next header", raw{59, nil})
		add("icmp of ipv4", raw{1, icmp{kind: 8}.bytes(f.client, f.vip)})
	} else {
		add("ah", raw{51, text(40)})
		add("icmpv6", raw{58, icmp{kind: 128}.bytes(f.client, f.vip)})
		add("extension header of ipv6", raw{60, text(40)})
	}
	return rows
}

// wideRows are for a VIP with any port, and for one with a port beside it.
func wideRows(l *lab, f family) []row {
	var rows []row
	wide, exact := l.wideAt(f, 0), l.wideAt(f, portTunnel4)
	to := func(carried payload) packet {
		p := f.packet(carried)
		p.destination = f.wide
		return p
	}
	rows = append(rows,
		wide.forwards("any port/tcp 1", to(tcp{from: 4000, to: 1, flags: flagSYN})),
		wide.forwards("any port/tcp 65535", to(tcp{from: 4000, to: 65535, flags: flagACK})),
		wide.forwards("any port/tcp 0", to(tcp{from: 4000, to: 0, flags: flagACK})),
		wide.forwards("any port/udp", to(udp{from: 4000, to: 53000})),
		exact.forwards("any port/exact port comes first tcp", to(tcp{from: 4000, to: portTunnel4, flags: flagSYN})),
		exact.forwards("any port/exact port comes first udp", to(udp{from: 4000, to: portTunnel4, data: text(4)})),
	)
	other := untouched(f, "any port/other protocol", "pass_not_vip", to(raw{132, text(40)}).bytes())
	other.rough = true
	return append(rows, other)
}
