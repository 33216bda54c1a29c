package dataplane

// groupRows are packets in frames to several hosts: to a backend they go as others do,
// but there is no answer (RFC 1122, section 3.2.2).
func groupRows(l *lab, f family) []row {
	l2, resets := l.at(f, portL2), l.at(f, portReset)
	syn := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN})
	expiring := f.packet(udp{from: 4000, to: portL2, data: text(10)})
	expiring.ttl = 1
	large := f.packet(udp{from: 4000, to: portL2, data: text(1600)})
	down := f.packet(tcp{from: 4000, to: portReset, flags: flagSYN})
	echo := f.packet(f.echoRequest(1, 56))
	var rows []row
	for name, group := range map[string]mac{
		"broadcast":      {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"ipv4 multicast": {0x01, 0x00, 0x5e, 1, 2, 3},
		"ipv6 multicast": {0x33, 0x33, 1, 2, 3, 4},
		"local group":    {0x03, 0, 0, 0, 0, 2},
	} {
		to := func(p packet) packet { p.to = group; return p }
		name = "group/" + name + ": "
		rows = append(rows,
			l2.forwards(name+"tcp", to(syn)),
			untouched(f, name+"echo", "pass_not_vip", to(echo).bytes()),
			l2.counted(name+"ttl", "drop_ttl_exceeded", to(expiring)),
			l2.counted(name+"too big", "drop_too_big", to(large)),
			resets.counted(name+"reset", "drop_no_backend", to(down)))
	}
	// The same packets, to the balancer alone, are answered.
	rst, reply := resets.counted("group/not one: reset", "tx_reset", down), untouched(f, "group/not one: echo", "tx_echo_reply", echo.bytes())
	rst.out, reply.out = reset(down).bytes(), answered(echo).bytes()
	return append(rows, rst, reply, l2.exceeded("group/not one: ttl", expiring), l2.tooBig("group/not one: too big", large))
}
