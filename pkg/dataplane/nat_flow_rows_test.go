package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// segmentFlags are what TCP segments may be.
func segmentFlags() map[string]uint8 {
	return map[string]uint8{
		"syn": flagSYN, "syn ack": flagSYN | flagACK, "ack": flagACK, "push": flagACK | flagPSH, "fin": flagFIN | flagACK,
		"rst": flagRST, "rst ack": flagRST | flagACK, "no flags": 0, "all flags": 0x3f, "ece cwr": 0xc0 | flagACK,
	}
}

// natFlowRows are what both ends of conversations send.
func natFlowRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.any(f) {
		for name, flags := range segmentFlags() {
			c := t.talk(s, model.TCP)
			rows = append(rows, t.back("flow/"+name+" back", c, c.answer(flags, nil)))
			c = t.talk(s, model.TCP)
			rows = append(rows, c.forth("flow/"+name+" forth", c.ask(flags, nil)))
		}
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.newTalk(s, protocol)
			rows = append(rows, t.first("flow/first", c, c.ask(flagSYN, nil)))
			c = t.talk(s, protocol)
			for _, n := range []int{0, 1, 2, 3, 7, 501, 1300} {
				name := fmt.Sprintf("flow/%d bytes", n)
				rows = append(rows,
					c.forth(name+" forth", c.ask(flagACK, text(n))),
					t.back(name+" back", c, c.answer(flagACK, text(n))))
			}
		}
	}
	for _, kind := range []string{kindTagged, kindOut, kindJumbo, kindEager, kindClamped, kindQUIC} {
		for _, s := range t.every(f, kind) {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				c := t.newTalk(s, protocol)
				rows = append(rows, t.first("flow/first", c, c.ask(flagSYN, text(3))))
				c = t.talk(s, protocol)
				rows = append(rows,
					c.forth("flow/forth", c.ask(flagACK, text(33))),
					t.back("flow/back", c, c.answer(flagACK, text(33))))
			}
		}
	}
	for _, s := range t.every(f, kindJumbo) {
		c := t.talk(s, model.UDP)
		rows = append(rows, c.forth("flow/several buffers", c.ask(0, text(8001))))
		if s.mode == model.ModeFullNAT {
			rows = append(rows, t.back("flow/several buffers back", c, c.answer(0, text(8001))))
		}
	}
	return rows
}

// natFormRows vary what is around the data.
func natFormRows(t *natTable, f family) []row {
	rows := append(headerRows(t, f), taggedClientRows(t, f)...)
	return append(rows, natSumRows(t, f)...)
}

// headerRows have IP headers of all kinds, both ways.
func headerRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		c := t.talk(s, model.TCP)
		both := func(name string, change func(*packet)) {
			ask, answer := c.ask(flagACK, text(41)), c.answer(flagACK, text(41))
			if changed := changes(ask, change); changed != nil {
				rows = append(rows, c.forth("header/"+name, *changed))
			}
			if changed := changes(answer, change); changed != nil {
				rows = append(rows, t.back("header/"+name+" back", c, *changed))
			}
		}
		both("ttl 2", func(p *packet) { p.ttl = 2 })
		both("ttl 255", func(p *packet) { p.ttl = 255 })
		both("class", func(p *packet) { p.tos = 0xb9 })
		both("padding", func(p *packet) { p.padding = 9 })
		for _, e := range extensions() {
			if e.name == tooLongChain {
				continue
			}
			both(e.name, func(p *packet) { p.extensions = e.chain })
		}
		both("options", func(p *packet) { p.options = recordRoute() })
		both("id", func(p *packet) { p.id, p.fragment = 0xbeef, 0x4000 })
		both("flow label", func(p *packet) { p.label = 0x12345 })
	}
	return rows
}

// tooLongChain are more extension headers than a packet of 1500 bytes has.
const tooLongChain = "hop-by-hop of 2048 bytes"

// changes is a packet with a change, nil if it has nothing that this would change.
func changes(p packet, change func(*packet)) *packet {
	was := p.bytes()
	if change(&p); bytes.Equal(was, p.bytes()) {
		return nil
	}
	return &p
}

// taggedClientRows have a tag on the client's side, and on it alone.
func taggedClientRows(t *natTable, f family) []row {
	var rows []row
	stacks := map[string][]tag{"802.1q": {{etherVLAN, 7}}, "802.1q priority": {{etherVLAN, 0xe007}}, "highest": {{etherVLAN, 0x0fff}}}
	for _, kind := range []string{"", kindTagged, kindOut} {
		for _, s := range t.every(f, kind) {
			for name, tags := range stacks {
				c := t.newTalk(s, model.UDP)
				c.tags = tags
				rows = append(rows, t.first("tag/"+name+" first", c, c.ask(0, text(7))))
				c = t.newTalk(s, model.UDP)
				c.tags = tags
				t.open(&c)
				rows = append(rows,
					c.forth("tag/"+name+" forth", c.ask(0, text(8))),
					t.back("tag/"+name+" back", c, c.answer(0, text(8))))
			}
			// A client whose packets come by another interface gets its answers there.
			c := t.newTalk(s, model.TCP)
			c.ingress = t.link
			t.open(&c)
			rows = append(rows,
				c.forth("link/forth", c.ask(flagACK, text(5))),
				t.back("link/back", c, c.answer(flagACK, text(5))))
		}
	}
	return append(rows, otherTagRows(t, f)...)
}

