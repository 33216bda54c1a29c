package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// toldBy is a row whose packet is answered with an ICMP error.
func toldBy(r row, in packet, kind, code uint8, rest uint32) row {
	r.out = told(in, kind, code, rest).bytes()
	return r
}

// tooBigFor is a row of a packet that is answered for its size.
func tooBigFor(r row, in packet, mtu int) row {
	r.reason = "tx_too_big"
	if in.ipv6() {
		return toldBy(r, in, tooBig6, 0, uint32(max(mtu, leastMTU6)))
	}
	return toldBy(r, in, unreachable4, fragmentationNeeded, uint32(mtu))
}

// exceededFor is a row of a packet that is answered for its TTL.
func exceededFor(r row, in packet) row {
	r.reason = "tx_ttl_exceeded"
	if in.ipv6() {
		return toldBy(r, in, exceeded6, 0, 0)
	}
	return toldBy(r, in, exceeded4, 0, 0)
}

// begins is a row that counts what it opens.
func (c talk) begins(r row) row {
	r.opener = r.opener || c.mode == model.ModeFullNAT
	return r
}

// natTroubleRows are packets that cannot be sent on.
func natTroubleRows(t *natTable, f family) []row {
	rows := append(natTTLRows(t, f), natBigRows(t, f)...)
	rows = append(rows, natDownRows(t, f)...)
	rows = append(rows, natUnknownRows(t, f)...)
	rows = append(rows, natLocalRows(t, f)...)
	return append(rows, natUntoldRows(t, f)...)
}

func natTTLRows(t *natTable, f family) []row {
	var rows []row
	for _, kind := range []string{"", kindTagged, kindOut} {
		for _, s := range t.every(f, kind) {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				for _, ttl := range []uint8{0, 1} {
					name := fmt.Sprintf("ttl/%d", ttl)
					c := t.newTalk(s, protocol)
					in := c.ask(flagSYN, text(3))
					in.ttl = ttl
					rows = append(rows, c.begins(exceededFor(c.counted(name+" first", "", in), in)))
					c = t.talk(s, protocol)
					in = c.ask(flagACK, text(601))
					in.ttl = ttl
					rows = append(rows, exceededFor(c.counted(name+" forth", "", in), in))
					in = c.answer(flagACK, text(601))
					in.ttl = ttl
					rows = append(rows, exceededFor(c.unnoticed(name+" back", "", in), in))
				}
			}
			c := t.talk(s, model.TCP)
			for _, r := range t.reports(c, 20) {
				r.in.ttl = 1
				line := r.row("ttl 1", 8)
				line.reason, line.out, line.backend = "drop_ttl_exceeded", nil, BackendKey{}
				rows = append(rows, line)
			}
		}
	}
	return rows
}

// natBigRows are at what the way on carries, and beyond.
func natBigRows(t *natTable, f family) []row {
	var rows []row
	for _, kind := range []string{"", kindTagged, kindOut, kindJumbo} {
		for _, s := range t.every(f, kind) {
			c := t.newTalk(s, model.UDP)
			c.ingress = t.link
			t.open(&c)
			// What it is when it arrives that makes it as large as may be when it leaves.
			most := s.path.MTU + c.ask(0, nil).l4() - c.asked(c.ask(0, nil)).l4() + c.addedTags()
			sized := func(p packet, size int) packet {
				d := p.payload.(udp)
				d.data = text(size - (p.l4() - p.l3()) - headerUDP)
				p.payload = d
				return p
			}
			rows = append(rows, c.forth("size/fits", sized(c.ask(0, nil), most)))
			padded := sized(c.ask(0, nil), most)
			padded.padding = 10
			rows = append(rows, c.forth("size/fits but for padding", padded))
			for _, over := range []int{1, 200} {
				in := sized(c.ask(0, nil), most+over)
				rows = append(rows, tooBigFor(c.counted(fmt.Sprintf("size/%d over", over), "", in), in, most))
			}
			// The way to the client is that of the interface "out", in all modes.
			most = mtu
			if s.across() {
				most += headerIPv6 - headerIPv4
			}
			if s.across() && s.family.ipv6 {
				most = mtu - (headerIPv6 - headerIPv4)
			}
			rows = append(rows, t.back("size/fits back", c, sized(c.answer(0, nil), most)))
			for _, over := range []int{1, 200} {
				in := sized(c.answer(0, nil), most+over)
				rows = append(rows, tooBigFor(c.unnoticed(fmt.Sprintf("size/%d over back", over), "", in), in, most))
			}
		}
	}
	// Of what is too big and has no TTL left, that is what is said.
	for _, s := range t.every(f, "") {
		c := t.talk(s, model.UDP)
		in := c.ask(0, text(3000))
		in.ttl = 1
		rows = append(rows, exceededFor(c.counted("size/too big and ttl 1", "", in), in))
	}
	return rows
}

// addedTags is by how much offsets move for tags that a backend's packets have.
func (c talk) addedTags() int {
	if c.path.VLAN != 0 {
		return headerTag
	}
	return 0
}

// natDownRows are for pools that have no backend that can be reached.
func natDownRows(t *natTable, f family) []row {
	var rows []row
	for kind, reason := range map[string]string{kindDown: "drop_no_backend", kindUnresolved: "drop_unresolved", kindNoLink: "drop_unresolved"} {
		for _, s := range t.every(f, kind) {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				c := t.newTalk(s, protocol)
				r := c.counted("down/first", reason, c.ask(flagSYN, text(3)))
				if r.spoilt = kind == kindNoLink; r.spoilt {
					r = c.begins(r)
				}
				rows = append(rows, r)
			}
		}
	}
	for _, s := range t.every(f, kindReset) {
		for name, flags := range segmentFlags() {
			c := t.newTalk(s, model.TCP)
			in := c.ask(flags, text(5))
			r := c.counted("reset/"+name, "tx_reset", in)
			if r.out = reset(in).bytes(); flags&flagRST != 0 {
				if r.reason, r.out = "drop_no_backend", nil; s.mode == model.ModeFullNAT {
					r.reason = "drop_no_connection"
				}
			}
			rows = append(rows, r)
		}
		c := t.newTalk(s, model.UDP)
		rows = append(rows, c.counted("reset/udp", "drop_no_backend", c.ask(0, text(5))))
	}
	return rows
}

