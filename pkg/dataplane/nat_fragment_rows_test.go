package dataplane

import (
	"fmt"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// fragmentedTalk is a packet of a conversation in fragments, as they come and as they
// leave.
type fragmentedTalk struct {
	talk
	name    string
	in, out []packet
	back    bool
}

// cut has a packet and what it becomes cut in three, under an ID of their own.
func (t *natTable) cut(f fragmentedTalk, in, out packet, after []extension) fragmentedTalk {
	t.id += 0x01000101
	f.in, f.out = split(in, t.id, after, 64, 96), split(out, t.id, after, 64, 96)
	return f
}

// fragmentedBothWays are packets in fragments of every form that there is.
func (t *natTable) fragmentedBothWays(s natServed, protocol model.Protocol) []fragmentedTalk {
	var all []fragmentedTalk
	c := t.talk(s, protocol)
	add := func(name string, after []extension, change func(*packet)) {
		ask, answer := c.ask(flagACK, text(120)), c.answer(flagACK, text(120))
		if name == "tagged " {
			ask.tags = []tag{{etherVLAN, 7}} // which would change where answers go
		}
		if changed := changes(ask, change); changed != nil || name == "" {
			change(&ask)
			all = append(all, t.cut(fragmentedTalk{c, "fragment/" + name, nil, nil, false}, ask, c.asked(ask), after))
		}
		if changed := changes(answer, change); changed != nil || name == "" {
			change(&answer)
			all = append(all, t.cut(fragmentedTalk{c, "fragment/" + name, nil, nil, true}, answer, t.answered(c, answer), after))
		}
	}
	add("", nil, func(*packet) {})
	add("tagged ", nil, func(p *packet) { p.tags = []tag{{etherVLAN, 7}} })
	add("with options ", nil, func(p *packet) { p.options = recordRoute() })
	add("don't fragment ", nil, func(p *packet) { p.fragment = 0x4000 })
	add("behind options ", nil, func(p *packet) { p.extensions = []extension{hopByHop(1), routing()} })
	add("options behind ", []extension{destinationOptions(1)}, func(p *packet) { p.label = 1 })
	add("options on both sides ", []extension{authentication(), destinationOptions(1)}, func(p *packet) { p.extensions = []extension{hopByHop(2)} })
	return all
}

// row is that of one fragment, after others.
func (f fragmentedTalk) row(name string, i int, before ...int) row {
	name = f.name + name
	var r row
	if f.back {
		r = row{name: f.talk.row(name + " back"), in: f.in[i].bytes(), out: f.out[i].bytes(), reason: "tx_reply"}
		if f.mode == model.ModeNAT {
			r.reason = "redirect_reply"
		}
	} else {
		r = f.forth(name, f.in[i])
		r.out = f.out[i].bytes()
	}
	for _, n := range before {
		r.before = append(r.before, f.in[n].bytes())
	}
	return r
}

// ends makes a row one that goes no further.
func ends(r row, reason string) row {
	r.reason, r.out, r.backend = reason, nil, BackendKey{}
	return r
}

// early is a row of a fragment that nobody knows.
func (f fragmentedTalk) early(name string, i int, before ...int) row {
	r := f.row(name, i, before...)
	r.vip = ""
	if f.back {
		return ends(r, "pass_not_vip")
	}
	return ends(r, "drop_fragment_early")
}

// natFragmentRows are fragments of packets that both ends send.
func natFragmentRows(t *natTable, f family) []row {
	var rows []row
	for _, kind := range []string{"", kindTagged, kindOut} {
		for _, s := range t.every(f, kind) {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				for _, p := range t.fragmentedBothWays(s, protocol) {
					rows = append(rows, fragmentRowsOf(t, p)...)
				}
			}
		}
	}
	rows = append(rows, natEagerRows(t, f)...)
	return append(rows, natFragmentTroubleRows(t, f)...)
}

func fragmentRowsOf(t *natTable, p fragmentedTalk) []row {
	if p.across() {
		// Such as are dropped have been changed already.
		first := ends(p.row("first", 0), "drop_untranslatable")
		first.spoilt = true
		return []row{p.early("early", 1), first, ends(p.row("last", 2, 0), "drop_untranslatable")}
	}
	return []row{
		p.early("early", 1), p.early("early last", 2, 1),
		p.row("first", 0), p.row("first again", 0, 0), p.row("middle", 1, 0), p.row("last before middle", 2, 0), p.row("middle after last", 1, 0, 2),
	}
}

// natEagerRows are fragments of VIPs that take them before their first one.
func natEagerRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, kindEager) {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			for i, p := range t.fragmentedBothWays(s, protocol) {
				p.name = fmt.Sprintf("eager %d/%s", i, p.name)
				if s.mode == model.ModeFullNAT || p.back || p.in[2].payload.protocol(f.ipv6) != uint8(protocol) {
					rows = append(rows, p.early("last comes first", 2))
					continue
				}
				rows = append(rows, p.row("last comes first", 2), p.row("first after last", 0, 2), p.row("middle in the end", 1, 2, 0))
			}
		}
	}
	return rows
}

// natFragmentTroubleRows are fragments that cannot be sent on, and such as begin a
// connection.
func natFragmentTroubleRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			if s.across() {
				continue
			}
			c := t.newTalk(s, protocol)
			in := c.ask(flagSYN, text(120))
			p := t.cut(fragmentedTalk{talk: c}, in, c.asked(in), nil)
			id := t.idOf(p.in[0])
			r := t.first("fragment/begins a connection", c, p.in[0])
			r.opener = protocol == model.TCP || s.mode == model.ModeFullNAT
			if s.mode == model.ModeFullNAT {
				r.expect = func(out []byte) []byte {
					c.source = t.sourceIn(out)
					return split(c.asked(in), id, nil, 64, 96)[0].bytes()
				}
			} else {
				r.out = p.out[0].bytes()
			}
			rows = append(rows, r)

			known := t.talk(s, protocol)
			ask := known.ask(flagACK, text(120))
			p = t.cut(fragmentedTalk{talk: known}, ask, known.asked(ask), nil)
			old := p.in[1]
			old.ttl = 1
			r = ends(p.row("fragment/later with ttl 1", 1, 0), "drop_ttl_exceeded")
			r.in = old.bytes()
			rows = append(rows, r)
			answer := known.answer(flagACK, text(120))
			p = t.cut(fragmentedTalk{talk: known, back: true}, answer, t.answered(known, answer), nil)
			old = p.in[1]
			old.ttl = 1
			r = ends(p.row("fragment/later with ttl 1", 1, 0), "drop_ttl_exceeded")
			r.in = old.bytes()
			rows = append(rows, r)
		}
		c := t.newTalk(s, model.TCP)
		in := c.ask(flagACK, text(120))
		p := t.cut(fragmentedTalk{talk: c}, in, in, nil)
		if s.mode == model.ModeFullNAT {
			rows = append(rows, ends(p.row("fragment/of an unknown connection", 0), "drop_no_connection"))
		}
	}
	return rows
}

// idOf is the ID of a fragment.
func (t *natTable) idOf(p packet) uint32 {
	if !p.ipv6() {
		return uint32(p.id)
	}
	body := p.extensions[len(p.extensions)-1].body
	return uint32(body[4])<<24 | uint32(body[5])<<16 | uint32(body[6])<<8 | uint32(body[7])
}
