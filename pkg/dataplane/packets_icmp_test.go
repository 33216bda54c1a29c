package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// trouble is an ICMP error without what it quotes.
type trouble struct {
	kind, code uint8
	rest       uint32
}

// troubles are all ICMP errors that are about flows.
func (f family) troubles() []trouble {
	var all []trouble
	codes := func(kind uint8, n int) {
		for code := range n {
			all = append(all, trouble{kind, uint8(code), 0})
		}
	}
	if f.ipv6 {
		codes(unreachable6, 8)
		codes(exceeded6, 2)
		codes(parameter6, 4)
		return append(all, trouble{tooBig6, 0, 1280}, trouble{tooBig6, 0, 1 << 31}, trouble{parameter6, 1, 40}, trouble{unreachable6, 255, 0})
	}
	codes(unreachable4, 16)
	codes(exceeded4, 2)
	codes(parameter4, 3)
	return append(all, trouble{unreachable4, fragmentationNeeded, 1400}, trouble{parameter4, 0, 20 << 24}, trouble{unreachable4, 255, 0})
}

func (f family) anyError() trouble {
	if f.ipv6 {
		return trouble{tooBig6, 0, 1400}
	}
	return trouble{unreachable4, fragmentationNeeded, 1400}
}

// router is where errors come from.
func (f family) router() netip.Addr {
	if f.ipv6 {
		return netip.MustParseAddr("2001:db8:dead::1")
	}
	return netip.MustParseAddr("198.51.100.77")
}

// reply is what a backend sends to the client of a flow.
func (f family) reply(carried payload) packet {
	return packet{source: f.vip, destination: f.client, ttl: 3, tos: 8, payload: carried}
}

// reports is an error to the VIP about a packet, of which it quotes so many bytes.
func (f family) reports(t trouble, about packet, quote int) packet {
	quoted := about.ip()
	p := f.packet(icmp{kind: t.kind, code: t.code, id: uint16(t.rest >> 16), seq: uint16(t.rest), data: quoted[:min(len(quoted), quote)]})
	p.source = f.router()
	return p
}

// hashAbout is the hash of the flow that a reply belongs to.
func hashAbout(about packet) uint64 {
	from, to := about.source, about.destination
	about.source, about.destination = to, from
	switch carried := about.payload.(type) {
	case tcp:
		carried.from, carried.to = carried.to, carried.from
		about.payload = carried
	case udp:
		carried.from, carried.to = carried.to, carried.from
		about.payload = carried
	}
	return hashOf(about)
}

// everything is a quote of the whole packet.
const everything = 1 << 16

// reported is a row whose error about a packet reaches the service's backend.
func (s service) reported(name string, in, about packet) row {
	return s.forwardsAs(model.Protocol(about.payload.protocol(s.family.ipv6)), hashAbout(about), "icmp error/"+name, in)
}

// icmpErrorRows are ICMP errors about packets that backends have sent.
func icmpErrorRows(l *lab, f family) []row {
	var rows []row
	for mode, port := range everyMode() {
		s := l.at(f, port)
		for name, about := range map[string]packet{
			"tcp": f.reply(tcp{from: port, to: 40000, seq: 9, ack: 8, flags: flagACK, data: text(100)}),
			"udp": f.reply(udp{from: port, to: 40001, data: text(101)}),
		} {
			for _, t := range f.troubles() {
				if t.code > 4 && port != portL2 {
					continue
				}
				name := fmt.Sprintf("%s, %s: type %d code %d %#x", mode, name, t.kind, t.code, t.rest)
				rows = append(rows, s.reported(name, f.reports(t, about, 400), about))
			}
		}
	}
	rows = append(rows, quotedRows(l, f)...)
	rows = append(rows, envelopeRows(l, f)...)
	return append(rows, aboutNothingRows(l, f)...)
}

// quotedRows quote more and less of packets of many forms.
func quotedRows(l *lab, f family) []row {
	s := l.at(f, portGUE4)
	var rows []row
	add := func(name string, about packet, quote int) {
		rows = append(rows, s.reported(name, f.reports(f.anyError(), about, quote), about))
	}
	t := f.reply(tcp{from: portGUE4, to: 40000, seq: 9, flags: flagACK, data: text(1000)})
	u := f.reply(udp{from: portGUE4, to: 40001})
	for _, n := range []int{4, 5, 7, 8, 9, 20, 21, 64} {
		add(fmt.Sprintf("quotes %d bytes of tcp", n), t, t.l4()-t.l3()+n)
		add(fmt.Sprintf("quotes %d bytes of udp", n), u, u.l4()-u.l3()+n)
	}
	add("quotes everything", t, everything)
	first := t
	first.fragment = 0x2000
	if f.ipv6 {
		first.extensions = []extension{fragmentHeader(0, true)}
		for _, e := range extensions()[2:] {
			with := t
			with.extensions = e.chain
			add("about "+e.name, with, with.l4()-with.l3()+8)
			add("about "+e.name+", ports alone", with, with.l4()-with.l3()+4)
		}
	} else {
		with := t
		with.options = recordRoute()
		add("about options", with, with.l4()-with.l3()+8)
		with.options = []byte{1, 1, 1, 0}
		add("about short options, ports alone", with, with.l4()-with.l3()+4)
	}
	add("about a first fragment", first, 100)
	return rows
}

