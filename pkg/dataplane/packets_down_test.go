package dataplane

import "slices"

// downRows are for a pool that is down and drops.
func downRows(l *lab, f family) []row {
	down := l.at(f, portDown)
	return []row{
		down.counted("down/tcp syn", "drop_no_backend", f.packet(tcp{from: 4000, to: portDown, flags: flagSYN})),
		down.counted("down/tcp ack", "drop_no_backend", f.packet(tcp{from: 4000, to: portDown, flags: flagACK})),
		down.counted("down/udp", "drop_no_backend", f.packet(udp{from: 4000, to: portDown})),
	}
}

// reset is the segment that answers one to a closed port (RFC 9293, section 3.10.7.1).
func reset(in packet) packet {
	segment := in.payload.(tcp)
	rst := tcp{from: segment.to, to: segment.from, flags: flagRST}
	if segment.flags&flagACK != 0 {
		rst.seq = segment.ack
	} else {
		rst.flags |= flagACK
		rst.ack = segment.seq + uint32(len(segment.data))
		for _, counts := range []uint8{flagSYN, flagFIN} {
			if segment.flags&counts != 0 {
				rst.ack++
			}
		}
	}
	out := turned(in)
	out.payload = rst
	out.options, out.extensions, out.padding = nil, nil, 0
	out.tos, out.id, out.label, out.fragment = 0, 0, 0, 0x4000
	return out
}

// resetRows are for a pool that is down and resets.
func resetRows(l *lab, f family) []row {
	s := l.at(f, portReset)
	var rows []row
	add := func(name string, segment tcp, change func(*packet)) {
		segment.from, segment.to = 40000, portReset
		in := f.packet(segment)
		change(&in)
		r := s.counted("reset/"+name, "tx_reset", in)
		r.out = reset(in).bytes()
		rows = append(rows, r)
	}
	same := func(*packet) {}
	add("syn", tcp{seq: 1000, flags: flagSYN}, same)
	add("syn with options", tcp{seq: 1000, flags: flagSYN, options: []byte{2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1}}, same)
	add("syn with data", tcp{seq: 1000, flags: flagSYN, data: text(7)}, same)
	add("syn at the end of the numbers", tcp{seq: 0xffffffff, flags: flagSYN}, same)
	add("ack", tcp{seq: 1000, ack: 0xfedcba98, flags: flagACK}, same)
	add("syn ack", tcp{seq: 1000, ack: 7, flags: flagSYN | flagACK}, same)
	add("data", tcp{seq: 1000, ack: 7, flags: flagACK | flagPSH, data: text(1001)}, same)
	add("data without ack", tcp{seq: 0xfffffff0, flags: flagPSH, data: text(33)}, same)
	add("fin", tcp{seq: 1000, flags: flagFIN}, same)
	add("fin ack", tcp{seq: 1000, ack: 99, flags: flagFIN | flagACK}, same)
	add("syn fin with data", tcp{seq: 1000, flags: flagSYN | flagFIN, data: text(3)}, same)
	add("no flags", tcp{seq: 1000}, same)
	add("ports without carry", tcp{seq: 0, ack: 0, flags: flagACK}, same)
	add("several buffers", tcp{seq: 1000, flags: 0, data: text(6000)}, same)
	add("padding", tcp{seq: 1000, flags: flagSYN}, func(p *packet) { p.padding = 6 })
	add("ttl 1", tcp{seq: 1000, flags: flagSYN}, func(p *packet) { p.ttl = 1 })
	add("tos", tcp{seq: 1000, flags: flagSYN}, func(p *packet) { p.tos = 0x03 })
	for name, tags := range tagStacks() {
		add(name, tcp{seq: 1000, flags: flagSYN}, func(p *packet) { p.tags = tags })
	}
	if f.ipv6 {
		for _, e := range extensions() {
			add(e.name, tcp{seq: 1000, flags: flagSYN, data: text(3)}, func(p *packet) { p.extensions = e.chain })
		}
		add("flow label", tcp{seq: 1000, flags: flagSYN}, func(p *packet) { p.label = 0x54321 })
	} else {
		add("ip options", tcp{seq: 1000, flags: flagSYN, data: text(3)}, func(p *packet) { p.options = recordRoute() })
		add("identification", tcp{seq: 1000, flags: flagSYN}, func(p *packet) { p.id = 0xffff })
	}
	rst := tcp{from: 4000, to: portReset, seq: 1000, flags: flagRST}
	rstAck := rst
	rstAck.flags |= flagACK
	return append(rows,
		s.counted("reset/never a rst", "drop_no_backend", f.packet(rst)),
		s.counted("reset/never a rst ack", "drop_no_backend", f.packet(rstAck)),
		s.counted("reset/udp", "drop_no_backend", f.packet(udp{from: 4000, to: portReset})),
	)
}

