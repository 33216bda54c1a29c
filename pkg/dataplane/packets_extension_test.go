package dataplane

import "slices"

type namedChain struct {
	name  string
	chain []extension
}

// mostExtensionHeaders is how many the program follows; see bpf/parse.h.
const mostExtensionHeaders = 8

// extensions are chains of IPv6 extension headers that a flow may have.
func extensions() []namedChain {
	hop, route, destination, atomic, ah := hopByHop(1), routing(), destinationOptions(1), fragmentHeader(0, false), authentication()
	return []namedChain{
		{"hop-by-hop", []extension{hop}},
		{"hop-by-hop of 2048 bytes", []extension{hopByHop(256)}},
		{"routing", []extension{route}},
		{"destination options", []extension{destination}},
		{"atomic fragment", []extension{atomic}},
		{"authentication", []extension{ah}},
		{"every extension header", []extension{hop, destination, route, atomic, ah, destination}},
		{"fragment before options", []extension{atomic, destinationOptions(2)}},
		{"authentication before routing", []extension{ah, route}},
		{"eight extension headers", slices.Repeat([]extension{destination}, mostExtensionHeaders)},
		{"eight extension headers of each kind", []extension{hop, route, ah, route, ah, atomic, destination, route}},
	}
}

// extensionRows are flows behind IPv6 extension headers.
func extensionRows(l *lab, f family) []row {
	if !f.ipv6 {
		return nil
	}
	var rows []row
	for _, e := range extensions() {
		for mode, port := range map[string]uint16{"l2": portJumbo, "ipip in ipv4": portJumboTunnel4, "ipip in ipv6": portJumboTunnel6} {
			t := f.packet(tcp{from: 40000, to: port, flags: flagSYN, data: text(3)})
			u := f.packet(udp{from: 40000, to: port, data: text(3)})
			t.extensions, u.extensions = e.chain, e.chain
			rows = append(rows,
				l.at(f, port).forwards("extension/"+mode+" tcp "+e.name, t),
				l.at(f, port).forwards("extension/"+mode+" udp "+e.name, u))
		}
	}
	syn := f.packet(tcp{from: 40000, to: portL2, flags: flagSYN})
	with := func(chain ...extension) packet {
		p := syn
		p.extensions = chain
		return p
	}
	many := slices.Repeat([]extension{destinationOptions(1)}, mostExtensionHeaders+1)
	tagged := with(hopByHop(1), destinationOptions(1))
	tagged.tags = []tag{{etherQinQ, 1}, {etherVLAN, 2}}
	other := with(destinationOptions(1))
	other.payload = raw{132, text(20)}
	last := with(hopByHop(1))
	last.payload = raw{59, nil}
	largest := with(slices.Repeat([]extension{destinationOptions(256)}, mostExtensionHeaders)...)
	distant := with(destinationOptions(256), destinationOptions(256))
	return append(rows,
		l.at(f, portL2).forwards("extension/behind tags", tagged),
		untouched(f, "extension/nine", "drop_extension_headers", with(many...).bytes()),
		malformed(f, "extension/other protocol", "pass_not_vip", other.bytes()),
		untouched(f, "extension/no next header", "pass_not_vip", last.bytes()),
		// The transport header is beyond the first buffer.
		untouched(f, "extension/in the second buffer", "drop_truncated", distant.bytes()),
		untouched(f, "extension/16 kilobytes", "drop_truncated", largest.bytes()),
	)
}
