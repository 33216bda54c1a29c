package dataplane

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// split is a packet in fragments of one ID, cut at offsets of its transport header
// and data, which are multiples of 8. With IPv6, some extension headers may stand
// behind the fragment header.
func split(p packet, id uint32, after []extension, cuts ...int) []packet {
	inner := p
	inner.extensions = after
	protocol := p.payload.protocol(p.ipv6())
	body := slices.Concat(inner.chain(protocol), p.payload.bytes(p.source, p.destination))
	if len(after) > 0 {
		protocol = after[0].kind
	}
	cuts = slices.Concat([]int{0}, cuts, []int{len(body)})
	var parts []packet
	for i, at := range cuts[:len(cuts)-1] {
		more := i+2 < len(cuts)
		parts = append(parts, fragment(p, id, uint16(at/8), more, raw{protocol, body[at:cuts[i+1]]}))
	}
	return parts
}

// fragment is one fragment of a packet, at an offset in units of 8 bytes.
func fragment(p packet, id uint32, offset uint16, more bool, carried payload) packet {
	p.payload = carried
	if p.ipv6() {
		p.extensions = append(slices.Clone(p.extensions), fragmentHeaderOf(id, offset, more))
		return p
	}
	p.id, p.fragment = uint16(id), p.fragment|offset
	if more {
		p.fragment |= 0x2000
	}
	return p
}

// fragmented is a packet of the client's and what is special about its fragments.
type fragmented struct {
	name  string
	whole packet
	after []extension
}

// fragmentables are packets to a port in every form that fragments may have.
func (f family) fragmentables(port uint16) []fragmented {
	t := f.packet(tcp{from: 40000, to: port, seq: 7, flags: flagSYN, data: text(101)})
	u := f.packet(udp{from: 40001, to: port, data: text(120)})
	all := []fragmented{{"tcp", t, nil}, {"udp", u, nil}}
	tagged := u
	tagged.tags = []tag{{etherQinQ, 1}, {etherVLAN, 2}}
	all = append(all, fragmented{"tagged udp", tagged, nil})
	if !f.ipv6 {
		with := u
		with.options = recordRoute()
		atomic := u
		atomic.fragment = 0x4000
		return append(all, fragmented{"udp with options", with, nil}, fragmented{"udp, don't fragment", atomic, nil})
	}
	before := u
	before.extensions = []extension{hopByHop(1), routing()}
	return append(all,
		fragmented{"udp behind options", before, nil},
		fragmented{"udp, options behind", u, []extension{destinationOptions(1)}},
		fragmented{"tcp, options on both sides", packet{
			to: t.to, from: t.from, source: t.source, destination: t.destination, ttl: 9, tos: 3, payload: t.payload,
			extensions: []extension{hopByHop(2)},
		}, []extension{authentication(), destinationOptions(1)}})
}

// fragmentRows are fragments.
func fragmentRows(l *lab, f family) []row {
	var rows []row
	id := uint32(0x10000)
	modes := everyMode()
	// In order, so that a row is the same whenever it is made.
	for _, mode := range slices.Sorted(maps.Keys(modes)) {
		port := modes[mode]
		s := l.at(f, port)
		for _, c := range f.fragmentables(port) {
			id += 0x01000101
			parts := split(c.whole, id, c.after, 64, 96)
			protocol := model.Protocol(c.whole.payload.protocol(f.ipv6))
			name := fmt.Sprintf("fragment/%s, %s: ", mode, c.name)
			first := s.forwardsAs(protocol, hashOf(c.whole), name+"first", parts[0])
			first.opener = protocol == model.TCP
			rows = append(rows, first)
			for i, position := range []string{1: "middle", 2: "last"} {
				if i == 0 {
					continue
				}
				r := s.forwardsAs(protocol, 0, name+position, parts[i])
				r.before = [][]byte{parts[0].bytes()}
				rows = append(rows, r)
			}
			early := split(c.whole, id+1, c.after, 64, 96)
			rows = append(rows,
				untouched(f, name+"early middle", "drop_fragment_early", early[1].bytes()),
				untouched(f, name+"early last", "drop_fragment_early", early[2].bytes()))
		}
	}
	rows = append(rows, strangerRows(l, f)...)
	rows = append(rows, tinyRows(l, f)...)
	return append(rows, noFlowRows(l, f)...)
}

// strangerRows differ from a packet's fragments in one thing each, and one does in
// what does not matter.
func strangerRows(l *lab, f family) []row {
	const id = 0xfeed0042
	s, other := l.at(f, portL2), l.at(f, portTunnel6)
	u := f.packet(udp{from: 40001, to: portL2, data: text(120)})
	parts := split(u, id, nil, 64)
	stranger := func(name string, p packet) row {
		r := untouched(f, "fragment/of another "+name, "drop_fragment_early", p.bytes())
		r.before = [][]byte{parts[0].bytes()}
		return r
	}
	source, destination := parts[1], parts[1]
	source.source = source.source.Next()
	destination.destination = f.wide
	protocol := fragment(u, id, 8, false, raw{6, text(64)})
	rows := []row{
		stranger("id", split(u, id^1, nil, 64)[1]),
		stranger("source", source),
		stranger("destination", destination),
	}
	if f.ipv6 {
		r := s.forwardsAs(model.UDP, 0, "fragment/of another protocol", protocol)
		r.before = [][]byte{parts[0].bytes()}
		rows = append(rows, stranger("id in its upper half", split(u, id^1<<31, nil, 64)[1]), r)
	} else {
		rows = append(rows, stranger("protocol", protocol))
	}
	// Of two packets with one ID, the newer one's fragments come last.
	newer := f.packet(udp{from: 40001, to: portTunnel6, data: text(120)})
	r := other.forwardsAs(model.UDP, 0, "fragment/of the newer packet", split(newer, id, nil, 64)[1])
	r.before = [][]byte{parts[0].bytes(), split(newer, id, nil, 64)[0].bytes()}
	return append(rows, r)
}