// otherTagRows have tags that answers could not bear, and such as come later.
func otherTagRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		for name, tags := range map[string][]tag{"two tags": {{etherQinQ, 7}, {etherVLAN, 8}}, "802.1ad": {{etherQinQ, 7}}} {
			c := t.newTalk(s, model.TCP)
			c.tags = tags
			if s.mode == model.ModeNAT {
				rows = append(rows, c.forth("tag/"+name, c.ask(flagSYN, nil)))
			} else {
				rows = append(rows, c.counted("tag/"+name, "drop_unresolved", c.ask(flagSYN, nil)))
			}
			c = t.talk(s, model.TCP)
			in := c.ask(flagACK, text(3))
			in.tags = tags
			rows = append(rows, c.forth("tag/later "+name, in))
			// It does not change where answers go.
			r := t.back("tag/after "+name, c, c.answer(flagACK, text(3)))
			r.before = [][]byte{in.bytes()}
			rows = append(rows, r)
		}
		c := t.talk(s, model.TCP)
		r := c.forth("tag/a router takes over", c.ask(flagACK, text(3)))
		rows = append(rows, r)
		moved := c
		moved.tags = []tag{{etherVLAN, 99}}
		r = t.back("tag/the answer goes its way", moved, c.answer(flagACK, text(3)))
		r.before = [][]byte{moved.ask(flagACK, text(1)).bytes()}
		rows = append(rows, r)
	}
	return rows
}

// natSumRows have checksums at the edges, and wrong ones.
func natSumRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		c := t.talk(s, model.UDP)
		if !f.ipv6 {
			in := c.request(udp{from: c.client, to: c.vip, data: text(31), unsummed: true})
			rows = append(rows, c.forth("sum/none forth", in))
		}
		if !s.backend.Address.Is6() {
			in := c.response(udp{from: c.listens(), to: c.source.Port(), data: text(31), unsummed: true})
			rows = append(rows, t.back("sum/none back", c, in))
		}
		if !f.ipv6 && s.across() {
			short := udp{from: c.client, to: c.vip, data: text(20), unsummed: true}
			in := c.request(longer{short})
			out := c.asked(c.request(short))
			carried := out.payload.(udp)
			out.payload = longer{carried}
			rows = append(rows, c.forth("sum/none, and more behind the datagram", in))
			rows[len(rows)-1].out = out.bytes()
		}
		forth := c.ask(0, []byte{1, 2, 0, 0})
		forth.payload = towardsZero(forth, c.asked(forth))
		back := c.answer(0, []byte{1, 2, 0, 0})
		back.payload = towardsZero(back, t.answered(c, back))
		rows = append(rows, c.forth("sum/becomes zero", forth), t.back("sum/becomes zero back", c, back))
		forth, back = c.ask(0, []byte{1, 2, 0, 0}), c.answer(0, []byte{1, 2, 0, 0})
		forth.payload, back.payload = towardsZero(forth, forth), towardsZero(back, back)
		rows = append(rows, c.forth("sum/is zero", forth), t.back("sum/is zero back", c, back))
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.talk(s, protocol)
			in, out := c.ask(flagACK, text(77)), c.asked(c.ask(flagACK, text(77)))
			rows = append(rows, wrongSum(c.forth("sum/wrong forth", in), in, out))
			in = c.answer(flagACK, text(77))
			rows = append(rows, wrongSum(t.back("sum/wrong back", c, in), in, t.answered(c, in)))
		}
	}
	return rows
}

// longer is a datagram with something behind it in its IP packet.
type longer struct{ udp }

func (d longer) bytes(source, destination netip.Addr) []byte {
	return append(d.udp.bytes(source, destination), text(11)...)
}

// towardsZero is the payload of a datagram whose last word makes the checksum zero of
// what it becomes.
func towardsZero(in, becomes packet) payload {
	data := becomes.payload.(udp)
	body := data.bytes(becomes.source, becomes.destination)
	body[6], body[7] = 0, 0
	sum := onesSum(pseudoHeader(becomes.source, becomes.destination, 17, len(body)), body)
	was := in.payload.(udp)
	was.data = slices.Clone(was.data)
	n := len(was.data)
	was.data[n-2], was.data[n-1] = byte(^sum>>8), byte(^sum)
	return was
}

// wrongSum is a row with a transport checksum that is off by as much before and after.
func wrongSum(r row, in, out packet) row {
	at := 16
	if in.payload.protocol(in.ipv6()) == uint8(model.UDP) {
		at = 6
	}
	const off = 0x1234
	r.in, r.out = spoilSum(r.in, in.l4()+at, off), spoilSum(r.out, out.l4()+at, off)
	r.rough = true
	return r
}
