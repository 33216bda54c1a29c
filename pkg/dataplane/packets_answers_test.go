package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const (
	unreachable4, exceeded4, parameter4          = 3, 11, 12
	unreachable6, tooBig6, exceeded6, parameter6 = 1, 2, 3, 4

	fragmentationNeeded = 4 // code

	quote4, quote6 = 548, 1232
	leastMTU6      = 1280
)

// told is the ICMP error that answers a packet, from the VIP.
func told(in packet, kind, code uint8, rest uint32) packet {
	quote, most := in.ip(), quote4
	if in.ipv6() {
		most = quote6
	}
	out := turned(in)
	out.options, out.extensions, out.padding, out.outer, out.gue = nil, nil, 0, nil, nil
	out.tos, out.id, out.label, out.fragment = 0xc0, 0, 0, 0x4000
	out.payload = icmp{kind: kind, code: code, id: uint16(rest >> 16), seq: uint16(rest), data: quote[:min(len(quote), most)]}
	return out
}

// overhead is how many bytes the service puts before a packet.
func (s service) overhead() int {
	n := 0
	switch {
	case s.mode == model.ModeDSRL2:
		return 0
	case s.backend.Is6():
		n = headerIPv6
	default:
		n = headerIPv4
	}
	if s.mode == model.ModeDSRGUE {
		n += headerGUE
	}
	return n
}

// tooBig is a row whose packet is answered for its size.
func (s service) tooBig(name string, in packet) row {
	r := s.counted(name, "tx_too_big", in)
	rest := s.path.MTU - s.overhead()
	if s.family.ipv6 {
		r.out = told(in, tooBig6, 0, uint32(max(rest, leastMTU6))).bytes()
	} else {
		r.out = told(in, unreachable4, fragmentationNeeded, uint32(rest)).bytes()
	}
	return r
}

// exceeded is a row whose packet is answered for its TTL.
func (s service) exceeded(name string, in packet) row {
	r := s.counted(name, "tx_ttl_exceeded", in)
	if s.family.ipv6 {
		r.out = told(in, exceeded6, 0, 0).bytes()
	} else {
		r.out = told(in, exceeded4, 0, 0).bytes()
	}
	return r
}

// answerRows are packets that the balancer answers with ICMP errors.
func answerRows(l *lab, f family) []row {
	rows := append(ttlRows(l, f), bigRows(l, f)...)
	rows = append(rows, quoteRows(l, f)...)
	rows = append(rows, askerRows(l, f)...)
	return append(rows, unansweredRows(l, f)...)
}

// everyMode are services of every mode, outer family and way out.
func everyMode() map[string]uint16 {
	return map[string]uint16{
		"l2": portL2, "ipip in ipv4": portTunnel4, "ipip in ipv6": portTunnel6, "gue in ipv4": portGUE4, "gue in ipv6": portGUE6,
		"l2 tagged": portTagged, "ipip in ipv6 tagged": portTaggedTunnel6, "gue in ipv4 tagged": portTaggedGUE4,
		"l2 other interface": portOut, "ipip in ipv4 other interface": portOutTunnel4, "gue in ipv6 other interface": portOutGUE6,
		"jumbo ipip in ipv4": portJumboTunnel4, "jumbo gue in ipv6": portJumboGUE6,
	}
}

func ttlRows(l *lab, f family) []row {
	var rows []row
	for mode, port := range everyMode() {
		for _, ttl := range []uint8{0, 1} {
			s := l.at(f, port)
			in := f.packet(tcp{from: 4000, to: port, flags: flagSYN})
			in.ttl = ttl
			rows = append(rows, s.exceeded(fmt.Sprintf("answer/ttl %d, %s, tcp", ttl, mode), in))
			in.payload = udp{from: 33434, to: port, data: text(13)}
			rows = append(rows, s.exceeded(fmt.Sprintf("answer/ttl %d, %s, udp", ttl, mode), in))
		}
	}
	return rows
}

// bigRows are larger than the way to the backend carries.
func bigRows(l *lab, f family) []row {
	var rows []row
	header := headerIPv4 + headerUDP
	if f.ipv6 {
		header = headerIPv6 + headerUDP
	}
	for mode, port := range everyMode() {
		s := l.at(f, port)
		for _, over := range []int{1, 2, 501, 20000 - s.path.MTU} {
			if s.path.MTU-s.overhead()+over > 9500 {
				continue
			}
			in := f.packet(udp{from: 4000, to: port, data: text(s.path.MTU - s.overhead() - header + over)})
			rows = append(rows, s.tooBig(fmt.Sprintf("answer/%s, %d bytes too big", mode, over), in))
			in.tags, in.fragment = []tag{{etherQinQ, 1}, {etherVLAN, 2}}, 0x4000
			rows = append(rows, s.tooBig(fmt.Sprintf("answer/%s, %d bytes too big, tagged", mode, over), in))
		}
	}
	// Whatever the TTL of what is too big, that is what is said first.
	in := f.packet(udp{from: 4000, to: portL2, data: text(3000)})
	in.ttl = 1
	rows = append(rows, l.at(f, portL2).exceeded("answer/too big and ttl 1", in))
	least := narrow - headerIPv6 - header
	return append(rows,
		l.at(f, portNarrow).forwards("answer/narrow fits", f.packet(udp{from: 4000, to: portNarrow, data: text(least)})),
		l.at(f, portNarrow).tooBig("answer/narrow too big", f.packet(udp{from: 4000, to: portNarrow, data: text(least + 1)})))
}