// envelopeRows vary what is around the error.
func envelopeRows(l *lab, f family) []row {
	var rows []row
	for mode, port := range map[string]uint16{"l2": portL2, "ipip": portTunnel6, "gue": portGUE6} {
		about := f.reply(tcp{from: port, to: 40000, flags: flagACK, data: text(77)})
		vary := func(name string, change func(*packet)) {
			in := f.reports(f.anyError(), about, 8+len(about.ip())-headerTCP)
			change(&in)
			rows = append(rows, l.at(f, port).reported(mode+": "+name, in, about))
		}
		for name, tags := range tagStacks() {
			vary(name, func(p *packet) { p.tags = tags })
		}
		vary("ttl 2", func(p *packet) { p.ttl = 2 })
		vary("class", func(p *packet) { p.tos = 0xc3 })
		vary("from the client", func(p *packet) { p.source = f.client })
		vary("padding", func(p *packet) { p.padding = 7 })
		if f.ipv6 {
			vary("extension headers", func(p *packet) { p.extensions = []extension{hopByHop(1), destinationOptions(2)} })
			vary("atomic fragment", func(p *packet) { p.extensions = []extension{fragmentHeader(0, false)} })
		} else {
			vary("options", func(p *packet) { p.options = recordRoute() })
		}
	}
	long := f.reply(udp{from: portJumboGUE6, to: 40001, data: text(8000)})
	rows = append(rows, l.at(f, portJumboGUE6).reported("several buffers", f.reports(f.anyError(), long, everything), long))
	wide := f.reply(tcp{from: 12345, to: 40000, flags: flagACK})
	wide.source = f.wide
	in := f.reports(f.anyError(), wide, everything)
	in.destination = f.wide
	return append(rows, l.wideAt(f, 0).reported("any-port VIP", in, wide))
}

// aboutNothingRows do not tell a flow of a VIP, or one that goes to no backend.
func aboutNothingRows(l *lab, f family) []row {
	var rows []row
	add := func(name, reason string, about packet, quote int, change func(*packet)) {
		in := f.reports(f.anyError(), about, quote)
		if change != nil {
			change(&in)
		}
		rows = append(rows, untouched(f, "icmp error/"+name, reason, in.bytes()))
	}
	drop := func(name string, about packet, quote int) { add(name, "drop_icmp_error", about, quote, nil) }
	t := f.reply(tcp{from: portL2, to: 40000, flags: flagACK, data: text(100)})
	header := t.l4() - t.l3()
	for _, n := range []int{0, 1, header - 1, header, header + 1, header + 3} {
		drop(fmt.Sprintf("quotes %d bytes in all", n), t, n)
	}
	odd := func(name string, change func(*packet)) {
		about := t
		change(&about)
		drop(name, about, everything)
	}
	odd("about another's packet", func(p *packet) { p.source = f.foreign })
	odd("about another VIP's packet", func(p *packet) { p.source = f.wide })
	odd("about a packet to the VIP", func(p *packet) { p.source, p.destination = f.client, f.vip })
	for name, carried := range map[string]payload{
		"another protocol": raw{132, text(40)}, "echo": f.echoRequest(1, 40), "an icmp error": f.reports(f.anyError(), t, 100).payload,
	} {
		about := t
		about.payload = carried
		add("about "+name, "pass_not_vip", about, everything, nil)
	}
	if f.ipv6 {
		odd("about a later fragment", func(p *packet) { p.extensions = []extension{fragmentHeader(100, true)} })
		odd("about the last fragment", func(p *packet) { p.extensions = []extension{destinationOptions(1), fragmentHeader(1, false)} })
		odd("about nine extension headers", func(p *packet) {
			p.extensions = slices.Repeat([]extension{destinationOptions(1)}, mostExtensionHeaders+1)
		})
		with := t
		with.extensions = []extension{destinationOptions(2)}
		drop("quotes a part of extension headers", with, headerIPv6+15)
	} else {
		odd("about a later fragment", func(p *packet) { p.fragment = 0x2001 })
		odd("about the last fragment", func(p *packet) { p.fragment = 0x1fff })
		with := t
		with.options = recordRoute()
		drop("quotes a part of options", with, headerIPv4+39)
	}
	unserved := t
	unserved.payload = tcp{from: portNone, to: 40000}
	add("about a port that is not served", "pass_not_vip", unserved, everything, nil)
	unserved.payload = udp{from: portTCPOnly, to: 40000}
	add("about a protocol that is not served", "pass_not_vip", unserved, everything, nil)
	add("to another", "pass_not_vip", t, everything, func(p *packet) { p.destination = f.foreign })
	add("to another, of nothing", "pass_not_vip", t, 0, func(p *packet) { p.destination = f.foreign })
	return append(rows, badErrorRows(l, f, t)...)
}

// badErrorRows are damaged, or about flows of pools that are down.
func badErrorRows(l *lab, f family, about packet) []row {
	in := f.reports(f.anyError(), about, everything)
	frame, at := in.bytes(), in.l4()+headerUDP
	nibble := frame[at] & 15
	rows := judged(f, "icmp error/cut off", "drop_truncated", func(p packet) []byte { return p.bytes()[:p.l4()+40] }, in)
	rows = append(rows, malformed(f, "icmp error/about a packet of version 5", "drop_icmp_error", set(frame, at, 5<<4|nibble)))
	if !f.ipv6 {
		rows = append(rows, malformed(f, "icmp error/about a header of 4 words", "drop_icmp_error", set(frame, at, 0x44)))
	}
	for name, port := range map[string]uint16{"is down": portDown, "resets": portReset} {
		about := f.reply(tcp{from: port, to: 40000, flags: flagACK, data: text(20)})
		r := l.at(f, port).countedAs(model.TCP, "icmp error/to a pool that "+name, "drop_no_backend", f.reports(f.anyError(), about, everything))
		rows = append(rows, r)
	}
	return rows
}