// natUnknownRows are of connections that nobody knows.
func natUnknownRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "")[1:] {
		for name, flags := range segmentFlags() {
			if flags&(flagSYN|flagACK) == flagSYN {
				continue
			}
			c := t.newTalk(s, model.TCP)
			in := c.ask(flags, text(9))
			r := c.counted("unknown/"+name, "tx_reset", in)
			if r.out = reset(in).bytes(); flags&flagRST != 0 {
				r.reason, r.out = "drop_no_connection", nil
			}
			rows = append(rows, r)
		}
		if f.ipv6 {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				c := t.newTalk(s, protocol)
				in := c.ask(flagSYN, text(3))
				in.source = netip.AddrFrom16(ipv4().client.As16())
				rows = append(rows, c.counted("unknown/mapped address", "drop_malformed", in))
			}
		}
		c := t.newTalk(s, model.UDP)
		rows = append(rows, t.first("unknown/udp begins one", c, c.ask(0, nil)))
		c = t.newTalk(s, model.TCP)
		tagged := c.ask(flagACK, text(9))
		tagged.tags = []tag{{etherVLAN, 5}}
		r := c.counted("unknown/with a tag", "tx_reset", tagged)
		r.out = reset(tagged).bytes()
		rows = append(rows, r)
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.newTalk(s, protocol)
			c.source = netip.AddrPortFrom(t.sources.address(0), 1)
			line := t.reportToBackend(c, f.anyError(), text(9)).row("about an unknown connection", 17)
			line.reason, line.out, line.backend = "drop_no_connection", nil, BackendKey{}
			rows = append(rows, line)
		}
	}
	return rows
}

// natLocalRows are packets that look like answers, and are for this host or for nobody.
func natLocalRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.any(f) {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.talk(s, protocol)
			for name, to := range map[string]netip.Addr{"this host": c.backendFamily().balancer, "nobody": c.backendFamily().foreign} {
				in := c.answer(flagACK, text(31))
				in.destination = to
				rows = append(rows, c.unnoticed("local/answer to "+name, "pass_not_vip", in))
				about := c.asked(c.ask(flagACK, text(31)))
				about.source = to
				r := t.reportToClient(c, c.backendFamily().anyError(), nil)
				r.in.payload, r.in.destination = r.message(about, 17), to
				rows = append(rows, c.unnoticed("local/icmp error to "+name, "pass_not_vip", r.in))
			}
			if s.mode != model.ModeFullNAT {
				continue
			}
			for name, change := range map[string]func(*packet){
				"to another port":   func(p *packet) { p.payload = withPorts(p.payload, c.listens(), c.source.Port()^1) },
				"from another port": func(p *packet) { p.payload = withPorts(p.payload, c.listens()+1, c.source.Port()) },
				"from another host": func(p *packet) { p.source = p.source.Next() },
			} {
				in := c.answer(flagACK, text(32))
				change(&in)
				rows = append(rows, c.unnoticed("local/"+name, "pass_not_vip", in))
			}
		}
	}
	for _, s := range t.every(f, "") {
		c := t.talk(s, model.TCP)
		for name, carried := range map[string]payload{"echo": c.backendFamily().echoRequest(1, 9), "another protocol": raw{132, text(40)}} {
			r := c.unnoticed("local/"+name, "pass_not_vip", c.response(carried))
			r.rough = true
			rows = append(rows, r)
		}
	}
	return rows
}

// natUntoldRows are ICMP errors that tell no flow, or another than they should.
func natUntoldRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		c := t.talk(s, model.TCP)
		for _, r := range t.reports(c, 40) {
			reason := "drop_icmp_error"
			if r.back {
				reason = "pass_not_vip"
			}
			add := func(name, reason string, change func(*natReport, *icmp)) {
				other, message := r, r.message(r.about, 20)
				change(&other, &message)
				other.in.payload = message
				line := other.row("untold "+name, 20)
				rows = append(rows, row{name: line.name, in: other.in.bytes(), reason: reason})
			}
			header := r.about.l4() - r.about.l3()
			for _, n := range []int{0, 1, header - 1, header, header + 3} {
				add(fmt.Sprintf("%d bytes", n), reason, func(_ *natReport, m *icmp) { m.data = m.data[:n] })
			}
			add("of another", reason, func(r *natReport, m *icmp) {
				r.about.source = r.about.source.Next()
				*m = r.message(r.about, 20)
			})
			add("about another protocol", "pass_not_vip", func(r *natReport, m *icmp) {
				r.about.payload = raw{132, text(40)}
				*m = r.message(r.about, 20)
			})
			add("about another port", "pass_not_vip", func(r *natReport, m *icmp) {
				ports := portsOf(r.about)
				if r.about.payload = withPorts(r.about.payload, ports[0]+1, ports[1]+1); r.back && r.mode == model.ModeNAT {
					r.about.payload = withPorts(r.about.payload, ports[0], ports[1]+1)
				}
				*m = r.message(r.about, 20)
			})
			add("quoted behind its end", reason, func(r *natReport, m *icmp) { m.data = nil })
			last := &rows[len(rows)-1]
			last.in = slices.Concat(last.in, r.about.ip()[:header+20])
		}
	}
	return rows
}