// unreachableRows are for backends that packets cannot go to.
func unreachableRows(l *lab, f family) []row {
	syn := func(port uint16) packet { return f.packet(tcp{from: 4000, to: port, flags: flagSYN}) }
	refused := func(name string, port uint16) row {
		return l.at(f, port).counted("unreachable/"+name, "drop_unresolved", syn(port))
	}
	// What this one is like is of no matter: it goes nowhere.
	noLink := refused("no such interface", portNoLink)
	noLink.out = l.at(f, portNoLink).forwarded(syn(portNoLink)).bytes()
	rows := []row{
		refused("no path", portUnresolved),
		refused("dsr-l2 through a gateway", portGateway),
		refused("dsr-ipip without a source", portNoSource),
		refused("dsr-gue without a source", portNoSourceGUE),
		noLink,
		l.at(f, portFarTunnel).forwards("unreachable/dsr-ipip through a gateway", syn(portFarTunnel)),
		l.at(f, portFarGUE).forwards("unreachable/dsr-gue through a gateway", syn(portFarGUE)),
	}
	return append(rows, driverRows(l, f)...)
}

// withMetadata is a row whose frame the driver says something about.
func withMetadata(r row, metadata int, ingress int) row {
	r.context = &xdpContext{Data: uint32(metadata), DataEnd: uint32(metadata + len(r.in)), Ingress: uint32(ingress)}
	r.in = slices.Concat(make([]byte, metadata), r.in)
	if r.out != nil {
		r.out = slices.Concat(make([]byte, metadata), r.out)
	}
	r.rough = metadata != 0
	return r
}

// driverRows are packets about which the driver has something to say.
func driverRows(l *lab, f family) []row {
	out := l.at(f, portOut)
	syn := f.packet(tcp{from: 4000, to: portOut, flags: flagSYN})
	same := out.forwards("driver/arrived where it leaves", syn)
	same.reason = "tx_forwarded"
	syn.payload = tcp{from: 4000, to: portL2, flags: flagSYN}
	other := l.at(f, portL2).forwards("driver/arrived elsewhere", syn)
	other.reason = "redirect_forwarded"
	rows := []row{withMetadata(same, 0, out.path.Link), withMetadata(other, 0, out.path.Link)}
	for name, port := range map[string]uint16{"ipip": portTunnel6, "gue": portGUE6} {
		syn.payload = tcp{from: 4000, to: port, flags: flagSYN}
		tunnel := l.at(f, port)
		cramped := tunnel.counted("driver/no headroom for "+name, "drop_no_headroom", syn)
		lessTTL := syn
		lessTTL.ttl--
		cramped.out = lessTTL.bytes()
		rows = append(rows,
			withMetadata(tunnel.forwards("driver/metadata, "+name, syn), 32, loopback),
			withMetadata(cramped, 200, loopback))
	}
	return rows
}

// sizeRows are at the limit of what the way to the backend carries, and beyond.
func sizeRows(l *lab, f family) []row {
	var rows []row
	add := func(name string, port uint16, mtu, outer int) {
		header := headerIPv4
		if f.ipv6 {
			header = headerIPv6
		}
		s := l.at(f, port)
		fits := tcp{from: 4000, to: port, flags: flagACK, data: text(mtu - outer - header - headerTCP)}
		over := fits
		over.data = text(len(fits.data) + 1)
		padded := f.packet(fits)
		padded.padding = 100
		rows = append(rows,
			s.forwards("size/"+name+" fits", f.packet(fits)),
			s.forwards("size/"+name+" fits, padding aside", padded),
			s.tooBig("size/"+name+" too big", f.packet(over)),
		)
		tagged := f.packet(fits)
		tagged.tags = []tag{{etherQinQ, 1}, {etherVLAN, 2}}
		rows = append(rows, s.forwards("size/"+name+" fits with tags", tagged))
	}
	add("l2", portL2, mtu, 0)
	add("ipip in ipv4", portTunnel4, mtu, headerIPv4)
	add("ipip in ipv6", portTunnel6, mtu, headerIPv6)
	add("gue in ipv4", portGUE4, mtu, headerIPv4+headerGUE)
	add("gue in ipv6", portGUE6, mtu, headerIPv6+headerGUE)
	add("jumbo l2", portJumbo, jumbo, 0)
	add("jumbo ipip in ipv4", portJumboTunnel4, jumbo, headerIPv4)
	add("jumbo ipip in ipv6", portJumboTunnel6, jumbo, headerIPv6)
	add("jumbo gue in ipv4", portJumboGUE4, jumbo, headerIPv4+headerGUE)
	add("jumbo gue in ipv6", portJumboGUE6, jumbo, headerIPv6+headerGUE)
	return rows
}