// quoteRows have packets of all lengths around that of the longest quote.
func quoteRows(l *lab, f family) []row {
	s := l.at(f, portJumbo)
	most, header := quote4, headerIPv4
	if f.ipv6 {
		most, header = quote6, headerIPv6
	}
	var rows []row
	add := func(name string, in packet) {
		in.ttl = 1
		rows = append(rows, s.exceeded("answer/quote "+name, in))
	}
	for _, n := range []int{header + headerUDP, header + headerUDP + 1, 100, 101, most - 1, most, most + 1, most + 2, 1500, 8999, 9000} {
		add(fmt.Sprintf("of %d bytes", n), f.packet(udp{from: 4000, to: portJumbo, data: text(n - header - headerUDP)}))
	}
	in := f.packet(udp{from: 4000, to: portJumbo, data: text(2)})
	in.padding = 16
	add("without padding", in)
	in = f.packet(udp{from: 4000, to: portJumbo, data: text(700)})
	in.tos = 0xff
	add("of any class", in)
	for name, tags := range tagStacks() {
		in.tags = tags
		add(name, in)
	}
	in.tags = nil
	if !f.ipv6 {
		in.options = recordRoute()
		add("with options", in)
		return rows
	}
	in.label = 0xabcde
	add("with flow label", in)
	for _, e := range extensions() {
		in.extensions = e.chain
		add(e.name, in)
	}
	return rows
}

// askerRows are from addresses of hosts, and from such as are none's.
func askerRows(l *lab, f family) []row {
	hosts := []string{"1.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255"}
	none := []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"}
	if f.ipv6 {
		hosts = []string{"::2", "::1:0:0:0:1", "fe80::1", "fc00::1", "2001:db8::ff"}
		none = []string{"::", "::1", "ff02::1", "ff0e::7", "ff00::"}
	}
	s := l.at(f, portTunnel4)
	var rows []row
	for _, source := range slices.Concat(hosts, none) {
		small := f.packet(udp{from: 4000, to: portTunnel4, data: text(20)})
		large := f.packet(udp{from: 4000, to: portTunnel4, data: text(2000)})
		small.source, small.ttl = netip.MustParseAddr(source), 1
		large.source = small.source
		if slices.Contains(none, source) {
			rows = append(rows,
				s.counted("answer/ttl, none to "+source, "drop_ttl_exceeded", small),
				s.counted("answer/too big, none to "+source, "drop_too_big", large))
		} else {
			rows = append(rows, s.exceeded("answer/ttl, to "+source, small), s.tooBig("answer/too big, to "+source, large))
		}
	}
	return rows
}

// unansweredRows are packets to which there must be no answer, and the first fragment.
func unansweredRows(l *lab, f family) []row {
	s := l.at(f, portTunnel6)
	whole := f.packet(udp{from: 4000, to: portTunnel6, data: text(4000)})
	expiring := whole
	expiring.ttl = 1
	parts, old := split(whole, 0xbeef, nil, 1600, 3200), split(expiring, 0xbeef, nil, 1600, 3200)
	first := s.countedAs(model.UDP, "answer/too big first fragment", "tx_too_big", parts[0])
	mtu := uint32(mtu - headerIPv6)
	first.out = told(parts[0], unreachable4, fragmentationNeeded, mtu).bytes()
	late := s.countedAs(model.UDP, "answer/ttl of a first fragment", "tx_ttl_exceeded", old[0])
	late.out = told(old[0], exceeded4, 0, 0).bytes()
	if f.ipv6 {
		first.out = told(parts[0], tooBig6, 0, mtu).bytes()
		late.out = told(old[0], exceeded6, 0, 0).bytes()
	}
	later := s.countedAs(model.UDP, "answer/too big later fragment", "drop_too_big", parts[1])
	laterOld := s.countedAs(model.UDP, "answer/ttl of a later fragment", "drop_ttl_exceeded", old[2])
	later.before, laterOld.before = [][]byte{parts[0].bytes()}, [][]byte{parts[0].bytes()}

	about := f.reply(tcp{from: portTunnel6, to: 40000, flags: flagACK, data: text(2000)})
	large, dying := f.reports(f.anyError(), about, 2000), f.reports(f.anyError(), about, 100)
	dying.ttl = 1
	return append(noHeadroomRows(l, f), first, late, later, laterOld,
		s.countedAs(model.TCP, "answer/icmp error too big", "drop_too_big", large),
		s.countedAs(model.TCP, "answer/icmp error with ttl 1", "drop_ttl_exceeded", dying))
}

// noHeadroomRows have no room for the headers of an answer; what is dropped has been cut.
func noHeadroomRows(l *lab, f family) []row {
	in := f.packet(udp{from: 4000, to: portL2, data: text(1600)})
	most := quote4
	if f.ipv6 {
		most = quote6
	}
	r := l.at(f, portL2).counted("answer/no headroom", "drop_too_big", in)
	r.out = r.in[:in.l3()+most]
	answered := l.at(f, portL2).tooBig("answer/metadata", in)
	return []row{withMetadata(r, 200, loopback), withMetadata(answered, 32, loopback)}
}
