package dataplane

// ipipRows are good packets to VIPs of mode dsr-ipip.
func ipipRows(l *lab, f family) []row {
	var rows []row
	for _, outer := range families() {
		name, port := "ipip in "+outer.name, uint16(portTunnel4)
		if outer.ipv6 {
			port = portTunnel6
		}
		s := l.at(f, port)
		ack := tcp{from: 40000, to: port, seq: 1001, ack: 77, flags: flagACK}
		data := ack
		data.data = text(501)
		synAck := ack
		synAck.flags = flagSYN | flagACK
		rows = append(rows,
			s.forwards(name+"/tcp syn", f.packet(tcp{from: 40000, to: port, flags: flagSYN})),
			s.forwards(name+"/tcp syn ack", f.packet(synAck)),
			s.forwards(name+"/tcp ack", f.packet(ack)),
			s.forwards(name+"/tcp data", f.packet(data)),
			s.forwards(name+"/udp", f.packet(udp{from: 20053, to: port, data: text(64)})),
			s.forwards(name+"/udp empty", f.packet(udp{from: 20053, to: port})),
		)
		rows = append(rows, fieldRows(l, f, port, name)...)
	}
	for _, outer := range families() {
		name, port := "ipip in "+outer.name, uint16(portOutTunnel4)
		if outer.ipv6 {
			port = portOutTunnel6
		}
		rows = append(rows,
			l.at(f, port).forwards(name+"/other interface tcp", f.packet(tcp{from: 9, to: port, flags: flagSYN})),
			l.at(f, port).forwards(name+"/other interface udp", f.packet(udp{from: 9, to: port, data: text(9)})),
		)
	}
	return rows
}
