package dataplane

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// natReport is an ICMP error about a packet of a conversation: how it comes and how it
// leaves, with what it quotes.
type natReport struct {
	talk
	trouble
	// in and out are the packets around the messages.
	in, out packet
	// about and quoted are the packet that the error is about, as the balancer has sent it,
	// and as who hears of it has.
	about, quoted packet
	// back: to a client, else to a backend.
	back bool
}

// requoted is a packet with another tuple, as an error quotes it.
func (c talk) requoted(p packet, source, destination netip.Addr, from, to uint16) packet {
	ttl := p.ttl
	p = c.crossed(p)
	p.ttl, p.source, p.destination, p.payload = ttl, source, destination, withPorts(p.payload, from, to)
	return p
}

// reportToBackend is an error about a packet to the client.
func (t *natTable) reportToBackend(c talk, trouble trouble, data []byte) natReport {
	about := t.answered(c, c.answer(flagACK, data))
	r := natReport{talk: c, trouble: trouble, about: about}
	r.quoted = c.requoted(about, c.backend.Address, c.source.Addr(), c.listens(), c.source.Port())
	r.in = c.request(nil)
	r.in.source = c.family.router()
	r.out = c.asked(r.in)
	if c.mode == model.ModeNAT {
		r.out.source = r.in.source
	}
	return r
}

// reportToClient is an error about a packet to the backend.
func (t *natTable) reportToClient(c talk, trouble trouble, data []byte) natReport {
	about := c.asked(c.ask(flagACK, data))
	r := natReport{talk: c, trouble: trouble, about: about, back: true}
	r.quoted = c.requoted(about, c.family.client, c.address, c.client, c.vip)
	r.in = c.response(nil)
	r.in.source = c.backendFamily().router()
	r.out = t.answered(c, r.in)
	if c.mode == model.ModeNAT {
		r.out.source = r.in.source
	}
	return r
}

func (c talk) backendFamily() family {
	if c.backend.Address.Is6() {
		return ipv6()
	}
	return ipv4()
}

// message is an error that quotes a packet and, of its transport header, so many bytes.
func (r trouble) message(about packet, quote int) icmp {
	quoted := about.ip()
	n := min(len(quoted), about.l4()-about.l3()+quote)
	return icmp{kind: r.kind, code: r.code, id: uint16(r.rest >> 16), seq: uint16(r.rest), data: quoted[:n]}
}

// row is that of the error, which quotes so many bytes of the transport header.
func (r natReport) row(name string, quote int) row {
	r.in.payload = r.message(r.about, quote)
	if r.back {
		name += " back"
	}
	name = "icmp/" + name
	left, translatable := r.trouble, true
	if r.across() {
		left, translatable = r.in.other(r.trouble)
	}
	r.out.payload = left.message(r.quoted, quote)
	line := row{name: r.talk.row(name), in: r.in.bytes(), reason: "tx_forwarded"}
	if r.back {
		line.reason = "tx_reply"
		if r.mode == model.ModeNAT || r.ingress != loopback {
			line.reason = "redirect_reply"
		}
	} else {
		line.vip, line.backend, line.size = r.natService.vip(r.protocol), r.key(), len(r.in.ip())
		if r.path.Link != loopback {
			line.reason = "redirect_forwarded"
		}
	}
	if line.out = r.out.bytes(); !translatable {
		line.reason, line.backend, line.out = "drop_untranslatable", BackendKey{}, nil
	}
	return line
}

// other is an error in the other IP version than that of a packet; false if that has none
// like it (RFC 7915, sections 4.2 and 5.2).
func (p packet) other(t trouble) (trouble, bool) {
	if p.ipv6() {
		return t.asICMP()
	}
	return t.asICMPv6()
}

func (t trouble) asICMPv6() (trouble, bool) {
	switch t.kind {
	case exceeded4:
		return trouble{exceeded6, t.code, 0}, true
	case parameter4:
		pointers := map[uint32]uint32{0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24}
		to, known := pointers[t.rest>>24]
		return trouble{parameter6, 0, to}, known && (t.code == 0 || t.code == 2)
	}
	codes := map[uint8]uint8{0: 0, 1: 0, 3: 4, 5: 0, 6: 0, 7: 0, 8: 0, 9: 1, 10: 1, 11: 0, 12: 0, 13: 1, 15: 1}
	switch code, known := codes[t.code]; {
	case t.code == fragmentationNeeded:
		return trouble{tooBig6, 0, max(leastMTU6, t.rest&math.MaxUint16+headerIPv6-headerIPv4)}, true
	case t.code == 2:
		return trouble{parameter6, 1, 6}, true
	default:
		return trouble{unreachable6, code, 0}, known
	}
}

