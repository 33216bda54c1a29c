package dataplane

// tagStacks are the VLAN tags that a frame may arrive with.
func tagStacks() map[string][]tag {
	return map[string][]tag{
		"802.1q":                {{etherVLAN, 7}},
		"802.1ad":               {{etherQinQ, 7}},
		"802.1ad and 802.1q":    {{etherQinQ, 7}, {etherVLAN, 8}},
		"802.1q twice":          {{etherVLAN, 7}, {etherVLAN, 8}},
		"802.1q priority":       {{etherVLAN, 0xe000}},
		"802.1q highest number": {{etherVLAN, 0xfffe}},
	}
}

// vlanRows are packets to VIPs with VLAN tags on, off and exchanged.
func vlanRows(l *lab, f family) []row {
	var rows []row
	ports := map[string]uint16{
		"l2": portL2, "l2 tagged": portTagged, "l2 other interface tagged": portOutTagged,
		"ipip in ipv4": portTunnel4, "ipip in ipv4 tagged": portTaggedTunnel4,
		"ipip in ipv6": portTunnel6, "ipip in ipv6 tagged": portTaggedTunnel6,
	}
	for mode, port := range ports {
		for name, tags := range tagStacks() {
			p := f.packet(tcp{from: 40000, to: port, seq: 5, flags: flagSYN})
			p.tags = tags
			rows = append(rows, l.at(f, port).forwards("vlan/"+name+" to "+mode, p))
		}
		p := f.packet(udp{from: 40000, to: port, data: text(1)})
		rows = append(rows, l.at(f, port).forwards("vlan/untagged to "+mode, p))
	}
	three := f.packet(tcp{from: 40000, to: portL2, flags: flagSYN})
	three.tags = []tag{{etherQinQ, 1}, {etherVLAN, 2}, {etherVLAN, 3}}
	foreign := f.foreignPacket(tcp{from: 40000, to: portL2, flags: flagSYN})
	foreign.tags = three.tags[:2]
	cut := f.packet(tcp{from: 40000, to: portL2, flags: flagSYN})
	cut.tags = three.tags[:2]
	return append(rows,
		untouched(f, "vlan/three tags", "pass_not_ip", three.bytes()),
		untouched(f, "vlan/foreign", "pass_not_vip", foreign.bytes()),
		malformed(f, "vlan/first tag cut off", "pass_not_ip", cut.bytes()[:headerEthernet+headerTag-1]),
		malformed(f, "vlan/first tag missing", "pass_not_ip", cut.bytes()[:headerEthernet]),
		malformed(f, "vlan/second tag cut off", "pass_not_ip", cut.bytes()[:headerEthernet+2*headerTag-1]),
		malformed(f, "vlan/second tag missing", "pass_not_ip", cut.bytes()[:headerEthernet+headerTag]),
	)
}