// tinyRows are first fragments with less than the transport header, and just enough.
func tinyRows(l *lab, f family) []row {
	s := l.at(f, portL2)
	t := f.packet(tcp{from: 40000, to: portL2, flags: flagACK, options: make([]byte, 12), data: text(100)})
	u := f.packet(udp{from: 40000, to: portL2, data: text(100)})
	enough := func(name string, p packet, cut int) row {
		protocol := model.Protocol(p.payload.protocol(f.ipv6))
		return s.forwardsAs(protocol, hashOf(p), "fragment/"+name, split(p, 1, nil, cut)[0])
	}
	tiny := func(name string, p packet, cut int) row {
		return malformed(f, "fragment/"+name, "drop_malformed", split(p, 2, nil, cut)[0].bytes())
	}
	return []row{
		tiny("tcp of 0 bytes", t, 0), tiny("tcp of 8 bytes", t, 8), tiny("tcp of 16 bytes", t, 16),
		tiny("tcp without all options", t, 24), enough("tcp with its header", t, 32),
		tiny("udp of 0 bytes", u, 0), enough("udp with its header", u, 8), enough("udp with most", u, 104),
	}
}

// noFlowRows are fragments of what does not reach a backend.
func noFlowRows(l *lab, f family) []row {
	var rows []row
	add := func(name, reason string, p packet) {
		r := untouched(f, "fragment/"+name, reason, p.bytes())
		r.rough = true
		rows = append(rows, r)
	}
	foreign := f.foreignPacket(udp{from: 4000, to: portL2, data: text(100)})
	for i, p := range split(foreign, 3, nil, 40, 80) {
		add(fmt.Sprintf("foreign %d", i), "pass_not_vip", p)
	}
	none := split(f.packet(udp{from: 4000, to: portNone, data: text(100)}), 4, nil, 40, 80)
	add("first to another port", "pass_not_vip", none[0])
	add("later of nobody knows whose", "drop_fragment_early", split(f.packet(udp{from: 4001, to: portNone, data: text(100)}), 10, nil, 40, 80)[1])
	for i, name := range []string{1: "middle", 2: "last"} {
		if i > 0 {
			r := untouched(f, "fragment/"+name+" to another port", "pass_not_vip", none[i].bytes())
			r.before = [][]byte{none[0].bytes()}
			rows = append(rows, r)
		}
	}
	other := f.packet(raw{132, text(100)})
	add("first of another protocol", "pass_not_vip", split(other, 5, nil, 40)[0])
	add("later of another protocol", "pass_not_vip", split(other, 5, nil, 40)[1])
	for name, offset := range map[string]uint16{"1": 1, "the highest": 0x1fff} {
		add("at offset "+name, "drop_fragment_early", fragment(f.packet(nil), 6, offset, false, raw{6, text(20)}))
	}
	down := split(f.packet(tcp{from: 4000, to: portDown, flags: flagSYN, data: text(100)}), 7, nil, 40)
	r := l.at(f, portDown).countedAs(model.TCP, "fragment/first to a pool that is down", "drop_no_backend", down[0])
	r.opener = true
	later := untouched(f, "fragment/later to a pool that is down", "drop_fragment_early", down[1].bytes())
	later.before = [][]byte{down[0].bytes()}
	rows = append(rows, r, later)
	reset := split(f.packet(tcp{from: 4000, to: portReset, flags: flagSYN, data: text(100)}), 8, nil, 40)
	r = l.at(f, portReset).countedAs(model.TCP, "fragment/first to a pool that resets", "drop_no_backend", reset[0])
	r.opener = true
	rows = append(rows, r)
	echo := f.packet(f.echoRequest(1, 100))
	parts := split(echo, 9, nil, 40)
	for i, name := range []string{"first", "later"} {
		rows = append(rows, untouched(f, "fragment/"+name+" of echo", "pass_not_vip", parts[i].bytes()))
	}
	return rows
}

// eagerRows are fragments of a VIP that takes them before their first one.
func eagerRows(l *lab, f family) []row {
	s := l.at(f, portEager)
	var rows []row
	id := uint32(0x4444)
	for _, c := range f.fragmentables(portEager) {
		c.whole.destination = f.eager
		protocol := model.Protocol(c.whole.payload.protocol(f.ipv6))
		blind := testSeed().Hash(Flow{netip.AddrPortFrom(f.client, 0), netip.AddrPortFrom(f.eager, 0), protocol})
		// What happens to one ID stays with it.
		cut := func() []packet { id++; return split(c.whole, id, c.after, 64, 96) }
		name := "eager/" + c.name + ": "
		last := s.forwardsAs(protocol, blind, name+"last comes first", cut()[2])
		parts := cut()
		middle := s.forwardsAs(protocol, 0, name+"middle after last", parts[1])
		middle.before = [][]byte{parts[2].bytes()}
		parts = cut()
		first := s.forwardsAs(protocol, hashOf(c.whole), name+"first after last", parts[0])
		first.before = [][]byte{parts[2].bytes()}
		first.opener = protocol == model.TCP
		parts = cut()
		late := s.forwardsAs(protocol, 0, name+"last after first", parts[2])
		late.before = [][]byte{parts[0].bytes()}
		if len(c.after) > 0 {
			// Nothing but the first one tells the protocol.
			last = untouched(f, name+"last comes first", "drop_fragment_early", cut()[2].bytes())
			middle = untouched(f, name+"middle after last", "drop_fragment_early", cut()[1].bytes())
		}
		rows = append(rows, last, middle, first, late)
	}
	return rows
}