func (t trouble) asICMP() (trouble, bool) {
	switch {
	case t.kind == exceeded6:
		return trouble{exceeded4, t.code, 0}, true
	case t.kind == tooBig6:
		return trouble{unreachable4, fragmentationNeeded, uint32(max(0, int(min(t.rest, math.MaxUint16))-(headerIPv6-headerIPv4)))}, true
	case t.kind == parameter6 && t.code == 1:
		return trouble{unreachable4, 2, 0}, true
	case t.kind == parameter6:
		pointers := map[uint32]uint32{0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
		for n := range uint32(16) {
			pointers[8+n], pointers[24+n] = 12, 16
		}
		to, known := pointers[t.rest]
		return trouble{parameter4, 0, to << 24}, known && t.code == 0
	}
	code, known := map[uint8]uint8{0: 1, 1: 10, 2: 1, 3: 1, 4: 3}[t.code]
	return trouble{unreachable4, code, 0}, known
}

// moreTroubles are all errors, with what they point at and tell.
func (f family) moreTroubles() []trouble {
	all := f.troubles()
	if f.ipv6 {
		for _, pointer := range []uint32{1, 2, 3, 4, 5, 6, 7, 8, 23, 24, 39, 40, 41, 1 << 24} {
			all = append(all, trouble{parameter6, 0, pointer})
		}
		for _, n := range []uint32{0, 19, 20, 1300, 1500, 65535, 65536} {
			all = append(all, trouble{tooBig6, 0, n})
		}
		return all
	}
	for _, pointer := range []uint32{1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 15, 16, 19, 20 + 1, 255} {
		all = append(all, trouble{parameter4, 0, pointer << 24})
	}
	for _, n := range []uint32{68, 1259, 1260, 1261, 1500, 65535} {
		all = append(all, trouble{unreachable4, fragmentationNeeded, n})
	}
	return append(all, trouble{parameter4, 2, 8 << 24}, trouble{unreachable4, 16, 0}, trouble{exceeded4, 0, 7})
}

// reports are errors of one kind both ways.
func (t *natTable) reports(c talk, about int) []natReport {
	return []natReport{
		t.reportToBackend(c, c.family.anyError(), text(about)),
		t.reportToClient(c, c.backendFamily().anyError(), text(about)),
	}
}

// natErrorRows are ICMP errors about packets of conversations.
func natErrorRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		c := t.talk(s, model.UDP)
		for _, trouble := range f.moreTroubles() {
			name := fmt.Sprintf("type %d code %d %#x", trouble.kind, trouble.code, trouble.rest)
			rows = append(rows, t.reportToBackend(c, trouble, text(50)).row(name, 58))
		}
		for _, trouble := range c.backendFamily().moreTroubles() {
			name := fmt.Sprintf("type %d code %d %#x", trouble.kind, trouble.code, trouble.rest)
			rows = append(rows, t.reportToClient(c, trouble, text(50)).row(name, 58))
		}
	}
	for _, s := range append(t.any(f), t.every(f, kindOut)...) {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			for _, r := range t.reports(t.talk(s, protocol), 1001) {
				rows = append(rows, r.row("of any kind", 20), r.row("quotes much", 501))
			}
		}
	}
	return append(rows, natQuoteRows(t, f)...)
}

// natQuoteRows quote more and less, of packets of many forms.
func natQuoteRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		for _, r := range t.reports(t.talk(s, model.TCP), 77) {
			for _, n := range []int{4, 5, 7, 8, 12, 16, 18, 19, 20, 21, 96, 97} {
				rows = append(rows, r.row(fmt.Sprintf("quotes %d bytes of tcp", n), n))
			}
			rows = append(rows, envelopes(r)...)
			rows = append(rows, innerForms(r)...)
		}
		for _, r := range t.reports(t.talk(s, model.UDP), 77) {
			for _, n := range []int{4, 6, 8, 9, 85} {
				rows = append(rows, r.row(fmt.Sprintf("quotes %d bytes of udp", n), n))
			}
		}
	}
	return rows
}

// envelopes vary what is around an error.
func envelopes(r natReport) []row {
	var rows []row
	vary := func(name string, change func(*packet)) {
		other, was := r, r.in
		was.payload = icmp{}
		changed := changes(was, change)
		if changed == nil {
			return
		}
		other.in = *changed
		outside := other.in
		if outside.ttl--; r.across() {
			outside.options, outside.extensions = nil, nil
			outside.label = 0
		}
		other.out.ttl, other.out.tos, other.out.options, other.out.extensions = outside.ttl, outside.tos, outside.options, outside.extensions
		other.out.padding, other.out.label = outside.padding, outside.label
		rows = append(rows, other.row(name, 8))
	}
	for name, tags := range tagStacks() {
		vary(name, func(p *packet) { p.tags = tags })
	}
	vary("ttl 2", func(p *packet) { p.ttl = 2 })
	vary("class", func(p *packet) { p.tos = 0xc3 })
	for _, n := range []int{1, 4, 10, 30} {
		vary(fmt.Sprintf("%d bytes of padding", n), func(p *packet) { p.padding = n })
	}
	vary("flow label", func(p *packet) { p.label = 0x77777 })
	vary("extension headers", func(p *packet) { p.extensions = []extension{hopByHop(1), destinationOptions(2)} })
	vary("atomic fragment", func(p *packet) { p.extensions = []extension{fragmentHeader(0, false)} })
	vary("options", func(p *packet) { p.options = recordRoute() })
	return rows
}

// innerForms vary the packet that an error quotes.
func innerForms(r natReport) []row {
	var rows []row
	vary := func(name string, change func(*packet)) {
		changed := changes(r.about, change)
		if changed == nil {
			return
		}
		other := r
		other.about = *changed
		to := r.quoted
		other.quoted = r.requoted(*changed, to.source, to.destination, portsOf(to)[0], portsOf(to)[1])
		rows = append(rows, other.row("about "+name, 8), other.row("about "+name+", at length", 60))
	}
	for _, e := range extensions() {
		if e.name == tooLongChain {
			continue
		}
		vary(e.name, func(p *packet) { p.extensions = e.chain })
	}
	vary("options", func(p *packet) { p.options = recordRoute() })
	vary("class and ttl", func(p *packet) { p.tos, p.ttl = 0x2e, 1 })
	vary("id", func(p *packet) { p.id = 0xabcd })
	vary("flow label", func(p *packet) { p.label = 0xfffff })
	return rows
}

// portsOf are source and destination port of a packet.
func portsOf(p packet) [2]uint16 {
	switch carried := p.payload.(type) {
	case tcp:
		return [2]uint16{carried.from, carried.to}
	case udp:
		return [2]uint16{carried.from, carried.to}
	}
	return [2]uint16{}
}
